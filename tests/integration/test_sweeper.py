"""What happens without a caller: lost runs end, old ones go; and what the database refuses to everybody else."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors as pg

from functions.run_sweeper import app as run_sweeper
from functions.run_worker import app as run_worker
from loop_runner.background import PURGE_BATCH, SWEEP_BATCH, sweep
from loop_runner.claims import Claim, ClaimRequest
from loop_runner.database import Database
from loop_runner.loops import load_loop
from loop_runner.models import RunMode
from loop_runner.run_store import RunStore
from loop_runner.services import Services
from tests.conftest import LOOPS, Context

if TYPE_CHECKING:
    from loop_runner.settings import Settings
    from tests.conftest import Client, Sql

OLD = "interval '40 days'"


def claim(services: Services, issue_id: str, lease_ms: int = 60_000) -> Claim:
    services.issues.register(issue_id, load_loop(LOOPS / "issue-delivery.toml"), {"githubUrl": "u"}, actor="ann")
    claimed = services.ledger.claim(ClaimRequest(issue_id, "ann", uuid4(), RunMode.EXECUTE, lease_ms=lease_ms))
    assert isinstance(claimed, Claim)
    return claimed


def swept(services: Services, retention_days: int = 0) -> dict[str, int]:
    return sweep(services.ledger, services.messages, retention_days=retention_days, deadline=time.monotonic() + 60)


class TestLostRuns:
    def test_lost_run_is_ended_and_its_issue_goes_on(self, client: Client, sql: Sql) -> None:
        lost = claim(client.services, "A-1", lease_ms=0)
        assert swept(client.services) == {"ended": 1, "sent": 0, "purged": 0}
        run = sql.one("SELECT status, error_code, loop_status FROM loop_runs")
        assert run == {"status": "failed", "error_code": "LEASE_EXPIRED", "loop_status": "failed"}
        (event,) = sql("SELECT run_id, event_data FROM loop_events WHERE event_type = 'loop_run_failed'")
        assert event["run_id"] == lost.run_id
        assert event["event_data"] == {"errorCode": "LEASE_EXPIRED", "endedBy": "run-sweeper"}
        assert client.run("A-1").json["loopStatus"] == "active"

    def test_live_run_is_left_alone(self, services: Services, sql: Sql) -> None:
        claim(services, "A-1")
        assert swept(services) == {"ended": 0, "sent": 0, "purged": 0}
        assert sql.one("SELECT status FROM loop_runs")["status"] == "running"

    def test_all_of_many_are_ended_in_batches(self, services: Services, sql: Sql) -> None:
        for number in range(SWEEP_BATCH + 3):
            claim(services, f"A-{number}", lease_ms=0)
        assert swept(services)["ended"] == SWEEP_BATCH + 3
        assert sql("SELECT DISTINCT status FROM loop_runs") == [{"status": "failed"}]

    def test_run_of_the_store_without_an_issue_is_ended(self, services: Services, sql: Sql) -> None:
        run = RunStore(services.database).create_run(issue_id="NONE", actor="ann", request_id="r", lease_seconds=0)
        assert swept(services)["ended"] == 1
        assert services.runs.get_run(run.id).error_code == "LEASE_EXPIRED"

    def test_issue_that_somebody_has_locked_is_left_to_them(
        self, services: Services, database_url: str, sql: Sql
    ) -> None:
        for number in range(3):
            claim(services, f"A-{number}", lease_ms=0)
        with psycopg.connect(database_url) as other:
            other.execute("SELECT FROM loop_issues WHERE id = 'A-1' FOR NO KEY UPDATE")
            assert swept(services)["ended"] == 2  # does not wait
        assert swept(services)["ended"] == 1

    def test_run_that_was_extended_meanwhile_is_left_alone(self, services: Services, sql: Sql) -> None:
        claim(services, "A-1", lease_ms=0)
        sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp() + interval '1 hour'")
        assert swept(services)["ended"] == 0

    def test_sweep_stops_at_its_deadline(self, services: Services) -> None:
        claim(services, "A-1", lease_ms=0)
        assert sweep(services.ledger, services.messages, retention_days=1, deadline=time.monotonic() - 1) == {
            "ended": 0,
            "sent": 0,
            "purged": 0,
        }


class TestRetention:
    @pytest.fixture
    def aged(self, client: Client, sql: Sql) -> Client:
        """Two issues with finished runs of 40 days ago, one of them with a run of today beside them."""
        for issue_id in ("A-1", "A-2"):
            client.register(issue_id, githubUrl="u")
            client.run(issue_id)
            client.run(issue_id, {"mode": "dryRun"})
        client("PATCH", "/api/loop/issues/A-1", {"note": "made while the run was live"})
        sql(
            "UPDATE loop_events SET occurred_at = (SELECT min(completed_at) FROM loop_runs WHERE issue_id = 'A-1')"
            " WHERE event_type = 'loop_facts_changed'"
        )
        age(sql)
        client.run("A-2")
        return client

    def test_old_runs_go_with_their_steps_and_events_and_no_others(self, aged: Client, sql: Sql) -> None:
        assert swept(aged.services, retention_days=30)["purged"] == 4
        (kept,) = sql("SELECT id, issue_id FROM loop_runs")
        assert kept["issue_id"] == "A-2"
        assert sql("SELECT 1 FROM loop_run_steps WHERE run_id <> %s", kept["id"]) == []
        assert sql("SELECT 1 FROM loop_events WHERE run_id <> %s", kept["id"]) == []
        assert len(sql("SELECT 1 FROM loop_events WHERE run_id = %s", kept["id"])) >= 2
        others = sql("SELECT event_type FROM loop_events WHERE run_id IS NULL ORDER BY event_id")
        assert [event["event_type"] for event in others] == ["loop_issue_registered"] * 2 + ["loop_facts_changed"]
        assert aged("GET", "/api/loop/issues/A-1").status == 200

    def test_everything_is_kept_by_default(self, aged: Client) -> None:
        assert swept(aged.services)["purged"] == 0
        assert swept(aged.services, retention_days=50)["purged"] == 0

    def test_batches_take_the_oldest_first(self, aged: Client, sql: Sql) -> None:
        oldest = sql.one("SELECT id FROM loop_runs ORDER BY created_at LIMIT 1")["id"]
        assert aged.services.ledger.purge(older_than_days=30, max_runs=1) == 1
        assert sql("SELECT 1 FROM loop_runs WHERE id = %s", oldest) == []
        assert PURGE_BATCH > 1

    def test_live_run_and_run_to_be_retried_stay(self, client: Client, sql: Sql) -> None:
        claim(client.services, "A-1")
        claim(client.services, "A-2", lease_ms=0)
        swept(client.services)
        age(sql)
        assert swept(client.services, retention_days=1)["purged"] == 0

    def test_run_that_planned_how_its_issue_goes_on_stays(self, client: Client, sql: Sql) -> None:
        client.register("A-1")
        planned = client.run("A-1").json["runId"]
        sql("UPDATE loop_issues SET next_attempt_at = now(), next_attempt_after = %s", planned)
        client("POST", "/api/loop/issues/A-1/hold", {"reason": "for longer than runs are kept"})
        age(sql)
        assert swept(client.services, retention_days=1)["purged"] == 0

    @pytest.mark.parametrize(
        "before", ["now()", "now() + interval '1 day'", "now() - interval '23 hours'", "NULL", "'infinity'"]
    )
    def test_nothing_younger_than_a_day_is_deleted(self, aged: Client, sql: Sql, before: str) -> None:
        with pytest.raises(psycopg.DatabaseError, match="a day") as refusal:
            sql(f"SELECT loop_purge({before}, 10)")
        assert refusal.value.sqlstate == "LR003"

    @pytest.mark.parametrize("rows", ["0", "-1", "10001", "NULL"])
    def test_batches_have_bounds(self, sql: Sql, rows: str) -> None:
        with pytest.raises(psycopg.DatabaseError, match="from 1 to 10000"):
            sql(f"SELECT loop_purge(now() - interval '2 days', {rows})")

    def test_purge_looks_only_where_its_owner_says(self, database: Database, sql: Sql) -> None:
        """Else loop_app could put tables of its own in front of the ledger's."""
        config = sql.one("SELECT proconfig, prosecdef FROM pg_proc WHERE proname = 'loop_purge'")
        assert "search_path=pg_catalog, public, pg_temp" in config["proconfig"]
        assert config["prosecdef"]
        database.query("CREATE TEMP TABLE loop_runs (id uuid)", [])
        database.query("SELECT loop_purge(now() - interval '2 days', 10)", [])

    def test_strangers_may_not_purge(self, sql: Sql) -> None:
        assert sql.one(
            "SELECT has_function_privilege('loop_app', 'loop_purge(timestamptz, integer)', 'EXECUTE') AS app,"
            " has_function_privilege('pg_monitor', 'loop_purge(timestamptz, integer)', 'EXECUTE') AS other"
        ) == {"app": True, "other": False}


