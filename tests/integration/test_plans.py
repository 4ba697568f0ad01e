"""What a call costs does not grow with the ledger: the blocks that its queries touch, on one of ten times the runs.

Blocks are counted, not seconds: machines are shared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from loop_runner.database import Database
from loop_runner.services import Services
from tests.conftest import Client, create_database, drop_database
from tools.load.loader import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loop_runner.settings import Settings
    from tests.conftest import Sql

RUNS = 3_000
TIMES = 10
DAYS = 30


@dataclass
class Ledger:
    """A ledger of so many runs; ``hot`` is its issue with the most, ``run`` an old run of that."""

    url: str
    hot: str
    run: str


def fill(server_url: str, template: str, times: int) -> Ledger:
    url = create_database(server_url, template)
    load(url, issues=60 * times, runs=RUNS * times, days=DAYS * times, seed=1)
    with psycopg.connect(url, row_factory=dict_row) as connection:
        hot = connection.execute(
            "SELECT issue_id, min(id::text) AS run FROM loop_runs GROUP BY issue_id ORDER BY count(*) DESC LIMIT 1"
        ).fetchone()
    assert hot
    return Ledger(url, hot["issue_id"], hot["run"])


@pytest.fixture(scope="module")
def ledgers(server_url: str, migrated_template: str) -> Iterator[tuple[Ledger, Ledger]]:
    small, large = (fill(server_url, migrated_template, times) for times in (1, TIMES))
    yield small, large
    for each in (small, large):
        drop_database(server_url, each.url)


def blocks(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch, path: str, query: dict[str, str]
) -> int:
    """How many blocks the queries of a call touch."""
    asked: list[tuple[Any, Any]] = []
    original = Database.query

    def spy(self: Database, sql: Any, parameters: Any, **options: Any) -> Any:
        asked.append((sql, parameters))
        return original(self, sql, parameters, **options)

    client = Client(Services(replace(settings, database_url=ledger.url)))
    with monkeypatch.context() as patch:
        patch.setattr(Database, "query", spy)
        answer = client("GET", path.format(hot=ledger.hot, run=ledger.run), query=query)
    client.services.database.close()
    assert answer.status == 200, answer.text
    with psycopg.connect(ledger.url) as connection:
        plans = [
            connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", parameters).fetchone()
            for sql, parameters in asked
        ]
    return sum(
        plan[0][0]["Plan"]["Shared Hit Blocks"] + plan[0][0]["Plan"]["Shared Read Blocks"] for plan in plans if plan
    )


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/loop/issues", {}),
        ("/api/loop/issues", {"loop": "issue-delivery", "limit": "100"}),
        ("/api/loop/issues", {"state": "CREATED"}),
        ("/api/loop/issues", {"state": "NOWHERE"}),
        ("/api/loop/issues", {"loop": "agent-merge", "state": "CREATED"}),
        ("/api/loop/issues/{hot}", {}),
        ("/api/loop/issues/{hot}/runs", {"limit": "100"}),
        ("/api/loop/issues/{hot}/events", {"limit": "100"}),
        ("/api/loop/runs", {"limit": "100"}),
        ("/api/loop/runs", {"status": "pending,running"}),
        ("/api/loop/runs", {"status": "failed"}),
        ("/api/loop/runs", {"status": "cancelled"}),
        ("/api/loop/runs", {"loop": "issue-delivery"}),
        ("/api/loop/runs", {"until": "2020-01-01T00:00:00Z"}),
        ("/api/loop/runs/{run}", {}),
        ("/api/loop/stats", {}),
    ],
)
def test_a_call_touches_no_more_of_a_larger_ledger(
    ledgers: tuple[Ledger, Ledger],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    query: dict[str, str],
) -> None:
    small, large = (blocks(ledger, settings, monkeypatch, path, query) for ledger in ledgers)
    assert large <= 1.5 * small + 50, f"{small} blocks of {RUNS} runs, {large} of {RUNS * TIMES}"


def test_look_for_what_waits_for_a_pull_request_reads_the_newest_of_the_state_by_its_index(
    sql: Sql,
) -> None:
    """Ten thousand wait, and as many others do not: what is read is what may be looked at, not what there is."""
    sql(
        "INSERT INTO loop_issues (id, loop_name, state, facts)"
        " SELECT 'A-' || n, 'pull', CASE WHEN n % 2 = 0 THEN 'CREATED' ELSE 'CLOSED' END,"
        " jsonb_build_object('prUrl', 'https://github.com/octo/hello/pull/' || n, 'more', repeat('x', 500))"
        " FROM generate_series(1, 20000) AS n"
    )
    sql("ANALYZE loop_issues")
    request = {"states": {"pull": ["CREATED", "MERGED"]}, "repository": "octo/hello", "pullRequests": [19_990],
               "branches": [], "maxFound": 10}  # fmt: skip
    statement = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT loop_find_waiting(%s)"
    touched = []
    for looked in (100, 100, 1_000):  # the first plans
        (row,) = sql(statement, Jsonb({**request, "maxLooked": looked}))
        plan = row["QUERY PLAN"][0]["Plan"]
        touched.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    (answer,) = sql("SELECT loop_find_waiting(%s) AS answer", Jsonb({**request, "maxLooked": 100}))
    assert answer["answer"] == {"issues": ["A-19990"], "isCut": True}
    blocks_of_all = sql.one("SELECT pg_relation_size('loop_issues') / 8192 AS blocks")["blocks"]
    assert touched[1] < 250, "of 100 looked at"
    assert touched[1] < touched[2] < blocks_of_all, touched
