"""Owns what an operation costs that does not depend on the machine: round trips, commits, bytes of WAL and of storage.

One client, the same number of operations for every engine, after a checkpoint, with full_page_writes as they are by
default: the first change of a page after a checkpoint writes the page.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row

from benchmarks import processes
from benchmarks.client import WARM_UP
from benchmarks.engines import PGBENCH
from benchmarks.speeds import register
from tools.local.binaries import wheel_bin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.engines import Engine

_STATE: Final = """
SELECT
    pg_current_wal_insert_lsn()::text AS position,
    pg_current_wal_insert_lsn() - '0/0' AS bytes,
    (SELECT redo_lsn FROM pg_control_checkpoint())::text AS checkpoint,
    current_setting('data_directory') AS folder,
    (
        SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    ) AS stored
"""
_TRIES: Final = 3
_COMMITS: Final = re.compile(r"^Transaction/COMMIT\S* +(\d+)", re.MULTILINE)


def measure(engine: Engine, url: str, operations: int) -> dict[str, Any]:
    """What one operation costs, on average of so many.

    Anew where the server made a checkpoint of its own in their midst: pages would have been written twice.
    """
    for _ in range(_TRIES):
        found = _measured(engine, url, operations)
        if found is not None:
            return found
    raise processes.BenchmarkError(f"the server made a checkpoint in each measurement of {engine.name}")


def _measured(engine: Engine, url: str, operations: int) -> dict[str, Any] | None:
    prefix = f"C{uuid4().hex[:8]}"
    with processes.wire(url) as wire:
        if engine is PGBENCH:
            processes.pgbench(wire.to(url), 1, "-t", "50")  # warm
            wire.counts()
            register(engine, url, prefix, 1, operations)
            before = _state(url)
            processes.pgbench(wire.to(url), 1, "-t", str(operations))
            counts, after = wire.counts(), _state(url)
            counts["round_trips"] -= 3  # startup, and preparing its two statements
        else:
            register(engine, url, prefix, 1, operations + WARM_UP)
            with processes.clients(engine, [wire.to(url)]) as connected:
                states = []

                def begin() -> None:
                    wire.counts()
                    states.append(_state(url))

                connected.operate(prefix, when_warm=begin, operations=operations)
                counts, before, after = wire.counts(), states[0], _state(url)
    if before["checkpoint"] != after["checkpoint"]:
        return None
    return {
        "engine": engine.name,
        "round_trips": round(counts["round_trips"] / operations, 2),
        "transactions": round(counts["transactions"] / operations, 2),
        "commits": round(_commits(before, after) / operations, 2),
        "wal_bytes": round((after["bytes"] - before["bytes"]) / operations),
        "stored_bytes": round((after["stored"] - before["stored"]) / operations),
    }


def _state(url: str) -> dict[str, Any]:
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        state = connection.execute(_STATE).fetchone()
    assert state is not None  # noqa: S101
    return state


def _commits(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """The commit records between two positions of the WAL."""
    statistics = subprocess.run(
        [
            *(wheel_bin() / "pg_waldump", "--stats=record", "--path", f"{after['folder']}/pg_wal"),
            *("--start", before["position"], "--end", after["position"]),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found = _COMMITS.search(statistics.stdout)
    if found is None:
        raise processes.BenchmarkError(f"pg_waldump has found no commit: {statistics.stderr.strip()}")
    return int(found[1])
