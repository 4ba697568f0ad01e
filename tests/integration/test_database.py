"""The database: what its failures mean to a caller, and what it refuses whoever asks."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import product
from threading import Barrier
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from loop_runner.claims import Claim, ClaimRequest
from loop_runner.database import Database
from loop_runner.errors import LoopConflictError, UnavailableError
from loop_runner.issues import Issues
from loop_runner.ledger import Ledger
from loop_runner.lifecycle import RUN_TRANSITIONS, STEP_TRANSITIONS, TERMINAL_STEP
from loop_runner.loops import load_loop
from loop_runner.models import LoopStatus, Run, RunMode, RunStatus
from loop_runner.outcomes import Outcome
from loop_runner.run_store import RunStore
from loop_runner.settings import CODE_VERSION, REQUIRED_SCHEMA
from tests.conftest import LOOPS
from tools.durations import milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.conftest import Sql

ISSUE = "AFU9-123"
LIVE = ("pending", "running")
KINDS = ("text", "integer", "jsonb", "uuid", "boolean")
RUN_ID = "00000000-0000-4000-8000-000000000001"
DONE = Outcome(status=RunStatus.COMPLETED, loop_status=LoopStatus.ACTIVE, message="done", state_after="PICKED")


@pytest.fixture
def ledger(database: Database) -> Ledger:
    """Of a database with one issue; its connection is open."""
    loop = load_loop(LOOPS / "issue-delivery.toml")
    Issues(database).register(ISSUE, loop, {}, actor="ann")
    return Ledger(database)


def claim(ledger: Ledger) -> Claim:
    claimed = ledger.claim(ClaimRequest(ISSUE, "ann", uuid4(), RunMode.EXECUTE, lease_ms=60_000))
    assert isinstance(claimed, Claim)
    return claimed


def create(store: RunStore) -> Run:
    return store.create_run(issue_id=ISSUE, actor="ann", request_id="r")


def kill(database: Database, sql: Sql) -> None:
    """End the connection from the server's side, as a failover does."""
    pid = database._connected().info.backend_pid
    assert sql.one("SELECT pg_terminate_backend(%s, 30000) AS ended", pid)["ended"]


