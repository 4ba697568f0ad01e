"""What the tests here share: callers that are processes of their own, as on Lambda, and an executor that waits."""

from __future__ import annotations

import multiprocessing
import traceback
import warnings
from contextlib import closing
from datetime import UTC, datetime
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from loop_runner.executors import EXECUTORS
from loop_runner.executors.protocol import Completed
from loop_runner.services import Services
from tests.conftest import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from loop_runner.executors.protocol import StepCall
    from loop_runner.settings import Settings

    Task = Callable[[Client], Any]

FORK: Final = multiprocessing.get_context("fork")
PATIENCE: Final = 60.0
"""Seconds after which a test stops waiting for a process: what it waits for will not come."""


def open_gates() -> dict[str, Any]:
    """Facts with which every gate of issue-delivery holds, in the order of the steps that ask for them."""
    return {
        "githubUrl": "https://github.com/acme/app/issues/1",
        "draft": {"committed": True, "status": "valid"},
        "pr": {"url": "https://github.com/acme/app/pull/1", "merged": True},
        "review": {"decision": "approved"},
        "checks": {"status": "success"},
        "deployment": {"observedAt": datetime.now(UTC).isoformat()},
        "verdict": "GREEN",
    }


class Callers:
    """Processes that have begun; each does its task once."""

    def __init__(self, answers: dict[Connection, int]) -> None:
        self._answers = answers

    def next(self, count: int) -> list[tuple[int, Any]]:
        """The next ``count`` results, as they come; each with the number of its task."""
        results: list[tuple[int, Any]] = []
        while len(results) < count:
            ready = wait(list(self._answers), PATIENCE)
            assert ready, f"{len(results)} of {count} processes have answered after {PATIENCE:.0f} s"
            for answer in cast("list[Connection]", ready)[: count - len(results)]:
                number = self._answers.pop(answer)
                is_done, result = answer.recv()
                assert is_done, result
                results.append((number, result))
        return results

    def rest(self) -> list[Any]:
        """The results that are still to come, in the order of their tasks."""
        return [result for _, result in sorted(self.next(len(self._answers)), key=lambda each: each[0])]


class Crowd:
    """Forks callers off the test, each a process with a connection and a client of its own.

    Their tasks are closures, a fork has all that the test has; what they return crosses a pipe.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def __call__(self, tasks: Sequence[Task]) -> list[Any]:
        """Do the tasks, all beginning at the same moment; their results in the order of the tasks."""
        return self.begin(tasks).rest()

    def begin(self, tasks: Sequence[Task]) -> Callers:
        """Let the tasks begin at the same moment, when the last process has its connection."""
        start = FORK.Barrier(len(tasks))
        answers = {}
        for number, task in enumerate(tasks):
            ours, theirs = FORK.Pipe(duplex=False)
            process = FORK.Process(target=self._run, args=(task, start, theirs), daemon=True)
            with warnings.catch_warnings():
                # The other threads are the test runner's: they hold no lock that a child needs.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                process.start()
            theirs.close()
            self._processes.append(process)
            answers[ours] = number
        return Callers(answers)

    def _run(self, task: Task, start: Any, answer: Connection) -> None:
        try:
            services = Services(self._settings)
            with closing(services.database):
                services.database.query("SELECT", [])
                start.wait(PATIENCE)
                answer.send((True, task(Client(services))))
        except BaseException:
            answer.send((False, traceback.format_exc()))

    def close(self) -> None:
        """Leave no process behind."""
        for process in self._processes:
            process.kill()
            process.join()


@pytest.fixture
def crowd(settings: Settings) -> Iterator[Crowd]:
    crowd = Crowd(settings)
    yield crowd
    crowd.close()


class Executor:
    """Executes steps in every process once the test lets it, and tells the test for which runs it was called."""

    def __init__(self, calls: Path) -> None:
        self._calls = calls
        self._entered = FORK.Semaphore(0)
        self._released = FORK.Event()

    def __call__(self, call: StepCall, /) -> Completed:
        with self._calls.open("a") as file:
            file.write(f"{call.run_id}\n")
        self._entered.release()
        assert self._released.wait(PATIENCE)
        return Completed()

    def wait_until_called(self) -> None:
        """Until it was called once more than this was."""
        assert self._entered.acquire(timeout=PATIENCE)

    def release(self) -> None:
        """Let executions end, those that have begun and those to come."""
        self._released.set()

    @property
    def runs(self) -> list[str]:
        """The runs for which it was called, in order, once for each call."""
        return self._calls.read_text().split() if self._calls.exists() else []


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Executor:
    """In the place of ``transition``."""
    executor = Executor(tmp_path / "calls")
    monkeypatch.setitem(EXECUTORS, "transition", executor)
    return executor
