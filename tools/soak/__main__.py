"""``make soak``: callers on issues for DURATION seconds, while processes are killed and the database restarts.

The last line is ``soak: N requests, N runs, N crashes, N restarts, N violations``; exit status 1 with any violation.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, LiteralString

import psycopg

from tools.local.stack import Stack, StackError
from tools.soak.caller import Caller, Record
from tools.soak.judge import violations

if TYPE_CHECKING:
    from tools.local.postgres import Server

CALLERS: Final = 6
TIMEOUTS: Final = {
    "RunNextStepFunction": 6,
    "LoopApiFunction": 6,
    "RunWorkerFunction": 10,
    "RunSweeperFunction": 10,
}
"""Seconds: shorter than deployed, so that leases end and lost runs are seen to be taken over."""

PATIENCE_SECONDS: Final = 8
"""A call that met a database which was away may be answered so much later."""

_KILLED: Final = ("RunNextStepFunction", "RunNextStepFunction", "LoopApiFunction", "RunWorkerFunction")


@dataclass
class Plan:
    """How long, and how often what goes wrong, in seconds."""

    duration: float
    between_crashes: float = 2.0
    between_restarts: float = 25.0
    between_sweeps: float = 1.0
    progress: float = 10.0
    is_strict: bool = True
    """Whether a refusal without a reason is a violation, too; a machine that is too busy with other tests refuses."""


@dataclass
class Result:
    """What happened, and everything that should not have."""

    requests: int
    runs: int
    crashes: int
    restarts: int
    violations: list[str]

    def __str__(self) -> str:
        return (
            f"soak: {self.requests} requests, {self.runs} runs, {self.crashes} crashes, {self.restarts} restarts, "
            f"{len(self.violations)} violations"
        )


def soak(plan: Plan) -> Result:
    """Run the plan on a stack of its own, which leaves nothing behind; Ctrl-C ends it early, judged all the same."""
    kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "LOOPS_DIR", "STEPS_DIR"}}
    with tempfile.TemporaryDirectory(prefix="loop-runner-soak-") as name:
        folder = Path(name)
        stack = Stack(
            port=0, data_folder=folder, log_file=folder / "functions.log", timeouts=TIMEOUTS, environment=kept
        )
        with stack:
            assert stack.server is not None  # noqa: S101  no DATABASE_URL was given
            return _Soak(plan, stack, stack.server).run()


class _Soak:
    """One soak."""

    def __init__(self, plan: Plan, stack: Stack, server: Server) -> None:
        self._plan, self._stack, self._server = plan, stack, server
        self._chance = random.Random(0)  # noqa: S311
        self._record = Record()
        self._crashes = self._restarts = 0
        self._begun = time.monotonic()
        self._away: list[tuple[float, float]] = []
        """From when to when the database was."""

    def run(self) -> Result:
        stop = threading.Event()
        callers = [Caller(number, self._stack.url, self._record, stop) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        with contextlib.suppress(KeyboardInterrupt):
            self._make_trouble()
        stop.set()
        for caller in callers:
            caller.join(150)  # a call may take 40 s, and what follows from it another one or two
            if caller.is_alive():
                self._record.add(wrong=f"{caller.name} hangs")
        self._settle()
        refused = self._faults() if self._plan.is_strict else []
        found = self._record.wrong + refused + violations(self._stack.database_url, self._record.told)
        return Result(self._record.requests, self._count("true"), self._crashes, self._restarts, found)

    def _faults(self) -> list[str]:
        """What was refused without a reason: a killed process loses one call, a database that is away refuses calls."""
        found = []
        if len(self._record.lost) > self._crashes:
            found.append(f"{len(self._record.lost)} calls were lost, {self._crashes} processes were killed")
        found += [
            f"a call was UNAVAILABLE {at - self._begun:.1f} s after the begin, the database was there"
            for at in self._record.unavailable
            if not any(begun <= at <= ended + PATIENCE_SECONDS for begun, ended in self._away)
        ]
        return found

    def _make_trouble(self) -> None:
        plan, begun = self._plan, self._begun
        crash_at, restart_at = begun + plan.between_crashes, begun + plan.between_restarts
        sweep_at, progress_at = begun + plan.between_sweeps, begun + plan.progress
        while (now := time.monotonic()) < begun + plan.duration:
            if now >= crash_at and self._crash():
                crash_at = now + plan.between_crashes * self._chance.uniform(0.5, 1.5)
            if now >= restart_at:
                self._restart()
                restart_at = time.monotonic() + plan.between_restarts
            if now >= sweep_at:
                self._sweep()
                sweep_at = time.monotonic() + plan.between_sweeps
            if now >= progress_at:
                print(
                    f"==> {now - begun:.0f} s: {self._record.requests} requests, {self._crashes} crashes, "
                    f"{self._restarts} restarts, {len(self._record.wrong)} wrong answers",
                    file=sys.stderr,
                    flush=True,
                )
                progress_at += plan.progress
            time.sleep(0.02)

    def _crash(self) -> bool:
        """Kill a process within a call; whether there was one."""
        pids = self._stack.busy_pids(self._chance.choice(_KILLED))
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._chance.choice(pids), signal.SIGKILL)
            self._crashes += 1
        return True

    def _restart(self) -> None:
        begun = time.monotonic()
        if self._restarts % 2:
            self._server.kill()
        self._server.restart()
        self._restarts += 1
        self._away.append((begun, time.monotonic()))

    def _sweep(self) -> None:
        with contextlib.suppress(StackError):  # killed, or the database is away: the next one comes
            self._stack.invoke("RunSweeperFunction", {})

    def _settle(self) -> None:
        """Sweep until no run is being executed; those that wait for somebody may go on waiting."""
        patience = time.monotonic() + 3 * max(TIMEOUTS.values())
        while time.monotonic() < patience and self._count("status = 'running' AND loop_status IS NULL"):
            self._sweep()
            time.sleep(0.5)

    def _count(self, condition: LiteralString) -> int:
        with psycopg.connect(self._stack.database_url) as connection:
            row = connection.execute(
                f"SELECT count(*) FROM loop_runs WHERE mode = 'execute' AND {condition}"
            ).fetchone()
            return int(row[0]) if row else 0


def main() -> int:
    """Soak for DURATION seconds (60); exit status 1 with any violation."""
    text = os.environ.get("DURATION") or "60"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        print(f"DURATION={text} is not a number of seconds", file=sys.stderr)
        return 1
    result = soak(Plan(float(text)))
    for violation in result.violations[:100]:
        print(violation[:400])
    print(result)
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
