"""Owns the schema's history: which migration files there are, which are applied, and applying the rest.

Numbered files are applied once, in order, each in a transaction of its own; the files in functions/ are applied again
whenever their content changed. The ledger, schema_migrations, keeps the SHA-256 of each. Whatever does not fit together
(an edited file, a gap, a file older than the newest applied one) is refused by name, before anything is changed.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final, LiteralString, cast

import psycopg
from psycopg import errors as pg

from loop_runner.database import WAKING_SECONDS, NoAnswerError, connect, reason_of_loss
from loop_runner.errors import MigrationError, SchemaIsNewerError
from loop_runner.observability import logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from psycopg import Connection
    from psycopg.rows import DictRow

NO_TRANSACTION: Final = "-- migrate: no-transaction"
"""First line of a file that cannot run in a transaction. It must hold one statement and be repeatable."""

LOCK_KEY: Final = 0x6C6F6F70  # "loop"
LOCK_TIMEOUT_SECONDS: Final = 60
DDL_LOCK_TIMEOUT: Final = "10s"
"""A file that cannot have a table's lock by then fails, rather than make every caller of the table wait behind it.

Not for a file without a transaction: what runs concurrently waits for others, nobody waits behind it.
"""

LEAVE_SECONDS: Final = 15.0
"""The server ends a statement this long before the deadline, so that what it has done is undone and said; half of what
is left, if that is less.
"""

BOOTSTRAP: Final = "bootstrap.sql"
"""A DBA's file, not a migration: it makes roles, which belong to the server and not to a database."""

_NUMBERED: Final = re.compile(r"([0-9]{3})_[a-z0-9_]+\.sql")
_FUNCTION: Final = re.compile(r"[a-z][a-z0-9_]*\.sql")
_OPAQUE: Final = re.compile(
    r"[eE]'(?:[^'\\]|''|\\.)*'|--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$", re.DOTALL
)
_TRANSACTION_CONTROL: Final = re.compile(
    r"(?:^|;)\s*((?:BEGIN|START\s+TRANSACTION|PREPARE\s+TRANSACTION|COMMIT|END|ROLLBACK|ABORT)\b[^;]*)", re.IGNORECASE
)

