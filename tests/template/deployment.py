"""Owns what template.yaml becomes of parameters: SAM's translation, and of that the resources whose condition holds.

References to resources stay as they are; ``Deployment.text`` gives them names.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache, reduce
from itertools import combinations as any_of
from itertools import product
from operator import or_
from typing import TYPE_CHECKING, Any, Final

from tests.conftest import ROOT
from tools.local.intrinsics import Intrinsics
from tools.local.template import load_template

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE: Final = load_template(ROOT / "template.yaml")
SAM: Final = ROOT / ".venv-sam" / "bin"

OWN_VPC: Final = {"VpcId": ""}
GIVEN_VPC: Final = {"VpcId": "vpc-01234567", "SubnetIds": "subnet-01234567,subnet-89abcdef"}
GIVEN_GROUP: Final = {"SecurityGroupId": "sg-01234567"}
GIVEN_ROUTES: Final = {"RouteTableIds": "rtb-01234567"}
OWN_DATABASE: Final = {"DatabaseHost": ""}
PROXY: Final = {"UseProxy": "true"}
GIVEN_DATABASE: Final = {
    "DatabaseHost": "writer.cluster-1.eu-central-1.rds.amazonaws.com",
    "DatabaseResourceId": "cluster-GIVEN",
}
OPENED_DATABASE: Final = {**GIVEN_DATABASE, "DatabaseSecurityGroupId": "sg-89abcdef"}
TOKENS: Final = {"JwtIssuer": "https://issuer.example", "JwtAudience": "loop,other"}
ORIGIN: Final = {"CorsOrigin": "https://front.example"}
KEY: Final = {"KmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/0a1b2c3d-0000-4000-8000-000000000000"}
TOPIC: Final = {"AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms"}
BOUNDARY: Final = {"PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary"}
GITHUB: Final = {
    "GithubSecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:github-AbCdEf",
    "GithubRepositories": "acme/shop,tools/*",
}
RESERVED: Final = {"RunNextStepConcurrency": "5"}
RESERVED_TOO: Final = {"LoopApiConcurrency": "5"}
WEBHOOK: Final = {
    "GithubWebhookSecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:github-webhook-AbCdEf"
}
OUTSIDE: Final = {"GithubStepsFunction", "GithubWebhookFunction"}
"""Functions that are in no VPC, and know no database."""

SHAPES: Final = {
    "empty account": (),
    "empty account, all options": (PROXY, TOKENS, KEY, BOUNDARY, TOPIC, ORIGIN, GITHUB, WEBHOOK),
    "given network": (GIVEN_VPC, GIVEN_GROUP, KEY, RESERVED),
    "given network, opened": (GIVEN_VPC, GIVEN_ROUTES, PROXY, TOKENS, {"SqsEndpoint": "yes"}),
    "given database": (GIVEN_VPC, GIVEN_DATABASE, TOPIC, GITHUB, WEBHOOK),
    "given database, opened": (GIVEN_VPC, OPENED_DATABASE, BOUNDARY, TOKENS, RESERVED_TOO, {"LambdaEndpoint": "yes"}),
    "no endpoints": ({"SqsEndpoint": "no", "LambdaEndpoint": "no", "SecretsManagerEndpoint": "no"}, ORIGIN),
}
"""Deployments that differ in what they are made of."""

NAMES: Final = {
    "DatabaseCluster.DBClusterResourceId": "cluster-MADE",
    "DatabaseCluster.MasterUserSecret.SecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!cluster-1",
    "DatabaseProxy.DBProxyArn": "arn:aws:rds:us-east-1:123456789012:db-proxy:prx-MADE",
    "LogGroup": "loop-runner-LogGroup-1",
    "LogGroup.Arn": "arn:aws:logs:us-east-1:123456789012:log-group:loop-runner-LogGroup-1:*",
    "RunQueue": "https://sqs.us-east-1.amazonaws.com/123456789012/RunQueue",
    "RunSweeperFunction.Arn": "arn:aws:lambda:us-east-1:123456789012:function:RunSweeperFunction",
}
"""What some references are, where a policy or the code must know more than that they are different."""

_STRUCTURE: Final[list[list[dict[str, str]]]] = [
    [OWN_VPC, GIVEN_VPC],
    [{}, GIVEN_GROUP],
    [{}, GIVEN_ROUTES],
    [OWN_DATABASE, PROXY, GIVEN_DATABASE, OPENED_DATABASE],
    *([{}, {name: "yes"}, {name: "no"}] for name in ("SqsEndpoint", "LambdaEndpoint", "SecretsManagerEndpoint")),
]
"""Values of parameters that conditions ask for together."""

_OPTIONS: Final = [TOKENS, ORIGIN, KEY, TOPIC, BOUNDARY, RESERVED, RESERVED_TOO, GITHUB, WEBHOOK]
"""Values that conditions of their own ask for, whatever the others are."""


@cache
def translated(content: str = "s3://bucket/LoopRunnerLayer") -> dict[str, Any]:
    """The template after SAM's transform; ``content`` is where the layer's was uploaded."""
    template = json.loads(json.dumps(SOURCE))
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"s3://bucket/{name}"
        elif resource["Type"] == "AWS::Serverless::LayerVersion":
            resource["Properties"]["ContentUri"] = content
    script = ROOT / "tests/template/translate.py"
    done = subprocess.run(
        [SAM / "python", script], input=json.dumps(template), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def refusals(parameters: Mapping[str, str]) -> list[str]:
    """What the template's rules say against them."""
    intrinsics = Intrinsics(SOURCE, parameters)
    return [
        assertion["AssertDescription"]
        for name, rule in SOURCE["Rules"].items()
        if intrinsics.resolve(rule["RuleCondition"], name)
        for assertion in rule["Assertions"]
        if not intrinsics.resolve(assertion["Assert"], name)
    ]


