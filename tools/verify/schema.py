"""The schema of the database against what the migrations say: what is missing, changed or too much, and its remedy."""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from loop_runner import migrations
from tools.verify.catalog import KINDS, ReplayError, found_in_database, said_by_migrations
from tools.verify.report import Difference, Mismatch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import psycopg
    from psycopg.rows import DictRow

    from tools.verify.catalog import Catalog
    from tools.verify.report import Report

APPLY: Final = 'invoke the migrate function with {"action":"apply"}; make dev does so when it starts'
_OWNER: Final = "name the schema's owner in DATABASE_URL, on a server that accepts writes"
_COMPARED: Final[Mapping[str, str]] = {
    "columns": ": type, nullability, default",
    "checks": ": definition, validity",
    "keys": ": primary, unique, foreign",
    "indexes": ": definition, validity",
    "triggers": ": definition, whether they fire",
    "functions": ": arguments, attributes, body",
}


def check_schema(report: Report, connection: psycopg.Connection[DictRow], url: str, folder: Path) -> None:
    """One check for the files of migrations, then one for each kind of thing that they make."""
    schema = _Schema(connection, url, folder)
    report.check("migrations", schema.files_are_applied, do=_OWNER)
    if report.check("replay", schema.files_apply_anew, do=_OWNER):
        for kind in KINDS:
            report.check(kind, partial(schema.has_what_files_make, kind), do=_OWNER)
    else:
        for kind in KINDS:
            report.skip(kind, "what the migrations make is not known")


class _Schema:
    """The real schema, and the one that the files make."""

    def __init__(self, connection: psycopg.Connection[DictRow], url: str, folder: Path) -> None:
        self._connection = connection
        self._url = url
        self._folder = folder
        self._problems: list[str] = []
        self._said: Catalog = {}
        self._found: Catalog = {}

    def files_are_applied(self) -> str:
        self._problems = migrations.verify(self._url, self._folder)
        if self._problems:
            expected = "applied, and not changed since"
            raise Mismatch(
                "the database is not at this checkout",
                *(Difference("", expected, problem, APPLY) for problem in self._problems),
            )
        return f"{len(migrations.read_folder(self._folder))} files, all applied, none changed since"

    def files_apply_anew(self) -> str:
        try:
            self._said = said_by_migrations(self._connection, self._folder)
        except ReplayError as error:
            what = Difference("", "every file applies to an empty schema", str(error), "mend that file")
            raise Mismatch("what the migrations make is not known", what) from error
        self._found = found_in_database(self._connection)
        return "they make a new schema, which the real one is compared with"

    def has_what_files_make(self, kind: str) -> str:
        listed = self._differences(kind)
        if listed:
            raise Mismatch(f"{len(listed)} of {len(self._said[kind])} not as the migrations say", *listed)
        return f"{len(self._said[kind])}{_COMPARED.get(kind, '')}"

    def _differences(self, kind: str) -> list[Difference]:
        """What is missing, changed or too much; tables and functions that others made are their own affair."""
        said, found = self._said[kind], self._found[kind]
        listed = []
        for name in sorted(said.keys() | found.keys()):
            expected, there = said.get(name), found.get(name)
            if expected == there or (expected is None and not self._is_part_of_ours(kind, name)):
                continue
            if kind not in {"tables", "functions"} and _table(name) not in self._found["tables"]:
                continue  # goes with its table, which is told once
            shown = expected or "none", there or "none"
            if kind == "functions" and expected and there:
                shown = _first_difference(expected, there)
            do = "see migrations above, first" if self._problems else self._remedy(kind, name, expected, there)
            listed.append(Difference(name, *shown, do))
        return listed

    def _is_part_of_ours(self, kind: str, name: str) -> bool:
        return kind not in {"tables", "functions"} and _table(name) in self._said["tables"]

    def _remedy(self, kind: str, name: str, expected: str | None, found: str | None) -> str:
        """The statement that makes it as expected, where one does."""
        table, _, part = name.partition(".")
        if kind == "tables":
            return "restore it and its rows from a backup" if found is None else f"ALTER TABLE {name} SET LOGGED"
        if kind == "functions":
            return self._remedy_of_function(name)
        alter = f"ALTER TABLE {table}"
        drop = {
            "columns": f"{alter} DROP COLUMN {part}",
            "indexes": f"DROP INDEX {part}",
            "triggers": f"DROP TRIGGER {part} ON {table}",
        }.get(kind, f"{alter} DROP CONSTRAINT {part}")
        if expected is None:
            return f"{drop}; or keep it: say so in a migration"
        if kind == "columns":
            return (
                f"{alter} ADD COLUMN {part} {expected}" if found is None else f"{alter} ALTER COLUMN {part} … to that"
            )
        if kind in {"checks", "keys"}:
            create = f"{alter} ADD CONSTRAINT {part} {expected}"
        else:
            create = expected.replace("INDEX ", "INDEX CONCURRENTLY ", 1)  # nobody waits for it
        return create if found is None else f"{drop}; {create}"

    def _remedy_of_function(self, name: str) -> str:
        """A function of a file of its own is made again by that file, another by the part of a file that makes it."""
        plain = name.partition("(")[0]
        if (self._folder / "functions" / f"{plain}.sql").exists():
            return f"make sql < migrations/functions/{plain}.sql"
        makers = [file.name for file in migrations.read_folder(self._folder) if f"FUNCTION {plain}(" in file.sql]
        return f"run its CREATE FUNCTION again, from migrations/{makers[-1]}"


def _table(name: str) -> str:
    return name.partition(".")[0]


def _first_difference(expected: str, found: str) -> tuple[str, str]:
    """The first line in which two definitions differ."""
    for number, lines in enumerate(zip_longest(expected.splitlines(), found.splitlines(), fillvalue="(ends)"), 1):
        if lines[0] != lines[1]:
            return f"line {number}: {lines[0].strip()}", f"line {number}: {lines[1].strip()}"
    return expected, found
