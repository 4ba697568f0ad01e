"""Loops of a folder of the caller's own: their ends, and the ways in which an issue and its loop do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loop_runner.loops import Loop
from loop_runner.services import Services
from tests.conftest import Answer, Client, Sql
from tests.contract.conftest import Unchanged, assert_error
from tests.contract.test_answers import assert_answer_is_the_row, assert_run

if TYPE_CHECKING:
    from pathlib import Path

    from loop_runner.settings import Settings

ISSUE = "/api/loop/issues/AFU9-123"
SMALL = """
name = "small"
initial_state = "OPEN"
completed_states = ["CLOSED"]

[[steps]]
number = 10
type = "WORK"
from = ["OPEN"]
to = "WORKED"
estimated_duration_ms = 1500
executor = { kind = "transition" }

[[steps]]
number = 20
type = "CLOSE"
from = ["WORKED"]
to = "CLOSED"
skip_if = [{ fact = "trivial", is = true }]
estimated_duration_ms = 0
executor = { kind = "transition" }
"""
FAILING = SMALL.replace('["CLOSED"]', '["CLOSED"]\nfailed_states = ["ABANDONED"]')

Deploy = Callable[[str], Client]


@pytest.fixture
def deploy(settings: Settings, tmp_path: Path) -> Iterator[Deploy]:
    """Deploys a loop named small, and gives a client of functions that have just started on it."""
    deployed = []

    def make(toml: str) -> Client:
        (tmp_path / "small.toml").write_text(toml)
        deployed.append(Services(replace(settings, loops_dir=tmp_path)))
        return Client(deployed[-1])

    yield make
    for services in deployed:
        services.database.close()


def register(client: Client, facts: dict[str, bool] | None = None) -> Answer:
    answer = client("PUT", ISSUE, {"loop": "small", "facts": facts or {}})
    assert answer.status == 201, answer.text
    return answer


def test_an_estimate_of_the_loop_is_in_the_next_step_and_only_then(deploy: Deploy, sql: Sql) -> None:
    client = deploy(SMALL)
    assert register(client).json["nextStep"] == {"stepNumber": 10, "stepType": "WORK", "estimatedDurationMs": 1500}
    body = client.run().json
    assert body["nextStep"] == {"stepNumber": 20, "stepType": "CLOSE", "estimatedDurationMs": 0}
    assert sql.one("SELECT next_step FROM loop_runs")["next_step"] == body["nextStep"]


def test_the_step_into_the_final_state_completes_the_issue(deploy: Deploy, sql: Sql) -> None:
    client = deploy(SMALL)
    register(client)
    client.run()
    body = assert_run(client.run(), "stepExecuted")
    assert body["loopStatus"] == "completed"
    assert assert_answer_is_the_row(body, sql)["state_after"] == "CLOSED"


def test_skips_to_the_final_state_complete_the_issue_and_are_recorded(deploy: Deploy, sql: Sql) -> None:
    client = deploy(SMALL)
    register(client, {"trivial": True})
    sql("UPDATE loop_issues SET state = 'WORKED'")
    dry = assert_run(client.run(body={"mode": "dryRun"}))
    assert (dry["loopStatus"], sql.one("SELECT state FROM loop_issues")["state"]) == ("completed", "WORKED")
    body = assert_run(client.run())
    row = assert_answer_is_the_row(body, sql)
    assert (body["loopStatus"], row["state_before"], row["state_after"]) == ("completed", "WORKED", "CLOSED")
    assert sql.one("SELECT state, version FROM loop_issues") == {"state": "CLOSED", "version": 2}
    step = sql.one("SELECT step_number, status, started_at, run_id FROM loop_run_steps")
    assert step == {"step_number": 20, "status": "skipped", "started_at": None, "run_id": row["id"]}
    assert [event["event_type"] for event in sql("SELECT event_type FROM loop_events ORDER BY event_id")] == [
        "loop_issue_registered",
        "loop_run_started",
        "loop_step_skipped",
        "loop_run_finished",
    ]


def test_steps_left_that_are_all_skipped_are_skipped_by_the_next_call(deploy: Deploy) -> None:
    """Not by this one: it has read the facts before its step, and an end is for good."""
    client = deploy(SMALL)
    register(client, {"trivial": True})
    body = client.run().json
    assert (body["stepExecuted"]["stepType"], body["loopStatus"], "nextStep" in body) == ("WORK", "active", False)
    assert client.run().json["loopStatus"] == "completed"


def test_an_issue_in_a_failed_state_is_finished_and_failed(deploy: Deploy, sql: Sql) -> None:
    client = deploy(FAILING)
    register(client)
    sql("UPDATE loop_issues SET state = 'ABANDONED'")
    body = assert_run(client.run())
    row = assert_answer_is_the_row(body, sql)
    assert (body["loopStatus"], row["status"], row["state_after"]) == ("failed", "completed", "ABANDONED")
    assert client("GET", ISSUE).json["unmetGates"] == []
    assert "nextStep" not in client("GET", ISSUE).json


def test_a_held_issue_is_blocked_on_hold_with_the_step_that_waits(client: Client, sql: Sql) -> None:
    client.register(githubUrl="https://github.com/acme/app/issues/1")
    sql("""UPDATE loop_issues SET hold = '{"reason": "audit", "by": "bob", "since": "2026-11-24T12:00:00Z"}'""")
    body = assert_run(client.run(), "blocker", "nextStep")
    row = assert_answer_is_the_row(body, sql)
    assert (body["blocker"]["code"], body["loopStatus"], row["status"]) == ("ON_HOLD", "paused", "blocked")
    assert body["message"].startswith("bob holds the issue since 2026-11-24T12:00:00Z: audit.")
    assert body["nextStep"]["stepType"] == "S1_PICK_ISSUE"


def test_an_issue_of_a_loop_that_is_not_deployed_is_blocked(client: Client, sql: Sql) -> None:
    client.register()
    sql("UPDATE loop_issues SET loop_name = 'gone'")
    body = assert_run(client.run(), "blocker")
    row = assert_answer_is_the_row(body, sql)
    assert (body["blocker"]["code"], body["loopStatus"], row["status"]) == ("UNKNOWN_LOOP", "paused", "blocked")
    assert (row["loop_name"], row["loop_version"]) == ("gone", None)
    assert "loops/gone.toml" in body["message"]
    issue = client("GET", ISSUE).json
    assert ([gate["blocker"] for gate in issue["unmetGates"]], "nextStep" in issue) == (["UNKNOWN_LOOP"], False)


def test_an_issue_in_a_state_that_its_loop_does_not_know_is_blocked(client: Client, sql: Sql) -> None:
    client.register()
    sql("UPDATE loop_issues SET state = 'LOST'")
    body = assert_run(client.run(), "blocker")
    row = assert_answer_is_the_row(body, sql)
    assert (body["blocker"]["code"], body["loopStatus"], row["status"]) == ("UNKNOWN_STATE", "paused", "blocked")
    assert "LOST" in body["message"]
    assert "PICKED" in body["message"]


@pytest.mark.parametrize("mode", ["execute", "dryRun"])
def test_a_loop_that_is_not_valid_blocks_the_run_and_says_file_key_and_reason(
    deploy: Deploy, sql: Sql, mode: str
) -> None:
    register(deploy(SMALL))
    client = deploy(SMALL.replace('to = "WORKED"', 'to = "NOWHERE"'))
    body = assert_run(client.run(body={"mode": mode}), "blocker")
    row = assert_answer_is_the_row(body, sql)
    assert (body["loopStatus"], row["status"], row["mode"]) == ("paused", "blocked", mode)
    assert body["blocker"]["code"] == row["blocker_code"] == "INVALID_LOOP"
    assert "small.toml: steps.WORK.to: NOWHERE is undefined" in body["blocker"]["message"]
    (unmet,) = client("GET", ISSUE).json["unmetGates"]
    assert (unmet["blocker"], unmet["message"]) == ("INVALID_LOOP", body["blocker"]["message"])
    assert sql.one("SELECT state, version FROM loop_issues") == {"state": "OPEN", "version": 1}


def test_a_patch_is_made_and_answered_or_neither_when_the_loop_is_not_valid(deploy: Deploy, sql: Sql) -> None:
    register(deploy(SMALL))
    answer = deploy("name =")("PATCH", ISSUE, {"a": 1})
    assert (answer.status == 200) == (sql.one("SELECT version FROM loop_issues")["version"] == 2), answer.text


def test_the_call_that_clears_a_blocker_is_whole_however_long_its_value(deploy: Deploy) -> None:
    gate = '{ fact = "checks.ref", same_as = "pr.ref", blocker = "CHECKS_STALE" }'
    client = deploy(SMALL.replace('to = "WORKED"\n', f'to = "WORKED"\nrequire = [{gate}]\n', 1))
    register(client)
    client("PATCH", ISSUE, {"pr": {"ref": "x" * 5000}})
    message = client.run().json["blocker"]["message"]
    assert message.endswith("}"), message[-80:]
    assert client("PATCH", ISSUE, message[message.rindex(" {") + 1 :]).json["unmetGates"] == []


def test_a_run_after_a_lost_one_is_its_next_attempt(deploy: Deploy, sql: Sql) -> None:
    register(deploy(SMALL))
    first = str(
        sql.one("""INSERT INTO loop_runs (issue_id, actor, request_id, status, lease_expires_at)
        VALUES ('AFU9-123', 'ann', 'r', 'running', now()) RETURNING id""")["id"]
    )
    second = deploy(SMALL).run().json
    assert second["stepExecuted"]["status"] == "completed"
    row = sql.one("SELECT attempt, retry_of FROM loop_runs WHERE id = %s", second["runId"])
    assert (row["attempt"], str(row["retry_of"])) == (2, first)


def test_an_issue_is_not_registered_with_a_loop_that_is_not_valid(deploy: Deploy, unchanged: Unchanged) -> None:
    client = deploy("name =")
    with unchanged():
        assert_error(client("PUT", ISSUE, {"loop": "small"}), 500, "INTERNAL_ERROR")


def test_a_run_records_the_version_of_the_loop_that_it_ran(deploy: Deploy, sql: Sql) -> None:
    client = deploy(SMALL)
    register(client)
    client.run()
    deploy(SMALL + "# a word\n").run()
    versions = [row["loop_version"] for row in sql("SELECT loop_version FROM loop_runs ORDER BY created_at")]
    assert len(set(versions)) == 2
    loop = client.services.loops.get("small")
    assert isinstance(loop, Loop)
    assert versions[0] == loop.version
