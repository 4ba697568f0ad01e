"""Owns the floor: what two commits cost at least, an INSERT that takes an issue and an UPDATE that ends it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.engines import Operation

SCRIPT: Final = r"""
INSERT INTO floor_runs (issue_id, status, created_at) VALUES ('A-1', 'running', clock_timestamp()) RETURNING id \gset
UPDATE floor_runs SET status = 'completed', completed_at = clock_timestamp() WHERE id = :id;
"""
"""Of pgbench."""

_TABLE: Final = """
CREATE TABLE floor_runs (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issue_id     text        NOT NULL,
    status       text        NOT NULL,
    created_at   timestamptz NOT NULL,
    completed_at timestamptz
)
"""
_INSERT: Final = (
    "INSERT INTO floor_runs (issue_id, status, created_at) VALUES (%s, 'running', clock_timestamp()) RETURNING id"
)
_UPDATE: Final = "UPDATE floor_runs SET status = 'completed', completed_at = clock_timestamp() WHERE id = %s"


class _Floor:
    def prepare(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(_TABLE)

    def register(self, url: str, prefix: str, count: int) -> None:
        """Nothing is needed."""

    @contextmanager
    def connected(self, url: str, name: str) -> Iterator[Callable[[str], Operation]]:
        with psycopg.connect(url, autocommit=True) as connection:  # prepares what is repeated, by default

            def operation(prefix: str) -> Operation:
                def operate(number: int) -> None:
                    row = connection.execute(_INSERT, [f"{prefix}-{number}"]).fetchone()
                    assert row is not None  # noqa: S101
                    connection.execute(_UPDATE, row)

                return operate

            yield operation


def parts(_name: str) -> _Floor:
    """Both engines share a table."""
    return _Floor()