def holding(parameters: Mapping[str, str]) -> frozenset[str]:
    """The conditions that hold for these parameters."""
    intrinsics = Intrinsics(SOURCE, parameters)
    return frozenset(name for name in SOURCE["Conditions"] if intrinsics.condition(name, name))


def parameters_of(condition: str) -> set[str]:
    """The parameters that a condition asks for, those of the conditions in it included."""
    words = set(re.findall(r"\w+", json.dumps(SOURCE["Conditions"][condition])))
    found: set[str] = words & SOURCE["Parameters"].keys()
    for inner in words & SOURCE["Conditions"].keys():
        found |= parameters_of(inner)
    return found


@cache
def combinations() -> dict[frozenset[str], dict[str, str]]:
    """The conditions that hold together, of every combination of parameters that the rules accept, and one of these."""
    found: dict[frozenset[str], dict[str, str]] = {}
    for chosen in product(*_STRUCTURE):
        parameters = {name: value for part in chosen for name, value in part.items()}
        if not refusals(parameters):
            found.setdefault(holding(parameters), parameters)
    default = holding({})
    for option in _OPTIONS:
        on = holding(option)
        assert all(parameters_of(name) <= set(option) for name in on ^ default), "an option is not asked for alone"
        found |= {(each | (on - default)) - (default - on): given | option for each, given in found.items()}
    return found


def covering() -> list[dict[str, str]]:
    """A few of these in which any two conditions hold in each way in which they ever do."""

    def pairs(holds: frozenset[str]) -> int:
        """A bit for each two conditions and each way."""
        ways = (2 * (one in holds) + (other in holds) for one, other in any_of(SOURCE["Conditions"], 2))
        return sum(1 << 4 * number + way for number, way in enumerate(ways))

    of = {holds: pairs(holds) for holds in combinations()}
    left = reduce(or_, of.values())
    chosen = []
    while left:
        best = max(of, key=lambda holds: (of[holds] & left).bit_count())
        chosen.append(combinations()[best])
        left &= ~of[best]
    return chosen


class Deployment:
    """The resources and outputs of a stack with these parameters."""

    def __init__(self, *parameters: Mapping[str, str]) -> None:
        self._given = {name: value for part in parameters for name, value in part.items()}
        assert not refusals(self._given), refusals(self._given)
        self._template = translated()
        self._intrinsics = Intrinsics(self._template, {**NAMES, **self._given})
        self._holds = holding(self._given)
        self.resources: dict[str, dict[str, Any]] = self._created("Resources")
        self.outputs: dict[str, dict[str, Any]] = self._created("Outputs")

    def __getitem__(self, name: str) -> Any:
        """The properties of a resource."""
        return self.resources[name]["Properties"]

    def of(self, *types: str) -> dict[str, Any]:
        """The properties of the resources of these types, by logical id."""
        return {name: each["Properties"] for name, each in self.resources.items() if each["Type"] in types}

    def text(self, value: object) -> Any:
        """The value with every function evaluated, references named."""
        return self._intrinsics.resolve(value, "test")

    def as_template(self) -> dict[str, Any]:
        """The whole without conditions, for a linter; what was given is its parameters' default."""
        made = {"Resources": self.resources, "Outputs": self.outputs}
        used = set(re.findall(r'"Ref": "(\w+)"|\$\{(\w+)', json.dumps(made)))
        parameters = {
            name: each | ({"Default": self._given[name]} if name in self._given else {})
            for name, each in self._template["Parameters"].items()
            if {(name, ""), ("", name)} & used
        }
        return {"AWSTemplateFormatVersion": "2010-09-09", "Parameters": parameters, **made}

    def _created(self, section: str) -> dict[str, dict[str, Any]]:
        return {
            name: {key: self._chosen(part) for key, part in each.items() if key != "Condition"}
            for name, each in self._template[section].items()
            if each.get("Condition") in {None, *self._holds}
        }

    def _chosen(self, value: Any) -> Any:
        """The value without Fn::If and AWS::NoValue."""
        if isinstance(value, dict) and set(value) == {"Fn::If"}:
            condition, then, otherwise = value["Fn::If"]
            return self._chosen(then if condition in self._holds else otherwise)
        if isinstance(value, dict):
            parts = ((name, self._chosen(part)) for name, part in value.items())
            return {name: part for name, part in parts if part != {"Ref": "AWS::NoValue"}}
        if isinstance(value, list):
            return [part for each in value if (part := self._chosen(each)) != {"Ref": "AWS::NoValue"}]
        return value
