"""``make verify``: the system that URL and DATABASE_URL name, or else the running ``make dev``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from loop_runner.audit import audit
from loop_runner.observability import logger
from tools.local.dev import published_database_url
from tools.local.sample import read_sample
from tools.local.settings import DEFAULT_PORT, ROOT
from tools.local.stack import StackError
from tools.verify.api import check_endpoint
from tools.verify.endpoint import Endpoint
from tools.verify.report import Difference, Mismatch, Report
from tools.verify.schema import APPLY, check_schema

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from psycopg.rows import DictRow


def main() -> int:
    """Exit status 0 when every check holds."""
    logger.setLevel(logging.CRITICAL)  # what fails is told by its check
    url = os.environ.get("URL") or f"http://127.0.0.1:{os.environ.get('PORT') or DEFAULT_PORT}"
    if urlsplit(url).scheme not in {"http", "https"}:
        print(f"error: URL={url} does not begin with http:// or https://", file=sys.stderr)
        return 1
    sample = read_sample(ROOT)
    loop = os.environ.get("LOOP") or sample["loop"]
    try:
        database_url = os.environ.get("DATABASE_URL") or published_database_url()
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    facts = sample["facts"] if loop == sample["loop"] else {}
    report = verify(url, database_url, folder=ROOT / "migrations", loop=loop, facts=facts)
    return 1 if report.failed else 0


def verify(url: str, database_url: str, *, folder: Path, loop: str, facts: Mapping[str, Any]) -> Report:
    """Check the API at ``url``, its database, and what a run of an issue in ``loop`` leaves there."""
    report = Report()
    left = ""
    with contextlib.ExitStack() as held:
        connections: list[psycopg.Connection[DictRow]] = []

        def connect() -> str:
            connection = held.enter_context(
                psycopg.connect(database_url, autocommit=True, row_factory=dict_row, connect_timeout=10)
            )
            connections.append(connection)
            info = connection.info
            return f"PostgreSQL {info.parameter_status('server_version')}, {info.user} on {info.host}/{info.dbname}"

        report.title("Schema")
        if report.check("database", connect, do="name the database of the endpoint in DATABASE_URL"):
            check_schema(report, connections[0], database_url, folder)
            report.title(f"Endpoint {url}")
            left = check_endpoint(report, Endpoint(url), connections[0], loop, facts)
            report.title("Ledger")
            report.check("audit", lambda: _audit(connections[0], database_url), do=APPLY)
    report.summary(left)
    return report


def _audit(connection: psycopg.Connection[DictRow], database_url: str) -> str:
    findings = audit(database_url)
    broken = [finding for finding in findings if finding["violations"]]
    if broken:
        differences = []
        for finding in broken:
            key = "event_id" if finding["table"] == "loop_events" else "id"
            ids = ", ".join(f"'{row_id}'" for row_id in finding["ids"])
            found = f"violations in {finding['table']}: {finding['violations']}"
            look = f"SELECT * FROM {finding['table']} WHERE {key} IN ({ids});"
            differences.append(Difference(finding["rule"], finding["meaning"], found, look))
        raise Mismatch(f"{len(broken)} of {len(findings)} rules are broken", *differences)
    (row,) = connection.execute("SELECT count(*) AS runs FROM loop_runs").fetchall()
    return f"{len(findings)} rules hold over {row['runs']} runs"


if __name__ == "__main__":
    sys.exit(main())
