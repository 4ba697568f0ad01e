"""Owns the goals, with which `make bench` ends: counts, and ratios within one run, since neither is the machine's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.figures import RESULTS, Spread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.figures import Figures


SCALE: Final = RESULTS.with_name("scale.json")
"""The result of the last `make bench-scale`, which takes too long to be part of this one."""


@dataclass(frozen=True, slots=True)
class Goal:
    """``value`` is None where what it needs was not measured. ``at_most``: the bound is the most, else the least."""

    name: str
    title: str
    bound: float
    value: Callable[[Figures], float | None]
    at_most: bool = False

    def line(self, figures: Figures) -> str:
        """``goal NAME value V bound B ok|missed``; ``not measured`` in the place of the verdict where it was not."""
        value = self.value(figures)
        sign = "≤" if self.at_most else "≥"
        shown = "-" if value is None else f"{value:.2f}"
        return f"goal {self.name} value {shown} bound {sign}{self.bound:g} {self.verdict(value)}"

    def verdict(self, value: float | None) -> str:
        """Of a value, as it is shown: with two digits."""
        if value is None:
            return "not measured"
        is_met = round(value, 2) <= self.bound if self.at_most else round(value, 2) >= self.bound
        return "ok" if is_met else "missed"


def _cost(field: str) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        row = figures.cost("run_next_step")
        return float(row[field]) if row else None

    return value


def _speed(
    other: str, clients: int = 1, delay_ms: int = 0, engine: str = "run_next_step"
) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        ratio = figures.ratio(engine, other, clients=clients, delay_ms=delay_ms)
        return ratio.median if ratio else None

    return value


def _wal(figures: Figures) -> float | None:
    ours, others = figures.cost("run_next_step"), figures.cost("dbos")
    return float(ours["wal_bytes"] / others["wal_bytes"]) if ours and others else None


def _init(figures: Figures) -> float | None:
    rows = figures.part("starts")
    floors = {row["repeat"]: row["init_ms"] for row in rows if row["function"] == "floor"}
    ratios = [row["init_ms"] / floors[row["repeat"]] for row in rows if row["function"] == "RunNextStepFunction"]
    return Spread.of(ratios).median if ratios else None


GOALS: Final = (
    Goal("round-trips", "round trips of a completed run", 2, _cost("round_trips"), at_most=True),
    Goal("commits", "commits of a completed run", 2, _cost("commits"), at_most=True),
    Goal("floor-1", "run_next_step to pgbench's floor, 1 client", 0.30, _speed("pgbench")),
    Goal("floor-4", "the same, 4 clients", 0.25, _speed("pgbench", 4)),
    Goal("dbos-1", "run_next_step to DBOS, 1 client", 4, _speed("dbos")),
    Goal("dbos-4", "the same, 4 clients", 4.5, _speed("dbos", 4)),
    Goal("dbos-1-delayed", "the same, 1 client, 1 ms added to each reply", 7.5, _speed("dbos", delay_ms=1)),
    Goal("langgraph-1", "run_next_step to LangGraph's checkpointer, 1 client", 3.3, _speed("langgraph")),
    Goal("langgraph-4", "the same, 4 clients", 3.5, _speed("langgraph", 4)),
    Goal("handler", "the whole handler to run_next_step", 0.75, _speed("run_next_step", engine="handler")),
    Goal("init", "INIT of run-next-step to its floor", 1.15, _init, at_most=True),
    Goal("wal", "WAL of a run to that of DBOS", 1.2, _wal, at_most=True),
)


def lines_of_scale(path: Path = SCALE) -> list[str]:
    """Those of any call of the API on a larger ledger, as they were measured last."""
    if not path.exists():
        return ["goal api-call-at-scale value - bound ≤1.5 not measured: make bench-scale"]
    return [
        f"goal {goal['name']} value {goal['value']:.2f} bound ≤{goal['bound']:g} {'ok' if goal['ok'] else 'missed'}"
        for goal in json.loads(path.read_text())["goals"]
    ]
