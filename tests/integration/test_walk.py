"""The customer's loop from its first state to its last, doing nothing but what the answers say."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from loop_runner.loops import load_loop
from tests.conftest import LOOPS

if TYPE_CHECKING:
    from tests.conftest import Client, Sql

pytestmark = pytest.mark.usefixtures("sound")

ISSUE = "/api/loop/issues/AFU9-123"
LOOP = load_loop(LOOPS / "issue-delivery.toml")
CALL = re.compile(r"(?P<method>[A-Z]+) (?P<path>/api/\S+) (?P<body>\{.*\})")


def call_that_clears(message: str) -> tuple[str, str, dict[str, Any]]:
    """The call that a blocker's message ends with."""
    call = CALL.search(message)
    assert call
    assert message.endswith(call[0])
    return call["method"], call["path"], json.loads(call["body"])


def walk(client: Client) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the next step until nothing is left, clearing each blocker with the call that it names.

    The answers in order, and the codes of the blockers in order.
    """
    answers: list[dict[str, Any]] = []
    codes: list[str] = []
    for _ in range(100):
        answer = client.run()
        assert answer.status == 200, answer.text
        answers.append(answer.json)
        if answer.json["loopStatus"] == "completed":
            return answers, codes
        if answer.json["loopStatus"] == "paused":
            codes.append(answer.json["blocker"]["code"])
            cleared = client(*call_that_clears(answer.json["blocker"]["message"]))
            assert cleared.status == 200, cleared.text
            assert answer.json["blocker"]["code"] not in [gate["blocker"] for gate in cleared.json["unmetGates"]]
    raise AssertionError(f"the walk does not end, the last answer is {answers[-1]}")


FACTS: dict[str, Any] = {
    "githubUrl": "https://github.com/acme/app/issues/1",
    "pr": {"url": "https://github.com/acme/app/pull/2", "merged": True},
    "review": {"decision": "approved"},
    "checks": {"status": "success"},
    "verdict": "GREEN",
}


def test_every_step_runs_in_turn_and_each_answer_names_the_next(client: Client, sql: Sql) -> None:
    now = sql.one("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS now")
    client.register(**FACTS)
    client("PATCH", ISSUE, {"deployment": {"observedAt": now["now"]}})
    named: dict[str, Any] | None = client("GET", ISSUE).json["nextStep"]
    for number, step in enumerate(LOOP.steps, 1):
        if step.type == "S2_SPEC_READY":
            client("PATCH", ISSUE, {"draft": {"committed": True, "status": "valid"}})
        issue = client("GET", ISSUE).json
        assert (issue["state"], issue["unmetGates"], issue["nextStep"]) == (step.from_[0], [], named)
        before = issue["version"]
        answer = client.run()
        executed = answer.json["stepExecuted"]
        assert {key: executed[key] for key in ("stepNumber", "stepType")} == named
        assert (executed["stepNumber"], executed["status"]) == (number, "completed")
        assert answer.json["loopStatus"] == ("active" if step.to != "CLOSED" else "completed")
        assert answer.headers["etag"] == f'"{before + 1}"' == client("GET", ISSUE).headers["etag"]
        named = answer.json.get("nextStep")
    assert named is None
    issue = client("GET", ISSUE).json
    assert (issue["state"], "nextStep" in issue) == ("CLOSED", False)


def test_each_blocker_of_the_loop_comes_in_turn_and_is_cleared_by_the_call_it_ends_with(client: Client) -> None:
    client.register()
    answers, codes = walk(client)
    assert codes == [gate.blocker for step in LOOP.steps for gate in step.require]
    executed = [answer["stepExecuted"]["stepType"] for answer in answers if "stepExecuted" in answer]
    assert executed == [step.type for step in LOOP.steps]
    assert [answer["loopStatus"] for answer in answers] == [
        status
        for step in LOOP.steps
        for status in ["paused"] * len(step.require) + ["active" if step.to != "CLOSED" else "completed"]
    ]
    for answer in answers:
        assert ("blocker" in answer) == (answer["loopStatus"] == "paused")
        assert ("stepExecuted" in answer) == (answer["loopStatus"] != "paused")


def test_a_blocked_run_names_the_step_that_waits_and_that_step_runs_next(client: Client) -> None:
    client.register()
    answers, _ = walk(client)
    for before, after in pairwise(answers):
        executed = after.get("stepExecuted") or after["nextStep"]
        assert before["nextStep"] == {key: executed[key] for key in ("stepNumber", "stepType")}


def test_a_call_on_the_closed_issue_records_a_completed_run_without_steps(client: Client, sql: Sql) -> None:
    client.register()
    walk(client)
    before = sql.one("SELECT * FROM loop_issues")
    for _ in range(2):
        body = client.run().json
        assert body["loopStatus"] == "completed"
        assert not {"stepExecuted", "nextStep", "blocker", "error"} & set(body)
        run = client("GET", f"/api/loop/runs/{body['runId']}").json
        assert (run["status"], run["steps"], run["stateBefore"], run["stateAfter"]) == (
            "completed", [], "CLOSED", "CLOSED"
        )  # fmt: skip
    assert sql.one("SELECT * FROM loop_issues") == before


def test_the_version_grows_by_one_with_each_change_and_with_nothing_else(client: Client, sql: Sql) -> None:
    client.register()
    answers, codes = walk(client)
    assert sql.one("SELECT version FROM loop_issues")["version"] == 1 + len(codes) + len(LOOP.steps)
    runs = sql("SELECT status, issue_version FROM loop_runs ORDER BY created_at")
    version = 1
    for run in runs:
        version += run["status"] == "completed"
        assert run["issue_version"] == version
        version += run["status"] == "blocked"  # the call that clears it
    assert len(runs) == len(answers)


def test_the_walk_leaves_one_run_a_call_and_one_step_row_a_step(client: Client, sql: Sql) -> None:
    client.register()
    answers, codes = walk(client)
    runs = sql("SELECT * FROM loop_runs ORDER BY created_at")
    assert [str(run["id"]) for run in runs] == [answer["runId"] for answer in answers]
    assert [run["blocker_code"] for run in runs if run["status"] == "blocked"] == codes
    assert {run["loop_version"] for run in runs} == {LOOP.version}
    assert {run["attempt"] for run in runs} == {1}
    completed = [run for run in runs if run["status"] == "completed"]
    assert [(run["step"], run["state_before"], run["state_after"]) for run in completed] == [
        (step.number, step.from_[0], step.to) for step in LOOP.steps
    ]
    steps = sql("""SELECT s.*, r.started_at AS run_started_at, r.completed_at AS run_completed_at
        FROM loop_run_steps AS s JOIN loop_runs AS r ON r.id = s.run_id ORDER BY r.created_at""")
    assert [(step["run_id"], step["step_number"], step["step_type"], step["status"]) for step in steps] == [
        (run["id"], step.number, step.type, "completed") for run, step in zip(completed, LOOP.steps, strict=True)
    ]
    assert all(step["started_at"] == step["run_started_at"] for step in steps)
    assert all(step["completed_at"] == step["run_completed_at"] for step in steps)


def test_the_timeline_tells_the_walk_in_order(client: Client, sql: Sql) -> None:
    client.register()
    answers, _ = walk(client)
    expected: list[tuple[str, str | None]] = [("loop_issue_registered", None)]
    for answer in answers:
        expected.append(("loop_run_started", answer["runId"]))
        if "blocker" in answer:
            expected += [("loop_run_blocked", answer["runId"]), ("loop_facts_changed", None)]
        else:
            expected += [("loop_step_completed", answer["runId"]), ("loop_run_finished", answer["runId"])]
    events = sql("SELECT * FROM loop_events ORDER BY event_id")
    assert [(row["event_type"], str(row["run_id"]) if row["run_id"] else None) for row in events] == expected
    times = [row["occurred_at"] for row in events]
    assert times == sorted(times)
    finished = [row["event_data"] for row in events if row["event_type"] == "loop_run_finished"]
    assert finished == [
        {"stepNumber": step.number, "stateBefore": step.from_[0], "stateAfter": step.to} for step in LOOP.steps
    ]


def test_a_walk_that_begins_with_a_draft_skips_the_first_step(client: Client, sql: Sql) -> None:
    client.register(draft={"committed": True, "status": "valid"})
    answers, codes = walk(client)
    assert answers[0]["stepExecuted"]["stepType"] == "S2_SPEC_READY"
    assert codes == [gate.blocker for step in LOOP.steps[2:] for gate in step.require]
    steps = sql("""SELECT s.step_type, s.status FROM loop_run_steps AS s JOIN loop_runs AS r ON r.id = s.run_id
        ORDER BY r.created_at, s.step_number""")
    assert [(step["step_type"], step["status"]) for step in steps] == [
        (step.type, "skipped" if step.number == 1 else "completed") for step in LOOP.steps
    ]
