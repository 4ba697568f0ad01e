"""Owns what the suites of faults drive: an issue of a short loop, and the checks that every end of it must pass."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from loop_runner import background
from loop_runner.claims import Claim, ClaimRequest
from loop_runner.executors.protocol import Completed
from loop_runner.models import RunMode
from tests.conftest import ACTOR, Context

if TYPE_CHECKING:
    from psycopg.rows import DictRow

    from loop_runner.executors.protocol import StepCall
    from loop_runner.services import Services
    from tests.conftest import Answer, Client, Sql

LOOPS = Path(__file__).parent / "loops"
STATES = ["NEW", "ASKED", "BUILT", "SHIPPED"]


@dataclass(frozen=True)
class Effect:
    """What an executor did to the outside world, for a run: nothing takes it back."""

    run_id: str
    attempt: int

    @classmethod
    def of(cls, call: StepCall) -> Effect:
        return cls(str(call.run_id), call.attempt)


@dataclass
class Trial:
    """An issue of the loop ``trial``. ``client`` is of a process that lives; its executor notes its effects."""

    sql: Sql
    client: Client
    facts: dict[str, Any] = field(default_factory=lambda: {"ready": True})
    issue: str = field(default_factory=lambda: f"TRIAL-{uuid4()}")
    effects: list[Effect] = field(default_factory=list)
    purged: set[str] = field(default_factory=set)
    """Runs that may be gone."""
    timeout_ms: int = 29_000
    """Of the function, for each call."""

    @property
    def path(self) -> str:
        return f"/api/loop/issues/{self.issue}"

    def executor(self, call: StepCall) -> Completed:
        self.effects.append(Effect.of(call))
        return Completed()

    def call(self, client: Client | None, method: str, path: str = "", body: Any = None, **parts: Any) -> Answer:
        """Call with the whole time of an invocation, by the process that lives unless another is given."""
        client = client or self.client
        client.context = Context(timeout_ms=self.timeout_ms)
        return client(method, f"{self.path}{path}", body, **parts)

    def register(self, client: Client | None = None) -> Answer:
        return self.call(client, "PUT", body={"loop": "trial", "facts": self.facts})

    def run(self, client: Client | None = None, mode: str = "execute", headers: dict[str, str] | None = None) -> Answer:
        return self.call(client, "POST", "/run-next-step", {"mode": mode}, headers=headers or {})

    def run_with_key(self, client: Client | None = None, mode: str = "execute") -> Answer:
        return self.run(client, mode, {"idempotency-key": self.issue})

    def claim(self, actor: str) -> Claim:
        """Claim the issue for a process that is not heard of again."""
        request = ClaimRequest(self.issue, actor, uuid4(), RunMode.EXECUTE, lease_ms=60_000)
        claim = self.client.services.ledger.claim(request)
        assert isinstance(claim, Claim)
        return claim

    def sweep(self, services: Services | None = None, *, retention_days: int = 0) -> dict[str, int]:
        """Sweep as the schedule does."""
        on = services or self.client.services
        return background.sweep(on.ledger, on.messages, retention_days=retention_days, deadline=time.monotonic() + 20)

    def expire(self) -> list[DictRow]:
        """The lease of the issue's live run is over; the run, if there is one."""
        return self.sql(
            "UPDATE loop_runs SET lease_expires_at = clock_timestamp()"
            " WHERE issue_id = %s AND status IN ('pending', 'running') RETURNING *",
            self.issue,
        )

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
        if not self.rows()["issue"]:
            self.register()
        if "ready" not in self.facts:
            self.call(None, "PATCH", body={"ready": True})
        for _ in STATES:
            answer = self.run()
            assert answer.status == 200, answer.text
            assert answer.json["loopStatus"] in {"active", "completed"}, answer.text
        assert self.row()["state"] == STATES[-1]

    def assert_nothing_happened_twice(self) -> None:
        """Each transition once, the executor at most once an attempt, and not without a run in the ledger."""
        runs = {str(run["id"]): run for run in self.runs()}
        moves = [run for run in runs.values() if run["state_after"] not in {None, run["state_before"]}]
        states = [run["state_before"] for run in moves] + [run["state_after"] for run in moves[-1:]]
        assert states == [state for state in STATES if state in states]
        assert [effect for effect, times in Counter(self.effects).items() if times > 1] == []
        executed = {effect.run_id: effect.attempt for effect in self.effects}
        assert executed.keys() <= runs.keys() | self.purged
        assert executed == executed | {run_id: runs[run_id]["attempt"] for run_id in executed.keys() & runs.keys()}
        assert {str(run["id"]) for run in moves if run["step"]} <= executed.keys()

    def assert_were_ended_as_lost(self, runs: list[DictRow]) -> None:
        """By a caller or by the sweep, which an event tells."""
        for run in runs:
            now = self.sql.one("SELECT * FROM loop_runs WHERE id = %s", run["id"])
            assert (now["status"], now["error_code"]) == ("failed", "LEASE_EXPIRED")
            event = self.sql.one(
                "SELECT * FROM loop_events WHERE run_id = %s AND event_type = 'loop_run_failed'", run["id"]
            )
            assert event["event_data"]["endedBy"] in {ACTOR, background.SWEEPER}

    def assert_is_in_the_ledger(self, answer: Answer) -> None:
        """What was answered is so."""
        if answer.status == 200 and "runId" in answer.json:
            told = answer.json
            run = self.sql.one("SELECT * FROM loop_runs WHERE id = %s", told["runId"])
            steps = self.sql("SELECT * FROM loop_run_steps WHERE run_id = %s AND status <> 'skipped'", run["id"])
            assert (run["issue_id"], run["loop_status"]) == (self.issue, told["loopStatus"])
            assert run["completed_at"] is not None
            assert [step["status"] for step in steps] == [
                told[key]["status"] for key in ("stepExecuted",) if key in told
            ]
