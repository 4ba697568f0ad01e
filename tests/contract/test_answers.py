"""Every answer has exactly the keys and types of the contract, and says what the rows say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from loop_runner.services import Services
from tests.conftest import Client
from tests.contract.conftest import Unchanged, assert_error
from tools.durations import milliseconds

if TYPE_CHECKING:
    from tests.conftest import Answer, Sql

ISSUE = "/api/loop/issues/AFU9-123"
URL = "https://github.com/acme/app/issues/1"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
RUN_KEYS = {"schemaVersion", "requestId", "issueId", "runId", "loopStatus", "message"}
STEP_KEYS = {"stepNumber", "stepType", "status", "startedAt", "completedAt", "durationMs"}
ISSUE_KEYS = {"schemaVersion", "issueId", "loop", "state", "version", "facts", "unmetGates"}
INSIDE_COLUMNS = {"lease_token", "request_hash"}


def camel(column: str) -> str:
    first, *rest = column.split("_")
    return first + "".join(word.title() for word in rest)


def as_answered(row: dict[str, Any], id_key: str, *, hidden: set[str] = INSIDE_COLUMNS) -> dict[str, Any]:
    """A row as an answer has it: columns in camelCase, times and ids as text."""
    values = {camel(column): value for column, value in row.items() if column not in hidden | {"id"}}
    values[id_key] = row["id"]
    return {
        key: value.isoformat().replace("+00:00", "Z")
        if isinstance(value, datetime)
        else str(value)
        if isinstance(value, UUID)
        else value
        for key, value in values.items()
    }


def assert_run(answer: Answer, *optional: str) -> dict[str, Any]:
    """The answer is a run's, with these optional keys and no other; its body."""
    assert answer.status == 200, answer.text
    body: dict[str, Any] = answer.json
    assert set(body) == RUN_KEYS | set(optional)
    assert body["schemaVersion"] == "loop.runNextStep.v1"
    assert body["issueId"] == "AFU9-123"
    assert UUID(body["runId"]).version == 7
    assert str(UUID(body["requestId"])) == answer.headers["x-request-id"] == body["requestId"]
    assert isinstance(body["message"], str)
    assert answer.headers["content-type"] == "application/json"
    if "stepExecuted" in optional:
        step = body["stepExecuted"]
        assert set(step) == STEP_KEYS
        assert TIME.fullmatch(step["startedAt"])
        assert TIME.fullmatch(step["completedAt"])
        assert type(step["durationMs"]) is int
    if "nextStep" in optional:
        assert {key: type(value) for key, value in body["nextStep"].items()} == {"stepNumber": int, "stepType": str}
    if "blocker" in optional:
        assert {key: type(value) for key, value in body["blocker"].items()} == {"code": str, "message": str}
    return body


def assert_issue(answer: Answer, status: int = 200, *optional: str) -> dict[str, Any]:
    """The answer is an issue's, with these optional keys and no other; its body."""
    assert answer.status == status, answer.text
    body: dict[str, Any] = answer.json
    assert set(body) == ISSUE_KEYS | set(optional)
    assert body["schemaVersion"] == "loop.issue.v1"
    assert type(body["version"]) is int
    assert answer.headers["etag"] == f'"{body["version"]}"'
    for gate in body["unmetGates"]:
        types = {"blocker": str, "fact": str, "message": str, "call": dict}
        assert {key: type(value) for key, value in gate.items()} == types
    return body


def assert_answer_is_the_row(body: dict[str, Any], sql: Sql) -> dict[str, Any]:
    """Answer and rows agree field by field; the run's row."""
    row = sql.one("SELECT * FROM loop_runs WHERE id = %s", body["runId"])
    assert (body["requestId"], body["issueId"], body["loopStatus"], body["message"]) == (
        row["request_id"], row["issue_id"], row["loop_status"], row["message"]
    )  # fmt: skip
    assert body.get("nextStep") == row["next_step"]
    assert body.get("blocker", {}).get("code") == row["blocker_code"]
    assert body.get("error", {}).get("code") == row["error_code"]
    executed = sql("SELECT * FROM loop_run_steps WHERE run_id = %s AND status <> 'skipped'", row["id"])
    assert len(executed) == ("stepExecuted" in body)
    for step in executed:
        said = body["stepExecuted"]
        assert (said["stepNumber"], said["stepType"], said["status"], said["durationMs"]) == (
            step["step_number"], step["step_type"], step["status"], step["duration_ms"]
        )  # fmt: skip
        assert datetime.fromisoformat(said["startedAt"]) == step["started_at"] == row["started_at"]
        assert datetime.fromisoformat(said["completedAt"]) == step["completed_at"] == row["completed_at"]
        assert step["duration_ms"] == row["duration_ms"]
    assert row["duration_ms"] == milliseconds(row["started_at"], row["completed_at"])
    return row


