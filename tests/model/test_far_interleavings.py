"""Random interleavings of what functions, tasks, approvals, retries, cancellations and messages do to an issue.

A small model says what each call answers and where the issue stands; the audit looks at the ledger after every step.
Messages are delivered late, again, in any order or never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from loop_runner.executors import EXECUTORS
from loop_runner.observability import logger
from loop_runner.results import Completed, Failed, StepCall, Waiting
from tests.conftest import Context
from tests.fake_steps import Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loop_runner.results import Result
    from loop_runner.settings import Settings
    from tests.conftest import Sql

TOUR = """
name = "tour"
initial_state = "NEW"
completed_states = ["DONE"]

[[steps]]
number = 1
type = "FETCH"
from = ["NEW"]
to = "FETCHED"
executor = { kind = "lambda", function = "fetch" }

[[steps.retry]]
ErrorEquals = ["Busy"]
IntervalSeconds = 30
MaxAttempts = 2

[[steps]]
number = 2
type = "ASK"
from = ["FETCHED"]
to = "ASKED"
timeout_seconds = 3600
outcomes = { again = "NEW" }
executor = { kind = "callback", function = "ask", heartbeat_seconds = 60 }

[[steps]]
number = 3
type = "REVIEW"
from = ["ASKED"]
to = "APPROVED"
outcomes = { rejected = "NEW" }
executor = { kind = "approval", four_eyes = true }

