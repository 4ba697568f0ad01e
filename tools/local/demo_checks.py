"""What the demo compares, how it writes columns, and the database that it makes on another's server."""

from __future__ import annotations

import contextlib
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tools.durations import milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psycopg.rows import DictRow


class DemoError(RuntimeError):
    """Something was not as the demo tells it."""


@contextlib.contextmanager
def new_database(url: str) -> Iterator[str]:
    """A database of the demo's own on the server of DATABASE_URL, dropped at the end."""
    name = f"loop_runner_demo_{secrets.token_hex(4)}"
    identifier = sql.Identifier(name)
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        except psycopg.errors.InsufficientPrivilege:
            raise DemoError(
                "the demo needs a database of its own: unset DATABASE_URL, or name a role with CREATEDB"
            ) from None
        try:
            if connection.info.server_version >= 140000:  # a killed client's statement must not go on waiting
                connection.execute(
                    sql.SQL("ALTER DATABASE {} SET client_connection_check_interval = 1000").format(identifier)
                )
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def compare(body: Mapping[str, Any], run: DictRow, steps: list[DictRow], events: list[DictRow]) -> None:
    """Check that an answer of run-next-step says what its rows say."""
    executed = body["stepExecuted"]
    step = steps[-1]
    expect(
        "run", [body["runId"], body["issueId"], body["requestId"]], [str(run["id"]), run["issue_id"], run["request_id"]]
    )
    answered = [executed[key] for key in ("stepNumber", "stepType", "status", "startedAt", "completedAt", "durationMs")]
    recorded = ["step_number", "step_type", "status", "started_at", "completed_at", "duration_ms"]
    expect("step", answered, [plain(step[name]) for name in recorded])
    expect("status of the run", "completed", run["status"])
    expect("duration of the run", run["duration_ms"], milliseconds(run["started_at"], run["completed_at"]))
    own = [event["event_type"] for event in events if event["run_id"] == run["id"]]
    expect("first and last event of the run", ["loop_run_started", "loop_run_finished"], [own[0], own[-1]])


def expect(what: str, expected: object, found: object) -> None:
    """DemoError when two values differ, with both."""
    if expected != found:
        raise DemoError(f"not as it should be, {what}: expected {expected!r}, found {found!r}")


def plain(value: object) -> object:
    """A column as the API writes it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value


def text(value: object) -> str:
    """A column for people."""
    return "-" if value is None else str(plain(value))


def texts(row: DictRow) -> list[str]:
    """A row for people."""
    return [text(value) for value in row.values()]
