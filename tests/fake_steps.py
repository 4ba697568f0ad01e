"""Loops whose steps are executed elsewhere, and an elsewhere in this process: what comes of a step, the test says."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loop_runner.background import Invocation, sweep, work
from loop_runner.executors import EXECUTORS
from loop_runner.messages import Messages
from loop_runner.results import Completed, Result, StepCall, Waiting
from loop_runner.services import Services
from tests.conftest import Answer, Client

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from loop_runner.settings import Settings
    from tests.conftest import Sql

Said = Result | Waiting | Exception | Callable[[StepCall], Result | Waiting]
"""What comes of a step: a value, an error that the executor raises, or what is done with its call."""

HEAD = """
initial_state = "OPEN"
completed_states = ["DONE"]
failed_states = ["ABANDONED"]
"""
STEP = """
[[steps]]
number = 1
type = "WORK"
from = ["OPEN"]
to = "DONE"
"""
RETRY = """
[[steps.retry]]
ErrorEquals = ["Busy", "LEASE_EXPIRED", "States.Timeout"]
IntervalSeconds = 30
MaxAttempts = 2

[[steps.retry]]
ErrorEquals = ["Late"]
IntervalSeconds = 3600
"""
OUTCOMES = 'outcomes = { gave_up = "ABANDONED" }\n'
LAMBDA = 'executor = { kind = "lambda", function = "work" }\n'
CALLBACK = 'executor = { kind = "callback", function = "ask", heartbeat_seconds = 60 }\ntimeout_seconds = 3600\n'
APPROVAL = 'executor = { kind = "approval", four_eyes = true }\n'

LOOPS = {
    "work": HEAD + STEP + LAMBDA + OUTCOMES + RETRY,
    "long": HEAD + STEP + LAMBDA + "timeout_seconds = 25\n",
    "ask": HEAD + STEP + CALLBACK + OUTCOMES + RETRY,
    "ask-once": HEAD + STEP + 'executor = { kind = "callback", function = "ask" }\n',
    "protected": 'protected_facts = ["pr", "review"]\n' + HEAD + STEP + LAMBDA,
    "approve": HEAD + STEP + APPROVAL,
    "auto": f"""
{HEAD.replace('["DONE"]', '["CLOSED"]')}
auto_advance = true
{STEP + LAMBDA}
[[steps]]
number = 2
type = "CLOSE"
from = ["DONE"]
to = "CLOSED"
executor = {{ kind = "transition" }}
""",
    "review": f"""
{HEAD.replace("OPEN", "MADE")}
{STEP.replace("WORK", "MAKE").replace('"OPEN"', '"MADE"').replace('"DONE"', '"OPEN"')}
executor = {{ kind = "transition" }}
{STEP.replace("WORK", "REVIEW").replace("number = 1", "number = 2")}
{APPROVAL}
outcomes = {{ rejected = "MADE" }}
""",
}


class BrokenError(BaseException):
    """An assertion that does not hold while a step is executed: the runner records errors, this it lets through."""


class Sent(Messages):
    """The queue of run-worker: what was sent, and with which delay."""

    def __init__(self) -> None:
        super().__init__("queue")
        self.all: list[tuple[dict[str, Any], float]] = []

    def send(self, messages: Iterable[dict[str, Any]], delay_seconds: float = 0.0) -> int:
        sent = [(message, delay_seconds) for message in messages]
        self.all += sent
        return len(sent)


class Steps:
    """The functions on these loops. ``will`` says what comes of the next steps; ``calls`` are those that there were."""

    def __init__(self, settings: Settings, folder: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, toml in LOOPS.items():
            (folder / f"{name}.toml").write_text(f'name = "{name}"\n{toml}')
        self.folder, self.sql, self.sent = folder, sql, Sent()
        self.services = Services(replace(settings, loops_dir=folder, step_function_prefix="loop-step-"))
        self.services.__dict__["messages"] = self.sent
        self.client = Client(self.services)
        self.calls: list[StepCall] = []
        self._will: deque[Said] = deque()
        monkeypatch.setitem(EXECUTORS, "lambda", self._execute)
        monkeypatch.setitem(EXECUTORS, "callback", self._execute)

    def _execute(self, call: StepCall, /) -> Result | Waiting:
        self.calls.append(call)
        said = self._will.popleft() if self._will else Completed()
        if isinstance(said, Exception):
            raise said
        if not callable(said):
            return said
        try:
            return said(call)
        except AssertionError as error:
            raise BrokenError from error

    def will(self, *said: Said) -> None:
        self._will.extend(said)

    def register(self, loop: str, issue_id: str = "A-1", actor: str = "ann", **facts: Any) -> None:
        answer = self.client("PUT", f"/api/loop/issues/{issue_id}", {"loop": loop, "facts": facts}, actor)
        assert answer.status == 201, answer.text

    def run(self, issue_id: str = "A-1", **parts: Any) -> Answer:
        return self.client.run(issue_id, **parts)

    def ask(self, loop: str = "ask") -> Waits:
        """An issue of its own whose run waits for the outcome of its step."""
        self.register(loop)
        self.will(Waiting())
        answer = self.run()
        assert (answer.status, answer.json["stepExecuted"]["status"]) == (200, "running"), answer.text
        return Waits(self, answer.json["runId"], str(self.calls[-1].task_token))

    def work(self, message: dict[str, Any]) -> None:
        """What run-worker does with a message."""
        invocation = Invocation(60_000, time.monotonic() + 60)
        work(self.services.runner, self.services.issues, json.dumps(message), invocation)

    def sweep(self) -> dict[str, int]:
        return sweep(self.services.ledger, self.sent, retention_days=0, deadline=time.monotonic() + 60)

    def issue(self, issue_id: str = "A-1") -> dict[str, Any]:
        return self.sql.one("SELECT * FROM loop_issues WHERE id = %s", issue_id)

    def runs(self) -> list[dict[str, Any]]:
        return self.sql("SELECT * FROM loop_runs ORDER BY created_at, id")

    def steps(self) -> list[dict[str, Any]]:
        return self.sql("SELECT * FROM loop_run_steps ORDER BY created_at, step_number")

    def events(self, issue_id: str = "A-1") -> list[str]:
        """The types of the issue's events, in order, without what each begins with."""
        rows = self.sql("SELECT event_type FROM loop_events WHERE issue_id = %s ORDER BY event_id", issue_id)
        return [str(row["event_type"]).removeprefix("loop_") for row in rows]

    def lose_lease(self) -> None:
        """Let the lease of the live run be over."""
        self.sql("UPDATE loop_runs SET lease_expires_at = now() - interval '1 s' WHERE completed_at IS NULL")

    def let_be_due(self) -> None:
        """Let planned attempts be due."""
        self.sql("UPDATE loop_issues SET next_attempt_at = now() - interval '1 s' WHERE next_attempt_at IS NOT NULL")

    def let_time_out(self) -> None:
        """Let the time for telling the outcome of the waiting step be over, and with it the lease."""
        self.sql("UPDATE loop_run_steps SET timeout_at = now() - interval '1 s' WHERE status = 'running'")
        self.lose_lease()


class Waits:
    """A run that waits for the outcome of its step."""

    def __init__(self, steps: Steps, run_id: str, token: str) -> None:
        self.steps, self.run_id, self.token = steps, run_id, token

    def tell(self, result: Any, token: Any = None, **parts: Any) -> Answer:
        """POST /result; ``result`` other than an object is the whole body."""
        body = {"taskToken": token or self.token, **result} if isinstance(result, dict) else result
        return self.steps.client("POST", f"/api/loop/runs/{self.run_id}/result", body, **parts)

    def beat(self, token: Any = None) -> Answer:
        body = {"taskToken": token or self.token}
        return self.steps.client("POST", f"/api/loop/runs/{self.run_id}/heartbeat", body)

    def cancel(self, reason: str | None = None, actor: str = "ann") -> Answer:
        body = {} if reason is None else {"reason": reason}
        return self.steps.client("POST", f"/api/loop/runs/{self.run_id}/cancel", body, actor)

    @property
    def row(self) -> dict[str, Any]:
        return self.steps.sql.one("SELECT * FROM loop_runs WHERE id = %s", self.run_id)

    @property
    def step(self) -> dict[str, Any]:
        return self.steps.sql.one("SELECT * FROM loop_run_steps WHERE run_id = %s", self.run_id)
