"""What a call costs does not grow with the ledger: the blocks that it touches, on one of ten times the runs.

Blocks are counted, not seconds: machines are shared. That no table is read from end to end, and no more rows than
needed, so that none can be sorted either, the server's own counts say: a plan does not show what the functions do.
``make bench-scale`` measures the same calls on millions of runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from benchmarks.scale.calls import CALLS, Kind
from benchmarks.scale.days import Days, Shape
from benchmarks.scale.subject import Subject
from loop_runner.background import PURGE_BATCH
from loop_runner.database import Database
from loop_runner.services import Services
from tests.conftest import Client, create_database, drop_database
from tools.load.loader import load
from tools.local.roles import app_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.scale.calls import Measured
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


# ------------------------------------------------------------------------------ every call, chore and query of the seed

ROWS = {
    "GET issues": 1_500,  # the last of at most 50 runs of each issue of a page
    "GET issues of a loop and state": 1_500,
    "GET runs of a loop": 5_100,  # as many as a page looks at
    "GET runs of an actor": 5_100,
    "GET runs of an actor who has none": 5_100,
    "GET stats of a day": 5_000,  # the runs of its window, and their steps
    f"purge of the {PURGE_BATCH} oldest runs": 8_000,  # so many runs with their steps and events
}
"""How many rows a call may read; others three hundred: a page of a hundred, and what belongs to its items."""


@pytest.fixture(scope="module")
def subject(server_url: str, migrated_template: str) -> Iterator[Subject]:
    """A ledger of 24,000 runs on eight days, hot issue included, as the benchmark has it."""
    url = create_database(server_url, migrated_template)
    days = Days(url, datetime.now(UTC) - timedelta(days=10), Shape(runs=3_000, others=79, groups=4))
    days.grow(24_000)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    subject = Subject(days, app_url(url))
    yield subject
    subject.close()
    drop_database(server_url, url)


@dataclass
class Reads:
    """Rows that were read by calls, and how often a table was read from end to end, by table.

    ``by_status``: how often the index of statuses was entered.
    """

    rows: int
    scans: dict[str, int]
    by_status: int


def reads(subject: Subject, act: Callable[[], object]) -> Reads:
    """What the sessions of the subject read meanwhile."""
    counts = (
        "SELECT t.relname, t.seq_scan, t.seq_tup_read + ("  # an index-only scan fetches next to none of what it reads
        "  SELECT coalesce(sum(i.idx_tup_read), 0)::bigint FROM pg_stat_user_indexes AS i WHERE i.relid = t.relid"
        ") AS rows, ("
        "  SELECT sum(i.idx_scan)::bigint FROM pg_stat_user_indexes AS i"
        "  WHERE i.relid = t.relid AND i.indexrelname = 'idx_loop_runs_status'"
        ") AS by_status FROM pg_stat_user_tables AS t WHERE t.schemaname = 'public' AND t.relname LIKE 'loop%%'"
    )

    def now() -> dict[str, dict[str, Any]]:
        for session in (subject.looker, subject.services.database._connected()):
            session.execute("SELECT pg_stat_force_next_flush()")
            session.execute("SELECT 1")  # the one before is over then, and told
        return {row["relname"]: row for row in subject.query(counts)}

    before = now()
    act()
    after = now()
    kinds = ("seq_scan", "rows", "by_status")
    changed = {name: {kind: (after[name][kind] or 0) - (before[name][kind] or 0) for kind in kinds} for name in after}
    return Reads(
        sum(each["rows"] for each in changed.values()),
        {name: each["seq_scan"] for name, each in changed.items() if each["seq_scan"]},
        changed["loop_runs"]["by_status"],
    )


@pytest.mark.parametrize("call", [call for call in CALLS if not call.grows], ids=lambda call: call.name)
def test_a_call_reads_no_table_from_end_to_end_and_no_more_rows_than_it_needs(subject: Subject, call: Measured) -> None:
    act = call.prepare(subject)
    read = reads(subject, act)
    subject.tidy()
    assert read.scans == {}
    assert read.rows <= ROWS.get(call.name, 300)


@pytest.mark.parametrize(
    "call", [call for call in CALLS if call.kind is Kind.SEED and call.grows], ids=lambda call: call.name
)
def test_a_count_of_the_whole_reads_the_whole(subject: Subject, call: Measured) -> None:
    """What the counts above would say of a call that did: they count."""
    assert call.grows
    read = reads(subject, call.prepare(subject))
    assert read.rows >= 24_000 or read.scans


def test_an_issue_that_had_many_runs_long_ago_is_not_looked_for_among_all_that_came_after(
    server_url: str, migrated_template: str
) -> None:
    """The planner knows that a fourth of all runs are its, not that they are the oldest."""
    url = create_database(server_url, migrated_template)
    try:
        until = datetime.now(UTC) - timedelta(days=30)
        load(url, issues=1, runs=1_500, days=5, until=until, live_issues=0)
        load(url, issues=10, runs=4_500, days=29, live_issues=0)
        subject = Subject(Days.of(url, until, Shape()), app_url(url))
        (last,) = subject.query(
            "SELECT id FROM loop_runs WHERE issue_id = 'LOAD-1' AND status = 'failed' ORDER BY created_at DESC LIMIT 1"
        )
        for path in ("/api/loop/issues/LOAD-1/runs", f"/api/loop/runs/{last['id']}"):
            subject.call("GET", path)  # connects
            read = reads(subject, lambda path=path: subject.call("GET", path))  # type: ignore[misc]
            assert read.scans == {}
            assert read.rows <= 300
        subject.close()
    finally:
        drop_database(server_url, url)


def test_a_run_is_not_looked_for_among_those_that_have_just_ended(server_url: str, migrated_template: str) -> None:
    """No run is live when statistics are taken: the planner thinks the index of statuses the shortest way to one.

    It has an entry of each that was, until the next vacuum.
    """
    url = create_database(server_url, migrated_template)
    try:
        load(url, issues=40, runs=2_000, days=20, live_issues=0)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        subject = Subject(Days.of(url, datetime.now(UTC), Shape()), app_url(url))

        def run(*numbers: int) -> None:
            for number in numbers:
                issue, facts = f"/api/loop/issues/NEW-{number}", {"githubUrl": "https://github.com/a/b/issues/1"}
                subject.call("PUT", issue, {"loop": "issue-delivery", "facts": facts})
                subject.call("POST", f"{issue}/run-next-step", {})

        run(0)  # connects
        assert reads(subject, lambda: run(*range(1, 10))).by_status == 0
        subject.close()
    finally:
        drop_database(server_url, url)
