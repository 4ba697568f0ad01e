"""What a schema is made of, and what the migrations say that it is made of.

The migrations say it themselves: they are applied to a schema of their own beside the real one, in a transaction that
is rolled back. On one server definitions print alike, which they do not from one version of PostgreSQL to another (the
wheel's may be newer); nothing has to be started, and no second list to be kept.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final, LiteralString

import psycopg
from psycopg import sql

from loop_runner import migrations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from psycopg.rows import DictRow

    Catalog = Mapping[str, Mapping[str, str]]  # definitions by name, by kind

_LOCK_TIMEOUT: Final = "5s"
_OUTSIDE_TRANSACTIONS: Final = re.compile(r"\bCONCURRENTLY\b", re.IGNORECASE)

_RELATIONS: Final = """
WITH relations AS (
    SELECT oid, relname, relpersistence
    FROM pg_class
    WHERE relnamespace = %(schema)s::regnamespace AND relkind IN ('r', 'p')
)
"""
KINDS: Final[Mapping[str, LiteralString]] = {
    "tables": """
SELECT relname AS name, CASE relpersistence WHEN 'u' THEN 'unlogged table' ELSE 'table' END AS definition
FROM relations
""",
    "columns": """
SELECT
    r.relname || '.' || a.attname AS name,
    concat_ws(
        ' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END,
        CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN 'GENERATED AS IDENTITY' END,
        CASE WHEN a.attgenerated = '' THEN 'DEFAULT ' ELSE 'GENERATED ALWAYS AS ' END || pg_get_expr(d.adbin, d.adrelid)
    ) AS definition
FROM relations AS r
INNER JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
INNER JOIN pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
""",
    "checks": """
SELECT r.relname || '.' || c.conname AS name, pg_get_constraintdef(c.oid) AS definition
FROM relations AS r
INNER JOIN pg_constraint AS c ON c.conrelid = r.oid
WHERE c.contype = 'c'
""",
    "keys": """
SELECT r.relname || '.' || c.conname AS name, pg_get_constraintdef(c.oid) AS definition
FROM relations AS r
INNER JOIN pg_constraint AS c ON c.conrelid = r.oid
WHERE c.contype IN ('p', 'u', 'f', 'x')
""",
    "indexes": """
SELECT
    r.relname || '.' || i.relname AS name,
    pg_get_indexdef(i.oid) || CASE WHEN x.indisvalid THEN '' ELSE ' -- invalid' END AS definition
FROM relations AS r
INNER JOIN pg_index AS x ON x.indrelid = r.oid
INNER JOIN pg_class AS i ON i.oid = x.indexrelid
WHERE NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.oid AND c.contype IN ('p', 'u', 'x'))
""",
    "triggers": """
SELECT
    r.relname || '.' || t.tgname AS name,
    pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' -- disabled' ELSE ' -- by role' END
        AS definition
FROM relations AS r
INNER JOIN pg_trigger AS t ON t.tgrelid = r.oid
WHERE NOT t.tgisinternal
""",
    "functions": """
SELECT
    proname || '(' || pg_get_function_identity_arguments(oid) || ')' AS name,
    pg_get_functiondef(oid) AS definition
FROM pg_proc
WHERE pronamespace = %(schema)s::regnamespace AND prokind IN ('f', 'p')
""",
}
"""What is compared, and how it is read. Names of parts are ``table.part``."""


class ReplayError(Exception):
    """The migrations cannot be applied beside the real schema; the message names the file."""


def said_by_migrations(connection: psycopg.Connection[DictRow], folder: Path) -> Catalog:
    """The catalog that the files of ``folder`` make on this server. Changes nothing, and waits for nobody's lock long.

    Raises MigrationError (the folder), ReplayError, psycopg.Error.
    """
    files = migrations.read_folder(folder)
    scratch = f"loop_verify_{secrets.token_hex(8)}"
    real = schema_in_use(connection)
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(scratch)))
        connection.execute("SELECT set_config('search_path', %s, true)", [scratch])
        connection.execute(migrations.LEDGER)
        for file in files:
            content = file.sql if file.in_transaction else _OUTSIDE_TRANSACTIONS.sub("", file.sql)
            try:
                connection.execute(content.encode())
            except psycopg.Error as error:
                raise ReplayError(f"{file.name}: {error}") from error
        catalog = _read(connection, scratch)
    literal = (
        sql.Literal(real.removeprefix('"').removesuffix('"').replace('""', '"')).as_string(connection).lstrip(" E")
    )
    return {
        kind: {
            # a function's own setting prints the name as a literal, everything else as an identifier
            name: definition.replace(f"'{scratch}'", literal).replace(scratch, real)
            for name, definition in parts.items()
        }
        for kind, parts in catalog.items()
    }


def found_in_database(connection: psycopg.Connection[DictRow]) -> Catalog:
    """The catalog of the schema in use."""
    schema = schema_in_use(connection)
    with connection.transaction():
        # so that names print as in a schema in which nothing else is visible
        connection.execute("SELECT set_config('search_path', %s, true)", [schema])
        return _read(connection, schema)


def schema_in_use(connection: psycopg.Connection[DictRow]) -> str:
    """The schema in which unqualified tables are made, quoted where its name needs it."""
    (row,) = connection.execute("SELECT quote_ident(coalesce(current_schema(), 'public')) AS name").fetchall()
    return str(row["name"])


def _read(connection: psycopg.Connection[DictRow], schema: str) -> Catalog:
    return {
        kind: {
            row["name"]: row["definition"]
            for row in connection.execute(_RELATIONS + query, {"schema": schema}).fetchall()
        }
        for kind, query in KINDS.items()
    }
