"""The role as which functions connect, as a DBA would make it: ``migrations/bootstrap.sql``, and a password."""

from __future__ import annotations

import time
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import errors as pg
from psycopg import sql

from tools.local.settings import ROOT

_BOOTSTRAP = ROOT / "migrations" / "bootstrap.sql"
_ATTEMPTS = 50


def app_url(url: str) -> str:
    """The URL of role loop_app for a superuser's URL, whose password it gets; the role is made where there is none.

    Roles belong to the server: somebody else may be making the same one, from another database.
    """
    parts = urlsplit(url)
    with psycopg.connect(url, autocommit=True) as connection:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with connection.transaction():
                    connection.execute(_BOOTSTRAP.read_bytes())
                    password = sql.Literal(parts.password or "")
                    connection.execute(sql.SQL("ALTER ROLE loop_app PASSWORD {}").format(password))
                break
            except (pg.DuplicateObject, pg.UniqueViolation, pg.InternalError_):
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.05)
    netloc = f"loop_app:{quote(parts.password or '', safe='')}@{parts.hostname}:{parts.port or 5432}"
    return parts._replace(netloc=netloc).geturl()