def wait_for_blocked(sql: Sql) -> None:
    """Until another session of this database waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 30
    while not sql(waiting):
        assert time.monotonic() < deadline, "no session waits for a lock"


class TestLostConnection:
    def test_claim_and_finish_after_it_make_exactly_one_run(self, ledger: Ledger, database: Database, sql: Sql) -> None:
        kill(database, sql)
        claimed = claim(ledger)
        kill(database, sql)
        assert ledger.finish(claimed, DONE).by_this_call
        run = sql.one("SELECT id, status FROM loop_runs")
        assert run == {"id": claimed.run_id, "status": "completed"}
        assert sql.one("SELECT state, version FROM loop_issues") == {"state": "PICKED", "version": 2}

    def test_claim_that_is_interrupted_is_made_once(self, ledger: Ledger, database: Database, sql: Sql) -> None:
        with ThreadPoolExecutor(1) as pool, sql.connection.transaction():
            sql("SELECT * FROM loop_issues FOR UPDATE")
            claiming = pool.submit(claim, ledger)
            wait_for_blocked(sql)
            kill(database, sql)
        assert sql.one("SELECT id FROM loop_runs")["id"] == claiming.result(30).run_id
        assert len(sql("SELECT * FROM loop_events WHERE event_type = 'loop_run_started'")) == 1

    def test_write_that_cannot_be_repeated_is_made_once_after_it(
        self, ledger: Ledger, database: Database, sql: Sql
    ) -> None:
        kill(database, sql)
        run = create(RunStore(database))
        assert sql.one("SELECT id FROM loop_runs")["id"] == run.id
        kill(database, sql)
        assert Issues(database).patch_facts(ISSUE, {"a": 1}, actor="ann").issue.version == 2

    def test_patch_that_is_interrupted_is_not_repeated_and_says_so(
        self, ledger: Ledger, database: Database, sql: Sql
    ) -> None:
        """Repeated it could overwrite what somebody else has written in between."""
        with ThreadPoolExecutor(1) as pool, sql.connection.transaction():
            sql("SELECT * FROM loop_issues FOR UPDATE")
            patching = pool.submit(Issues(database).patch_facts, ISSUE, {"a": 1}, actor="ann")
            wait_for_blocked(sql)
            kill(database, sql)
            with pytest.raises(UnavailableError, match="look whether this call was done") as lost:
                patching.result(30)
        assert lost.value.may_be_done
        assert sql.one("SELECT facts, version FROM loop_issues") == {"facts": {}, "version": 1}

    def test_read_is_repeated(self, database: Database, sql: Sql) -> None:
        run = create(RunStore(database))
        kill(database, sql)
        assert RunStore(database).get_run(run.id) == run

    def test_closed_database_connects_again(self, database: Database) -> None:
        database.query("SELECT 1", [])
        database.close()
        database.close()
        assert database.query("SELECT 1 AS one", []) == [{"one": 1}]


class TestUnavailable:
    @pytest.fixture
    def closed_port(self) -> Iterator[int]:
        """A port of this host on which nobody listens."""
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            yield reserved.getsockname()[1]

    def test_refused_connection_tells_nothing_of_the_address(self, closed_port: int) -> None:
        url = f"postgresql://loop_app:s3cret@127.0.0.1:{closed_port}/ledger"
        with closing(Database(url)) as database, pytest.raises(UnavailableError) as refusal:
            database.query("SELECT 1", [])
        self.tells_nothing(refusal.value, url)

    def test_refused_login_tells_nothing_of_the_address(self, database_url: str) -> None:
        url = f"{database_url}_gone"
        with closing(Database(url)) as database, pytest.raises(UnavailableError) as refusal:
            database.call("loop_claim", {})
        self.tells_nothing(refusal.value, url)

    def tells_nothing(self, error: UnavailableError, url: str) -> None:
        said = f"{error.message} {error.details} {error.headers}"
        assert [part for part in conninfo_to_dict(url).values() if str(part) in said] == []
        assert (error.status, error.headers) == (503, {"retry-after": "1"})

    def test_connecting_ends_with_the_time_of_the_invocation(self) -> None:
        """Whatever psycopg makes of its timeout: whole seconds, two at least, and for each address of the server's."""
        with socket.create_server(("127.0.0.1", 0)) as black_hole:
            hosts = ",".join([f"127.0.0.1:{black_hole.getsockname()[1]}"] * 3)
            with closing(Database(f"postgresql://loop_app:s3cret@{hosts}/ledger")) as database:
                started = time.monotonic()
                database.deadline = started + 0.3
                with pytest.raises(UnavailableError, match="nothing was changed"):
                    database.call("loop_claim", {})
        assert time.monotonic() - started < 1.9

    @pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
    def test_lock_that_is_not_to_be_had_in_time_is_unavailable(
        self, ledger: Ledger, database: Database, sql: Sql, setting: str
    ) -> None:
        database.close()
        sql(f"ALTER ROLE loop_app IN DATABASE {sql.connection.info.dbname} SET {setting} = '300ms'")
        with sql.connection.transaction():
            sql("SELECT * FROM loop_issues FOR UPDATE")
            with pytest.raises(UnavailableError):
                claim(ledger)
        assert sql("SELECT * FROM loop_runs") == []
        assert claim(ledger).attempt == 1

    def test_missing_privilege_is_unavailable(self, ledger: Ledger, database_url: str) -> None:
        with (
            closing(Database(f"{database_url}?options=-c%20role%3Dpg_monitor")) as database,
            pytest.raises(UnavailableError),
        ):
            claim(Ledger(database))

    def test_server_that_has_become_a_reader_is_left_for_the_writer(
        self, ledger: Ledger, database: Database, sql: Sql
    ) -> None:
        database.close()
        name = sql.connection.info.dbname
        sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(UnavailableError):
            claim(ledger)
        sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        assert claim(ledger).attempt == 1

    def test_empty_database_names_the_migrate_function(self, empty_database_url: str) -> None:
        with closing(Database(empty_database_url)) as empty, pytest.raises(UnavailableError) as refusal:
            claim(Ledger(empty))
        assert 'invoke the migrate function with {"action":"apply"}' in refusal.value.message

    @pytest.mark.parametrize(
        ("version", "minimum_code", "said"),
        [
            (REQUIRED_SCHEMA - 1, CODE_VERSION, 'invoke the migrate function with {"action":"apply"}'),
            (REQUIRED_SCHEMA, CODE_VERSION + 1, "needs a newer release of the functions"),
        ],
    )
    def test_schema_that_does_not_fit_is_unavailable_and_no_run_is_left_open(
        self, ledger: Ledger, sql: Sql, version: int, minimum_code: int, said: str
    ) -> None:
        schema = json.dumps({"version": version, "minimumCode": minimum_code})
        sql(
            "CREATE OR REPLACE FUNCTION loop_schema() RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE "
            f"AS $$ SELECT '{schema}'::jsonb $$"
        )
        with pytest.raises(UnavailableError, match=re.escape(said)):
            claim(ledger)
        assert sql("SELECT * FROM loop_runs") == []

    @pytest.mark.parametrize(
        ("statement", "error"),
        [
            ("SELEC 1", psycopg.errors.SyntaxError),
            ("SELECT 1 / 0", psycopg.errors.DivisionByZero),
            ("SELECT 'x'::integer", psycopg.errors.InvalidTextRepresentation),
            ("INSERT INTO loop_issues (id) VALUES (NULL)", psycopg.errors.NotNullViolation),
        ],
    )
    def test_bug_of_ours_is_not_taken_for_an_outage(
        self, database: Database, statement: str, error: type[psycopg.Error]
    ) -> None:
        with pytest.raises(error):
            database.query(statement, [])
        assert database.query("SELECT 1 AS one", []) == [{"one": 1}]


