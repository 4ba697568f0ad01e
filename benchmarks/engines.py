"""Owns the list of what is measured: one operation is one completed run of one step, on an issue of its own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Operation = Callable[[int], None]
    """Does the operation of a number; no number comes twice. Raises what went wrong, and never counts it as done."""


class Parts(Protocol):
    """What an engine's module has for each of its engines."""

    def prepare(self, url: str) -> None:
        """Make the schema in an empty database, whose superuser's URL this is."""

    def register(self, url: str, prefix: str, count: int) -> None:
        """Put what operations 0 to ``count`` need into the database: that is not measured."""

    def connected(self, url: str, name: str) -> AbstractContextManager[Callable[[str], Operation]]:
        """Connect as the client of this name; what makes its operation, given what its ids begin with."""


@dataclass(frozen=True, slots=True)
class Engine:
    """``name`` is its key in the results, ``title`` its name in tables; ``module`` makes its parts by its name."""

    name: str
    title: str
    module: str
    needs: str = "psycopg"
    """The package without which it cannot be measured."""

    @property
    def is_installed(self) -> bool:
        """Whether it can be measured in this environment."""
        return find_spec(self.needs) is not None

    def parts(self) -> Parts:
        """Import what it works with; in a process of its own, since it is measured what that process does."""
        parts: Parts = import_module(self.module).parts(self.name)
        return parts


PGBENCH: Final = Engine("pgbench", "floor: pgbench, prepared", "benchmarks.floor")
FLOOR: Final = Engine("psycopg", "the floor through psycopg", "benchmarks.floor")
LEDGER: Final = Engine("ledger", "the ledger alone", "benchmarks.own")
RUN: Final = Engine("run_next_step", "run_next_step", "benchmarks.own")
HANDLER: Final = Engine("handler", "the whole handler", "benchmarks.own")
DBOS: Final = Engine("dbos", "DBOS Transact", "benchmarks.dbos", needs="dbos")
LANGGRAPH: Final = Engine("langgraph", "LangGraph, Postgres checkpointer", "benchmarks.langgraph", needs="langgraph")

COMPARED: Final = (PGBENCH, FLOOR, LEDGER, RUN, HANDLER, DBOS, LANGGRAPH)

PATHS: Final = (
    HANDLER,
    Engine("registered", "PUT of the issue, then its run", "benchmarks.own"),
    Engine("blocked", "blocked", "benchmarks.own"),
    Engine("dry-run", "dry run", "benchmarks.own"),
    Engine("conflict", "conflict (409)", "benchmarks.own"),
    Engine("replay", "replay of an Idempotency-Key", "benchmarks.own"),
)
"""Other ways of a call through the whole handler, beside that of a completed run."""

ENGINES: Final = {engine.name: engine for engine in (*COMPARED, *PATHS)}
