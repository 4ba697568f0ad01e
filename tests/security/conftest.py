"""What the tests on security share: all that the functions have written, as it was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from loop_runner.observability import logger
from tests.conftest import Stdout

if TYPE_CHECKING:
    from tests.conftest import Sql

Output = Callable[[], str]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Output:
    """Standard output and standard error since the last look."""
    monkeypatch.setattr(logger.registered_handler, "stream", Stdout())
    return lambda: "".join(capsys.readouterr())


def rows(sql: Sql) -> str:
    """Every row of every table."""
    tables = [
        row["name"] for row in sql("SELECT format('%I', tablename) AS name FROM pg_tables WHERE schemaname = 'public'")
    ]
    assert {"loop_issues", "loop_runs", "loop_run_steps", "loop_events"} <= set(tables)
    return "\n".join(row["text"] for table in tables for row in sql(f"SELECT t::text AS text FROM {table} AS t"))