# --- run-next-step


def test_a_completed_run_answers_with_the_step_that_was_executed(client: Client, sql: Sql) -> None:
    client.register(githubUrl=URL)
    answer = client.run()
    body = assert_run(answer, "stepExecuted", "nextStep")
    row = assert_answer_is_the_row(body, sql)
    assert (body["stepExecuted"]["stepNumber"], body["stepExecuted"]["stepType"]) == (1, "S1_PICK_ISSUE")
    assert body["stepExecuted"]["status"] == "completed"
    assert body["nextStep"] == {"stepNumber": 2, "stepType": "S2_SPEC_READY"}
    assert body["loopStatus"] == "active"
    assert answer.headers["etag"] == '"2"'
    assert {key: row[key] for key in ("status", "mode", "step", "attempt", "state_before", "state_after")} == {
        "status": "completed", "mode": "execute", "step": 1, "attempt": 1, "state_before": "CREATED",
        "state_after": "PICKED",
    }  # fmt: skip
    assert (row["actor"], row["principal"], row["loop_name"]) == ("ann", None, "issue-delivery")
    assert row["issue_version"] == sql.one("SELECT version FROM loop_issues")["version"] == 2
    assert row["lambda_request_id"] == client.context.aws_request_id
    assert row["log_stream"] == client.context.log_stream_name


def test_a_blocked_run_answers_with_the_first_unmet_gate_and_the_call_that_clears_it(client: Client, sql: Sql) -> None:
    client.register()
    answer = client.run()
    body = assert_run(answer, "nextStep", "blocker")
    row = assert_answer_is_the_row(body, sql)
    assert body["blocker"]["code"] == "NO_GITHUB_LINK"
    assert body["blocker"]["message"] == body["message"]
    assert body["message"].endswith(f' To go on: PATCH {ISSUE} {{"githubUrl":"<value>"}}')
    assert (body["loopStatus"], row["status"], row["step"], row["state_after"]) == ("paused", "blocked", 1, "CREATED")
    assert body["nextStep"] == {"stepNumber": 1, "stepType": "S1_PICK_ISSUE"}
    assert answer.headers["etag"] == '"1"'


def test_a_dry_run_answers_what_would_run_and_leaves_its_row_only(client: Client, sql: Sql) -> None:
    client.register(githubUrl=URL)
    before = sql("SELECT * FROM loop_issues"), sql("SELECT * FROM loop_events")
    answer = client.run(body={"mode": "dryRun"})
    body = assert_run(answer, "nextStep")
    row = assert_answer_is_the_row(body, sql)
    assert (row["mode"], row["status"], row["step"], row["state_after"]) == ("dryRun", "completed", 1, "CREATED")
    assert body["nextStep"] == {"stepNumber": 1, "stepType": "S1_PICK_ISSUE"}
    assert body["loopStatus"] == "active"
    assert answer.headers["etag"] == '"1"'
    assert (sql("SELECT * FROM loop_issues"), sql("SELECT * FROM loop_events")) == before
    assert sql("SELECT * FROM loop_run_steps") == []


def test_a_dry_run_of_a_blocked_issue_is_blocked(client: Client, sql: Sql) -> None:
    client.register()
    body = assert_run(client.run(body={"mode": "dryRun"}), "nextStep", "blocker")
    assert assert_answer_is_the_row(body, sql)["status"] == "blocked"
    assert body["loopStatus"] == "paused"


@pytest.mark.parametrize("mode", ["execute", "dryRun"])
def test_a_run_of_a_finished_issue_is_completed_without_steps(client: Client, sql: Sql, mode: str) -> None:
    client.register()
    sql("UPDATE loop_issues SET state = 'CLOSED'")
    body = assert_run(client.run(body={"mode": mode}))
    row = assert_answer_is_the_row(body, sql)
    assert body["loopStatus"] == "completed"
    assert (row["status"], row["step"], row["state_after"], row["issue_version"]) == ("completed", None, "CLOSED", 1)
    assert sql.one("SELECT version FROM loop_issues")["version"] == 1


def test_a_step_that_is_skipped_is_recorded_before_the_one_that_is_executed(client: Client, sql: Sql) -> None:
    client.register(draft={"committed": True, "status": "valid"})
    body = assert_run(client.run(), "stepExecuted", "nextStep")
    row = assert_answer_is_the_row(body, sql)
    assert body["stepExecuted"]["stepType"] == "S2_SPEC_READY"
    assert (row["step"], row["state_before"], row["state_after"]) == (2, "CREATED", "SPEC_READY")
    steps = sql("SELECT * FROM loop_run_steps ORDER BY step_number")
    assert [(step["step_number"], step["status"]) for step in steps] == [(1, "skipped"), (2, "completed")]
    assert (steps[0]["started_at"], steps[0]["duration_ms"]) == (None, None)
    assert steps[0]["completed_at"] == row["completed_at"]


