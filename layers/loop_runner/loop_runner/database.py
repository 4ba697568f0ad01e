"""Owns the one connection of an execution environment, kept across warm invocations, and what its failures mean."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, LiteralString, cast

import psycopg
from psycopg import errors as pg
from psycopg import pq
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from loop_runner.errors import UnavailableError
from loop_runner.observability import logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psycopg import Connection
    from psycopg.rows import DictRow

    from loop_runner.models import Json

CONNECT_TIMEOUT_SECONDS: Final = 5

SCHEMA_TOO_OLD: Final = (
    'the database schema is older than this release: invoke the migrate function with {"action":"apply"}'
)
_SCHEMA_ERRORS: Final = (pg.UndefinedFunction, pg.UndefinedTable, pg.UndefinedColumn, pg.InvalidSchemaName)
_OUT_OF_REACH: Final = (psycopg.OperationalError, pg.ReadOnlySqlTransaction, pg.InsufficientPrivilege)


class Database:
    """Connects when first used; a connection that broke is replaced."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection[DictRow] | None = None

    def call(self, function: LiteralString, request: Mapping[str, object], *, repeatable: bool = True) -> Json:
        """Call a SQL function of one jsonb argument and answer: one statement, one round trip, one commit.

        Most are repeatable by design: a claim is found again by its run id, a finish by its lease token, an issue by
        its id. See ``query``.
        """
        rows = self.query(f"SELECT {function}(%s) AS answer", [Jsonb(request)], repeatable=repeatable)
        return cast("Json", rows[0]["answer"])

    def query(
        self, sql: LiteralString, parameters: list[Any] | dict[str, Any], *, repeatable: bool = True
    ) -> list[DictRow]:
        """Run one statement in a transaction of its own. UnavailableError when the database cannot serve it.

        A connection that breaks under a repeatable statement is replaced and the statement repeated, once. One that is
        not repeatable is preceded by a look whether the connection is still there.
        """
        if not repeatable:
            self._look()
        for repetition in range(2 if repeatable else 1, 0, -1):
            try:
                cursor = self.connection().execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                # A server that has become a reader after a failover: the writer is behind a new connection.
                is_lost = self._is_broken()
                if is_lost or isinstance(error, pg.ReadOnlySqlTransaction):
                    self.close()
                    if repetition > 1:
                        logger.warning("connecting to the database again", extra={"error": type(error).__name__})
                        continue
                raise_unavailable(error, may_be_done=is_lost)
                raise
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the queries within in one transaction, none of them repeatable."""
        self._look()
        try:
            with self.connection().transaction():
                yield
        except psycopg.Error as error:
            raise_unavailable(error)
            raise

    def _look(self) -> None:
        """Replace a connection that is not there any more: a server does not say that it closed one."""
        idle = pq.TransactionStatus.IDLE
        if self._connection is not None and self._connection.info.transaction_status is idle:
            self.query("SELECT 1", [])

    def _is_broken(self) -> bool:
        return self._connection is not None and self._connection.broken

    def connection(self) -> Connection[DictRow]:
        """The connection, in autocommit: transactions are explicit. UnavailableError when there is none to be had."""
        if self._connection is None or self._connection.closed:
            try:
                self._connection = psycopg.connect(
                    self._url,
                    autocommit=True,
                    prepare_threshold=None,  # a prepared statement would pin an RDS Proxy connection
                    row_factory=dict_row,
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                )
            except psycopg.Error as error:
                raise_unavailable(error)
                raise
        return self._connection

    def close(self) -> None:
        """Drop the connection; the next use makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def raise_unavailable(error: psycopg.Error, *, may_be_done: bool = False) -> None:
    """Raise the UnavailableError that the error means; return where it means something else."""
    if not isinstance(error, (*_SCHEMA_ERRORS, *_OUT_OF_REACH)):
        return
    logger.warning("the database cannot serve", extra={"error": type(error).__name__, "sqlstate": error.sqlstate})
    if isinstance(error, _SCHEMA_ERRORS):
        raise UnavailableError(SCHEMA_TOO_OLD) from error
    if isinstance(error, pg.InsufficientPrivilege):
        raise UnavailableError("the functions' database role lacks a right: the log says which, grant it") from error
    raise UnavailableError(may_be_done=may_be_done, headers={"retry-after": "1"}) from error
