"""Owns what the suites of faults drive: an issue of a short loop, and the checks that every end of it must pass."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from loop_runner import background
from loop_runner.claims import Claim, ClaimRequest
from loop_runner.executors.protocol import Completed
from loop_runner.messages import of_run
from loop_runner.models import RunMode
from tests.conftest import ACTOR, Context
from tests.crash.run_queue import Queue, deliver

if TYPE_CHECKING:
    from psycopg.rows import DictRow

    from loop_runner.executors.protocol import StepCall, Waiting
    from loop_runner.results import Result
    from loop_runner.services import Services
    from tests.conftest import Answer, Client, Sql

LOOPS = Path(__file__).parent / "loops"
STATES = ["NEW", "ASKED", "BUILT", "SHIPPED"]


UNKNOWN = {"LEASE_EXPIRED", "States.Timeout", "States.HeartbeatTimeout", "UNEXPECTED_ERROR"}
"""Codes of failed runs of which nobody knows what their function did."""


@dataclass(frozen=True)
class Effect:
    """What an executor did to the outside world, for a run: nothing takes it back."""

    run_id: str
    attempt: int
    kind: str
    token: str
    """With which a function looks whether it has done this before."""
    task_token: str | None

    @classmethod
    def of(cls, call: StepCall) -> Effect:
        kind = call.step.executor.kind
        return cls(str(call.run_id), call.attempt, kind, str(call.idempotency_token), call.task_token)


@dataclass
class Trial:
    """An issue of a short loop. ``client`` is of a process that lives; its executor notes its effects."""

    sql: Sql
    client: Client
    facts: dict[str, Any] = field(default_factory=lambda: {"ready": True})
    issue: str = field(default_factory=lambda: f"TRIAL-{uuid4()}")
    loop: str = "trial"
    queue: Queue = field(default_factory=Queue)
    effects: list[Effect] = field(default_factory=list)
    purged: set[str] = field(default_factory=set)
    """Runs that may be gone."""
    known_runs: list[str] = field(default_factory=list)
    """Those of the issue when the process began."""
    timeout_ms: int = 29_000
    """Of the function, for each call."""
    result: Result | Waiting = field(default_factory=Completed)
    """What the executor of the process that lives says."""

    @property
    def path(self) -> str:
        return f"/api/loop/issues/{self.issue}"

    def executor(self, call: StepCall) -> Result | Waiting:
        self.effects.append(Effect.of(call))
        return self.result

    def call(self, client: Client | None, method: str, path: str = "", body: Any = None, **parts: Any) -> Answer:
        """Call with the whole time of an invocation, by the process that lives unless another is given."""
        client = client or self.client
        client.context = Context(timeout_ms=self.timeout_ms)
        return client(method, f"{self.path}{path}", body, **parts)

    def register(self, client: Client | None = None) -> Answer:
        return self.call(client, "PUT", body={"loop": self.loop, "facts": self.facts})

    def run(self, client: Client | None = None, mode: str = "execute", headers: dict[str, str] | None = None) -> Answer:
        return self.call(client, "POST", "/run-next-step", {"mode": mode}, headers=headers or {})

    def run_with_key(self, client: Client | None = None, mode: str = "execute") -> Answer:
        return self.run(client, mode, {"idempotency-key": self.issue})

    def run_in_background(self, client: Client | None = None) -> Answer:
        return self.run(client, headers={"prefer": "respond-async", "idempotency-key": self.issue})

    def tell(self, client: Client | None = None, what: str = "result", **result: Any) -> Answer:
        """Tell the outcome of the run that waits, or has waited, as the holder of its task token."""
        task = next(effect for effect in reversed(self.effects) if effect.task_token)
        client = client or self.client
        client.context = Context(timeout_ms=self.timeout_ms)
        return client("POST", f"/api/loop/runs/{task.run_id}/{what}", {"taskToken": task.task_token, **result})

    def tell_result(self, client: Client | None = None) -> Answer:
        return self.tell(client, status="completed")

    def cancel(self, client: Client | None = None) -> Answer:
        """Cancel the run that was the last one when the process began."""
        client = client or self.client
        client.context = Context(timeout_ms=self.timeout_ms)
        return client("POST", f"/api/loop/runs/{self.known_runs[-1]}/cancel", {})

    def decide(self, client: Client | None = None) -> Answer:
        """Approve the issue as it was registered, as somebody who did not ask for it."""
        headers = {"if-match": '"1"'}
        return self.call(client, "POST", "/approvals", {"decision": "approved"}, actor="bea", headers=headers)

    def claim(self, actor: str) -> Claim:
        """Claim the issue for a process that is not heard of again."""
        request = ClaimRequest(self.issue, actor, uuid4(), RunMode.EXECUTE, lease_ms=60_000)
        claim = self.client.services.ledger.claim(request)
        assert isinstance(claim, Claim)
        return claim

    def messages(self) -> list[str]:
        return self.queue.of_issue(self.issue)

    def deliver(self, services: Services | None = None) -> None:
        """Deliver every message of the issue, twice and the last one first, and those that are sent meanwhile."""
        delivered = 0
        while new := self.messages()[delivered:]:
            delivered += len(new)
            deliver(services or self.client.services, *(body for body in reversed(new) for _ in range(2)))

    def begin(self, run_id: str) -> None:
        """Do what the message of a queued run says."""
        invocation = background.Invocation(lease_ms=60_000, deadline=time.monotonic() + 20)
        services, message = self.client.services, json.dumps(of_run(self.issue, run_id))
        background.work(services.runner, services.issues, message, invocation)

    def deliver_what_the_sweep_sends(self) -> None:
        self.let_time_pass()
        self.sweep()
        self.deliver()

    def let_time_pass(self) -> None:
        """What is planned is due; what was sent was sent long ago."""
        self.sql(
            "UPDATE loop_issues SET next_attempt_at = clock_timestamp()"
            " WHERE id = %s AND next_attempt_at > clock_timestamp()",
            self.issue,
        )
        self.sql(
            "UPDATE loop_issues SET next_attempt_sent_at = clock_timestamp() - interval '1 h'"
            " WHERE id = %s AND next_attempt_sent_at IS NOT NULL",
            self.issue,
        )
        self.sql(
            "UPDATE loop_runs SET sent_at = sent_at - interval '1 h' WHERE issue_id = %s AND status = 'pending'",
            self.issue,
        )

    def sweep(self, services: Services | None = None, *, retention_days: int = 0) -> dict[str, int]:
        """Sweep as the schedule does."""
        on = services or self.client.services
        return background.sweep(on.ledger, on.messages, retention_days=retention_days, deadline=time.monotonic() + 20)

    def expire(self, *, timed_out: bool = False, only: str = "") -> list[DictRow]:
        """The lease of the issue's live run is over; the run, if there is one, with how it will be ended.

        ``timed_out``: so is the time of its step. ``only``: if its status is this one.
        """
        if timed_out:
            self.sql(
                "UPDATE loop_run_steps SET timeout_at = clock_timestamp() WHERE status = 'running'"
                " AND run_id IN (SELECT id FROM loop_runs WHERE issue_id = %s AND status = 'running')",
                self.issue,
            )
        live = "issue_id = %s AND status IN ('pending', 'running') AND status LIKE %s"
        runs = self.sql(
            f"UPDATE loop_runs SET lease_expires_at = clock_timestamp() WHERE {live} RETURNING *",
            self.issue,
            only or "%",
        )
        for run in runs:
            run["ends_with"] = _end_of_lost(run, timed_out=timed_out)
        return runs

    def rows(self) -> dict[str, list[DictRow]]:
        """All that there is of the issue."""
        steps = (
            "SELECT * FROM loop_run_steps WHERE run_id IN (SELECT id FROM loop_runs WHERE issue_id = %s) ORDER BY id"
        )
        issue = self.sql("SELECT * FROM loop_issues WHERE id = %s", self.issue)
        return {"issue": issue, "runs": self.runs(), "steps": self.sql(steps, self.issue), "events": self.events()}

    def runs(self) -> list[DictRow]:
        return self.sql("SELECT * FROM loop_runs WHERE issue_id = %s ORDER BY created_at, id", self.issue)

    def events(self) -> list[DictRow]:
        return self.sql("SELECT * FROM loop_events WHERE issue_id = %s ORDER BY event_id", self.issue)

    def row(self) -> DictRow:
        return self.sql.one("SELECT * FROM loop_issues WHERE id = %s", self.issue)

    def go_to_the_end(self) -> None:
        """From wherever it stands, with ordinary calls, each of which moves it on."""
        self.result = Completed()
        if not self.rows()["issue"]:
            self.register()
        if "ready" not in self.facts:
            self.call(None, "PATCH", body={"ready": True})
        match [(run["status"], run["loop_status"]) for run in self.runs()][-1:]:
            case [("running", "paused")]:
                assert self.tell_result().status == 200
            case [("pending", _)]:
                self.begin(str(self.runs()[-1]["id"]))
        for _ in STATES:
            answer = self.run()
            assert answer.status == 200, answer.text
            if answer.json.get("blocker", {}).get("code") == "APPROVAL_REQUIRED":
                assert self.decide().status == 200
            else:
                assert answer.json["loopStatus"] in {"active", "completed"}, answer.text
        issue = self.row()
        assert (issue["state"], issue["next_attempt_at"], issue["idempotency_token"]) == (STATES[-1], None, None)

    def assert_nothing_happened_twice(self) -> None:
        """Each transition once, the executor at most once an attempt, and not without a run in the ledger."""
        runs = {str(run["id"]): run for run in self.runs()}
        moves = [run for run in runs.values() if run["state_after"] not in {None, run["state_before"]}]
        states = [run["state_before"] for run in moves] + [run["state_after"] for run in moves[-1:]]
        assert states == [state for state in STATES if state in states]
        assert [run_id for run_id, times in Counter(e.run_id for e in self.effects).items() if times > 1] == []
        executed = {effect.run_id: effect.attempt for effect in self.effects}
        assert executed.keys() <= runs.keys() | self.purged
        assert executed == executed | {run_id: runs[run_id]["attempt"] for run_id in executed.keys() & runs.keys()}
        assert {str(run["id"]) for run in moves if run["step"]} <= executed.keys()
        self._assert_tokens_tell_executions_apart(runs)

    def _assert_tokens_tell_executions_apart(self, runs: dict[str, DictRow]) -> None:
        """A function gets the token of the execution before it exactly while nobody knows what came of that."""
        far = [effect for effect in self.effects if effect.kind in {"lambda", "callback"}]
        for before, effect in pairwise(far):
            run = runs[before.run_id]
            is_unknown = run["status"] == "cancelled" or run["error_code"] in UNKNOWN
            assert (effect.token == before.token) is is_unknown, f"{run['status']} {run['error_code']}"

    def assert_were_ended_as_lost(self, runs: list[DictRow]) -> None:
        """By a caller or by the sweep, which an event tells, together with what is planned after it."""
        for run in runs:
            now = self.sql.one("SELECT * FROM loop_runs WHERE id = %s", run["id"])
            if run["ends_with"] == "cancelled":
                assert now["status"] == "cancelled"
                continue
            assert (now["status"], now["error_code"]) == ("failed", run["ends_with"])
            events = {
                event["event_type"]: event["event_data"] for event in self.events() if event["run_id"] == run["id"]
            }
            assert events["loop_run_failed"]["endedBy"] in {ACTOR, background.SWEEPER}
            steps = self.sql("SELECT * FROM loop_run_steps WHERE run_id = %s AND status = 'failed'", run["id"])
            seconds = (steps[0]["retry_if_lost_seconds"] or {}).get(now["error_code"]) if steps else None
            assert ("loop_retry_planned" in events, now["retry_at"]) == (
                seconds is not None,
                now["completed_at"] + timedelta(seconds=seconds) if seconds is not None else None,
            )

    def assert_goes_on_as_planned(self, lost: list[DictRow]) -> None:
        """The issue, once a lost run has been ended: by itself exactly if that run says when."""
        for each in lost:
            run, issue = self.sql.one("SELECT * FROM loop_runs WHERE id = %s", each["id"]), self.row()
            plan = (run["retry_at"], run["id"]) if run["retry_at"] else (None, None)
            assert (issue["next_attempt_at"], issue["next_attempt_after"]) == plan

    def assert_is_in_the_ledger(self, answer: Answer) -> None:
        """What was answered is so."""
        if answer.status == 200 and answer.json["schemaVersion"] == "loop.runNextStep.v1":
            told = answer.json
            run = self.sql.one("SELECT * FROM loop_runs WHERE id = %s", told["runId"])
            steps = self.sql("SELECT * FROM loop_run_steps WHERE run_id = %s AND status <> 'skipped'", run["id"])
            assert (run["issue_id"], run["loop_status"]) == (self.issue, told["loopStatus"])
            assert run["completed_at"] is not None or told["loopStatus"] == "paused"
            assert [step["status"] for step in steps] == [
                told[key]["status"] for key in ("stepExecuted",) if key in told
            ]


def _end_of_lost(run: DictRow, *, timed_out: bool) -> str:
    """The error code with which a live run ends that is lost, or "cancelled"."""
    if run["cancel_requested_at"]:
        return "cancelled"
    if run["queued_at"] and run["status"] == "pending":
        return "NOT_STARTED"
    if run["loop_status"] == "paused":
        return "States.Timeout" if timed_out else "States.HeartbeatTimeout"
    return "LEASE_EXPIRED"