[[steps]]
number = 4
type = "SHIP"
from = ["APPROVED"]
to = "DONE"
timeout_seconds = 25
executor = { kind = "lambda", function = "ship" }
"""
RESULTS: dict[str, Result] = {
    "completed": Completed({"done": True}),
    "busy": Failed("Busy", "later"),
    "broken": Failed("Broken", "no"),
    "unknown": Failed("Broken", "nobody knows", is_unknown=True),
}
ON = {"NEW": "FETCHED", "APPROVED": "DONE"}
outcomes = st.sampled_from(["completed", "completed", "busy", "busy", "busy", "broken", "unknown"])


class Far(RuleBasedStateMachine):
    """One issue; ``live`` is the run that is pending or waits, ``plan`` the run after which it goes on by itself."""

    def __init__(self, steps: Steps, count: Callable[[str, int], None]) -> None:
        super().__init__()
        self.far, self.count = steps, count

    @initialize(start=st.sampled_from(["NEW", "NEW", "NEW", "FETCHED", "ASKED", "ASKED", "APPROVED"]))
    def begin(self, start: str) -> None:
        self.far.client.context = Context()
        for table in ("loop_run_steps", "loop_events", "loop_runs", "loop_issues"):
            self.far.sql(f"DELETE FROM {table}")
        self.far.calls.clear()
        self.far.sent.all.clear()
        self.far.register("tour", actor="reg")
        self.state, self.is_held, self.attempts = start, False, 0
        if start != "NEW":
            body = {"state": start, "reason": "to begin there"}
            assert self.far.client("POST", "/api/loop/issues/A-1/state", body, "op").status == 200
        self.live: str | None = None
        self.waits_for: str | None = None
        self.plan: str | None = None
        self.is_due = False
        self.decision: str | None = None
        self.will = "completed"
        self.far.__dict__["_execute_one"] = self.execute

    def execute(self, call: StepCall) -> Result | Waiting:
        return Waiting() if call.step.type == "ASK" else RESULTS[self.will]

    # ------------------------------------------------------------------------------------------------ the model

    def goes_on(self, run_id: str) -> str:
        """What a run that has begun comes to; its status."""
        if self.is_held:
            return "blocked"
        self.plan = None
        if self.state == "FETCHED":
            self.live, self.waits_for = run_id, str(self.far.calls[-1].task_token)
            return "running"
        if self.state == "ASKED":
            if self.decision is None:
                return "blocked"
            self.moves("APPROVED" if self.decision == "approved" else "NEW")
        elif self.state != "DONE":
            return self.fetched_or_shipped(run_id)
        return "completed"

    def fetched_or_shipped(self, run_id: str) -> str:
        if self.will == "completed":
            self.moves(ON[self.state])
            return "completed"
        self.attempts += 1
        if self.will == "busy" and self.state == "NEW":
            self.plan, self.is_due = (run_id, False) if self.attempts <= 2 else (None, False)
            self.attempts = self.attempts if self.plan else 0
        return "failed"

    def moves(self, state: str) -> None:
        self.state, self.attempts, self.decision = state, 0, None

    def ends(self) -> None:
        self.live = self.waits_for = None

    # ------------------------------------------------------------------------------------------------ the rules

    @rule(will=outcomes, is_async=st.sampled_from([False, False, False, True]), repeats=st.booleans())
    def run(self, will: str, is_async: bool, repeats: bool) -> None:
        self.will = will
        was_live, is_long = self.live, self.state == "APPROVED" and not self.is_held
        headers = {"prefer": "respond-async"} if is_async else {}
        answer = self.far.run(headers=headers, actor="ann")
        if was_live:
            assert (answer.status, answer.error) == (409, "LOOP_CONFLICT")
            assert answer.json["error"]["details"]["runId"] == was_live
        elif is_async or is_long:
            assert answer.status == 202
            self.live = answer.json["runId"]
        else:
            assert answer.status == 200
            self.assert_run(answer.json["runId"], self.goes_on(answer.json["runId"]))
        if repeats and self.far.sent.all:
            self.deliver(will, 0)

    @precondition(lambda self: self.far.sent.all)
    @rule(will=outcomes, which=st.sampled_from([0, 0, 0, 0, 1, 2, 5]))
    def deliver(self, will: str, which: int) -> None:
        """A message that was ever sent, the newest most often."""
        message, _ = self.far.sent.all[-1 - which % len(self.far.sent.all)]
        self.work(message, will)

    @precondition(lambda self: self.plan and self.is_due)
    @rule(will=outcomes)
    def deliver_what_is_due(self, will: str) -> None:
        self.work({"issueId": "A-1", "after": str(self.plan)}, will)

    def work(self, message: dict[str, str], will: str) -> None:
        self.will = will
        before = len(self.far.runs())
        self.far.work(message)
        run_id, after = message.get("runId"), message.get("after")
        if run_id is not None and run_id == self.live and self.waits_for is None:
            self.live = None
            self.assert_run(run_id, self.goes_on(run_id))
        elif after is not None and after == self.plan and self.is_due and not self.is_held and self.live is None:
            newest = str(self.far.runs()[-1]["id"])
            self.assert_run(newest, self.goes_on(newest))
        else:
            assert len(self.far.runs()) == before

    @precondition(lambda self: any(call.task_token for call in self.far.calls))
    @rule(what=st.sampled_from(["completed", "completed", "again", "failed", "beat", "wrong"]))
    def tell(self, what: str) -> None:
        asked = next(call for call in reversed(self.far.calls) if call.task_token)
        run_id, token = str(asked.run_id), str(asked.task_token)
        path = f"/api/loop/runs/{run_id}"
        if what == "wrong":
            assert self.far.client("POST", f"{path}/heartbeat", {"taskToken": "guessed"}).status == 403
            return
        expected = 200 if run_id == self.live else 409
        if what == "beat":
            assert self.far.client("POST", f"{path}/heartbeat", {"taskToken": token}).status == expected
            return
        body: dict[str, Any] = {"taskToken": token, "status": "completed"}
        if what == "again":
            body["outcome"] = "again"
        elif what == "failed":
            body = {"taskToken": token, "status": "failed", "error": {"name": "Broken", "message": "no"}}
        assert self.far.client("POST", f"{path}/result", body).status == expected
        if expected == 200:
            self.ends()
            if what == "failed":
                self.attempts += 1
            else:
                self.moves("NEW" if what == "again" else "ASKED")
            self.assert_run(run_id, "failed" if what == "failed" else "completed")

    @precondition(lambda self: self.live or self.plan)
    @rule()
    def cancel(self) -> None:
        """The live run, else the newest."""
        runs = self.far.runs()
        run_id = self.live or str(runs[-1]["id"])
        answer = self.far.client("POST", f"/api/loop/runs/{run_id}/cancel", {"reason": "not any more"})
        if self.live:
            self.ends()
            self.assert_run(run_id, "cancelled")
        elif run_id == self.plan:
            assert answer.status == 200
            self.plan = None
        else:
            assert answer.status in {200, 409}

    @rule(decision=st.sampled_from(["approved", "rejected"]), is_own=st.booleans())
    def decide(self, decision: str, is_own: bool) -> None:
        version = self.far.issue()["version"]
        answer = self.far.client(
            "POST",
            "/api/loop/issues/A-1/approvals",
            {"decision": decision},
            "reg" if is_own else "eve",
            headers={"if-match": f'"{version}"'},
        )
        if self.state != "ASKED" or self.is_held:
            assert (answer.status, answer.error) == (409, "NO_APPROVAL_PENDING")
        elif is_own and decision == "approved":
            assert (answer.status, answer.error) == (403, "FORBIDDEN")
        else:
            assert answer.status == 200
            self.decision = decision

    @rule(what=st.sampled_from(["hold", "resume", "patch"]))
    def people(self, what: str) -> None:
        before = self.far.issue()["version"]
        if what == "patch":
            answer = self.far.client("PATCH", "/api/loop/issues/A-1", {"note": before})
            assert answer.status == 200
        else:
            answer = self.far.client("POST", f"/api/loop/issues/A-1/{what}", {"reason": "x"})
            if what == "hold" and self.state == "DONE":
                assert (answer.status, answer.error) == (409, "ISSUE_FINISHED")
                return
            assert answer.status == 200
            self.is_held = what == "hold"
        if self.far.issue()["version"] != before:
            self.decision = None

    @precondition(lambda self: self.plan and not self.is_due)
    @rule()
    def plan_is_due(self) -> None:
        self.far.let_be_due()
        self.is_due = True

    @precondition(lambda self: self.live)
    @rule()
    def lease_is_over(self) -> None:
        was_live, was_waiting = str(self.live), self.waits_for
        self.far.lose_lease()
        self.far.sweep()
        self.ends()
        self.assert_run(was_live, "failed")
        self.attempts += bool(was_waiting)

    # ------------------------------------------------------------------------------------------------ what holds

    def assert_run(self, run_id: str, status: str) -> None:
        (run,) = self.far.sql("SELECT status FROM loop_runs WHERE id = %s", run_id)
        assert run["status"] == status

    @invariant()
    def ledger_is_sound_and_as_the_model_has_it(self) -> None:
        if not hasattr(self, "state"):
            return
        self.count("interleavings", 1)
        self.far.client.context = Context()  # each call has an invocation's time
        issue = self.far.issue()
        live = [str(run["id"]) for run in self.far.runs() if run["completed_at"] is None]
        planned = issue["next_attempt_after"] and str(issue["next_attempt_after"])
        assert (issue["state"], issue["hold"] is not None, live, planned, issue["failed_attempts"]) == (
            *(self.state, self.is_held, [self.live] if self.live else [], self.plan, self.attempts),
        )
        executed = [(call.run_id, call.step.number) for call in self.far.calls]
        assert len(executed) == len(set(executed)), "an attempt was executed twice"
        assert self.far.sql("SELECT rule, ids FROM loop_audit() WHERE violations > 0") == []


@pytest.fixture
def far(settings: Settings, tmp_path: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps(settings, tmp_path, sql, monkeypatch)
    (tmp_path / "tour.toml").write_text(TOUR)
    logger.setLevel("CRITICAL")
    sql("SET jit = off")  # compiling the audit takes longer than the audit of a small ledger
    yield steps
    steps.services.database.close()
    logger.setLevel("INFO")


def test_interleavings_of_steps_that_are_executed_elsewhere_are_as_the_model_has_them(
    far: Steps, count: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(call: StepCall, /) -> Result | Waiting:
        far.calls.append(call)
        said: Result | Waiting = far.__dict__["_execute_one"](call)
        return said

    for kind in ("lambda", "callback"):
        monkeypatch.setitem(EXECUTORS, kind, execute)
    bounded = settings(
        max_examples=300,
        stateful_step_count=25,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(lambda: Far(far, count), settings=bounded)  # type: ignore[arg-type]
