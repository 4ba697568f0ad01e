"""What the contract's tests share: the envelope of errors, and proof that nothing was written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.conftest import create_database, drop_database

if TYPE_CHECKING:
    from tests.conftest import Answer, Sql

TABLES = ("loop_issues", "loop_runs", "loop_run_steps", "loop_events")
INSIDE = re.compile(
    r"Traceback|psycopg|pydantic|postgresql://|127\.0\.0\.1|localhost|\.py\b|SQLSTATE|ERROR:|line \d+ of"
    r"|\b(SELECT|INSERT|UPDATE|DELETE|FROM|WHERE)\b.*\b(FROM|INTO|SET|WHERE|VALUES)\b|loop_(runs|issues|run_steps|events)"
    r"|loop_(claim|finish|register_issue|patch_facts|record_dry_run)|constraint|relation|jsonb",
    re.DOTALL,
)
"""What an answer must not show: where the code is, what the database is asked, how it is reached."""

Unchanged = Callable[[], AbstractContextManager[None]]


def assert_error(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The answer is this error, in the envelope's exact form, and shows nothing of the inside; its ``error``."""
    assert (answer.status, answer.error) == (status, code), answer.text
    body: dict[str, Any] = answer.json
    assert set(body) == {"schemaVersion", "requestId", "error", "timestamp"}
    assert body["schemaVersion"] == "loop.error.v1"
    assert set(body["error"]) - {"details"} == {"code", "message"}
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    assert isinstance(body["error"].get("details", {}), dict)
    assert str(UUID(body["requestId"])) == body["requestId"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    timestamp = datetime.fromisoformat(body["timestamp"])
    assert timestamp.utcoffset() == UTC.utcoffset(None)
    assert body["timestamp"].endswith("Z")
    assert not INSIDE.search(answer.text), answer.text
    error: dict[str, Any] = body["error"]
    return error


@pytest.fixture(scope="module")
def shared_database_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """A migrated database for a whole module."""
    url = create_database(server_url, migrated_template)
    yield url
    drop_database(server_url, url)


@pytest.fixture
def unchanged(sql: Sql) -> Unchanged:
    """A context in which no row of any table is written."""

    @contextmanager
    def watch() -> Iterator[None]:
        before = _rows(sql)
        yield
        assert _rows(sql) == before

    return watch


def _rows(sql: Sql) -> dict[str, list[Any]]:
    """Every row with its version: xmin and ctid change with any write."""
    return {table: sql(f"SELECT xmin, ctid, t FROM {table} AS t ORDER BY ctid") for table in TABLES}
