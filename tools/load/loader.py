"""Owns a load: which issue has how many runs when, and that it is written in the order of time, in parts."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Final

from loop_runner.loops import CallbackExecutor, LambdaExecutor, LoopCatalog
from tools.load.database import LoadError, opened
from tools.load.life import Life
from tools.load.share import Ending, Share
from tools.load.world import World
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from loop_runner.loops import Loop
    from tools.load.rows import Rows

CHUNK_ROWS: Final = 100_000
"""How many rows, or a few more, are written in one transaction."""

MOST_RUNS_A_DAY: Final = 10_000_000
LIVE_ISSUES: Final = 12
"""How many issues, or fewer where there are few, are left with a live run."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How many runs and rows were committed, and in how many seconds."""

    runs: int
    rows: int
    seconds: float


def load(
    url: str,
    *,
    issues: int,
    runs: int,
    days: int = 90,
    seed: int = 0,
    until: datetime | None = None,
    beside_others: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    live_issues: int = LIVE_ISSUES,
    report: Callable[[Progress], None] = lambda _progress: None,
) -> Progress:
    """Add ``issues`` issues with ``runs`` runs in all, during the ``days`` before ``until`` (now): LOAD-1, LOAD-2, …

    As a superuser, on a migrated database without issues of others, unless ``beside_others``. Whatever was loaded
    before stays, the numbers go on behind it. The same seed on the same database makes the same ledger, but for the
    times of the runs that are left live. What was committed when it is interrupted is sound. Raises LoadError.
    """
    if issues < 1 or not 0 <= runs <= days * MOST_RUNS_A_DAY:
        raise LoadError(f"ask for one issue at least, and for {MOST_RUNS_A_DAY} runs a day at most: ISSUES, RUNS, DAYS")
    started = time.monotonic()
    done = Progress(0, 0, 0.0)
    with opened(url, beside_others=beside_others) as database:
        first, now = database.first_number(), until or database.now()
        world = World(Random(f"{seed}/{first}"))  # noqa: S311
        # of calls, as people make them: a loop that goes on by itself is another kind of life
        known = [loop for loop in LoopCatalog(ROOT / "loops").valid() if not loop.auto_advance]
        loops = [world.chance.choice(known) for _ in range(issues)]
        shares = _shares(world.chance, loops, runs, now - timedelta(days=days), now, live_issues=live_issues)
        lives = [
            Life(loop, world, share, ending, database.now).turns(f"LOAD-{number}")
            for number, (loop, (share, ending)) in enumerate(zip(loops, shares, strict=True), first)
        ]
        for rows in _play(world, lives, chunk_rows):
            database.write(rows)
            done = Progress(done.runs + len(rows.runs), done.rows + len(rows), time.monotonic() - started)
            report(done)
        database.settle()
    return Progress(done.runs, done.rows, time.monotonic() - started)


def _shares(
    chance: Random, loops: list[Loop], runs: int, since: datetime, until: datetime, *, live_issues: int
) -> list[tuple[Share, Ending]]:
    """Each issue's share: the first one has a tenth of all runs, the others few or many, in hours or weeks."""
    issues, whole = len(loops), until - since
    begins = [since, *(since + whole * 0.98 * chance.random() for _ in range(1, issues))]
    ends = [until, *(min(until, begin + whole * (0.002 + chance.expovariate(4))) for begin in begins[1:])]
    weights = [(end - begin) / whole * chance.lognormvariate(0, 0.7) for begin, end in zip(begins, ends, strict=True)]
    hot = runs // 10 if issues > 1 else runs
    counts = [hot, *_divided(runs - hot, weights[1:])]
    can_live = [number for number in range(1, issues) if counts[number] and _begins_elsewhere(loops[number])]
    live = can_live[: min(live_issues, issues // 5, runs // 20)]
    shares = []
    for number in range(issues):
        ending = Ending.ANYWHERE if ends[number] == until else Ending.FINAL
        if number in live:
            ending, ends[number] = Ending.LIVE, until
        shares.append((Share(chance, begins[number], ends[number], counts[number]), ending))
    return shares


def _divided(total: int, shares: list[float]) -> list[int]:
    """The total in whole parts, each as near to its share as whole parts can be."""
    scale, reached, parts = total / (sum(shares) or 1), 0.0, list[int]()
    for share in shares:
        before, reached = round(reached), reached + share * scale
        parts.append(round(reached) - before)
    return parts


def _begins_elsewhere(loop: Loop) -> bool:
    """Whether the loop's first step is executed elsewhere: others take milliseconds, nobody sees them live."""
    step = loop.step_leaving(loop.initial_state)
    return step is not None and isinstance(step.executor, LambdaExecutor | CallbackExecutor)


def _play(world: World, lives: list[Iterator[datetime]], chunk_rows: int) -> Iterator[Rows]:
    """Take the turns of all lives in the order of time; the rows by chunks, at whose ends nothing is under way."""
    heap = [(next(turns), number, turns) for number, turns in enumerate(lives)]
    heapq.heapify(heap)
    while heap:
        at, number, turns = heap[0]
        if len(world.past) >= chunk_rows:
            world.forget_before(at)
            yield world.past.take()
        following = next(turns, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following, number, turns))
    yield world.past.take()
