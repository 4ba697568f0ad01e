"""Owns how fast engines are: each for a few seconds in turn, again and again, since a shared machine is never the same.

What is compared is compared within a repeat.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg

from benchmarks import processes
from benchmarks.engines import PGBENCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.engines import Engine

MOST_PER_SECOND: Final = 2500
"""Operations of one client for which issues are there."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured at a time. ``delay_ms`` is added to each reply of the server."""

    engine: Engine
    clients: int
    delay_ms: int
    repeat: int


def order(engines: Sequence[Engine], clients: Sequence[int], delay_ms: int, repeats: int) -> Iterator[Cell]:
    """Every cell: within a repeat one engine after the other under the same conditions, another one first each time."""
    for repeat in range(repeats):
        turn = repeat % len(engines)
        for number in clients:
            for engine in (*engines[turn:], *engines[:turn]):
                yield Cell(engine, number, delay_ms, repeat)


def measure_all(
    cells: Sequence[Cell], urls: Mapping[str, str], seconds: float, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure cells of the same delay in their order; ``urls``: of each engine's database, by its name.

    A row: operations per second, milliseconds of the median and of 99 in 100, CPU milliseconds of the client for each.
    """
    most, delay_ms = max(cell.clients for cell in cells), cells[0].delay_ms
    rows = []
    with ExitStack() as stack:
        wires = [stack.enter_context(processes.wire(next(iter(urls.values())), delay_ms)) for _ in range(most)]
        ways = {name: [wire.to(url) if delay_ms else url for wire in wires] for name, url in urls.items()}
        connected = {
            engine: stack.enter_context(processes.clients(engine, ways[engine.name]))
            for engine in dict.fromkeys(cell.engine for cell in cells)
            if engine is not PGBENCH
        }
        for number, cell in enumerate(cells, 1):
            prefix = f"B{uuid4().hex[:8]}"
            register(cell.engine, urls[cell.engine.name], prefix, cell.clients, round(seconds * MOST_PER_SECOND))
            if cell.engine is PGBENCH:
                whole = str(max(1, round(seconds)))
                measured = [processes.pgbench(ways[PGBENCH.name][0], cell.clients, "-T", whole)]
            else:
                measured = connected[cell.engine].operate(prefix, cell.clients, seconds=seconds)
            rows.append(_figures(cell, measured))
            progress(
                f"{number}/{len(cells)}  repeat {cell.repeat + 1}, {cell.clients} clients, +{delay_ms} ms: "
                f"{cell.engine.title} {rows[-1]['ops_per_second']:.0f}/s"
            )
    return rows


def register(engine: Engine, url: str, prefix: str, clients: int, count: int) -> None:
    """Put what the operations need into the database; then what was written for it is out of the way."""
    for client in range(clients):
        engine.parts().register(url, f"{prefix}-{client}", count)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")


def _figures(cell: Cell, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    latencies = [latency for each in measured for latency in each["latencies"]]
    quantiles = statistics.quantiles(latencies, n=100)
    return {
        "engine": cell.engine.name,
        "clients": cell.clients,
        "delay_ms": cell.delay_ms,
        "repeat": cell.repeat,
        "ops_per_second": round(sum(len(each["latencies"]) / each["seconds"] for each in measured), 1),
        "p50_ms": round(quantiles[49] * 1000, 3),
        "p99_ms": round(quantiles[98] * 1000, 3),
        "cpu_ms": round(sum(each["cpu_seconds"] for each in measured) / len(latencies) * 1000, 3),
    }