class TestHandler:
    def test_schedule_sweeps_and_purges(self, client: Client, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
        client.register("A-2", githubUrl="u")
        client.run("A-2")
        age(sql)
        claim(client.services, "A-1", lease_ms=0)
        monkeypatch.setenv("DATABASE_URL", client.services.settings.database_url)
        monkeypatch.setenv("RETENTION_DAYS", "30")
        run_sweeper.services.cache_clear()
        answer = run_sweeper.handler({"source": "aws.scheduler"}, Context())  # type: ignore[arg-type]
        assert answer == {"schemaVersion": "loop.sweep.v1", "ended": 1, "sent": 0, "purged": 1}
        run_sweeper.services().database.close()
        run_sweeper.services.cache_clear()

    def test_database_that_sleeps_is_waited_for_without_a_caller(
        self, settings: Settings, client: Client, sql: Sql, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that has scaled to zero is back in a quarter of a minute: here after more than a caller would wait."""
        monkeypatch.setattr("loop_runner.database.CONNECT_TIMEOUT_SECONDS", 2)
        url = f"{settings.database_url}?options=-c%20post_auth_delay%3D3"
        claim(client.services, "A-1", lease_ms=0)
        sweeping = Services(replace(settings, database_url=url))
        monkeypatch.setattr(run_sweeper, "services", lambda: sweeping)
        with closing(sweeping.database):
            assert run_sweeper.handler({}, Context(50_000))["ended"] == 1  # type: ignore[arg-type]
        client.register("A-2", githubUrl="u")
        run_id = client.run("A-2", headers={"prefer": "respond-async"}).json["runId"]
        record = {"messageId": "1", "body": json.dumps({"issueId": "A-2", "runId": run_id})}
        working = Services(replace(settings, database_url=url))
        monkeypatch.setattr(run_worker, "services", lambda: working)
        with closing(working.database):
            done = run_worker.handler({"Records": [record]}, Context(360_000))  # type: ignore[arg-type]
        assert done == {"batchItemFailures": []}
        assert sql.one("SELECT status FROM loop_runs WHERE id = %s", run_id)["status"] == "completed"


class TestRights:
    """loop_app can neither delete nor rewrite what has ended."""

    @pytest.fixture
    def finished(self, client: Client) -> Client:
        client.register("A-1", githubUrl="u")
        assert client.run("A-1").json["stepExecuted"]["status"] == "completed"
        return client

    @pytest.mark.parametrize(
        "table", ["loop_runs", "loop_run_steps", "loop_events", "loop_issues", "schema_migrations"]
    )
    @pytest.mark.parametrize(
        "statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE", "DROP TABLE {}", "ALTER TABLE {} DISABLE TRIGGER ALL"]
    )
    def test_it_deletes_nothing_and_defines_nothing(
        self, finished: Client, app_database_url: str, table: str, statement: str
    ) -> None:
        with psycopg.connect(app_database_url) as app, pytest.raises(pg.InsufficientPrivilege):
            app.execute(statement.format(table))

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE loop_runs SET status = 'failed'",
            "UPDATE loop_runs SET message = 'it was different'",
            "UPDATE loop_runs SET metadata = '{}'",
            "UPDATE loop_run_steps SET status = 'failed'",
            "UPDATE loop_run_steps SET error_message = 'no'",
            "INSERT INTO loop_run_steps (run_id, step_number, step_type) SELECT id, 9, 'S9' FROM loop_runs",
            "UPDATE loop_events SET event_data = '{}'",
            "UPDATE schema_migrations SET sha256 = ''",
            "SET session_replication_role = replica",
            "CREATE TABLE loop_own (id integer)",
            "CREATE OR REPLACE FUNCTION loop_schema() RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'",
        ],
    )
    def test_it_rewrites_nothing_that_has_ended(
        self, finished: Client, app_database_url: str, sql: Sql, statement: str
    ) -> None:
        before = rows(sql)
        with psycopg.connect(app_database_url) as app, pytest.raises(psycopg.DatabaseError) as refusal:
            app.execute(statement)
        assert refusal.value.sqlstate in {"42501", "LR001", "LR002"}
        assert rows(sql) == before

    def test_live_step_does_not_move_to_an_ended_run(self, finished: Client, sql: Sql) -> None:
        run = RunStore(finished.services.database).create_run(issue_id="B-1", actor="ann", request_id="r")
        step = RunStore(finished.services.database).create_step(run.id, step_number=7, step_type="S7")
        with pytest.raises(psycopg.DatabaseError, match="takes no step"):
            sql(
                "UPDATE loop_run_steps SET run_id = (SELECT id FROM loop_runs WHERE issue_id = 'A-1') WHERE id = %s",
                step.id,
            )

    def test_its_statements_and_locks_have_timeouts(self, database: Database) -> None:
        for name, most in (
            ("statement_timeout", "8s"),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ):
            assert database.query(f"SHOW {name}", [])[0][name] == most

    def test_bootstrap_after_the_migrations_gives_the_rights_too(self, database_url: str, sql: Sql) -> None:
        from tools.local.roles import app_url

        sql("REVOKE ALL ON loop_runs FROM loop_app")
        with closing(Database(app_url(database_url))) as app:
            app.query("SELECT FROM loop_runs", [])


def age(sql: Sql) -> None:
    """Move everything that is in the ledger 40 days back."""
    for table, columns in (
        ("loop_runs", ("created_at", "started_at", "completed_at")),
        ("loop_events", ("occurred_at",)),
    ):
        sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        sql(f"UPDATE {table} SET {', '.join(f'{column} = {column} - {OLD}' for column in columns)}")
        sql(f"ALTER TABLE {table} ENABLE TRIGGER USER")


def rows(sql: Sql) -> list[list[dict[str, Any]]]:
    tables = ("loop_runs", "loop_run_steps", "loop_events", "loop_issues", "schema_migrations")
    return [sql(f"SELECT * FROM {table} ORDER BY 1") for table in tables]