class TestRefusedByTheDatabase:
    """Rules that hold for every client, whatever the code says."""

    @pytest.mark.parametrize(
        ("table", "transitions"),
        [("loop_runs", RUN_TRANSITIONS), ("loop_run_steps", STEP_TRANSITIONS)],
        ids=["runs", "steps"],
    )
    def test_lifecycle_of_the_code_is_the_databases(
        self, sql: Sql, table: str, transitions: Mapping[str, frozenset[str]]
    ) -> None:
        sql("INSERT INTO loop_runs (issue_id, actor, request_id) VALUES ('AFU9-1', 'ann', 'r')")
        sql("INSERT INTO loop_run_steps (run_id, step_number, step_type) SELECT id, 1, 'S' FROM loop_runs")
        allowed = {(source, target) for source, targets in transitions.items() for target in targets}
        unmoved = {(source, source) for source, targets in transitions.items() if targets}
        moving = {pair for pair in product(transitions, transitions) if self.moves(sql, table, *pair)}
        assert moving == allowed | unmoved

    def moves(self, sql: Sql, table: str, source: str, target: str) -> bool:
        """Whether a row goes from one status to the other; what is refused is refused by the trigger."""
        go = f"UPDATE {table} SET status = %s, completed_at = CASE WHEN %s THEN now() END"
        with sql.connection.transaction(force_rollback=True):
            sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            sql(go, source, source not in LIVE)
            sql(f"ALTER TABLE {table} ENABLE TRIGGER USER")
            try:
                sql(go, target, target not in LIVE)
            except psycopg.DatabaseError as refusal:
                if refusal.sqlstate != "LR001":
                    raise
                return False
        return True

    @pytest.mark.parametrize(
        "change", ["metadata = '{}'", "issue_id = 'AFU9-2'", "error_message = 'x'", "status = status"]
    )
    def test_ended_run_is_immutable(self, database: Database, sql: Sql, change: str) -> None:
        store = RunStore(database)
        run = store.update_run_status(create(store).id, RunStatus.FAILED)
        with pytest.raises(psycopg.DatabaseError, match=f"illegal transition of loop_runs {run.id}: failed -> failed"):
            sql(f"UPDATE loop_runs SET {change}")
        assert store.get_run(run.id) == run

    @pytest.mark.parametrize(
        ("constraint", "column", "value"),
        [
            *[("chk_loop_runs", "status", value) for value in ("skipped", "Pending", "")],
            *[("chk_loop_runs", "mode", value) for value in ("dryrun", "")],
            ("chk_loop_runs", "duration_ms", -1),
            ("chk_loop_runs", "completed_at", "2026-01-21"),
            *[("chk_loop_run_steps", "step_number", value) for value in (0, -1)],
            ("uq_loop_run_steps_run_step", "step_number", 1),
            ("chk_loop_run_steps", "status", "done"),
            ("chk_loop_run_steps", "duration_ms", -1),
            ("chk_loop_run_steps", "completed_at", "2026-01-21"),
            ("loop_run_steps_run_id_fkey", "run_id", "00000000-0000-4000-8000-000000000009"),
        ],
    )
    def test_wrong_value_is_refused(self, sql: Sql, constraint: str, column: str, value: object) -> None:
        def insert(table: str, **row: object) -> None:
            marks = ", ".join(["%s"] * len(row))
            sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *row.values())

        run: dict[str, object] = {"issue_id": "AFU9-124", "actor": "ann", "request_id": "r"}
        step: dict[str, object] = {"run_id": RUN_ID, "step_number": 2, "step_type": "S"}
        insert("loop_runs", **run | {"id": RUN_ID, "issue_id": "AFU9-123"})
        insert("loop_run_steps", **step | {"step_number": 1})
        table, right = ("loop_run_steps", step) if "steps" in constraint else ("loop_runs", run)
        with pytest.raises(psycopg.IntegrityError, match=constraint):
            insert(table, **right | {column: value})
        insert(table, **right)

    def test_operators_of_whoever_writes_do_not_bend_the_rules(
        self, database: Database, sql: Sql, app_database_url: str
    ) -> None:
        """A right that loop_app does not have by itself: to create something that is found before pg_catalog's."""
        store = RunStore(database)
        ended = store.update_run_status(create(store).id, RunStatus.FAILED)
        sql("CREATE SCHEMA mine AUTHORIZATION loop_app")
        with psycopg.connect(app_database_url, autocommit=True) as connection:
            connection.execute("SET search_path = mine, pg_catalog, public")
            for one, other in (*[(kind, kind) for kind in KINDS], ("bigint", "integer")):
                connection.execute(
                    f"CREATE FUNCTION mine.yes({one}, {other}) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'"
                )
                for operator in ("=", ">="):
                    connection.execute(
                        f"CREATE OPERATOR mine.{operator} (LEFTARG = {one}, RIGHTARG = {other}, FUNCTION = mine.yes)"
                    )
            run, step = "INSERT INTO public.loop_runs (issue_id, actor, request_id", "(run_id, step_number, step_type)"
            for statement, refusal in (
                ("UPDATE public.loop_runs SET message = 'x'", "illegal transition"),
                (f"{run}, mode) VALUES ('x', 'a', 'r', 'no')", "chk_loop_runs"),
                (f"{run}, duration_ms) VALUES ('x', 'a', 'r', -1)", "chk_loop_runs"),
                (f"INSERT INTO public.loop_run_steps {step} VALUES ('{ended.id}', 7, 'S')", "has ended"),
                ("INSERT INTO public.loop_events (issue_id, event_type) VALUES ('x', 'mine')", "chk_loop_events"),
                ("INSERT INTO public.loop_issues (id, loop_name, state) VALUES ('x y', 'l', 's')", "chk_loop_issues"),
            ):
                with pytest.raises(psycopg.DatabaseError, match=refusal):
                    connection.execute(statement)
        assert store.get_run(ended.id) == ended

    def test_second_live_run_of_an_issue_is_refused(self, database: Database, sql: Sql) -> None:
        create(RunStore(database))
        for status in LIVE:
            with pytest.raises(psycopg.errors.UniqueViolation, match="uq_loop_runs_live"):
                sql(
                    "INSERT INTO loop_runs (issue_id, actor, request_id, status) VALUES (%s, 'b', 'r', %s)",
                    ISSUE,
                    status,
                )

    def test_steps_go_with_their_run(self, database: Database, sql: Sql) -> None:
        store = RunStore(database)
        kept, gone = (store.create_run(issue_id=issue, actor="ann", request_id="r") for issue in ("AFU9-1", "AFU9-2"))
        for run in (kept, gone):
            store.create_step(run.id, step_number=1, step_type="S1")
        sql("DELETE FROM loop_runs WHERE id = %s", gone.id)
        assert [row["run_id"] for row in sql("SELECT run_id FROM loop_run_steps")] == [kept.id]


