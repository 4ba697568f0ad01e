"""Owns a ledger that is asked: the handlers of the functions on it, in this process, and whom to ask about."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import dict_row

from benchmarks.scale.days import HOT
from loop_runner.database import Database
from loop_runner.pages import Page
from loop_runner.services import Services
from loop_runner.settings import Settings
from tests.conftest import Answer, Client, Context
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from benchmarks.scale.days import Days

_PATIENCE_SECONDS: Final = 300.0
"""For an answer: what takes too long on a busy machine is a figure here, no failure."""
_PATIENT: Final = f"?options=-c%20statement_timeout%3D{_PATIENCE_SECONDS:.0f}s"
"""The role's own timeout is eight seconds."""

_DAY: Final = timedelta(days=1)


class CallError(RuntimeError):
    """A measured call did not do what it was made for."""


class Subject:
    """The ledger of ``days``. ``queries``: how long each query took since it was last emptied, (text, milliseconds)."""

    def __init__(self, days: Days, app_url: str, seed: int = 0) -> None:
        """``app_url``: of the functions' role in the database of ``days``."""
        self.days = days
        self.chance = Random(seed)  # noqa: S311
        self.queries: list[tuple[str, float]] = []
        self._chores: list[Callable[[], object]] = []
        self.services = Services(
            Settings(
                database_url=app_url,
                loops_dir=ROOT / "loops",
                migrations_dir=ROOT / "migrations",
                trust_actor_header=True,
            )
        )
        self.services.__dict__["database"] = Database(f"{app_url}{_PATIENT}", statement_seconds=_PATIENCE_SECONDS)
        self._client = Client(self.services)
        _watch(self.services.database, self.queries)

    @cached_property
    def looker(self) -> psycopg.Connection[dict[str, Any]]:
        """A connection of the superuser."""
        return psycopg.connect(self.days.url, autocommit=True, row_factory=dict_row)

    def server_processes(self) -> list[int]:
        """The processes of the server that answer us."""
        connection = self.services.database._connection
        return [self.looker.info.backend_pid, *([connection.info.backend_pid] if connection else [])]

    def close(self) -> None:
        """Let go of the connections."""
        self.services.database.close()
        self.looker.close()

    def call(self, method: str, path: str, body: Any = None, **parts: Any) -> Answer:
        """The handler's answer; CallError where it is none of 2xx."""
        self._client.context = Context(timeout_ms=int(_PATIENCE_SECONDS * 1000))  # an invocation of its own
        answer = self._client(method, path, body, **parts)
        if not 200 <= answer.status < 300:
            raise CallError(f"{method} {path} answered {answer.status}: {answer.text[:300]}")
        return answer

    def afterwards(self, chore: Callable[[], object]) -> None:
        """Do this after the call that is being prepared."""
        self._chores.append(chore)

    def tidy(self) -> None:
        """Do what was to be done afterwards."""
        while self._chores:
            self._chores.pop()()

    def query(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """The rows of a statement, as the superuser."""
        return self.looker.execute(statement, parameters).fetchall()

    def query_nothing(self, statement: str) -> None:
        """A statement that answers no rows, as the superuser."""
        self.looker.execute(statement)

    # ------------------------------------------------------------------------------------------------ whom to ask

    def cold_issue(self, of_loop: str | None = None) -> str:
        """An issue of the first day's, which has some runs; of a loop, where one is named."""
        return str(self.chance.choice(self._cold_issues[of_loop]))

    @cached_property
    def _cold_issues(self) -> dict[str | None, list[str]]:
        known = self.query(
            "SELECT loop_name, array_agg(id ORDER BY id) AS ids FROM loop_issues WHERE id = ANY(%s) GROUP BY loop_name",
            self.days.first_issues,
        )
        return {None: self.days.first_issues, **{row["loop_name"]: row["ids"] for row in known}}

    def instant(self) -> datetime:
        """A time at which there were runs."""
        return self.days.first + (self.days.end - self.days.first) * self.chance.uniform(0.05, 0.95)

    def late(self) -> datetime:
        """A time before which there were many runs, in a small ledger, too."""
        return self.days.first + (self.days.end - self.days.first) * self.chance.uniform(0.7, 0.95)

    def early(self) -> datetime:
        """A time on the first day: of a long ledger nearly every run comes after it."""
        return self.days.first + _DAY * self.chance.uniform(0.4, 0.8)

    def run_before(self, at: datetime, issue_id: str | None = None) -> dict[str, Any]:
        """The last run before a time, of an issue where one is named."""
        which, values = ("issue_id = %s AND", [issue_id]) if issue_id else ("", [])
        rows = self.query(
            f"SELECT * FROM loop_runs WHERE {which} created_at < %s ORDER BY created_at DESC, id DESC LIMIT 1",
            *values,
            at,
        )
        if not rows:
            raise CallError(f"no run before {at}")
        return rows[0]

    def deep_cursor(self, **filters: str) -> str:
        """Of a list of runs, far from its beginning."""
        run = self.run_before(self.early())
        return Page(filters=filters).cursor_after(run["created_at"], run["id"])

    def hot_cursor(self, table: str) -> str:
        """Of the hot issue's runs or events, far from the beginning."""
        run = self.run_before(self.early(), HOT)
        if table == "loop_runs":
            return Page().cursor_after(run["created_at"], run["id"])
        (event,) = self.query(
            "SELECT occurred_at, event_id FROM loop_events WHERE issue_id = %s AND occurred_at <= %s"
            " ORDER BY occurred_at DESC, event_id DESC LIMIT 1",
            HOT,
            run["completed_at"],
        )
        return Page().cursor_after(event["occurred_at"], event["event_id"])


def _watch(database: Database, queries: list[tuple[str, float]]) -> None:
    """Have the database tell how long each query took."""
    ask = database.query

    def watched(sql: Any, parameters: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return ask(sql, parameters, **options)
        finally:
            queries.append((sql, (time.perf_counter() - started) * 1000))

    database.query = watched  # type: ignore[method-assign]
