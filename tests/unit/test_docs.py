"""The documents say what the code does: a parameter, a code or a gate that one of them lacks fails here."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import yaml

from loop_runner import errors, outcomes
from loop_runner.conditions import Condition
from loop_runner.executors import EXECUTORS
from loop_runner.loops import (
    API_STEP_SECONDS,
    CALLBACK_SECONDS,
    LAMBDA_SECONDS,
    LONGEST_LAMBDA_SECONDS,
    ApprovalExecutor,
    CallbackExecutor,
    LambdaExecutor,
    Loop,
    Step,
    load_loop,
)
from loop_runner.resolver import APPROVAL_REQUIRED
from loop_runner.results import INVALID_STEP_RESULT, StepCall, read_result
from loop_runner.retry import HEARTBEAT_TIMEOUT, LEASE_EXPIRED, TIMEOUT, RetryPolicy
from tests.conftest import LOOPS, ROOT
from tests.unit.strategies import issue
from tools.local.template import load_template

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

NAMED_IN_TEMPLATE = {
    resource["Properties"]["FunctionName"]["Fn::Sub"].removeprefix("${StepFunctionPrefix}")
    for resource in load_template(ROOT / "template.yaml")["Resources"].values()
    if "FunctionName" in resource.get("Properties", {}) and resource["Type"] == "AWS::Serverless::Function"
}
"""Step functions that the stack deploys itself."""

README = (ROOT / "README.md").read_text()
PARAMETERS = README.partition("## Parameters and settings")[2].partition("Environment of the functions")[0]
CONTRACT = (ROOT / "docs/contracts/loop-api.v1.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
SHIPPED = sorted(path.stem for path in LOOPS.glob("*.toml"))


TEMPLATE = load_template(ROOT / "template.yaml")


def variables() -> set[str]:
    functions = [r["Properties"] for r in TEMPLATE["Resources"].values() if r["Type"] == "AWS::Serverless::Function"]
    parts = [part.get("Environment", {}).get("Variables", {}) for part in [TEMPLATE["Globals"]["Function"], *functions]]
    return {name for part in parts for name in (part["Fn::If"][1] if "Fn::If" in part else part)}


def error_codes() -> dict[str, int]:
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.LoopError)
    ]
    return {each.code: each.status for each in classes}


def routes() -> list[str]:
    found = [r["Properties"] for r in TEMPLATE["Resources"].values() if r["Type"] == "AWS::ApiGatewayV2::Route"]
    return [route["RouteKey"] for route in found if route["RouteKey"] != "$default"]


@pytest.mark.parametrize("name", sorted(TEMPLATE["Parameters"]))
def test_readme_has_each_parameter_of_the_template(name: str) -> None:
    assert re.search(rf"\n\| [^|]*\b{name}\b[^|]* \|", PARAMETERS)


@pytest.mark.parametrize("name", sorted(variables() | {"TRUST_ACTOR_HEADER"}))
def test_readme_has_each_variable_of_the_functions(name: str) -> None:
    assert re.search(rf"\n\| [^|]*\b{name}\b[^|]* \|", README)


def test_no_deployed_function_trusts_the_actor_header() -> None:
    assert "TRUST_ACTOR_HEADER" not in variables()


@pytest.mark.parametrize("route", routes())
def test_readme_and_contract_have_each_route(route: str) -> None:
    assert f"`{route}`" in README
    assert route in CONTRACT


def test_picture_of_the_imports_is_what_the_linter_keeps() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [set(layer.split(" | ")) for each in contracts if each["type"] == "layers" for layer in each["layers"]]
    picture = re.findall(r"^→ (\w+(?:, \w+)*)", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert [set(line.split(", ")) for line in picture] == layers


INTERNAL = {"STEP_NOT_FOUND", "STEP_EXISTS", "ILLEGAL_TRANSITION"}
"""Codes of the store, which no route answers with."""


@pytest.mark.parametrize(("code", "status"), sorted((c, s) for c, s in error_codes().items() if c not in INTERNAL))
def test_contract_has_each_error_code_with_its_status(code: str, status: int) -> None:
    assert f"\n| {status} | {code} |" in CONTRACT


def test_contract_has_the_codes_that_runs_end_with() -> None:
    blocked = ("ON_HOLD", "UNKNOWN_LOOP", "UNKNOWN_STATE", "INVALID_LOOP", APPROVAL_REQUIRED, "APPROVAL_REJECTED")
    lost = (LEASE_EXPIRED, TIMEOUT, HEARTBEAT_TIMEOUT, "NOT_STARTED")
    for code in (*blocked, *lost, INVALID_STEP_RESULT, "LoopChanged", outcomes.UNEXPECTED_ERROR):
        assert f"\n| {code} |" in CONTRACT


GUIDE = (ROOT / "docs/loops/README.md").read_text()


def test_loop_of_the_guide_is_a_loop(tmp_path: Path) -> None:
    (tmp_path / "support.toml").write_text(re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)[0])
    assert load_loop(tmp_path / "support.toml").name == "support"


@pytest.mark.parametrize(
    "keys", [Loop, Step, Condition, RetryPolicy, LambdaExecutor, CallbackExecutor, ApprovalExecutor]
)
def test_guide_has_each_key_of_a_loops_file(keys: type[BaseModel]) -> None:
    for name, key in keys.model_fields.items():
        assert f"`{key.alias or name}`" in GUIDE


def test_guide_has_each_kind_of_executor_and_how_long_each_may_take() -> None:
    for kind in EXECUTORS:
        assert f"\n| `{kind}` |" in GUIDE
    assert f"`timeout_seconds` {LAMBDA_SECONDS}, at most {LONGEST_LAMBDA_SECONDS}; over {API_STEP_SECONDS}" in GUIDE
    assert f"`timeout_seconds` {CALLBACK_SECONDS}, at most a year" in GUIDE


def test_event_of_the_guide_is_what_a_step_function_gets() -> None:
    (event,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL) if "issueId" in text)
    step = Step.model_validate(event["step"] | {"from": ["OPEN"], "to": "WRITTEN", "executor": {"kind": "transition"}})
    call = StepCall(
        issue=issue("OPEN").model_copy(update={"id": "TEST-1", "loop_name": "support", "facts": event["facts"]}),
        step=step,
        run_id=UUID(event["runId"]),
        attempt=event["attempt"],
        actor=event["actor"],
        request_id=event["requestId"],
        idempotency_token=UUID(event["idempotencyToken"]),
        task_token=event["taskToken"],
    )
    assert event == call.event()


def results_of(page: str) -> list[dict[str, Any]]:
    blocks = "".join(re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    return [json.loads(line) for line in blocks.splitlines() if re.match(r"\{.*\"status\":", line)]


def test_results_of_guide_and_contract_are_results_of_each_kind() -> None:
    for page in (GUIDE, CONTRACT):
        results = results_of(page)
        for result in results:
            result.pop("taskToken", None)
            read_result(result)
        assert [result["status"] for result in results] == ["completed", "blocked", "failed"]


def test_guide_deploys_its_function_under_the_name_that_is_invoked() -> None:
    function = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[0])["Resources"]["WriteLetter"]
    loop = tomllib.loads(re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)[0])
    prefix, name = TEMPLATE["Parameters"]["StepFunctionPrefix"]["Default"], loop["steps"][0]["executor"]["function"]
    properties = function["Properties"]
    assert properties["FunctionName"] == f"{prefix}{name}"
    assert (properties["CodeUri"], properties["Handler"]) == (f"my-steps/{name}", "app.handler")
    assert f"`my-steps/{name}/app.py`" in GUIDE
    assert properties["Timeout"] == loop["steps"][0]["timeout_seconds"]


@pytest.mark.parametrize("loop", SHIPPED)
def test_page_of_the_loop_has_each_step_fact_and_blocker_in_order(loop: str) -> None:
    page = (ROOT / f"docs/loops/{loop}.md").read_text()
    rows = [
        (step.type, gate.fact, gate.blocker)
        for step in load_loop(LOOPS / f"{loop}.toml").steps
        for gate in step.require
    ]
    table = re.findall(r"^\| *(\w*)[^|]*\| `([\w.]+)`[^|]*\| (\w+) \|$", page, re.MULTILINE)
    step = ""
    told = []
    for name, fact, blocker in table:
        step = name or step
        told.append((step, fact, blocker))
    assert told == rows


@pytest.mark.parametrize("loop", SHIPPED)
def test_page_of_the_loop_names_each_function_and_each_step_has_a_row(loop: str) -> None:
    page = (ROOT / f"docs/loops/{loop}.md").read_text()
    for step in load_loop(LOOPS / f"{loop}.toml").steps:
        assert re.search(rf"^\| {step.type}\b", page, re.MULTILINE)
        function = getattr(step.executor, "function", None)
        if function is not None:
            assert f"`{function}`" in page
            assert function in NAMED_IN_TEMPLATE or (ROOT / "tools/steps" / function / "app.py").is_file()


def test_readme_names_each_loop_that_ships() -> None:
    for loop in SHIPPED:
        assert f"[{loop}](docs/loops/{loop}.md)" in README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z][a-z0-9-]+)", README))))
def test_each_command_of_the_readme_is_there(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


def test_readme_puts_the_database_of_make_dev_into_the_variables_of_sam(tmp_path: Path) -> None:
    (command,) = re.findall(r"^sed .*$", README, re.MULTILINE)
    url = "postgresql://postgres:a-b_C9@127.0.0.1:4711/postgres"
    for name, content in (("events/env.json", (ROOT / "events/env.json").read_text()), (".local/database-url", url)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / ".local/env.json").read_text())["Parameters"]["DATABASE_URL"] == url


@pytest.mark.parametrize(
    ("page", "target"),
    [
        (page.relative_to(ROOT).as_posix(), target)
        for page in [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    ],
)
def test_each_link_leads_to_a_file(page: str, target: str) -> None:
    assert (ROOT / page).parent.joinpath(target).exists()


@pytest.mark.parametrize(("page", "heading"), [("docs/reliability.md", "promised"), ("SECURITY.md", "keeps it")])
def test_each_promise_names_tests_that_are_there(page: str, heading: str) -> None:
    text = (ROOT / page).read_text()
    (section,) = re.findall(rf"^## What (?:is )?{heading}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    _head, *promises = re.findall(r"^\| (?!-)(.*) \|$", section, re.MULTILINE)
    assert promises
    for promise in promises:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", promise), promise
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
