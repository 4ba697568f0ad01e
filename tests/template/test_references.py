"""Whatever the parameters, every reference leads to something that is there; what does not fit is refused first."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.template.deployment import (
    GIVEN_DATABASE,
    GIVEN_GROUP,
    GIVEN_VPC,
    OPENED_DATABASE,
    OWN_VPC,
    PROXY,
    SHAPES,
    SOURCE,
    TOKENS,
    Deployment,
    combinations,
    holding,
    refusals,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PSEUDO = re.compile(r"AWS::(AccountId|NoValue|Partition|Region|StackId|StackName|URLSuffix)")
Guards = tuple[tuple[str, bool], ...]


class Reference(NamedTuple):
    """A reference, and what must hold of conditions for it to count."""

    where: str
    target: str
    guards: Guards


def references(value: Any, where: str, guards: Guards) -> Iterator[Reference]:
    """The references within a value."""
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield from references(part, f"{where}[{number}]", guards)
    if not isinstance(value, dict):
        return
    for key, part in value.items():
        if key == "Ref":
            yield Reference(where, part, guards)
        elif key == "Fn::GetAtt":
            yield Reference(where, (part if isinstance(part, str) else part[0]).partition(".")[0], guards)
        elif key == "Fn::If":
            condition, then, otherwise = part
            yield from references(then, where, (*guards, (condition, True)))
            yield from references(otherwise, where, (*guards, (condition, False)))
        elif key == "Fn::Sub":
            text, variables = (part, {}) if isinstance(part, str) else part
            for name in re.findall(r"\$\{([^!}][^}]*)\}", text):
                if name not in variables:
                    yield Reference(where, name.partition(".")[0], guards)
            yield from references(list(variables.values()), where, guards)
        else:
            yield from references(part, f"{where}.{key}", guards)


def all_references() -> Iterator[Reference]:
    template = translated()
    for section in ("Resources", "Outputs"):
        for name, each in template[section].items():
            guards: Guards = ((each["Condition"], True),) if "Condition" in each else ()
            yield from references({key: part for key, part in each.items() if key != "DependsOn"}, name, guards)
            depends_on = each.get("DependsOn", [])
            for target in [depends_on] if isinstance(depends_on, str) else depends_on:
                yield Reference(f"{name}.DependsOn", target, guards)


def is_guarded(holding: frozenset[str], guards: Guards) -> bool:
    """Whether a reference counts where these conditions hold."""
    return all((name in holding) is value for name, value in guards)


def test_each_reference_leads_to_something_that_is_there_in_each_combination_of_conditions(
    count: Callable[[str, int], None],
) -> None:
    template = translated()
    dangling = set()
    for where, target, guards in set(all_references()):
        if target in template["Parameters"] or PSEUDO.fullmatch(target):
            continue
        if target not in template["Resources"]:
            dangling.add((where, target))
            continue
        needed = template["Resources"][target].get("Condition")
        if needed and any(needed not in each and is_guarded(each, guards) for each in combinations()):
            dangling.add((where, target))
    assert dangling == set()
    count("combinations of conditions", len(combinations()))


def test_each_parameter_and_each_condition_is_used() -> None:
    used = {reference.target for reference in all_references()}
    conditions = json.dumps([SOURCE["Conditions"], SOURCE["Rules"]])
    unused = {name for name in SOURCE["Parameters"] if name not in used and f'"{name}"' not in conditions}
    assert unused == set()
    everything = json.dumps(translated())
    assert {name for name in SOURCE["Conditions"] if everything.count(f'"{name}"') < 2} == set()


@pytest.mark.parametrize("condition", sorted(SOURCE["Conditions"]))
def test_shapes_of_the_other_tests_have_each_condition_hold_and_not_hold(condition: str) -> None:
    merged = [{name: value for part in parts for name, value in part.items()} for parts in SHAPES.values()]
    assert {condition in holding(parameters) for parameters in merged} == {True, False}


def test_each_parameter_has_a_default_that_is_allowed() -> None:
    for name, parameter in SOURCE["Parameters"].items():
        default = parameter["Default"]
        assert parameter.get("AllowedValues", [default]).count(default) == 1, name
        assert re.fullmatch(parameter.get("AllowedPattern", ".*"), str(default)), name
        assert parameter.get("Description"), name
    assert refusals({}) == []


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (GIVEN_DATABASE, "An existing database is reached from its own VPC"),
        ({**GIVEN_VPC, "DatabaseHost": "h"}, "The right to connect is for one database"),
        ({**GIVEN_VPC, **GIVEN_DATABASE, **PROXY}, "The stack makes a proxy for its own database only"),
        ({"DatabasePort": "5433"}, "are those of an existing database"),
        ({"DatabaseResourceId": "cluster-A"}, "are those of an existing database"),
        ({"DatabaseSecurityGroupId": "sg-1"}, "are those of an existing database"),
        ({"VpcId": "vpc-1"}, "give SubnetIds with VpcId"),
        ({**OWN_VPC, **GIVEN_GROUP}, "are those of an existing VPC"),
        ({"SubnetIds": "subnet-1,subnet-2"}, "are those of an existing VPC"),
        ({"RouteTableIds": "rtb-1"}, "are those of an existing VPC"),
        ({"JwtIssuer": TOKENS["JwtIssuer"]}, "give JwtAudience"),
        ({**PROXY, "MinCapacity": "0"}, "would never scale to zero"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_with_what_to_do(parameters: dict[str, str], told: str) -> None:
    assert any(told in refusal for refusal in refusals(parameters))


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("KmsKeyArn", "arn:aws:kms:us-east-1:123456789012:alias/mine"),
        ("JwtAudience", "loop, other"),
        ("SubnetIds", "subnet-01234567"),
        ("DatabaseName", "Loop"),
        ("CorsOrigin", "*"),
        ("CorsOrigin", "https://*.example"),
        ("StepFunctionPrefix", "*"),
        ("StepFunctionPrefix", ""),
        ("JwtIssuer", "http://issuer.example"),
    ],
)
def test_value_that_would_fail_or_open_what_it_must_not_is_refused(name: str, refused: str) -> None:
    assert not re.fullmatch(SOURCE["Parameters"][name]["AllowedPattern"], refused)


@pytest.mark.parametrize("parameters", [{**GIVEN_VPC, **OPENED_DATABASE, "DatabasePort": "5433"}, {"MinCapacity": "0"}])
def test_parameters_that_fit_are_not(parameters: dict[str, str]) -> None:
    Deployment(parameters)