class TestSimultaneousCallers:
    def test_one_of_them_creates_the_run(self, database_url: str, sql: Sql) -> None:
        barrier = Barrier(4)

        def attempt(_: int) -> bool:
            with closing(Database(database_url)) as database:
                database._connected()
                barrier.wait(30)
                try:
                    create(RunStore(database))
                except LoopConflictError:
                    return False
                return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(attempt, range(4))) == 1
        assert len(sql("SELECT * FROM loop_runs")) == 1

    def test_step_that_is_created_while_the_run_ends_does_not_stay_open(
        self, database: Database, database_url: str, sql: Sql
    ) -> None:
        store = RunStore(database)
        run = store.update_run_status(create(store).id, RunStatus.RUNNING)
        with closing(Database(database_url)) as slow, ThreadPoolExecutor(1) as pool:
            slow.query("BEGIN", [])
            RunStore(slow).create_step(run.id, step_number=1, step_type="S1")
            ending = pool.submit(store.update_run_status, run.id, RunStatus.FAILED)
            wait_for_blocked(sql)
            slow.query("COMMIT", [])
            ending.result(30)
        assert {step.status for step in store.get_steps_by_run(run.id)} <= TERMINAL_STEP


def test_durations_are_rounded_half_up_in_the_database_and_outside_of_it(sql: Sql) -> None:
    started = datetime(2026, 11, 24, tzinfo=UTC)
    for microseconds, expected in [
        (0, 0), (499, 0), (500, 1), (1_499, 1), (2_500, 3), (1_000_499, 1_000), (1_000_500, 1_001), (-700, 0),
    ]:  # fmt: skip
        completed = started + timedelta(microseconds=microseconds)
        (in_sql,) = sql.one("SELECT loop_duration_ms(%s, %s)", started, completed).values()
        assert (in_sql, milliseconds(started, completed)) == (expected, expected), microseconds
    assert sql.one("SELECT loop_duration_ms(NULL, %s) AS none", started)["none"] is milliseconds(None, started) is None
