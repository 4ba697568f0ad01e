"""Loads: as many issues and runs as were asked for, a ledger that is sound at any moment, and no other's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from loop_runner.models import RunStatus, StepStatus
from tests.conftest import ROOT, assert_sound, create_database, drop_database
from tools.load import life, work
from tools.load.database import LoadError
from tools.load.loader import Progress, load
from tools.load.rows import EventRow, IssueRow, RunRow, StepRow
from tools.load.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Client, Sql

pytestmark = pytest.mark.usefixtures("sound")
HOUR = timedelta(hours=1)
TABLES = ("loop_issues", "loop_runs", "loop_run_steps", "loop_events")


def count_of(sql: Sql, table: str) -> int:
    return int(sql.one(f"SELECT count(*) AS n FROM {table}")["n"])


def test_load_has_the_issues_and_runs_that_were_asked_for(database_url: str, sql: Sql) -> None:
    done = load(database_url, issues=40, runs=2000, days=30)
    assert (count_of(sql, "loop_issues"), count_of(sql, "loop_runs"), done.runs) == (40, 2000, 2000)
    assert done.rows == sum(count_of(sql, table) for table in TABLES)
    ids = {row["id"] for row in sql("SELECT id FROM loop_issues")}
    assert ids == {f"LOAD-{number}" for number in range(1, 41)}
    assert count_of(sql, "loop_runs WHERE issue_id = 'LOAD-1'") == 200


@pytest.mark.parametrize(("issues", "runs"), [(1, 0), (1, 1), (3, 2), (2, 50), (60, 7)])
def test_smallest_loads_have_what_was_asked_for(database_url: str, sql: Sql, issues: int, runs: int) -> None:
    load(database_url, issues=issues, runs=runs, days=1)
    assert (count_of(sql, "loop_issues"), count_of(sql, "loop_runs")) == (issues, runs)


def test_load_has_all_that_happens_to_runs(database_url: str, sql: Sql) -> None:
    load(database_url, issues=100, runs=5000)
    statuses = {(row["mode"], row["status"]) for row in sql("SELECT DISTINCT mode, status FROM loop_runs")}
    assert statuses == {*(("execute", status) for status in RunStatus), ("dryRun", "completed"), ("dryRun", "blocked")}
    steps = {row["status"] for row in sql("SELECT DISTINCT status FROM loop_run_steps")}
    assert steps == set(StepStatus) - {StepStatus.PENDING}
    codes = {row["error_code"] for row in sql("SELECT DISTINCT error_code FROM loop_runs")}
    lost = {"LEASE_EXPIRED", "NOT_STARTED", "States.Timeout", "States.HeartbeatTimeout"}
    assert codes >= lost | {"UNEXPECTED_ERROR", "Agent.Busy"}
    (checked,) = sql("SELECT prosrc AS allowed FROM pg_proc WHERE proname = 'loop_is_event'")
    told = {row["event_type"] for row in sql("SELECT DISTINCT event_type FROM loop_events")}
    assert {event_type for event_type in told if f"'{event_type}'" in checked["allowed"]} == told
    assert checked["allowed"].count("'loop_") == len(told)
    endings = {row["ended_by"] for row in sql("SELECT DISTINCT event_data ->> 'endedBy' AS ended_by FROM loop_events")}
    assert "run-sweeper" in endings
    assert len(endings) > 3  # the next callers


def test_what_failed_is_tried_again_when_it_was_planned(database_url: str, sql: Sql) -> None:
    load(database_url, issues=100, runs=3000)
    again = sql(
        "SELECT p.error_code, r.attempt, r.created_at - p.retry_at AS waited"
        " FROM loop_runs AS r JOIN loop_runs AS p ON p.id = r.retry_of"
    )
    assert {row["error_code"] for row in again} >= {"Agent.Busy", "LEASE_EXPIRED", "UNEXPECTED_ERROR"}
    assert max(row["attempt"] for row in again) >= 3
    told = [
        row for row in again if row["waited"] is not None and row["error_code"] in {"Agent.Busy", "ConnectionError"}
    ]
    assert len(told) > 5
    assert min(row["waited"] for row in told) >= timedelta(0)


@pytest.mark.parametrize(("often", "span"), [(30, (60, 90)), (60, (100, 1)), (90, (1, 1))])
def test_what_seldom_comes_together_is_sound_too(
    database_url: str, sql: Sql, monkeypatch: pytest.MonkeyPatch, often: int, span: tuple[int, int]
) -> None:
    issues, days = span
    for name in ("_IS_ASYNC", "_IS_LOST", "_IS_CANCELLED", "_FAILS_UNEXPECTEDLY", "_TIMES_OUT", "_FAILS", "_BLOCKS"):
        monkeypatch.setattr(work, name, often)
    for name in ("_IS_DRY", "_READY_IS_HELD"):
        monkeypatch.setattr(life, name, often // 3)
    load(database_url, issues=issues, runs=3000, days=days, seed=often)
    assert count_of(sql, "loop_runs WHERE error_code = 'NOT_STARTED'") > 10
    assert count_of(sql, "loop_runs WHERE completed_at > clock_timestamp()") == 0


def test_no_two_runs_are_created_at_once() -> None:
    world, at = World(Random(0)), datetime(2026, 11, 1, tzinfo=UTC)
    runs = [world.new_run(at) for _ in range(3)]
    assert [created_at - at for _, created_at in runs] == [timedelta(microseconds=n) for n in range(3)]
    world.forget_before(at + timedelta(microseconds=2))
    assert world.new_run(at)[1] == at
    assert world.new_run(at + timedelta(microseconds=2))[1] > at + timedelta(microseconds=2)


def test_runs_are_of_their_days_each_created_at_an_instant_of_its_own(database_url: str, sql: Sql) -> None:
    until = datetime(2026, 11, 1, tzinfo=UTC)
    load(database_url, issues=20, runs=3000, days=2, until=until)
    ended = sql.one(
        "SELECT count(DISTINCT created_at) AS instants, count(*) AS runs, min(created_at) AS first,"
        " max(completed_at) AS last FROM loop_runs WHERE completed_at IS NOT NULL"
    )
    assert ended["instants"] == ended["runs"]
    assert until - timedelta(days=2) <= ended["first"] < until - timedelta(days=1)
    assert until - timedelta(days=1) < ended["last"] <= until
    ids = sql("SELECT id, created_at FROM loop_runs ORDER BY created_at")
    for row in ids:
        assert row["id"].version == 7
        assert row["id"].int >> 80 == int(row["created_at"].timestamp() * 1000)


def test_a_few_runs_are_live_and_have_minutes_left(database_url: str, sql: Sql) -> None:
    load(database_url, issues=60, runs=1000)
    live = sql("SELECT * FROM loop_runs WHERE completed_at IS NULL")
    assert 3 <= len(live) <= 12
    assert {(run["status"], run["loop_status"]) for run in live} == {
        ("pending", None),
        ("running", None),
        ("running", "paused"),
    }
    for run in live:
        assert run["lease_expires_at"] > datetime.now(UTC) + timedelta(minutes=4)
        assert run["created_at"] < datetime.now(UTC)
    assert sql("SELECT FROM loop_issues WHERE next_attempt_at IS NOT NULL") == []


def test_no_run_is_left_live_where_none_was_asked_for(database_url: str, sql: Sql) -> None:
    load(database_url, issues=60, runs=1000, live_issues=0)
    assert count_of(sql, "loop_runs WHERE completed_at IS NULL") == 0


def test_ledger_lies_in_the_order_of_time_with_statistics_of_it(database_url: str, sql: Sql) -> None:
    load(database_url, issues=100, runs=3000, chunk_rows=1500)
    statistics = sql.one(
        "SELECT c.reltuples, s.correlation FROM pg_class AS c JOIN pg_stats AS s ON s.tablename = c.relname"
        " WHERE c.relname = 'loop_runs' AND s.attname = 'created_at' AND s.schemaname = 'public'"
    )
    assert statistics["reltuples"] == 3000
    assert statistics["correlation"] > 0.99


# --- again


@pytest.fixture
def other_url(server_url: str, migrated_template: str) -> Iterator[str]:
    url = create_database(server_url, migrated_template)
    yield url
    drop_database(server_url, url)


NOT_OF_THE_SEED = {"loop_events": {"event_id"}, "loop_run_steps": {"id"}, "loop_runs": set(), "loop_issues": set()}
LIVE = "(SELECT issue_id FROM loop_runs WHERE completed_at IS NULL)"


def ledger_of(url: str) -> dict[str, list[str]]:
    """The ledger without what is live, and without what the database makes up."""
    ledger = {}
    with psycopg.connect(url) as connection:
        for table, left_out in NOT_OF_THE_SEED.items():
            cursor = connection.execute(f"SELECT * FROM {table} LIMIT 0")
            names = [column.name for column in cursor.description or () if column.name not in left_out]
            key = {"loop_run_steps": "(SELECT issue_id FROM loop_runs AS r WHERE r.id = run_id)", "loop_issues": "id"}
            of = key.get(table, "issue_id")
            rows = connection.execute(f"SELECT {', '.join(names)} FROM {table} WHERE {of} NOT IN {LIVE}").fetchall()
            ledger[table] = sorted(map(str, rows))
    return ledger


def test_a_seed_makes_one_ledger_and_another_one_another(database_url: str, other_url: str) -> None:
    until = datetime.now(UTC) - HOUR
    first = [load(url, issues=30, runs=800, seed=7, until=until) for url in (database_url, other_url)]
    assert ledger_of(database_url) == ledger_of(other_url)
    assert first[0].rows == first[1].rows
    load(database_url, issues=30, runs=800, seed=1, until=until)
    load(other_url, issues=30, runs=800, seed=2, until=until)
    assert ledger_of(database_url) != ledger_of(other_url)


def test_load_adds_to_what_was_loaded_before(database_url: str, sql: Sql) -> None:
    until = datetime.now(UTC)
    for _ in range(2):
        load(database_url, issues=10, runs=300, until=until)
    assert (count_of(sql, "loop_issues"), count_of(sql, "loop_runs")) == (20, 600)
    per_load = sql(
        "SELECT substr(issue_id, 6)::integer > 10 AS second, count(*) AS n FROM loop_runs GROUP BY 1 ORDER BY 1"
    )
    assert [row["n"] for row in per_load] == [300, 300]


# --- interrupted


def test_interrupted_load_leaves_what_it_wrote_so_far(database_url: str, sql: Sql) -> None:
    written = []

    def interrupt(done: Progress) -> None:
        written.append(done.runs)
        if len(written) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(database_url, issues=30, runs=2000, chunk_rows=1000, report=interrupt)
    assert 0 < count_of(sql, "loop_runs") == written[-1] < 2000
    assert sql("SELECT FROM loop_runs WHERE completed_at IS NULL") == []
    assert_sound(database_url)
    load(database_url, issues=5, runs=100)
    assert count_of(sql, "loop_runs") == written[-1] + 100


CUT = """
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END';
CREATE TRIGGER cut BEFORE INSERT ON loop_events FOR EACH ROW EXECUTE FUNCTION cut();
ALTER TABLE loop_events ENABLE ALWAYS TRIGGER cut;
"""


def test_load_that_is_cut_within_a_part_leaves_those_before_and_the_schema_as_it_was(
    database_url: str, sql: Sql
) -> None:
    def cut(_done: Progress) -> None:
        sql(CUT)

    with pytest.raises(psycopg.OperationalError):
        load(database_url, issues=30, runs=2000, chunk_rows=1000, report=cut)
    sql("DROP FUNCTION cut CASCADE")
    assert 0 < count_of(sql, "loop_runs") < 1000
    with pytest.raises(psycopg.DatabaseError, match="has ended: it takes no step"):
        sql(
            "INSERT INTO loop_run_steps (run_id, step_number, step_type)"
            " SELECT id, 99, 'S99' FROM loop_runs WHERE completed_at IS NOT NULL LIMIT 1"
        )


# --- the code, on what was loaded


def test_what_was_loaded_is_read_by_the_api(database_url: str, client: Client) -> None:
    load(database_url, issues=30, runs=400)
    for path in ("/api/loop/issues", "/api/loop/runs"):
        query, items = {"limit": "100"}, []
        while True:
            body = client("GET", path, query=query).json
            items += body["items"]
            if body["nextCursor"] is None:
                break
            query["cursor"] = body["nextCursor"]
        assert len(items) == (30 if path.endswith("issues") else 400)
        for item in items:
            one = client("GET", f"{path}/{item['issueId' if path.endswith('issues') else 'runId']}")
            assert one.status == 200, one.text


def test_what_was_loaded_goes_on(database_url: str, client: Client, sql: Sql) -> None:
    load(database_url, issues=60, runs=1000)
    in_process = sql(
        "SELECT id, failed_attempts FROM loop_issues AS i WHERE loop_name = 'issue-delivery' AND NOT EXISTS"
        " (SELECT FROM loop_runs AS r WHERE r.issue_id = i.id AND r.completed_at IS NULL)"
    )
    assert len(in_process) > 10
    for issue in in_process:
        assert client.run(issue["id"]).status == 200


# --- refused


def test_database_that_is_not_migrated_is_refused(empty_database_url: str) -> None:
    with pytest.raises(LoadError, match=r"not at this checkout: 083_.*\.sql: is pending. Start make dev on it"):
        load(empty_database_url, issues=1, runs=1)


def test_database_with_issues_of_others_is_refused_unless_they_are_meant(database_url: str, client: Client) -> None:
    client.register("REAL-1")
    with pytest.raises(LoadError, match=r"REAL-1 for example: .*FORCE=1"):
        load(database_url, issues=2, runs=10)
    assert load(database_url, issues=2, runs=10, beside_others=True).runs == 10


def test_issues_of_make_dev_and_make_verify_are_nobodys(database_url: str, client: Client) -> None:
    client.register("AFU9-123")
    client.register("VERIFY-0123abcd")
    assert load(database_url, issues=2, runs=10).runs == 10


def test_role_that_may_not_write_history_is_refused(app_database_url: str) -> None:
    with pytest.raises(LoadError, match=r"loop_app may not set session_replication_role.*name a superuser"):
        load(app_database_url, issues=2, runs=10)


def test_second_load_at_once_is_refused(database_url: str) -> None:
    def again(_done: Progress) -> None:
        with pytest.raises(LoadError, match="another load of this database is under way"):
            load(database_url, issues=2, runs=10)

    assert load(database_url, issues=2, runs=10, report=again).runs == 10


@pytest.mark.parametrize("asked", [{"issues": 0}, {"runs": -1}, {"runs": 10_000_001}, {"days": 0}])
def test_numbers_that_cannot_be_are_refused(database_url: str, asked: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match="ISSUES, RUNS, DAYS"):
        load(database_url, **{"issues": 1, "runs": 1, "days": 1, **asked})


@pytest.mark.parametrize(
    ("table", "row", "of_the_database"),
    [
        ("loop_issues", IssueRow, set()),
        ("loop_runs", RunRow, set()),
        ("loop_run_steps", StepRow, {"id"}),
        ("loop_events", EventRow, {"event_id"}),
    ],
)
def test_rows_have_each_column_of_their_table(sql: Sql, table: str, row: type, of_the_database: set[str]) -> None:
    columns = sql(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s", table
    )
    assert {field.name for field in fields(row)} == {column["column_name"] for column in columns} - of_the_database


# --- make load


def make_load(database_url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DATABASE_URL": database_url, **variables}
    command = [sys.executable, "-m", "tools.load"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_make_load_says_how_far_it_is_and_what_it_did(database_url: str, sql: Sql) -> None:
    done = make_load(database_url, ISSUES="3", RUNS="50", DAYS="2", SEED="4")
    assert (done.returncode, count_of(sql, "loop_runs"), count_of(sql, "loop_issues")) == (0, 50, 3)
    assert re.fullmatch(r"loaded 3 issues with 50 runs, \d+ rows, in \d+ s\n", done.stdout)
    assert re.fullmatch(r"==> 50 of 50 runs, \d+ rows, [\d,]+ runs/s, 0 s left\n", done.stderr)


@pytest.mark.parametrize(
    ("variables", "reason"), [({"RUNS": "many"}, "RUNS=many is not a whole number"), ({"ISSUES": "0"}, "ISSUES")]
)
def test_make_load_says_what_it_cannot_do(database_url: str, sql: Sql, variables: dict[str, str], reason: str) -> None:
    done = make_load(database_url, **variables)
    assert (done.returncode, done.stdout, count_of(sql, "loop_issues")) == (1, "", 0)
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
