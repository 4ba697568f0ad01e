"""Owns what a ledger takes: bytes of tables and indexes, and what real runs do to them before and after a vacuum."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

if TYPE_CHECKING:
    from benchmarks.scale.subject import Subject

TABLES: Final = ("loop_runs", "loop_run_steps", "loop_events", "loop_issues")

_SIZES: Final = """
SELECT c.relname AS name, coalesce(t.relname, c.relname) AS table_name, t.relname IS NOT NULL AS is_index,
    pg_table_size(c.oid) AS bytes
FROM pg_class AS c
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
LEFT JOIN pg_class AS t ON t.oid = i.indrelid
WHERE coalesce(t.relname, c.relname) = ANY(%s) AND c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i')
ORDER BY table_name, is_index, name
"""
_CHANGES: Final = """
SELECT relname AS name, n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_hot_upd AS hot, n_dead_tup AS dead,
    autovacuum_count AS autovacuums
FROM pg_stat_user_tables
WHERE relname = ANY(%s)
"""
_ISSUES_OF_CHURN: Final = 200


def sizes(ledger: Subject, runs: int) -> dict[str, Any]:
    """Bytes of each table, with its TOAST, and of each index, for so many runs."""
    rows = ledger.query(_SIZES, list(TABLES))
    total = sum(row["bytes"] for row in rows)
    return {
        "relations": [
            {"name": row["name"], "table": row["table_name"], "isIndex": row["is_index"], "bytes": row["bytes"],
             "bytesPerRun": round(row["bytes"] / runs, 1)}
            for row in rows
        ],
        "bytes": total,
        "bytesPerRun": round(total / runs, 1),
        "databaseBytes": ledger.query("SELECT pg_database_size(current_database()) AS n")[0]["n"],
        "walDirectoryBytes": int(ledger.query("SELECT sum(size) AS n FROM pg_ls_waldir()")[0]["n"]),
    }  # fmt: skip


def churn(ledger: Subject, runs: int) -> dict[str, Any]:
    """``runs`` runs that complete a step through the handler, of issues that are put back to their beginning each time.

    Answers what that wrote, how many of the changes were HOT (no index was touched), what was dead afterwards, and what
    a vacuum took for it.
    """
    issues = [f"CHURN-{uuid4()}" for _ in range(min(_ISSUES_OF_CHURN, runs))]
    facts = {"githubUrl": "https://github.com/acme/shop/issues/1"}
    for issue_id in issues:
        ledger.call("PUT", f"/api/loop/issues/{issue_id}", {"loop": "issue-delivery", "facts": facts})
    before, size, wal = _changes(ledger), _bytes(ledger), _wal(ledger)
    started, written = time.perf_counter(), 0
    for number in range(runs):
        issue = f"/api/loop/issues/{issues[number % len(issues)]}"
        if number >= len(issues):
            ledger.call("POST", f"{issue}/state", {"state": "CREATED", "reason": "again"})
        mark = _wal(ledger)
        ledger.call("POST", f"{issue}/run-next-step")
        written += _wal(ledger) - mark
    seconds = time.perf_counter() - started
    after, grown = _changes(ledger), _bytes(ledger)
    vacuums = {}
    for table in TABLES:
        begun = time.perf_counter()
        ledger.query_nothing(f"VACUUM {table}")
        vacuums[table] = round(time.perf_counter() - begun, 2)
    left = _changes(ledger)
    return {
        "runs": runs,
        "seconds": round(seconds, 1),
        "walBytesPerRun": round(written / runs),
        "walBytesPerRunAndStateChange": round((_wal(ledger) - wal) / runs),
        "bytesPerRunAndStateChange": round((grown - size) / runs),
        "tables": [
            {
                "name": table,
                **{name: after[table][name] - before[table][name] for name in ("inserted", "updated", "hot")},
                "dead": after[table]["dead"],
                "deadAfterVacuum": left[table]["dead"],
                "vacuumSeconds": vacuums[table],
                "autovacuums": after[table]["autovacuums"],
            }
            for table in TABLES
        ],
    }


def _changes(ledger: Subject) -> dict[str, dict[str, int]]:
    """Counts of changes by table; those of this moment, not of a while ago."""
    sessions = ledger.server_processes()[1:]
    ledger.services.database.close()  # a session tells what it did when it ends, at the latest
    ledger.query("SELECT pg_stat_force_next_flush()")
    while ledger.query("SELECT FROM pg_stat_activity WHERE pid = ANY(%s)", sessions):
        time.sleep(0.05)
    ledger.query("SELECT pg_stat_clear_snapshot()")
    return {row["name"]: row for row in ledger.query(_CHANGES, list(TABLES))}


def _bytes(ledger: Subject) -> int:
    return sum(row["bytes"] for row in ledger.query(_SIZES, list(TABLES)))


def _wal(ledger: Subject) -> int:
    (row,) = ledger.query("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS n")
    return int(row["n"])