LEDGER: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    file_name   text        PRIMARY KEY,
    sha256      text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    duration_ms bigint      NOT NULL CHECK (duration_ms >= 0)
);
COMMENT ON TABLE schema_migrations IS 'Migration files that were applied, and their content then';
COMMENT ON COLUMN schema_migrations.file_name IS 'Path below the migrations folder';
COMMENT ON COLUMN schema_migrations.sha256 IS 'SHA-256 of the file when it was applied';
COMMENT ON COLUMN schema_migrations.applied_at IS 'When it was applied';
COMMENT ON COLUMN schema_migrations.duration_ms IS 'How long that took';
"""
"""The one table that no file makes."""

_RECORD: Final = """
INSERT INTO schema_migrations (file_name, sha256, duration_ms)
VALUES (%(file_name)s, %(sha256)s, %(duration_ms)s)
ON CONFLICT (file_name) DO UPDATE
SET sha256 = excluded.sha256, duration_ms = excluded.duration_ms, applied_at = clock_timestamp()
"""

_INVALID_INDEXES: Final = """
SELECT c.oid, c.relname AS index, format('%I.%I', n.nspname, c.relname) AS name
FROM pg_index AS x
JOIN pg_class AS c ON c.oid = x.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT x.indisvalid
"""


class State(StrEnum):
    """How a file stands against the ledger."""

    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"  # a function whose content is new: applied again


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """A file; ``number`` is None for a function. ``name`` is its path below the migrations folder."""

    name: str
    number: int | None
    sql: str
    sha256: str

    @property
    def in_transaction(self) -> bool:
        """Whether the file is applied in a transaction."""
        return not self.sql.startswith(NO_TRANSACTION)


def read_folder(folder: Path) -> list[MigrationFile]:
    """The files in the order in which they are applied. MigrationError names what does not fit."""
    files = [_read(path, folder, _NUMBERED) for path in sorted(folder.glob("*.sql")) if path.name != BOOTSTRAP]
    functions = [_read(path, folder, _FUNCTION) for path in sorted(folder.glob("functions/*.sql"), key=_is_last)]
    if not files:
        raise MigrationError(f"there are no migrations in {folder}: MIGRATIONS_DIR names the folder")
    for before, after in pairwise(files):
        if after.number == before.number:
            raise MigrationError(f"{after.name}: has the number of {before.name}")
        if cast("int", after.number) != cast("int", before.number) + 1:
            raise MigrationError(f"{after.name}: comes after {before.name}, there is a gap")
    return files + functions


def plan(url: str, folder: Path) -> dict[str, State]:
    """How each file stands, in the order in which they are applied. Changes nothing. Raises MigrationError."""
    files = read_folder(folder)
    with _connect(url) as connection:
        return _compare(files, _applied(connection))


def apply(
    url: str, folder: Path, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS, deadline: float = math.inf
) -> list[str]:
    """Apply what is pending and return the names. One caller at a time: others wait, then find nothing to do.

    Raises MigrationError: a file was refused or failed (it left no trace), the lock was not to be had in time, or the
    deadline (time.monotonic) came.
    """
    files = read_folder(folder)
    with _connect(url, deadline) as connection:
        _lock(connection, min(lock_timeout_seconds, _left(deadline)))
        try:
            connection.execute(LEDGER)
        except pg.InsufficientPrivilege as error:
            raise MigrationError(f"{error.diag.message_primary}: {BOOTSTRAP} gives loop_owner the right to") from error
        states = _compare(files, _applied(connection))
        pending = [file for file in files if states[file.name] is not State.APPLIED]
        for file in pending:
            _apply(connection, file, deadline)
    return [file.name for file in pending]


def verify(url: str, folder: Path) -> list[str]:
    """What keeps the database from being at this release, as sentences; empty when it is."""
    try:
        states = plan(url, folder)
    except MigrationError as error:
        return [error.message]
    return [f"{name}: is {state}" for name, state in states.items() if state is not State.APPLIED]


def _is_last(function: Path) -> tuple[bool, str]:
    """Sorts by name, and last the one that says which schema this is: by then it is."""
    return function.name == "loop_schema.sql", function.name


def _read(path: Path, folder: Path, pattern: re.Pattern[str]) -> MigrationFile:
    name = path.relative_to(folder).as_posix()
    match = pattern.fullmatch(path.name)
    if not match:
        raise MigrationError(f"{name}: is no name for a migration, use 087_what_it_does.sql or functions/loop_name.sql")
    content = path.read_bytes()
    try:
        sql = content.decode()
    except UnicodeDecodeError:
        raise MigrationError(f"{name}: is not UTF-8") from None
    if control := _TRANSACTION_CONTROL.search(_OPAQUE.sub(" ", sql)):
        raise MigrationError(f"{name}: has {control[1].strip()} in it; each file runs in a transaction of the runner's")
    number = int(match[1]) if match.groups() else None
    return MigrationFile(name, number, sql, hashlib.sha256(content).hexdigest())


def _compare(files: list[MigrationFile], applied: Mapping[str, str]) -> dict[str, State]:
    names = {file.name for file in files}
    if missing := sorted(name for name in applied if _NUMBERED.fullmatch(name) and name not in names):
        raise SchemaIsNewerError(
            f"{missing[-1]}: is applied, but this release does not have it; deploy the release that does"
        )
    newest = max((name for name in applied if _NUMBERED.fullmatch(name)), default="")
    states: dict[str, State] = {}
    for file in files:
        sha256 = applied.get(file.name)
        if sha256 == file.sha256:
            states[file.name] = State.APPLIED
        elif file.number is None:
            states[file.name] = State.CHANGED if sha256 else State.PENDING
        elif sha256:
            raise MigrationError(f"{file.name}: was edited after it was applied; restore it and write a new migration")
        elif file.name < newest:
            raise MigrationError(f"{file.name}: is older than {newest}, which is applied; give it the next number")
        else:
            states[file.name] = State.PENDING
    return states


def _applied(connection: Connection[DictRow]) -> dict[str, str]:
    if _fetch_one(connection, "SELECT to_regclass('schema_migrations') AS ledger")["ledger"] is None:
        return {}
    return {row["file_name"]: row["sha256"] for row in connection.execute("SELECT * FROM schema_migrations")}


def _apply(connection: Connection[DictRow], file: MigrationFile, deadline: float) -> None:
    started = time.monotonic()
    logger.info("applying", extra={"file": file.name})
    try:
        lock_timeout = DDL_LOCK_TIMEOUT if file.in_transaction else "0"
        left = _left(deadline)
        statement_timeout = "0" if math.isinf(left) else f"{max(1, int(left * 1000))}ms"
        connection.execute(
            "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)",
            [lock_timeout, statement_timeout],
        )
        if file.in_transaction:
            with connection.transaction():
                connection.execute(file.sql)
                _record(connection, file, started)
        else:
            with _without_invalid_indexes(connection, file):
                connection.execute(file.sql)
            _record(connection, file, started)
    except psycopg.Error as error:
        logger.exception("a migration failed", extra={"file": file.name})
        where = f" at character {error.diag.statement_position}" if error.diag.statement_position else ""
        raise MigrationError(
            f"{file.name}: {error.diag.message_primary or error}{where}; nothing of it was applied"
        ) from error


def _record(connection: Connection[DictRow], file: MigrationFile, started: float) -> None:
    duration_ms = int((time.monotonic() - started) * 1000)
    connection.execute(_RECORD, {"file_name": file.name, "sha256": file.sha256, "duration_ms": duration_ms})


@contextmanager
def _without_invalid_indexes(connection: Connection[DictRow], file: MigrationFile) -> Iterator[None]:
    """CREATE INDEX CONCURRENTLY leaves an invalid index when it fails: drop the ones that were not there before.

    And the one that the file makes: whoever failed may have lost the connection, and IF NOT EXISTS takes it for made.
    """
    before = set()
    for row in connection.execute(_INVALID_INDEXES).fetchall():
        if re.search(rf"\b{re.escape(row['index'])}\b", file.sql):
            connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {row['name']}")
        else:
            before.add(row["oid"])
    try:
        yield
    except psycopg.Error:
        for row in connection.execute(_INVALID_INDEXES).fetchall():
            if row["oid"] not in before:
                connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {row['name']}")
        raise


def _left(deadline: float) -> float:
    """Seconds that a statement may take."""
    left = deadline - time.monotonic()
    return max(left - LEAVE_SECONDS, left / 2, 0.0)


@contextmanager
def _connect(url: str, deadline: float = math.inf) -> Iterator[Connection[DictRow]]:
    try:
        connection = connect(url, connect_seconds=WAKING_SECONDS, deadline=deadline)
    except psycopg.OperationalError as error:
        raise MigrationError(f"the database cannot be reached: {reason_of_loss(error) or error}") from error
    try:
        with connection:
            yield connection
    except NoAnswerError:
        raise MigrationError(
            "the database has not answered in time: what was not applied is undone; see what it waits for, apply again"
        ) from None


def _lock(connection: Connection[DictRow], timeout_seconds: float) -> None:
    """Take the session's advisory lock, which ends with the session, whatever happens; without it nothing goes on.

    Asks again and again rather than wait in the statement: that would hold a snapshot, for whose end the holder's
    CREATE INDEX CONCURRENTLY waits in turn.
    """
    deadline = time.monotonic() + timeout_seconds
    while not _fetch_one(connection, "SELECT pg_try_advisory_lock(%s) AS locked", LOCK_KEY)["locked"]:
        if time.monotonic() > deadline:
            raise MigrationError(
                f"another migration has run for more than {timeout_seconds:g} s (advisory lock {LOCK_KEY}); "
                "nothing was applied: wait until it ends and apply again"
            )
        time.sleep(0.1)


def _fetch_one(connection: Connection[DictRow], query: LiteralString, *parameters: object) -> DictRow:
    (row,) = connection.execute(query, parameters).fetchall()
    return row
