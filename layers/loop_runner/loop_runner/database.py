"""Owns the one connection of an execution environment, kept across warm invocations, and what its failures mean."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, LiteralString, Self, cast

import psycopg
from psycopg import errors as pg
from psycopg import pq
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from loop_runner.errors import UnavailableError
from loop_runner.observability import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from psycopg.abc import RV, PQGen, PQGenConn
    from psycopg.rows import DictRow

    from loop_runner.models import Json

CONNECT_TIMEOUT_SECONDS: Final = 5

WAKING_SECONDS: Final = 60
"""For who can wait: an Aurora that has scaled to zero is back within a quarter or half a minute of the first call."""

STATEMENT_TIMEOUT_SECONDS: Final = 10.0
"""How long we wait for an answer. The role's own timeouts (bootstrap.sql) are shorter: after them nothing was done."""

PERSISTENCE_SECONDS: Final = 10.0
"""How long a persistent statement is repeated: a server that restarts is back by then."""

DEPLOYMENT_SECONDS: Final = 30
"""When to come back after an error that a deployment mends."""

SCHEMA_TOO_OLD: Final = (
    'the database schema is older than this release: invoke the migrate function with {"action":"apply"}'
)
_SCHEMA_ERRORS: Final = (pg.UndefinedFunction, pg.UndefinedTable, pg.UndefinedColumn, pg.InvalidSchemaName)
_OUT_OF_REACH: Final = (psycopg.OperationalError, pg.ReadOnlySqlTransaction, pg.InsufficientPrivilege)
_UNDONE: Final = (pg.DeadlockDetected, pg.SerializationFailure)
_TOOK_TOO_LONG: Final = (pg.LockNotAvailable, pg.QueryCanceled)


class NoAnswerError(Exception):
    """The server has not answered in time; whether it did what it was asked to do is not known."""


