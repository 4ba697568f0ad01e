"""Owns how a scenario is killed at every point, and what must hold after each: whoever comes next recovers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from loop_runner.executors import EXECUTORS
from loop_runner.executors.protocol import Completed, Waiting
from loop_runner.services import Services
from tests.conftest import Answer, Client
from tests.crash import process
from tests.crash.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from psycopg.rows import DictRow

    from loop_runner.executors.protocol import StepCall
    from loop_runner.results import Result
    from tests.conftest import Sql
    from tests.crash.run_queue import Queue

DOOMED = "doomed"
"""application_name of the process that dies."""

Call: TypeAlias = "Callable[[Trial, Client], Answer | None]"
Execute: TypeAlias = "Callable[[StepCall, Client], Result | Waiting]"
"""What a step does; the client is that of somebody else, who has its own connection."""
Recover: TypeAlias = "Callable[[Crashes, Trial], list[DictRow]]"
"""What comes after the crash; the runs that were lost."""


def completes(_call: StepCall, _client: Client) -> Completed:
    return Completed(facts={"built": True})


# --- recoveries


def the_caller_repeats_its_call(crashes: Crashes, trial: Trial) -> list[DictRow]:
    """Too late for a run that was told to end by a time."""
    lost = trial.expire(timed_out=True)
    answer = crashes.scenario.call(trial, trial.client)
    assert answer is None or answer.status in {200, 201, 202, 412} or answer.error == "RUN_FINISHED", answer.text
    return lost


def the_caller_repeats_its_call_at_once(crashes: Crashes, trial: Trial) -> list[DictRow]:
    """Which the run that is live may refuse, until it is lost; or it was done already."""
    answer = crashes.scenario.call(trial, trial.client)
    assert answer
    if answer.status != 409 or answer.error == "RUN_FINISHED":
        assert answer.status in {200, 202, 409}, answer.text
        return []
    (live,) = trial.expire()
    assert answer.json["error"]["details"]["runId"] == str(live["id"])
    assert live["loop_status"] is None, "whoever waits for an outcome has been told so"
    answer = crashes.scenario.call(trial, trial.client)
    assert answer
    assert answer.status == 200
    return [live]


def the_sweep_comes_by(_crashes: Crashes, trial: Trial) -> list[DictRow]:
    lost = trial.expire()
    trial.sweep(retention_days=1)
    assert trial.expire() == []
    trial.assert_goes_on_as_planned(lost)
    return lost


def messages_come_again(_crashes: Crashes, trial: Trial) -> list[DictRow]:
    """All that were sent, twice and in the wrong order; then the sweep sends those that are missing."""
    trial.let_time_pass()
    trial.deliver()
    lost = trial.expire(only="running")
    trial.sweep()
    trial.assert_goes_on_as_planned(lost)
    trial.deliver_what_the_sweep_sends()
    assert "pending" not in {run["status"] for run in trial.runs()}
    assert trial.row()["next_attempt_at"] is None
    return lost


@dataclass(frozen=True)
class Scenario:
    """What a process does when it is killed, and who comes next: the caller, who got no answer, or the sweep."""

    name: str
    call: Call
    before: Callable[[Trial], object] = Trial.register
    facts: dict[str, Any] = field(default_factory=lambda: {"ready": True})
    loop: str = "trial"
    execute: Execute = completes
    after: Callable[[Trial], object] = lambda _trial: None
    """What must hold after the recovery, beside what always must."""
    recoveries: tuple[Recover, ...] = (the_caller_repeats_its_call, the_sweep_comes_by)


class Crashes:
    """Runs a scenario in processes that die, each on an issue of its own."""

    def __init__(
        self, scenario: Scenario, sql: Sql, client: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.scenario, self._sql, self._client, self._queue = scenario, sql, client, queue
        self._monkeypatch = monkeypatch

    def trial(self) -> Trial:
        """An issue, brought to where the process begins."""
        scenario = self.scenario
        trial = Trial(self._sql, self._client, scenario.facts, loop=scenario.loop, queue=self._queue)
        for kind in EXECUTORS:
            self._monkeypatch.setitem(EXECUTORS, kind, trial.executor)
        scenario.before(trial)
        trial.known_runs = [str(run["id"]) for run in trial.runs()]
        return trial

    def process(self, trial: Trial, *, die_at: int | None = None) -> process.Trace:
        """What the process did, once the server has seen that it is gone."""
        settings = self._client.services.settings
        doomed = replace(settings, database_url=f"{settings.database_url}?application_name={DOOMED}")
        trace = process.run(
            lambda: self.scenario.call(trial, Client(Services(doomed))),
            lambda call: self.scenario.execute(call, Client(Services(doomed))),
            die_at=die_at,
        )
        trial.effects += trace.effects
        self._queue.bodies += trace.messages
        deadline = time.monotonic() + 30
        while self._sql("SELECT pid FROM pg_stat_activity WHERE application_name = %s", DOOMED):
            assert time.monotonic() < deadline, "the server still serves the process that is gone"
            time.sleep(0.002)
        return trace


def assert_survives_a_crash_at_any_point(
    crashes: Crashes, recover: Recover, audit: Callable[[], None], count: Callable[[str, int], None]
) -> None:
    undisturbed = crashes.trial()
    points = crashes.process(undisturbed).points
    recover(crashes, undisturbed)
    for die_at in range(1, len(points) + 1):
        trial = crashes.trial()
        trace = crashes.process(trial, die_at=die_at)
        assert trace.points == points[:die_at]
        try:
            lost = _recover_from(crashes, trial, trace, recover, audit)
        except BaseException as error:
            error.add_note(f"{crashes.scenario.name}: killed {trace.points[-1]}, point {die_at}")
            raise
        count("lost runs", len(lost))
    count("crash points", len(points))


def _recover_from(
    crashes: Crashes, trial: Trial, trace: process.Trace, recover: Recover, audit: Callable[[], None]
) -> list[DictRow]:
    if trace.answer:
        trial.assert_is_in_the_ledger(trace.answer)
    audit()

    lost = recover(crashes, trial)
    audit()
    trial.assert_nothing_happened_twice()
    crashes.scenario.after(trial)

    trial.go_to_the_end()
    audit()
    trial.assert_nothing_happened_twice()
    trial.assert_were_ended_as_lost(lost)
    return lost
