"""The sample events cover the template, and are as API Gateway would send them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.sample_events import FUNCTIONS, NAMES, RUN_ID, STATUS, function_of, prefix, read
from tools.local.sample import read_sample
from tools.local.settings import ROOT

HTTP = [name for name in NAMES if "routeKey" in read(name)]


def routes(name: str) -> set[str]:
    return {route.key for route in FUNCTIONS[name].routes}


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_each_function_has_an_event_and_each_of_its_routes_has_one(function: str) -> None:
    own = [name for name in NAMES if function_of(name) is FUNCTIONS[function]]
    assert own, f"events/{prefix(FUNCTIONS[function])}[-<case>].json: there is none"
    missing = routes(function) - {read(name).get("routeKey") for name in own}
    assert not missing, f"events/{prefix(FUNCTIONS[function])}-<case>.json: there is none for {missing}"


@pytest.mark.parametrize("name", NAMES)
def test_each_event_is_for_a_function(name: str) -> None:
    function = function_of(name)
    assert function is not None, "its name must begin with a function's folder, with - for _"
    if function.routes and not function.schedules:
        assert read(name)["routeKey"] in routes(function.name)


@pytest.mark.parametrize("name", HTTP)
def test_event_says_the_same_wherever_it_says_it_twice(name: str) -> None:
    event = read(name)
    context = event["requestContext"]
    assert event["routeKey"] == context["routeKey"]
    assert event["rawPath"] == context["http"]["path"]
    if event["routeKey"] != "$default":
        method, _, path = event["routeKey"].partition(" ")
        assert context["http"]["method"] == method
        assert event["rawPath"] == re.sub(r"\{(\w+)\}", lambda match: event["pathParameters"][match[1]], path)
    query = "&".join(f"{key}={value}" for key, value in event.get("queryStringParameters", {}).items())
    assert event["rawQueryString"] == query
    assert int(event["headers"].get("content-length", 0)) == len(event.get("body", "").encode())


def test_registered_issue_is_the_sample_issue() -> None:
    event, sample = read("loop-api-register-issue.json"), read_sample(ROOT)
    assert event["pathParameters"]["issueId"] == sample.pop("issueId")
    assert json.loads(event["body"]) == sample


def test_each_event_that_is_named_apart_is_there() -> None:
    assert set(STATUS) <= set(NAMES)
    assert RUN_ID in read("loop-api-get-run.json")["rawPath"]


def test_variables_for_sam_local_are_those_of_the_template() -> None:
    """SAM passes on no variable that the template does not give to the function."""
    given: dict[str, dict[str, Any]] = read("env.json")
    assert set(given) <= {"Parameters", *FUNCTIONS}
    for target, variables in given.items():
        functions = FUNCTIONS.values() if target == "Parameters" else [FUNCTIONS[target]]
        assert set(variables) <= {name for function in functions for name in function.environment}
