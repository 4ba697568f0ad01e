"""The built functions on Lambda's runtime: from an empty database to a lost process, as the contract says."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.e2e.conftest import Functions
from tests.e2e.emulator import FunctionError
from tests.sample_events import NAMES, assert_answered, read
from tools.local.postgres import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Sql
    from tools.build.sam import Artifact

MIGRATE = "MigrateFunction"
RUN = "RunNextStepFunction"
TIMEOUT = 3


def register(functions: Functions) -> None:
    status, issue = functions.send("LoopApiFunction", "loop-api-register-issue.json")
    assert (status, issue["state"], issue["nextStep"]["stepType"]) == (201, "CREATED", "S1_PICK_ISSUE")


def run(functions: Functions, event: str = "run-next-step.json") -> dict[str, Any]:
    """The answer to a run of the sample issue."""
    status, answer = functions.send(RUN, event)
    assert status == 200, answer
    return dict(answer)


@pytest.fixture
def registered(functions: Functions) -> Functions:
    """The functions on a database with the sample issue."""
    register(functions)
    return functions


def sessions(sql: Sql, condition: str = "true") -> list[int]:
    """Everybody else's sessions on the test's database."""
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return [row["pid"] for row in sql(f"{others} AND {condition}")]


def test_migrate_function_brings_an_empty_database_to_this_release(artifact: Artifact, empty_database_url: str) -> None:
    with ExitStack() as started:
        functions = Functions(artifact, empty_database_url, started)
        planned = functions.invoke(MIGRATE, read("migrate-plan.json"))["files"]
        assert set(planned.values()) == {"pending"}
        before = functions.invoke(MIGRATE, read("migrate-verify.json"))
        assert (before["ok"], len(before["problems"])) == (False, len(planned))
        assert functions.invoke(MIGRATE, read("migrate-apply.json"))["applied"] == list(planned)
        assert functions.invoke(MIGRATE, read("migrate-verify.json"))["ok"]
        assert functions.invoke(MIGRATE, read("migrate-apply.json"))["applied"] == []
        assert set(functions.invoke(MIGRATE, read("migrate-plan.json"))["files"].values()) == {"applied"}


def test_refused_action_fails_the_invocation_with_its_reason(functions: Functions) -> None:
    with pytest.raises(FunctionError, match=r"^InvalidRequestError: "):
        functions.invoke(MIGRATE, {"action": "drop"})


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_event_is_answered(functions: Functions, name: str) -> None:
    assert_answered(name, functions.invoke)


def test_run_answers_what_it_recorded(registered: Functions, sql: Sql) -> None:
    answer = run(registered)
    row = sql.one("SELECT * FROM loop_runs")
    step = sql.one("SELECT * FROM loop_run_steps")
    assert (str(row["id"]), row["status"], row["actor"]) == (answer["runId"], "completed", "admin-user")
    assert (row["state_before"], row["state_after"], answer["loopStatus"]) == ("CREATED", "PICKED", "active")
    assert row["lambda_request_id"]
    executed = answer["stepExecuted"]
    assert (step["run_id"], step["step_type"], step["status"]) == (row["id"], executed["stepType"], executed["status"])


def test_empty_body_executes(registered: Functions, sql: Sql) -> None:
    assert "stepExecuted" in run(registered, "run-next-step-empty-body.json")
    assert sql.one("SELECT state FROM loop_issues")["state"] == "PICKED"


def test_dry_run_changes_nothing_but_for_its_own_row(registered: Functions, sql: Sql) -> None:
    before = sql("SELECT * FROM loop_issues"), sql("SELECT * FROM loop_events")
    answer = run(registered, "run-next-step-dry-run.json")
    assert "stepExecuted" not in answer
    assert answer["nextStep"]["stepType"] == "S1_PICK_ISSUE"
    row = sql.one("SELECT id, mode, status FROM loop_runs")
    assert (str(row["id"]), row["mode"], row["status"]) == (answer["runId"], "dryRun", "completed")
    assert (sql("SELECT * FROM loop_issues"), sql("SELECT * FROM loop_events")) == before


def test_unmet_gate_blocks_until_the_facts_are_there(registered: Functions, sql: Sql) -> None:
    run(registered)
    blocked = run(registered)
    assert (blocked["loopStatus"], blocked["blocker"]["code"]) == ("paused", "NO_DRAFT")
    row = sql.one("SELECT status, blocker_code FROM loop_runs WHERE id = %s", blocked["runId"])
    assert row == {"status": "blocked", "blocker_code": "NO_DRAFT"}
    assert sql("SELECT * FROM loop_run_steps WHERE run_id = %s", blocked["runId"]) == []
    assert registered.send("LoopApiFunction", "loop-api-patch-facts.json")[0] == 200
    assert run(registered)["stepExecuted"]["stepType"] == "S2_SPEC_READY"


def test_warm_function_keeps_its_process_and_its_connection(registered: Functions, sql: Sql) -> None:
    seen = set()
    for _ in range(3):
        run(registered)
        (session,) = sessions(sql, "query ~ 'loop_finish'")
        seen.add((registered[RUN].pid(), session))
    assert len(seen) == 1


class TestRestartedDatabase:
    @pytest.fixture
    def server(self) -> Iterator[Server]:
        with Server() as server:
            yield server

    def test_warm_function_connects_again(self, server: Server, artifact: Artifact) -> None:
        with ExitStack() as started:
            functions = Functions(artifact, server.url, started)
            functions.invoke(MIGRATE, read("migrate-apply.json"))
            register(functions)
            first, process = run(functions), functions[RUN].pid()
            server.restart()
            second = run(functions)
            assert functions[RUN].pid() == process
        with psycopg.connect(server.url) as connection:
            rows = connection.execute("SELECT id::text, status FROM loop_runs ORDER BY created_at").fetchall()
        assert rows == [(first["runId"], "completed"), (second["runId"], "blocked")]


def time_out(functions: Functions) -> None:
    """Stop the process where it is: one that runs answers before its time is over."""
    os.kill(functions[RUN].pid(), signal.SIGSTOP)


def crash(functions: Functions) -> None:
    os.kill(functions[RUN].pid(), signal.SIGKILL)


class TestLostRun:
    """A run whose process is lost before it has recorded its end."""

    @pytest.fixture
    def functions(self, artifact: Artifact, database_url: str) -> Iterator[Functions]:
        with ExitStack() as started:
            yield Functions(artifact, database_url, started, {RUN: TIMEOUT})

    @pytest.mark.parametrize(
        ("lose", "error"),
        [
            (time_out, rf"^Sandbox.Timedout: Task timed out after {TIMEOUT}.00 seconds$"),
            (crash, r"^Runtime.ExitError: RequestId: \S+ Error: Runtime exited with error: signal: killed$"),
        ],
        ids=["timeout", "crash"],
    )
    def test_is_ended_by_the_first_call_after_its_lease(
        self, registered: Functions, database_url: str, sql: Sql, lose: Callable[[Functions], None], error: str
    ) -> None:
        run(registered, "run-next-step-dry-run.json")  # imports are behind it: the time is the step's
        with ThreadPoolExecutor(1) as caller, psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE loop_run_steps IN EXCLUSIVE MODE")  # the run cannot record its end
            call = caller.submit(run, registered)
            session = self.blocked(sql)
            lose(registered)
            with pytest.raises(FunctionError, match=error):
                call.result(60)
            assert sql.one("SELECT pg_terminate_backend(%s, 30000) AS ended", session)["ended"]
        lost = sql.one("SELECT id, status FROM loop_runs WHERE mode = 'execute'")
        assert lost["status"] == "running"

        status, conflict = registered.send(RUN, "run-next-step.json")
        assert (status, conflict["error"]["code"]) == (409, "LOOP_CONFLICT")
        assert conflict["error"]["details"]["runId"] == str(lost["id"])

        sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp() WHERE status = 'running'")
        taken_over = run(registered)
        ended = sql.one("SELECT status, error_code FROM loop_runs WHERE id = %s", lost["id"])
        assert ended == {"status": "failed", "error_code": "LEASE_EXPIRED"}
        run_row = sql.one("SELECT retry_of, attempt FROM loop_runs WHERE id = %s", taken_over["runId"])
        assert run_row == {"retry_of": lost["id"], "attempt": 2}
        assert str(sql.one("SELECT run_id FROM loop_run_steps")["run_id"]) == taken_over["runId"], "done once"

    def test_one_that_cannot_be_recorded_is_told_before_the_function_is_timed_out(
        self, registered: Functions, database_url: str, sql: Sql
    ) -> None:
        run(registered, "run-next-step-dry-run.json")
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE loop_run_steps IN EXCLUSIVE MODE")
            status, answer = registered.send(RUN, "run-next-step.json")
            assert (status, answer["error"]["code"]) == (503, "UNAVAILABLE")
        live = sql.one("SELECT id FROM loop_runs WHERE mode = 'execute'")
        assert answer["error"]["details"]["runId"] == str(live["id"])

    def blocked(self, sql: Sql) -> int:
        """The session that waits for a lock, once there is one."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if waiting := sessions(sql, "wait_event_type = 'Lock'"):
                return waiting[0]
        raise AssertionError("no session waits for a lock")
