"""A database that cannot serve: the caller is told so in time and truly, the process goes on when it is back, and no
step is executed twice.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
import pytest
from psycopg.rows import dict_row

from loop_runner import migrations
from loop_runner.database import STATEMENT_TIMEOUT_SECONDS
from loop_runner.executors import EXECUTORS
from loop_runner.services import Services
from loop_runner.settings import CODE_VERSION, REQUIRED_SCHEMA
from tests import wire
from tests.conftest import MIGRATIONS, Client, Sql
from tests.crash.trial import Trial
from tools.local.postgres import Server
from tools.local.roles import app_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from psycopg.rows import DictRow

    from loop_runner.executors.protocol import StepCall, Waiting
    from loop_runner.results import Result
    from tests.conftest import Answer

SHORT_MS = 2_000
"""Time of an invocation that will have to wait until its end."""

PATIENCE_SECONDS = 8.0
"""Far more than that, and less than any wait that has no regard for the invocation's time."""

SECONDS = 30
"""How long a test waits for what must come."""

Fault: TypeAlias = "Callable[[Scene], AbstractContextManager[None]]"

OUT_OF_REACH = "out of reach and nothing was changed: try again"
TOO_BUSY = "too busy to do it in time and nothing was changed: try again"
LOST = "look whether this call was done before you repeat it"
MIGRATE = 'invoke the migrate function with {"action":"apply"}'


class Scene:
    """An issue and a process with an open connection; in its step happens what the test wants."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.sql = trial, trial.sql
        self.during_step: Callable[[], object] = lambda: None

    def execute(self, call: StepCall) -> Result | Waiting:
        self.during_step()
        self.during_step = lambda: None
        return self.trial.executor(call)

    def set(self, setting: str) -> None:
        """For the connections of role loop_app from now on, of which the process makes one."""
        self.sql(f"ALTER ROLE loop_app IN DATABASE {self.sql.connection.info.dbname} SET {setting}")
        self.trial.client.services.database.close()

    def end_sessions(self) -> None:
        """From the server's side, as a failover does."""
        self.sql(f"SELECT pg_terminate_backend(pid, 30000) {SESSIONS}")

    def waiting(self) -> list[DictRow]:
        """The sessions of the process that wait for a lock, as it is now, also within a transaction."""
        self.sql("SELECT pg_stat_clear_snapshot()")
        return self.sql(f"SELECT pid {SESSIONS} AND wait_event_type = 'Lock'")

    def assert_goes_on(self) -> None:
        """The same process, to the end, once the lease of a run that was lost is over."""
        trial = self.trial
        trial.timeout_ms = 29_000
        answer = trial.run()
        if answer.status == 409:
            (live,) = trial.expire()
            assert answer.json["error"]["details"]["runId"] == str(live["id"])
        trial.go_to_the_end()
        trial.assert_nothing_happened_twice()


SESSIONS = "FROM pg_stat_activity WHERE usename = 'loop_app' AND datname = current_database()"

# --- what can be wrong with a database