@pytest.mark.parametrize("mode", ["execute", "dryRun"])
def test_the_verified_caller_is_the_actor_and_a_delegate_is_recorded_too(client: Client, sql: Sql, mode: str) -> None:
    web = "arn:aws:iam::123456789012:role/web"
    services = Services(replace(client.services.settings, actor_delegates=frozenset({web})))
    client, iam = Client(services), {"iam": {"userArn": web}}
    client("PUT", ISSUE, {"loop": "issue-delivery"}, actor="ann", authorizer=iam)
    client.run(body={"mode": mode}, actor=None, authorizer=iam)
    client.run(body={"mode": mode}, actor="ann", authorizer=iam)
    client.run(body={"mode": mode}, actor="eve", authorizer={"jwt": {"claims": {"sub": "user-1"}}})
    services.database.close()
    rows = sql("SELECT actor, principal FROM loop_runs ORDER BY created_at")
    assert [(row["actor"], row["principal"]) for row in rows] == [(web, None), ("ann", web), ("user-1", None)]
    registered = sql.one("SELECT event_data FROM loop_events WHERE event_type = 'loop_issue_registered'")["event_data"]
    assert (registered["actor"], registered["principal"]) == ("ann", web)


# --- a run


def test_a_run_is_its_row_column_by_column_with_its_steps(client: Client, sql: Sql) -> None:
    client.register(draft={"committed": True, "status": "valid"})
    run_id = client.run().json["runId"]
    answer = client("GET", f"/api/loop/runs/{run_id}")
    assert answer.status == 200
    body = answer.json
    steps = body.pop("steps")
    assert body.pop("schemaVersion") == "loop.run.v1"
    assert [event["eventType"] for event in body.pop("events")] == [
        "loop_run_finished", "loop_step_completed", "loop_step_skipped", "loop_run_started",
    ]  # fmt: skip
    assert (body.pop("retriedBy"), body.pop("logUrl")) == (None, None)
    assert body == as_answered(sql.one("SELECT * FROM loop_runs"), "runId")
    rows = sql("SELECT * FROM loop_run_steps ORDER BY step_number")
    assert steps == [as_answered(row, "stepId", hidden={"task_token_hash"}) for row in rows]
    assert len(steps) == 2


def test_times_have_microseconds_even_where_they_are_zero(client: Client, sql: Sql) -> None:
    sql("""INSERT INTO loop_runs (issue_id, actor, request_id, status, created_at, completed_at)
        VALUES ('A', 'ann', 'r', 'failed', '2026-11-24T12:00:00Z', '2026-11-24T12:00:00.5Z')""")
    run_id = sql.one("SELECT id FROM loop_runs")["id"]
    body = client("GET", f"/api/loop/runs/{run_id}").json
    assert (body["createdAt"], body["completedAt"]) == ("2026-11-24T12:00:00.000000Z", "2026-11-24T12:00:00.500000Z")


# --- an issue


def test_an_issue_is_registered_once(client: Client, unchanged: Unchanged) -> None:
    made = client.register(githubUrl=URL)
    body = assert_issue(made, 201, "nextStep", "nextCall")
    assert (body["issueId"], body["loop"], body["state"], body["version"]) == (
        "AFU9-123",
        "issue-delivery",
        "CREATED",
        1,
    )
    assert (body["facts"], body["unmetGates"]) == ({"githubUrl": URL}, [])
    assert body["nextStep"] == {"stepNumber": 1, "stepType": "S1_PICK_ISSUE"}
    with unchanged():
        again = client("PUT", ISSUE, {"loop": "issue-delivery", "facts": {"other": 1}})
    assert assert_issue(again, 200, "nextStep", "nextCall") == body


def test_facts_that_come_with_an_issue_are_merged_into_nothing(client: Client) -> None:
    facts = {"a": None, "b": {"c": None, "d": 1}, "e": [None]}
    body = assert_issue(client("PUT", ISSUE, {"loop": "issue-delivery", "facts": facts}), 201, "nextStep", "nextCall")
    assert body["facts"] == {"b": {"d": 1}, "e": [None]}