class _Connection(psycopg.Connection["DictRow"]):
    """Waits for the server until ``deadline`` (time.monotonic), and then no longer, whatever has become of it."""

    deadline: float = math.inf

    @classmethod
    def until(cls, deadline: float) -> type[Self]:
        """The class whose connections are made by then."""
        return cast("type[Self]", type(cls.__name__, (cls,), {"deadline": deadline}))

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        """Raise ConnectionTimeout at the deadline: connect_timeout is of two seconds at least, and of each address."""
        connecting = super()._connect_gen(conninfo)
        try:
            wanted = next(connecting)
            while True:
                ready = yield wanted
                if time.monotonic() >= cls.deadline:
                    raise pg.ConnectionTimeout("no time is left to connect")
                wanted = connecting.send(ready)
        except StopIteration as made:
            return cast("Self", made.value)

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Raise NoAnswerError at the deadline: the connection is of no use then."""
        timeout = max(0.0, self.deadline - time.monotonic()) if timeout is None else timeout
        try:
            return super().wait(gen, interval, None if math.isinf(timeout) else timeout)
        except pg._WaitTimeout:
            raise NoAnswerError from None


def connect(url: str, *, connect_seconds: int, deadline: float = math.inf) -> psycopg.Connection[DictRow]:
    """A connection of its caller's own, in autocommit; after ``deadline`` (time.monotonic) waits end in NoAnswerError.

    Raises OperationalError: ``reason_of_loss`` says why.
    """
    return _Connection.until(deadline).connect(
        url, autocommit=True, row_factory=dict_row, connect_timeout=connect_seconds
    )


class Database:
    """Connects when first used; a connection that broke is replaced. Waits never longer than the invocation has."""

    def __init__(self, url: str | Callable[[], str], *, statement_seconds: float = STATEMENT_TIMEOUT_SECONDS) -> None:
        """``url``, or what makes it anew for each connection; ``statement_seconds``: how long an answer is waited for,
        within the deadline.
        """
        self._url = url if callable(url) else lambda: url
        self._statement_seconds = statement_seconds
        self._connection: _Connection | None = None
        self.deadline = math.inf
        """Until when this invocation can wait, on time.monotonic."""
        self.connect_seconds = CONNECT_TIMEOUT_SECONDS
        """How long a connection may take to be there, within the deadline."""

    def call(
        self,
        function: LiteralString,
        request: Mapping[str, object],
        *,
        repeatable: bool = True,
        persistent: bool = False,
    ) -> Json:
        """Call a SQL function of one jsonb argument and answer: one statement, one round trip, one commit.

        Most are repeatable by design: a claim is found again by its run id, a finish by its lease token, an issue by
        its id. See ``query``.
        """
        rows = self.query(
            f"SELECT {function}(%s) AS answer", [Jsonb(request)], repeatable=repeatable, persistent=persistent
        )
        return cast("Json", rows[0]["answer"])

    def query(
        self,
        sql: LiteralString,
        parameters: list[Any] | dict[str, Any],
        *,
        repeatable: bool = True,
        persistent: bool = False,
    ) -> list[DictRow]:
        """Run one statement in a transaction of its own. UnavailableError when the database cannot serve it.

        A connection that breaks under a repeatable statement is replaced and the statement repeated, once. One that is
        not repeatable is preceded by a look whether the connection is still there. What the server undid in favour of
        others is repeated once in any case, a moment later. A persistent statement ends what an earlier one has begun:
        it is repeated while there is time, and its error never says that nothing was changed.
        """
        if not repeatable:
            self._look()
        persists_until = min(time.monotonic() + PERSISTENCE_SECONDS, self.deadline) if persistent else 0.0
        may_be_done, repetition = False, 0
        while True:
            try:
                cursor = self._connected().execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []
            except NoAnswerError as error:
                self.close()
                logger.warning("the database does not answer")
                raise UnavailableError(may_be_done=True) from error
            except psycopg.Error as error:
                is_lost = self._connection is not None and self._connection.closed
                may_be_done |= is_lost
                is_undone = isinstance(error, _UNDONE)  # at once, it would take the locks from whom it was undone for
                pause = min(0.1 * 2**repetition, 1.0) if repetition or is_undone else 0.0
                if is_undone and self._is_idle():
                    is_worth_it = repetition == 0
                elif is_lost or isinstance(error, pg.ReadOnlySqlTransaction):
                    self.close()  # after a failover the server may be a reader: a new connection leads to the writer
                    is_worth_it = repeatable and repetition == 0
                else:
                    is_worth_it = False
                may_pass = self._connection is None or isinstance(error, (*_UNDONE, *_TOOK_TOO_LONG))
                can_persist = may_pass and time.monotonic() + pause < persists_until
                if not is_worth_it and not can_persist:
                    raise_unavailable(error, may_be_done=may_be_done, has_begun=persistent)
                    raise
                logger.warning("asking the database again", extra={"error": type(error).__name__})
                time.sleep(pause)
                repetition += 1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the queries within in one transaction, none of them repeatable."""
        self._look()
        try:
            with self._connected().transaction():
                yield
        except (psycopg.Error, NoAnswerError) as error:
            is_lost = isinstance(error, NoAnswerError) or (self._connection is not None and self._connection.closed)
            if is_lost:
                self.close()
            raise_unavailable(error, may_be_done=is_lost)
            raise

    def _look(self) -> None:
        """Replace a connection that is not there any more: a server does not say that it closed one."""
        if self._is_idle():
            self.query("SELECT 1", [])

    def _is_idle(self) -> bool:
        """Whether there is a connection, and no transaction on it."""
        return self._connection is not None and self._connection.info.transaction_status is pq.TransactionStatus.IDLE

    def _connected(self) -> _Connection:
        """The connection, in autocommit: transactions are explicit."""
        if self._connection is None or self._connection.closed:
            self._connection = None
            self._connection = _Connection.until(self.deadline).connect(
                self._url(),
                autocommit=True,
                prepare_threshold=None,  # a prepared statement would pin an RDS Proxy connection
                row_factory=dict_row,
                connect_timeout=self.connect_seconds,
                tcp_user_timeout=self.connect_seconds * 1000,  # a peer that went away in silence
            )
        self._connection.deadline = min(time.monotonic() + self._statement_seconds, self.deadline)
        return self._connection

    def close(self) -> None:
        """Drop the connection; the next use makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def raise_unavailable(error: Exception, *, may_be_done: bool = False, has_begun: bool = False) -> None:
    """Raise the UnavailableError that the error means; return where it means something else.

    ``may_be_done``: the statement may have been done. ``has_begun``: what it belongs to has, by another statement.
    """
    if not may_be_done and not isinstance(error, (*_SCHEMA_ERRORS, *_OUT_OF_REACH)):
        return
    logger.warning(
        "the database cannot serve",
        extra={
            "error": type(error).__name__,
            "sqlstate": getattr(error, "sqlstate", None),
            "reason": reason_of_loss(error),
        },
    )
    if isinstance(error, _SCHEMA_ERRORS):
        raise UnavailableError(SCHEMA_TOO_OLD, retry_after_seconds=DEPLOYMENT_SECONDS) from error
    if isinstance(error, pg.InsufficientPrivilege):
        raise UnavailableError(
            "the functions' database role lacks a right: the log says which, grant it",
            retry_after_seconds=DEPLOYMENT_SECONDS,
        ) from error
    if may_be_done or has_begun:
        raise UnavailableError(may_be_done=True) from error
    if isinstance(error, _TOOK_TOO_LONG):
        raise UnavailableError(
            "The database was too busy to do it in time and nothing was changed: try again."
        ) from error
    raise UnavailableError from error


def reason_of_loss(error: Exception) -> str | None:
    """Why a connection was not made, or lost, in words of libpq, which hold no value of a row and no password.

    None for what a server answered: that may quote rows.
    """
    if not isinstance(error, psycopg.OperationalError) or error.sqlstate is not None:
        return None
    reason = " ".join(str(error).split())
    if "certificate verify failed" in reason:
        reason += ": the certificate has expired, or none of the authorities in sslrootcert has signed it"
    return reason
