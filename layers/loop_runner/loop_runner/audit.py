"""Owns the audit of the ledger: one call of loop_audit, which knows the rules (migrations/functions/)."""

from __future__ import annotations

from contextlib import closing
from typing import Final, TypedDict

from loop_runner.database import Database

AUDIT_SECONDS: Final = 840.0
"""A ledger of millions of runs takes minutes; the migrate function has a quarter of an hour."""


class Finding(TypedDict):
    """A rule, how many rows of ``table`` break it, and the first of their ids. ``meaning`` says the rule in words."""

    rule: str
    table: str
    meaning: str
    violations: int
    ids: list[str]


def audit(url: str) -> list[Finding]:
    """Look through the whole ledger; every rule, broken or not. Changes nothing. Raises UnavailableError."""
    with closing(Database(url, statement_seconds=AUDIT_SECONDS)) as database:
        rows = database.query("SELECT * FROM loop_audit()", [])
    return [
        Finding(
            rule=row["rule"],
            table=row["table_name"],
            meaning=row["meaning"],
            violations=row["violations"],
            ids=row["ids"],
        )
        for row in rows
    ]