@contextmanager
def no_connections(scene: Scene) -> Iterator[None]:
    name = scene.sql.connection.info.dbname
    scene.sql(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    scene.end_sessions()
    yield
    scene.sql(f"ALTER DATABASE {name} CONNECTION LIMIT -1")


@contextmanager
def ended_session(scene: Scene) -> Iterator[None]:
    scene.end_sessions()
    yield


@contextmanager
def reader(scene: Scene) -> Iterator[None]:
    """After a failover the address leads to a server that takes no writes."""
    scene.set("default_transaction_read_only = on")
    yield
    scene.set("default_transaction_read_only = off")


def locked_issues(setting: str) -> Fault:
    @contextmanager
    def locked(scene: Scene) -> Iterator[None]:
        scene.set(setting)
        with scene.sql.connection.transaction():
            scene.sql("SELECT id FROM loop_issues FOR UPDATE")
            yield

    return locked


def replaced(function: str, body: str) -> Fault:
    """A function of the schema is another one for a while."""

    @contextmanager
    def replace(scene: Scene) -> Iterator[None]:
        sql = scene.sql
        (was,) = sql("SELECT pg_get_functiondef(to_regproc(%s)) AS definition", function.partition("(")[0])
        sql(f"CREATE OR REPLACE FUNCTION {function} RETURNS jsonb {body}")
        yield
        sql.connection.execute(was["definition"].encode())

    return replace


def schema(version: int, minimum_code: int) -> Fault:
    constants = json.dumps({"version": version, "minimumCode": minimum_code})
    return replaced("loop_schema()", f"LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT '{constants}'::jsonb $$")


@contextmanager
def no_functions(scene: Scene) -> Iterator[None]:
    names = ("loop_claim", "loop_finish")
    for name in names:
        scene.sql(f"ALTER FUNCTION {name}(jsonb) RENAME TO {name}_gone")
    yield
    for name in names:
        scene.sql(f"ALTER FUNCTION {name}_gone(jsonb) RENAME TO {name}")


@contextmanager
def no_right(scene: Scene) -> Iterator[None]:
    scene.sql("REVOKE UPDATE ON loop_issues, loop_runs FROM loop_app")
    yield
    scene.sql("SELECT loop_set_rights()")


LOCK_TIMEOUT = "lock_timeout = '300ms'"
RAISE_DEADLOCK = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$"
FINISH = "loop_finish(request jsonb)"


@dataclass(frozen=True)
class Case:
    """What is wrong, and what a caller is told when it is before the claim, and when it is during the step.

    None: nothing, the call is served.
    """

    fault: Fault
    at_claim: str | None
    during_step: str | None = LOST
    retry_after: str = "1"


CASES = {
    "no connections": Case(no_connections, LOST),
    "session ended": Case(ended_session, None, None),
    "read-only after a failover": Case(reader, OUT_OF_REACH),
    "lock timeout": Case(locked_issues(LOCK_TIMEOUT), TOO_BUSY),
    "statement timeout": Case(locked_issues("statement_timeout = '300ms'"), TOO_BUSY),
    "deadlock again and again": Case(replaced("loop_schema()", RAISE_DEADLOCK), OUT_OF_REACH, None),
    "deadlock of the finish": Case(replaced(FINISH, RAISE_DEADLOCK), None),
    "schema too old": Case(schema(REQUIRED_SCHEMA - 1, CODE_VERSION), MIGRATE, None, "30"),
    "schema too new": Case(schema(REQUIRED_SCHEMA, CODE_VERSION + 1), "a newer release of the functions", None, "30"),
    "functions missing": Case(no_functions, MIGRATE, MIGRATE, "30"),
    "right missing": Case(no_right, "lacks a right", "lacks a right", "30"),
}


@pytest.fixture
def scene(sql: Sql, client: Client, monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene(Trial(sql, client))
    for kind in EXECUTORS:
        monkeypatch.setitem(EXECUTORS, kind, scene.execute)
    scene.trial.register()
    return scene


def assert_unavailable(answer: Answer, message: str, retry_after: str = "1") -> None:
    assert (answer.status, answer.error) == (503, "UNAVAILABLE"), answer.text
    assert message in answer.json["error"]["message"]
    assert answer.headers["retry-after"] == retry_after


cases = pytest.mark.parametrize("case", CASES.values(), ids=[name.replace(" ", "-") for name in CASES])


@cases
def test_fault_before_the_claim_changes_nothing_and_is_over_when_the_database_is_back(
    scene: Scene, case: Case, audit: Callable[[], None]
) -> None:
    trial = scene.trial
    before = trial.rows()
    with case.fault(scene):
        started = time.monotonic()
        answer = trial.run() if case.at_claim else None
        assert time.monotonic() - started < PATIENCE_SECONDS
    if answer and case.at_claim:
        assert_unavailable(answer, case.at_claim, case.retry_after)
        assert trial.rows() == before
        assert trial.effects == []
    scene.assert_goes_on()
    audit()
    assert {run["attempt"] for run in trial.runs()} == {1}


@cases
def test_fault_during_a_step_leads_to_no_second_execution_of_the_attempt(
    scene: Scene, case: Case, audit: Callable[[], None]
) -> None:
    trial = scene.trial
    trial.timeout_ms = SHORT_MS if case.during_step else trial.timeout_ms
    with ExitStack() as faults:
        scene.during_step = lambda: faults.enter_context(case.fault(scene))
        started = time.monotonic()
        answer = trial.run()
        assert time.monotonic() - started < PATIENCE_SECONDS
    (run,) = trial.runs()
    if case.during_step:
        assert_unavailable(answer, case.during_step, case.retry_after)
        assert answer.json["error"]["details"] == {"runId": str(run["id"])}
        assert run["status"] == "running"
    else:
        assert answer.status == 200, answer.text
        assert run["status"] == "completed"
    assert len(trial.effects) == 1
    scene.assert_goes_on()
    audit()


def test_claim_that_a_deadlock_undid_is_made_again(scene: Scene, database_url: str) -> None:
    trial = scene.trial
    lost = trial.claim("ben").run_id
    trial.expire()
    scene.set("deadlock_timeout = '2s'")
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SET deadlock_timeout = '1h'")  # so that it is the claim that is undone
        other.execute("SELECT FROM loop_runs WHERE id = %s FOR UPDATE", [lost])
        answer = pool.submit(trial.run)
        wait_until(scene.waiting)
        other.execute("SELECT FROM loop_issues FOR UPDATE")
        other.commit()
        assert answer.result(SECONDS).status == 200
    assert [run["status"] for run in trial.runs()] == ["failed", "completed"]
    trial.assert_nothing_happened_twice()


def test_finish_that_did_not_get_a_lock_is_repeated_while_there_is_time(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The step has done its work: its record is worth more patience than a claim."""
    with ExitStack() as faults, ThreadPoolExecutor(1) as pool:
        scene.during_step = lambda: faults.enter_context(locked_issues(LOCK_TIMEOUT)(scene))
        answer = pool.submit(scene.trial.run)
        wait_until(lambda: caplog.messages.count("asking the database again") > 1)
        faults.close()
        assert answer.result(SECONDS).status == 200
    assert [run["status"] for run in scene.trial.runs()] == ["completed"]
    assert len(scene.trial.effects) == 1


def test_claim_that_was_lost_and_is_then_refused_may_be_done(scene: Scene) -> None:
    """The second error knows nothing of what became of the first attempt."""
    trial = scene.trial
    with ThreadPoolExecutor(1) as pool, locked_issues("lock_timeout = '2s'")(scene):
        answer = pool.submit(trial.run)
        wait_until(scene.waiting)
        scene.end_sessions()
        assert_unavailable(answer.result(SECONDS), LOST)


def test_timeouts_of_the_role_end_before_ours(app_database_url: str) -> None:
    """So that of what took too long we know that it was not done (bootstrap.sql)."""
    with psycopg.connect(app_database_url) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM current_setting('lock_timeout')::interval),"
            " extract(epoch FROM current_setting('statement_timeout')::interval)"
        ).fetchone()
    assert row is not None
    assert 0 < row[0] < row[1] < STATEMENT_TIMEOUT_SECONDS


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With a migrated database; it is the module's own, and may go."""
    with Server() as server:
        app_url(server.url)
        migrations.apply(server.url, MIGRATIONS)
        yield server


class TestServer:
    """Faults of the whole server, on one of the test's own."""

    @pytest.fixture
    def app_database_url(self, server: Server) -> str:
        return app_url(server.url)

    @pytest.fixture
    def database_url(self, server: Server) -> str:
        return server.url

    @pytest.fixture
    def sql(self, server: Server) -> Sql:
        """On a connection for each statement: the server does not stay."""
        return _Reconnecting(server.url)

    def kill(self, server: Server, sql: Sql) -> None:
        """At once; what was committed is kept, though the server of tests does not wait for its disk."""
        sql("CHECKPOINT")
        server.kill()

    def test_server_that_is_gone_is_unavailable_until_it_is_back(self, server: Server, scene: Scene, sql: Sql) -> None:
        trial = scene.trial
        before = trial.rows()
        self.kill(server, sql)
        assert_unavailable(trial.run(), LOST)
        assert_unavailable(trial.run(), OUT_OF_REACH)
        server.restart()
        assert trial.rows() == before
        scene.assert_goes_on()
        assert {run["attempt"] for run in trial.runs()} == {1}

    def test_server_that_restarts_between_calls_is_not_noticed(self, server: Server, scene: Scene) -> None:
        assert scene.trial.run().status == 200
        server.restart()
        assert scene.trial.run().status == 200
        scene.assert_goes_on()

    def test_server_that_is_gone_when_a_step_ends_and_comes_back_keeps_its_outcome(
        self, server: Server, scene: Scene, sql: Sql
    ) -> None:
        with ThreadPoolExecutor(1) as pool:

            def fall() -> None:
                self.kill(server, sql)
                pool.submit(server.restart)

            scene.during_step = fall
            answer = scene.trial.run()
        assert answer.status == 200, answer.text
        assert [run["status"] for run in scene.trial.runs()] == ["completed"]
        scene.assert_goes_on()

    def test_address_that_swallows_everything_is_unavailable_in_time(self, app_database_url: str, scene: Scene) -> None:
        trial = scene.trial
        with wire.Proxy(app_database_url) as hole:
            hole.disturb(wire.Place(wire.Side.CLIENT, 0), wire.Fault.BLACKOUT)
            services = Services(replace(trial.client.services.settings, database_url=hole.url))
            trial.client = Client(services)
            with closing(services.database):
                trial.timeout_ms = 1_500
                for _ in range(2):
                    started = time.monotonic()
                    assert_unavailable(trial.run(), OUT_OF_REACH)
                    assert time.monotonic() - started < PATIENCE_SECONDS
                hole.heal()
                scene.assert_goes_on()


class _Reconnecting(Sql):
    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self._url, autocommit=True, row_factory=dict_row) as self.connection:
            return super().__call__(statement, *parameters)
