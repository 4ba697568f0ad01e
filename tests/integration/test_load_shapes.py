"""What a load leaves looks as what the code leaves: the same columns, keys, notes and sentences for what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
import pytest
from psycopg.rows import dict_row

from loop_runner.executors import EXECUTORS
from loop_runner.loops import LoopCatalog
from loop_runner.results import Blocked, Completed, Failed, StepCall, Waiting
from tests.conftest import LOOPS, Sql, create_database, drop_database
from tests.fake_steps import Waits
from tools.load.loader import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psycopg.rows import DictRow

    from tests.fake_steps import Said, Steps

Shapes: TypeAlias = "dict[tuple[object, ...], DictRow]"

LOST = ("LEASE_EXPIRED", "NOT_STARTED", "States.Timeout", "States.HeartbeatTimeout", "UNEXPECTED_ERROR")
"""Codes whose sentences are ours alone."""

MAY_BE_NULL = {
    "principal", "idempotency_key", "request_hash", "retry_of", "retry_at", "lambda_request_id", "log_stream",
    "next_step", "queued_at", "sent_at", "heartbeat_seconds",
}  # fmt: skip
"""Columns and keys that what happened does not decide, or that the audit decides about."""


OF_THE_MOMENT = {
    "hold", "approval", "idempotency_token", "failed_run_id", "next_attempt_at", "next_attempt_after",
    "registered_principal",
}  # fmt: skip
"""Columns of issues."""


def given(row: DictRow) -> frozenset[str]:
    """What is not null or empty."""
    return frozenset(name for name, value in row.items() if value not in (None, {}) and name not in MAY_BE_NULL)


def shapes_of(sql: Sql, loops: Path) -> Shapes:
    """The shapes of all runs, steps, events and issues, each with a row that has it."""
    kinds = {(loop.name, s.number): s.executor.kind for loop in LoopCatalog(loops).valid() for s in loop.steps}
    found: Shapes = {}
    for run in sql("SELECT * FROM loop_runs"):
        kind, code = kinds.get((run["loop_name"], run["step"])), run["error_code"]
        said = (run["error_message"], run["message"]) if code in LOST else None
        found["run", kind, run["mode"], run["status"], code if code in LOST else None, said, given(run)] = run
    for step in sql("SELECT s.*, r.loop_name FROM loop_run_steps AS s JOIN loop_runs AS r ON r.id = s.run_id"):
        kind = None if step["status"] == "skipped" else kinds[step["loop_name"], step["step_number"]]
        notes = tuple(sorted(step["metadata"]))
        lost = step["retry_if_lost_seconds"]
        found["step", kind, step["status"], notes, lost is not None, given(step) - {"retry_if_lost_seconds"}] = step
    for event in sql("SELECT * FROM loop_events"):
        found["event", event["event_type"], event["run_id"] is not None, given(event["event_data"])] = event
    for issue in sql("SELECT * FROM loop_issues"):
        notes = tuple(tuple(sorted(issue[name] or {})) for name in ("hold", "approval"))
        found["issue", notes, given(issue) - OF_THE_MOMENT] = issue
    return found


class Reality:
    """What happens to runs, made to happen to the code."""

    def __init__(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.monkeypatch, self.issues = steps, monkeypatch, 0
        self.found: Shapes = {}
        (steps.folder / "issue-delivery.toml").write_text((LOOPS / "issue-delivery.toml").read_text())

    def issue(self, loop: str, **facts: Any) -> str:
        self.issues += 1
        self.steps.register(loop, f"A-{self.issues}", **facts)
        return f"A-{self.issues}"

    def run(self, loop: str, *said: Said, **parts: Any) -> str:
        """A run of an issue of its own; its id."""
        issue_id = self.issue(loop, githubUrl="u")
        self.steps.will(*said)
        answer = self.steps.run(issue_id, **parts)
        assert answer.status in {200, 202}, answer.text
        return str(answer.json["runId"])

    def waits(self, loop: str = "ask") -> Waits:
        return Waits(self.steps, self.run(loop, Waiting()), str(self.steps.calls[-1].task_token))

    def queued(self, loop: str) -> tuple[str, dict[str, str]]:
        """A background run and the message for it."""
        run_id = self.run(loop, headers={"prefer": "respond-async"})
        return run_id, {"issueId": f"A-{self.issues}", "runId": run_id}

    def lose(self, _call: StepCall | None) -> Completed:
        self.steps.lose_lease()
        self.steps.sweep()
        return Completed()

    def cancel(self, call: StepCall) -> Completed:
        Waits(self.steps, str(call.run_id), "").cancel("stop")
        return Completed()

    def people(self) -> None:
        for loop in ("issue-delivery", "approve", "work", "ask", "ask-once"):
            issue_id = self.issue(loop, githubUrl="u", draft={"a": 1})
            path = f"/api/loop/issues/{issue_id}"
            self.steps.run(issue_id, body={"mode": "dryRun"})
            for what in ("hold", "resume", "hold"):
                self.steps.client("POST", f"{path}/{what}", {"reason": "r"})
                self.steps.run(issue_id)
                self.steps.run(issue_id, body={"mode": "dryRun"})
            self.steps.client("PATCH", path, {"draft": None})
        for decision in ({"decision": "approved"}, {"decision": "rejected", "comment": "no"}):
            for loop in ("review", "approve"):
                issue_id = self.issue(loop)
                path = f"/api/loop/issues/{issue_id}"
                for _ in range(2):
                    self.steps.run(issue_id)
                self.steps.run(issue_id, body={"mode": "dryRun"})
                version = self.steps.issue(issue_id)["version"]
                self.steps.client("POST", f"{path}/approvals", decision, "olga", headers={"if-match": f'"{version}"'})
                if loop == "review":
                    self.steps.run(issue_id, body={"mode": "dryRun"})
                    self.steps.run(issue_id)

    def in_process(self) -> None:
        issue_id = self.issue("issue-delivery", githubUrl="u")
        self.steps.client("POST", f"/api/loop/issues/{issue_id}/state", {"state": "VERIFIED", "reason": "r"})
        for mode in ("dryRun", "execute", "dryRun", "execute"):
            self.steps.run(issue_id, body={"mode": mode})
        skips = self.issue("issue-delivery", draft={"committed": True, "status": "valid"})
        self.steps.run(skips)
        for said in (self.lose, Exception("unexpected")):
            with self.monkeypatch.context() as patch:
                patch.setitem(EXECUTORS, "transition", EXECUTORS["lambda"])
                self.run("issue-delivery", said)

    def in_the_background(self) -> None:
        run_id, _ = self.queued("work")
        Waits(self.steps, run_id, "").cancel("stop")
        self.queued("work")
        self.lose(None)
        for loop in ("issue-delivery", "long"):
            _, message = self.queued(loop)
            self.steps.work(message)

    def elsewhere(self) -> None:
        busy, broken = Failed("Busy", "later"), Failed("Broken", "it broke")
        for loop in ("work", "long"):
            for said in (Completed({"a": 1}), broken, busy, Blocked("NOT_NOW", "no"), self.lose, self.cancel):
                run_id = self.run(loop, said)
                self.steps.work({"issueId": f"A-{self.issues}", "runId": run_id})
        run_id = self.run("work", busy)
        Waits(self.steps, run_id, "").cancel("stop")
        self.run("work", Completed(outcome="gave_up"))

    def waiting(self) -> None:
        for loop in ("ask", "ask-once"):
            for result in (
                {"status": "completed", "facts": {"a": 1}},
                {"status": "failed", "error": {"name": "Busy", "message": "later"}},
                {"status": "blocked", "blocker": {"code": "NOT_NOW", "message": "no"}},
            ):
                assert self.waits(loop).tell(result).status == 200
            self.waits(loop).cancel("stop")
            for lose in (self.steps.let_time_out, self.steps.lose_lease):
                self.waits(loop)
                lose()
                self.steps.sweep()

    def live(self) -> None:
        def look(_call: StepCall | None) -> Completed:
            self.found |= shapes_of(self.steps.sql, self.steps.folder)
            return Completed()

        self.run("work", look)
        _, message = self.queued("long")
        self.steps.will(look)
        self.steps.work(message)
        self.waits()
        self.queued("long")
        look(None)


@pytest.fixture
def real(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> Shapes:
    reality = Reality(steps, monkeypatch)
    reality.people()
    reality.in_process()
    reality.in_the_background()
    reality.elsewhere()
    reality.waiting()
    reality.live()
    return reality.found


@pytest.fixture
def loaded(server_url: str, migrated_template: str) -> Iterator[Shapes]:
    url = create_database(server_url, migrated_template)
    load(url, issues=150, runs=8000)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        yield shapes_of(Sql(connection), LOOPS)
    drop_database(server_url, url)


def test_whatever_a_load_leaves_the_code_leaves_as_well(loaded: Shapes, real: Shapes) -> None:
    assert [shape for shape in loaded if shape not in real] == []