def test_a_patch_is_merged_null_removes_and_what_changes_nothing_is_no_version(
    client: Client, unchanged: Unchanged
) -> None:
    client.register(githubUrl=URL, a={"b": 1, "c": [1]})
    changed = client("PATCH", ISSUE, {"a": {"c": [2], "d": {"e": None}}, "f": True})
    merged = assert_issue(changed, 200, "nextStep", "nextCall")
    assert merged["facts"] == {"githubUrl": URL, "a": {"b": 1, "c": [2], "d": {}}, "f": True}
    assert merged["version"] == 2
    removed = assert_issue(client("PATCH", ISSUE, {"a": None, "githubUrl": None}), 200, "nextStep", "nextCall")
    assert (removed["facts"], removed["version"]) == ({"f": True}, 3)
    assert [gate["blocker"] for gate in removed["unmetGates"]] == ["NO_GITHUB_LINK"]
    nothing: list[dict[str, Any]] = [{}, {"f": True}, {"gone": None}]
    for patch in nothing:
        with unchanged():
            assert assert_issue(client("PATCH", ISSUE, patch), 200, "nextStep", "nextCall") == removed


def test_an_issue_lists_every_unmet_gate_in_the_loops_order_with_its_call(client: Client, sql: Sql) -> None:
    client.register()
    sql("UPDATE loop_issues SET state = 'REVIEW_READY'")
    body = assert_issue(client("GET", ISSUE), 200, "nextStep", "nextCall")
    assert [(gate["blocker"], gate["fact"]) for gate in body["unmetGates"]] == [
        ("NO_REVIEW_APPROVAL", "review.decision"),
        ("CHANGES_REQUESTED", "review.decision"),
        ("CHECKS_PENDING", "checks.status"),
        ("CHECKS_FAILED", "checks.status"),
    ]
    for gate in body["unmetGates"]:
        call = gate["call"]
        patch = json.dumps(call["body"], separators=(",", ":"))
        assert gate["message"].endswith(f" To go on: {call['method']} {call['path']} {patch}")
    assert body["nextCall"] == body["unmetGates"][0]["call"]
    assert client(call["method"], call["path"], call["body"]).status == 200


def test_a_closed_issue_has_no_next_step(client: Client, sql: Sql) -> None:
    client.register()
    sql("UPDATE loop_issues SET state = 'CLOSED'")
    assert assert_issue(client("GET", ISSUE), 200)["unmetGates"] == []


def test_an_issue_shows_the_run_that_owns_it(client: Client, sql: Sql) -> None:
    client.register(githubUrl=URL)
    run = client.services.runs.create_run(issue_id="AFU9-123", actor="bob", request_id="r")
    body = assert_issue(client("GET", ISSUE), 200, "nextStep", "liveRun")
    assert set(body["liveRun"]) == {"runId", "status", "actor", "leaseExpiresAt"}
    assert (body["liveRun"]["runId"], body["liveRun"]["status"]) == (str(run.id), "pending")
    sql("UPDATE loop_runs SET status = 'running', started_at = clock_timestamp()")
    live = assert_issue(client("PATCH", ISSUE, {"a": 1}), 200, "nextStep", "liveRun")["liveRun"]
    row = as_answered(sql.one("SELECT * FROM loop_runs"), "runId")
    assert live == {key: row[key] for key in ("runId", "status", "actor", "startedAt", "leaseExpiresAt")}


def test_an_issue_shows_its_hold_and_its_next_attempt(client: Client, sql: Sql) -> None:
    client.register(githubUrl=URL)
    sql("""UPDATE loop_issues SET next_attempt_at = '2026-11-24T12:00:00.5Z',
        hold = '{"reason": "audit", "by": "bob", "since": "2026-11-24T12:00:00Z"}'""")
    answer = client("GET", ISSUE)
    assert set(answer.json) == ISSUE_KEYS | {"nextStep", "hold", "nextAttemptAt", "nextCall"}
    hold = {"reason": "audit", "by": "bob", "since": "2026-11-24T12:00:00Z", "state": "CREATED"}
    assert answer.json["hold"] == hold
    assert answer.json["nextAttemptAt"] == "2026-11-24T12:00:00.500000Z"
    (gate,) = answer.json["unmetGates"]
    assert (set(gate), gate["blocker"]) == ({"blocker", "message", "call"}, "ON_HOLD")


def test_another_loop_for_a_registered_issue_is_409(client: Client, sql: Sql, unchanged: Unchanged) -> None:
    client.register()
    sql("UPDATE loop_issues SET loop_name = 'other'")
    with unchanged():
        error = assert_error(client.register(), 409, "ISSUE_EXISTS")
    assert error["details"] == {"loop": "other"}


def test_an_unknown_loop_is_400_that_names_those_there_are(client: Client, unchanged: Unchanged) -> None:
    with unchanged():
        error = assert_error(client("PUT", ISSUE, {"loop": "none"}), 400, "INVALID_REQUEST")
    assert "issue-delivery" in error["message"]
