"""Owns the database that is loaded: whether it may be, and writing what its triggers refuse."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg import sql

from loop_runner import migrations
from tools.load.rows import EventRow, IssueRow, RunRow, StepRow
from tools.local.sample import read_sample
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from tools.load.rows import Rows

_LOCK_KEY: Final = 0x6C6F6164  # "load"
_TABLES: Final = ("loop_issues", "loop_runs", "loop_run_steps", "loop_events")
_WITHOUT_TRIGGERS: Final = "SET LOCAL session_replication_role = replica"
_KNOWN_ISSUES: Final = "^(LOAD|VERIFY)-"
_MERGE_ISSUES: Final = sql.SQL(
    "INSERT INTO loop_issues ({0}) SELECT {0} FROM load_issues ON CONFLICT (id) DO UPDATE SET ({0}) = ({1})"
).format(
    *(sql.SQL(", ").join(sql.Identifier(*parts, f.name) for f in fields(IssueRow)) for parts in ((), ("excluded",)))
)


class LoadError(RuntimeError):
    """Nothing can be loaded; the message says what to do."""


class LoadedDatabase:
    """The database that is loaded, as one transaction after the other."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection
        connection.execute(
            "CREATE TEMPORARY TABLE load_issues (LIKE loop_issues INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
        )

    def now(self) -> datetime:
        """The database's clock."""
        now: datetime = self._one("SELECT clock_timestamp()")
        return now

    def first_number(self) -> int:
        """The number behind those of all loads before."""
        return int(
            self._one("SELECT coalesce(max(substr(id, 6)::bigint), 0) + 1 FROM loop_issues WHERE id ~ '^LOAD-[0-9]+$'")
        )

    def write(self, rows: Rows) -> None:
        """All of it or nothing; triggers and keys that look at other rows are not asked, the rows keep their rules."""
        with self._connection.transaction():
            self._connection.execute(_WITHOUT_TRIGGERS)
            self._copy("load_issues", IssueRow, rows.issues)
            self._connection.execute(_MERGE_ISSUES)
            self._copy("loop_runs", RunRow, sorted(rows.runs, key=attrgetter("created_at")))
            self._copy("loop_run_steps", StepRow, sorted(rows.steps, key=attrgetter("created_at")))
            self._copy("loop_events", EventRow, sorted(rows.events, key=attrgetter("occurred_at")))

    def settle(self) -> None:
        """Do what autovacuum would have done by now."""
        for table in _TABLES:
            self._connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(table)))

    def _copy(self, table: str, kind: type, rows: Iterable[Any]) -> None:
        names = [field.name for field in fields(kind)]
        values = attrgetter(*names)
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with self._connection.cursor().copy(statement) as copy:
            for row in rows:
                copy.write_row(values(row))

    def _one(self, statement: LiteralString) -> Any:
        row = self._connection.execute(statement).fetchone()
        return row and row[0]


@contextmanager
def opened(url: str, *, beside_others: bool) -> Iterator[LoadedDatabase]:
    """The database, for this load only. LoadError where it is not migrated, or not there for loads."""
    if problems := migrations.verify(url, ROOT / "migrations"):
        raise LoadError(
            f"the database is not at this checkout: {problems[0]}. Start make dev on it, or apply the migrations"
        )
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK_KEY]).fetchone() != (True,):
            raise LoadError("another load of this database is under way: wait until it has ended")
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(_WITHOUT_TRIGGERS)
        except pg.InsufficientPrivilege:
            raise LoadError(
                f"{connection.info.user} may not set session_replication_role, without which the ledger takes no "
                "history: name a superuser in DATABASE_URL (on Aurora a member of rds_superuser)"
            ) from None
        if not beside_others:
            _refuse_others(connection)
        yield LoadedDatabase(connection)


def _refuse_others(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    sample = read_sample(ROOT)["issueId"]
    other = connection.execute(
        "SELECT id FROM loop_issues WHERE id !~ %s AND id <> %s LIMIT 1", [_KNOWN_ISSUES, sample]
    ).fetchone()
    if other is not None:
        raise LoadError(
            f"the database has issues that no load made, {other[0]} for example: name another one in DATABASE_URL, or "
            "load beside them with FORCE=1"
        )
