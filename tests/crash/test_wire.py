"""Any message between function and database may go wrong, in either direction: the caller gets an answer in time, the
answer is true, the process recovers by itself, and no step is executed twice.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

import pytest

from loop_runner.executors import EXECUTORS
from loop_runner.services import Services
from tests.conftest import Answer, Client
from tests.crash.trial import Trial
from tests.wire import Fault, Place, Proxy, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loop_runner.executors.protocol import StepCall, Waiting
    from loop_runner.results import Result
    from loop_runner.settings import Settings
    from tests.conftest import Sql

Call: TypeAlias = "Callable[[Trial], Answer]"

SHORT_MS = 1_000
"""Time of an invocation that will have to wait until its end."""

PATIENCE_SECONDS = 8.0
"""Far more than that, and less than any wait that has no regard for the invocation's time."""

BESIDE_EACH_OTHER = 12

DONE = {200, 201, 202}


@dataclass(frozen=True)
class Scenario:
    """A call on a connection that is there, or is not yet."""

    name: str
    call: Call
    loop: str = "trial"
    is_registered: bool = True
    is_connected: bool = True
    is_repeatable: bool = True
    """Whether the caller does not notice that a connection was lost."""


SCENARIOS = [
    Scenario("first-run-of-a-process", Trial.run, is_connected=False),
    Scenario("run-with-a-key", Trial.run_with_key),
    Scenario("dry-run", lambda trial: trial.run(mode="dryRun")),
    Scenario("PUT", Trial.register, is_registered=False),
    Scenario("run-of-a-function", Trial.run, loop="far"),
    Scenario("background-run", Trial.run_in_background),
    Scenario("PATCH", lambda trial: trial.call(None, "PATCH", body={"x": 1}), is_repeatable=False),
]
LOSSES = {Fault.CUT, Fault.TEAR, Fault.HALF_CLOSE}
LASTING = {Fault.OUTAGE, Fault.BLACKOUT}
CASES = [
    pytest.param(scenario, fault, id=f"{scenario.name}-{fault}")
    for scenario in SCENARIOS
    for fault in Fault
    if fault not in LASTING or not scenario.is_connected  # such a call meets everything that the others meet
]


class Wires:
    """Makes processes, each with its own issue and its own wire to the database."""

    def __init__(self, scenario: Scenario, settings: Settings, sql: Sql) -> None:
        self.scenario, self._settings, self._sql = scenario, settings, sql
        self._trials: dict[str, Trial] = {}

    def execute(self, call: StepCall) -> Result | Waiting:
        return self._trials[call.issue.id].executor(call)

    @contextmanager
    def process(self) -> Iterator[tuple[Trial, Proxy]]:
        """A process whose next call is the scenario's."""
        name = f"wire-{uuid4()}"
        with Proxy(f"{self._settings.database_url}?application_name={name}") as proxy:
            services = Services(replace(self._settings, database_url=proxy.url))
            with closing(services.database):
                trial = Trial(self._sql, Client(services), issue=name, loop=self.scenario.loop)
                self._trials[trial.issue] = trial
                if self.scenario.is_registered:
                    self._register(trial)
                if self.scenario.is_connected:
                    services.database.query("SELECT 1", [])
                yield trial, proxy

    def _register(self, trial: Trial) -> None:
        """By another process."""
        other = Services(self._settings)
        with closing(other.database):
            trial.register(Client(other))

    def settle(self, trial: Trial) -> None:
        """Until the server has done what it was asked to do."""
        busy = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'"
        deadline = time.monotonic() + 30
        while self._sql(busy, trial.issue):
            assert time.monotonic() < deadline, "the server is still busy"
            time.sleep(0.002)

    def places(self) -> dict[Place, bool]:
        """Every message of an undisturbed call, and whether a statement can have been sent when it comes."""
        with self.process() as (trial, proxy):
            proxy.forget()
            assert self.scenario.call(trial).status in DONE
            first = dict.fromkeys(Side, 0)
            if not self.scenario.is_connected:
                first = {
                    Side.CLIENT: proxy.messages[Side.CLIENT].index("P"),
                    Side.SERVER: proxy.messages[Side.SERVER].index("Z") + 1,
                }
            return {
                Place(side, number): number >= first[side]
                for side in Side
                for number in range(len(proxy.messages[side]))
            }


@pytest.fixture
def wires(request: pytest.FixtureRequest, settings: Settings, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Wires:
    wires = Wires(request.param, settings, sql)
    for kind in EXECUTORS:
        monkeypatch.setitem(EXECUTORS, kind, wires.execute)
    return wires


@pytest.mark.parametrize(("wires", "fault"), CASES, indirect=["wires"])
def test_message_that_goes_wrong_leads_to_a_true_answer_and_to_no_second_execution(
    wires: Wires, fault: Fault, audit: Callable[[], None], count: Callable[[str, int], None]
) -> None:
    places = wires.places()

    def suffer(place: Place) -> None:
        try:
            with wires.process() as (trial, proxy):
                _suffer(wires, trial, proxy, place, fault, is_connected=places[place])
            audit()
        except BaseException as error:
            error.add_note(f"{fault} of message {place.number} of the {place.side}")
            raise

    with ThreadPoolExecutor(BESIDE_EACH_OTHER) as pool:
        list(pool.map(suffer, places))
    count("wire faults", len(places))


def _suffer(wires: Wires, trial: Trial, proxy: Proxy, place: Place, fault: Fault, *, is_connected: bool) -> None:
    before = trial.rows()
    trial.timeout_ms = SHORT_MS if fault in {Fault.SWALLOW, *LASTING} else trial.timeout_ms
    started = time.monotonic()
    proxy.disturb(place, fault)
    answer = wires.scenario.call(trial)
    assert time.monotonic() - started < PATIENCE_SECONDS
    proxy.heal()
    wires.settle(trial)
    _assert_true(trial, answer, before)
    if fault is Fault.DELAY or (fault in LOSSES and is_connected and wires.scenario.is_repeatable):
        assert answer.status in DONE, answer.text
    assert len(trial.runs()) <= 1, "what was lost was looked for"

    trial.timeout_ms = 29_000
    again = wires.scenario.call(trial)
    if again.status == 409:
        (live,) = trial.expire()
        assert again.json["error"]["details"]["runId"] == str(live["id"])
        again = wires.scenario.call(trial)
    assert again.status in DONE, again.text
    trial.assert_is_in_the_ledger(again)
    if wires.scenario.call in {Trial.run_with_key, Trial.run_in_background}:
        (run,) = (run for run in trial.runs() if run["idempotency_key"])
        assert again.json["runId"] == str(run["id"])
        assert answer.status not in DONE or answer.json["runId"] == again.json["runId"]
    trial.go_to_the_end()
    trial.assert_nothing_happened_twice()


def _assert_true(trial: Trial, answer: Answer, before: dict[str, list[dict[str, object]]]) -> None:
    """The answer is one of the contract's, and says what has become of the call."""
    if answer.status in DONE:
        trial.assert_is_in_the_ledger(answer)
        return
    assert (answer.status, answer.error) == (503, "UNAVAILABLE"), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    if "nothing was changed" in answer.json["error"]["message"]:
        assert trial.rows() == before
    else:
        assert "look whether this call was done" in answer.json["error"]["message"]
        assert {str(run["id"]) for run in trial.runs()} <= {answer.json["error"].get("details", {}).get("runId")}
