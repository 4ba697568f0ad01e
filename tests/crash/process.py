"""Owns the process that dies: forked for one call of the handlers, killed with SIGKILL at the n-th of its points.

Points lie between the effects that others can see: before and after each exchange with the database, whoever makes it,
before and after each executor and each message, after the answer. They are met, not listed: a first run, which lives,
tells them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg

from loop_runner import messages
from loop_runner.executors import EXECUTORS
from tests.conftest import Answer
from tests.crash.run_queue import Queue
from tests.crash.trial import Effect

if TYPE_CHECKING:
    from collections.abc import Callable

    from loop_runner.executors.protocol import Executor, StepCall, Waiting
    from loop_runner.results import Result

SECONDS = 60
"""A process that has not ended by then is ended."""


@dataclass
class Trace:
    """What others saw of a process, in the order in which it happened."""

    points: list[str] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    answer: Answer | None = None


def run(work: Callable[[], Answer | None], executor: Executor, *, die_at: int | None = None) -> Trace:
    """Do the work in a process of its own, its steps with ``executor``, and kill it at the point of that number."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist's thread waits for its socket and holds no lock
        pid = os.fork()
    if pid == 0:
        _live(work, executor, writing, die_at)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        trace = _read(pipe.read())
    _, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended == (0 if die_at is None else -signal.SIGKILL), f"the process ended with {ended} after {trace.points}"
    return trace


def _read(said: bytes) -> Trace:
    """What the process wrote before it died; a pipe keeps it."""
    trace = Trace()
    for line in said.splitlines():
        match json.loads(line):
            case {"point": name}:
                trace.points.append(name)
            case {"effect": effect}:
                trace.effects.append(Effect(**effect))
            case {"message": body}:
                trace.messages.append(body)
            case {"answer": answer}:
                trace.answer = answer and Answer(**answer)
            case {"error": error}:
                raise AssertionError(error)
    return trace


class _Pen:
    """Writes the trace, line by line and at once, and ends the process at its point."""

    def __init__(self, pipe: int, die_at: int | None) -> None:
        self._pipe, self._die_at, self._points = pipe, die_at, 0

    def write(self, what: str, value: Any) -> None:
        os.write(self._pipe, json.dumps({what: value}).encode() + b"\n")

    def point(self, name: str) -> None:
        self.write("point", name)
        self._points += 1
        if self._points == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _live(work: Callable[[], Answer | None], executor: Executor, pipe: int, die_at: int | None) -> NoReturn:
    """The life of the process; never returns into its parent's code."""
    signal.alarm(SECONDS)
    pen, status = _Pen(pipe, die_at), 1
    try:
        _meet_points(pen, executor)
        answer = work()
        pen.write("answer", answer and asdict(answer))
        pen.point("after the answer")
        status = 0
    except BaseException:
        pen.write("error", traceback.format_exc())
    finally:
        os._exit(status)


def _meet_points(pen: _Pen, executor: Executor) -> None:
    wait = psycopg.Connection.wait

    def waiting(self: psycopg.Connection[Any], gen: Any, *args: Any, **kwargs: Any) -> Any:
        name = str(gen.gi_frame.f_locals.get("query", gen.__name__)).split("(")[0].strip()
        pen.point(f"before {name}")
        answer = wait(self, gen, *args, **kwargs)
        pen.point(f"after {name}")
        return answer

    def executing(call: StepCall) -> Result | Waiting:
        pen.point("before the executor")
        try:
            pen.write("effect", asdict(Effect.of(call)))
            return executor(call)
        finally:
            pen.point("after the executor")

    class Sending:
        def send_message_batch(self, **batch: Any) -> dict[str, Any]:
            pen.point("before the message")
            for entry in batch["Entries"]:
                pen.write("message", entry["MessageBody"])
            pen.point("after the message")
            return Queue().send_message_batch(**batch)

    psycopg.Connection.wait = waiting  # type: ignore[method-assign]
    setattr(messages, "client", lambda *_args, **_options: Sending())  # noqa: B010
    for kind in EXECUTORS:
        EXECUTORS[kind] = executing  # type: ignore[index]
