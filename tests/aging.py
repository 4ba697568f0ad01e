"""Owns the passing of days: a whole ledger made older, as nobody but a superuser can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.conftest import Sql

_TIMES: Final = {
    "loop_issues": ("created_at", "updated_at", "next_attempt_at"),
    "loop_runs": ("created_at", "started_at", "completed_at", "lease_expires_at", "cancel_requested_at"),
    "loop_run_steps": ("created_at", "started_at", "completed_at"),
    "loop_events": ("occurred_at",),
}


def let_days_pass(sql: Sql, days: int) -> None:
    """Move everything that has happened, leases included, into the past; the rows are otherwise as they were."""
    with sql.connection.transaction():
        sql("SET LOCAL session_replication_role = replica")  # what has ended is immutable, by triggers
        for table, columns in _TIMES.items():
            older = ", ".join(f"{column} = {column} - {days} * interval '1 day'" for column in columns)
            sql(f"UPDATE {table} SET {older}")
