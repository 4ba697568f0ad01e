"""The sample events of events/, `<function>[-<case>].json`: the function that each is for, and how it is answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.conftest import ROOT
from tools.local.intrinsics import secret_arn
from tools.local.template import Function, load_functions

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS = ROOT / "events"
NO_EVENTS = {"env.json", "sample-issue.json"}
NAMES = sorted(path.name for path in EVENTS.iterdir() if path.name not in NO_EVENTS)
SECRET = "It's a Secret to Everybody"
"""With which the deliveries of GitHub are signed."""
GIVEN = {
    "GithubApiUrl": "http://127.0.0.1:1",
    "GithubRepositories": "acme/shop",
    "GithubSecretArn": secret_arn("github"),
    "GithubWebhookSecretArn": secret_arn("github-webhook"),
}
"""Parameters with which the template has every function; GitHub is out of reach."""
FUNCTIONS = load_functions(ROOT / "template.yaml", GIVEN)
RUN_ID = "01a20b7d-054d-7c54-a982-de8e7344bfb2"
"""Stands for the run of an answer, as the README says."""

STATUS = {
    "github-webhook-take-delivery.json": 202,
    "loop-api-anything-else.json": 404,
    "loop-api-cancel-run.json": 409,  # it has ended
    "loop-api-decide.json": 412,  # on a version that was
    "loop-api-heartbeat.json": 403,  # nothing waits for this token
    "loop-api-tell-result.json": 403,
}
"""Of the events that are not answered with 200."""


def read(name: str) -> Any:
    return json.loads((EVENTS / name).read_text())


def prefix(function: Function) -> str:
    """What the names of a function's events begin with."""
    return function.code.name.replace("_", "-")


def function_of(name: str) -> Function | None:
    """The function that an event is for: the one with the longest name that the event's begins with."""
    stem = name.removesuffix(".json")
    of = [each for each in FUNCTIONS.values() if stem == prefix(each) or stem.startswith(prefix(each) + "-")]
    return max(of, key=lambda each: len(prefix(each)), default=None)


def assert_answered(name: str, invoke: Callable[[str, Any], Any]) -> None:
    """Feed an event to its function, on a database with the sample issue and a run of it.

    ``invoke`` calls a function by its logical id and raises when it fails.
    """
    registered = invoke("LoopApiFunction", read("loop-api-register-issue.json"))
    assert registered["statusCode"] in {200, 201}, registered
    run = json.loads(invoke("RunNextStepFunction", read("run-next-step.json"))["body"])
    event = json.loads((EVENTS / name).read_text().replace(RUN_ID, run["runId"]))
    function = function_of(name)
    assert function is not None
    answer = invoke(function.name, event)
    if "routeKey" in event:
        assert answer["statusCode"] == STATUS.get(name, 200), answer
