"""Owns the timing of calls on two ledgers, one small and one that grows, call by call in turn.

Both are asked within the same second, so that what else the machine does falls on both: what counts is the ratio.
Beside the time that passed it takes that of the processors, of the caller and of its server process, which others who
keep the machine busy hardly change.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.scale.calls import Measured
    from benchmarks.scale.subject import Subject

SMALL: Final = "small"
LARGE: Final = "large"

_FUNCTION: Final = re.compile(r"SELECT (loop_\w+)\(")


@dataclass
class Times:
    """Milliseconds: the first execution after a start of the server, and those after it."""

    cold: float | None = None
    warm: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    """Of the warm ones, what was spent on the database's answers."""
    cpu: list[float] = field(default_factory=list)
    """Of the warm ones, what the processors spent on it."""

    def figures(self) -> dict[str, Any]:
        """Median and 95th percentile of the warm ones, and how many there were."""
        return {
            "n": len(self.warm),
            "median": round(median(self.warm), 3),
            "p95": round(quantiles(self.warm, n=20, method="inclusive")[-1] if len(self.warm) > 1 else self.warm[0], 3),
            "databaseMedian": round(median(self.asked), 3) if any(self.asked) else None,
            "cpuMedian": round(median(self.cpu), 3) if self.cpu else None,
            "cold": None if self.cold is None else round(self.cold, 3),
        }


def measure(
    calls: Sequence[Measured], small: Subject, large: Subject, rounds: int, report: Callable[[int], None]
) -> dict[str, Any]:
    """Each call once on each ledger, ``rounds`` times over, after a first time that counts as cold.

    Answers ``calls`` and, for the SQL functions that ran within them, ``functions``: by name what each ledger took, and
    the ratio of the medians.
    """
    ledgers = {SMALL: small, LARGE: large}
    times: dict[str, dict[str, Times]] = {call.name: {name: Times() for name in ledgers} for call in calls}
    functions: dict[str, dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in ledgers})
    for number in range(rounds + 1):
        for call in calls:
            if number and (number - 1) % call.every:
                continue
            order = [SMALL, LARGE] if (number + len(call.name)) % 2 else [LARGE, SMALL]
            for name in order:
                taken, cpu, asked = _timed(call, ledgers[name])
                of_call = times[call.name][name]
                if number == 0:
                    of_call.cold = taken
                    continue
                of_call.warm.append(taken)
                if cpu is not None:
                    of_call.cpu.append(cpu)
                of_call.asked.append(sum(milliseconds for _, milliseconds in asked))
                for sql, milliseconds in asked:
                    if found := _FUNCTION.match(sql):
                        functions[found[1]][name].append(milliseconds)
        report(number)
    return {
        "calls": [
            {"name": call.name, "kind": call.kind, "grows": call.grows, **_compared(times[call.name])} for call in calls
        ],
        "functions": [
            {"name": name, **_compared({which: Times(warm=warm) for which, warm in each.items()})}
            for name, each in sorted(functions.items())
        ],
    }


def _timed(call: Measured, ledger: Subject) -> tuple[float, float | None, list[tuple[str, float]]]:
    """Milliseconds that the call took, those of the processors, and its queries."""
    act = call.prepare(ledger)
    ledger.queries.clear()
    servers = ledger.server_processes()
    cpu, started = _cpu(servers), time.perf_counter()
    act()
    taken = (time.perf_counter() - started) * 1000
    spent = None if cpu is None else (_cpu(servers) or cpu) - cpu
    asked = list(ledger.queries)
    ledger.tidy()
    return taken, spent, asked


def _cpu(servers: Sequence[int]) -> float | None:
    """Milliseconds that the processors have spent on this thread and these processes; None where no kernel says so."""
    try:
        spent = sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in servers)
    except OSError:
        return None
    return (spent + time.thread_time_ns()) / 1e6


def _compared(times: dict[str, Times]) -> dict[str, Any]:
    figures = {name: each.figures() for name, each in times.items()}
    small, large = figures[SMALL], figures[LARGE]
    of_cpu = round(large["cpuMedian"] / small["cpuMedian"], 2) if small["cpuMedian"] and large["cpuMedian"] else None
    return {**figures, "ratio": round(large["median"] / small["median"], 2), "cpuRatio": of_cpu}
