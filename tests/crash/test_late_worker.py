"""A worker that comes too late changes nothing: not what others have done since, and not what was said of it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

import pytest

from loop_runner.claims import ClaimRequest
from loop_runner.executors import EXECUTORS
from loop_runner.executors.protocol import Completed, Failed
from loop_runner.models import RunMode
from loop_runner.services import Services
from tests.conftest import Client
from tests.crash.trial import Effect, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loop_runner.executors.protocol import StepCall
    from loop_runner.settings import Settings
    from tests.conftest import Answer, Sql

Outcome: TypeAlias = "Callable[[], Completed | Failed]"

SECONDS = 30
"""How long a test waits for what must come."""


@dataclass
class Worker:
    """A process in the middle of a step, which ends when it is told to."""

    client: Client
    pool: ThreadPoolExecutor
    outcome: Outcome = Completed
    begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)
    run_id: str = ""

    def begin(self, trial: Trial) -> None:
        """Call and come as far as the step."""
        self.answer = self.pool.submit(trial.run, self.client)
        assert self.begun.wait(SECONDS)

    def end(self) -> Answer:
        self.may_end.set()
        return self.answer.result(SECONDS)

    def execute(self, call: StepCall) -> Completed | Failed:
        self.run_id = str(call.run_id)
        self.begun.set()
        assert self.may_end.wait(SECONDS)
        return self.outcome()


class Stage:
    """An issue and its workers: steps are executed by the one who is next in line, then by the trial itself."""

    def __init__(self, trial: Trial, settings: Settings) -> None:
        self.trial, self._settings = trial, settings
        self._in_line: list[Worker] = []
        self._all: list[Worker] = []

    def worker(self, outcome: Outcome = Completed) -> Worker:
        worker = Worker(Client(Services(self._settings)), ThreadPoolExecutor(1), outcome)
        self._in_line.append(worker)
        self._all.append(worker)
        return worker

    def execute(self, call: StepCall) -> Completed | Failed:
        self.trial.effects.append(Effect.of(call))
        return self._in_line.pop(0).execute(call) if self._in_line else Completed()

    def close(self) -> None:
        for worker in self._all:
            worker.may_end.set()
            worker.pool.shutdown()
            worker.client.services.database.close()


@pytest.fixture
def stage(sql: Sql, client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    trial = Trial(sql, client)
    trial.register()
    with closing(Stage(trial, settings)) as stage:
        for kind in EXECUTORS:
            monkeypatch.setitem(EXECUTORS, kind, stage.execute)
        yield stage


def completes() -> Completed:
    return Completed(facts={"stale": True})


def fails() -> Failed:
    return Failed("Trial.Broken", "it did not work")


def breaks() -> Completed:
    raise RuntimeError("a bug")


outcomes = pytest.mark.parametrize("outcome", [completes, fails, breaks])


class TestStaleHolder:
    @outcomes
    def test_taken_over_it_changes_no_row_and_leaves_the_new_lease(
        self,
        stage: Stage,
        outcome: Outcome,
        audit: Callable[[], None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        trial, stale = stage.trial, stage.worker(outcome)
        stale.begin(trial)
        (lost,) = trial.expire()
        successor = stage.worker()
        successor.begin(trial)
        before = trial.rows()

        self.assert_is_told_how_it_was_ended(stale, stale.end(), caplog)
        assert trial.rows() == before
        owner = trial.runs()[-1]
        assert (str(owner["id"]), owner["status"]) == (successor.run_id, "running")
        assert owner["lease_expires_at"] > owner["created_at"]

        assert successor.end().json["loopStatus"] == "active"
        trial.assert_were_ended_as_lost([lost])
        trial.go_to_the_end()
        trial.assert_nothing_happened_twice()
        assert "stale" not in trial.row()["facts"]
        audit()

    @outcomes
    def test_swept_it_changes_no_row(
        self,
        stage: Stage,
        outcome: Outcome,
        audit: Callable[[], None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        trial, stale = stage.trial, stage.worker(outcome)
        stale.begin(trial)
        (lost,) = trial.expire()
        assert trial.sweep()["ended"] == 1
        before = trial.rows()

        self.assert_is_told_how_it_was_ended(stale, stale.end(), caplog)
        assert trial.rows() == before
        trial.assert_were_ended_as_lost([lost])
        trial.go_to_the_end()
        trial.assert_nothing_happened_twice()
        audit()

    def test_whose_step_was_done_by_another_one_changes_no_row(self, stage: Stage) -> None:
        trial, stale = stage.trial, stage.worker(completes)
        stale.begin(trial)
        trial.expire()
        trial.go_to_the_end()
        before = trial.rows()
        assert stale.end().json["loopStatus"] == "failed"
        assert trial.rows() == before

    def assert_is_told_how_it_was_ended(self, stale: Worker, answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
        """The answer is the run as it stands, and the log says that it was too late."""
        assert answer.status == 200, answer.text
        assert (answer.json["runId"], answer.json["loopStatus"]) == (stale.run_id, "failed")
        assert answer.json["error"]["code"] == "LEASE_EXPIRED"
        assert "the lease was lost: nothing was written" in caplog.messages


class TestOutOfTime:
    def test_slow_step_is_recorded_before_lambda_ends_the_process_and_its_late_end_changes_nothing(
        self, stage: Stage, audit: Callable[[], None]
    ) -> None:
        trial, slow = stage.trial, stage.worker(completes)
        trial.timeout_ms = 3_000
        answer = trial.run()
        assert trial.client.context.get_remaining_time_in_millis() > 0
        assert (answer.status, answer.json["runId"]) == (200, slow.run_id)
        assert (answer.json["loopStatus"], answer.json["error"]["code"]) == ("failed", "States.Timeout")
        (run,) = trial.runs()
        assert (run["status"], run["error_code"]) == ("failed", "States.Timeout")
        assert run["completed_at"] < run["lease_expires_at"]

        before = trial.rows()
        (step,) = (thread for thread in threading.enumerate() if thread.name == f"step of run {slow.run_id}")
        slow.may_end.set()
        step.join(SECONDS)
        assert not step.is_alive()
        assert trial.rows() == before

        trial.timeout_ms = 29_000
        again = trial.run()
        assert again.json["loopStatus"] == "active"
        assert trial.runs()[-1]["attempt"] == 2
        trial.go_to_the_end()
        trial.assert_nothing_happened_twice()
        audit()

    def test_step_for_which_no_time_is_left_is_not_begun(self, stage: Stage) -> None:
        trial = stage.trial
        request = ClaimRequest(trial.issue, "ann", uuid4(), RunMode.EXECUTE, lease_ms=60_000)
        services = trial.client.services
        recorded = services.runner.run_next_step(request, deadline=time.monotonic())
        assert (recorded.run.status, recorded.run.error_code) == ("failed", "States.Timeout")
        assert recorded.by_this_call
        assert trial.effects == []
        trial.go_to_the_end()
