"""Migrations: folders that fit together and folders that do not, and what the real one leaves in the catalog."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Barrier
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from functions.migrate import app as migrate
from loop_runner import migrations
from loop_runner.errors import InvalidRequestError, MigrationError
from loop_runner.migrations import LOCK_KEY, NO_TRANSACTION
from loop_runner.settings import REQUIRED_SCHEMA
from tests.conftest import MIGRATIONS, Context, Sql, assert_sound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Refused = Callable[[str], None]
    Invoke = Callable[..., dict[str, Any]]

SEED_COLUMNS = {
    "loop_runs": "id uuid, issue_id text, actor text, request_id text, mode text, status text, created_at timestamptz, "
    "started_at timestamptz, completed_at timestamptz, duration_ms int8, error_message text, metadata jsonb",
    "loop_run_steps": "id uuid, run_id uuid, step_number int4, step_type text, status text, created_at timestamptz, "
    "started_at timestamptz, completed_at timestamptz, duration_ms int8, error_message text, metadata jsonb",
}
VALID = "SELECT indisvalid AS valid FROM pg_index WHERE indexrelid = 'by_x'::regclass"
NAMES = ["001_a.sql", "002_b.sql", "functions/loop_f.sql"]


@dataclass
class Folder:
    """A folder of migrations in the making, and the database that they are applied to."""

    path: Path
    url: str
    sql: Sql

    def put(self, name: str, content: str | bytes) -> None:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def apply(self, **options: Any) -> list[str]:
        return migrations.apply(self.url, self.path, **options)

    def plan(self) -> dict[str, str]:
        return {name: state.value for name, state in migrations.plan(self.url, self.path).items()}

    def state(self) -> list[list[DictRow]]:
        """Every relation and function of the database's own, and the ledger."""
        ledger = self.sql("SELECT to_regclass('schema_migrations') IS NOT NULL AS there")[0]["there"]
        return [
            self.sql("SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY oid"),
            self.sql("SELECT oid, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY oid"),
            self.sql("SELECT * FROM schema_migrations ORDER BY file_name") if ledger else [],
        ]


@pytest.fixture
def empty_sql(empty_database_url: str) -> Iterator[Sql]:
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        yield Sql(connection)


@pytest.fixture
def folder(tmp_path: Path, empty_database_url: str, empty_sql: Sql) -> Folder:
    """Two tables and a function, not applied yet."""
    folder = Folder(tmp_path, empty_database_url, empty_sql)
    folder.put("001_a.sql", "CREATE TABLE a (x integer);")
    folder.put("002_b.sql", "CREATE TABLE b (x integer);")
    folder.put("functions/loop_f.sql", function(1))
    return folder


def function(answer: int) -> str:
    return f"CREATE OR REPLACE FUNCTION loop_f() RETURNS integer LANGUAGE sql AS 'SELECT {answer}';"


class TestApply:
    def test_plan_apply_and_verify_agree(self, folder: Folder) -> None:
        before = folder.state()
        assert folder.plan() == dict.fromkeys(NAMES, "pending")
        assert migrations.verify(folder.url, folder.path) == [f"{name}: is pending" for name in NAMES]
        assert folder.state() == before
        assert folder.apply() == NAMES
        assert folder.plan() == dict.fromkeys(NAMES, "applied")
        assert migrations.verify(folder.url, folder.path) == []

    def test_what_is_applied_is_not_applied_again(self, folder: Folder) -> None:
        folder.apply()
        before = folder.state()
        assert folder.apply() == []
        assert folder.state() == before
        folder.put("003_c.sql", "INSERT INTO a VALUES (3)")
        assert folder.apply() == ["003_c.sql"]

    def test_function_is_applied_again_when_its_content_changes_and_only_then(self, folder: Folder) -> None:
        folder.apply()
        folder.put("functions/loop_f.sql", function(2))
        assert migrations.verify(folder.url, folder.path) == ["functions/loop_f.sql: is changed"]
        assert folder.apply() == ["functions/loop_f.sql"]
        assert folder.sql.one("SELECT loop_f() AS answer") == {"answer": 2}
        assert folder.apply() == []

    def test_failing_file_leaves_no_trace_and_those_before_it_stay(self, folder: Folder) -> None:
        folder.put("003_c.sql", "CREATE TABLE c (x integer); INSERT INTO a VALUES (1); SELECT 1 / 0;")
        folder.put("004_d.sql", "CREATE TABLE d (x integer);")
        with pytest.raises(MigrationError, match=r"^003_c\.sql: division by zero.*; nothing of it was applied$"):
            folder.apply()
        assert folder.sql("SELECT * FROM a") == []
        assert folder.sql.one("SELECT to_regclass('c') AS c, to_regclass('d') AS d") == {"c": None, "d": None}
        assert list(folder.plan().values()) == ["applied", "applied", "pending", "pending", "pending"]
        folder.put("003_c.sql", "CREATE TABLE c (x integer);")
        assert folder.apply() == ["003_c.sql", "004_d.sql", "functions/loop_f.sql"]

    def test_connection_that_is_lost_in_a_file_fails_it_by_name(self, folder: Folder) -> None:
        folder.put("003_c.sql", "CREATE TABLE c (); SELECT pg_terminate_backend(pg_backend_pid());")
        with pytest.raises(MigrationError, match=r"^003_c\.sql: "):
            folder.apply()
        assert folder.plan()["003_c.sql"] == "pending"

    def test_database_out_of_reach_is_said(self, folder: Folder) -> None:
        folder.url = "postgresql://postgres@127.0.0.1:1/nowhere"
        with pytest.raises(MigrationError, match="cannot be reached"):
            folder.apply()
        assert "cannot be reached" in migrations.verify(folder.url, folder.path)[0]

    def test_who_may_not_make_tables_is_told_what_gives_the_right(self, folder: Folder, app_role: str) -> None:
        parts = urlsplit(folder.url)
        folder.url = parts._replace(netloc=f"loop_app:{app_role}@{parts.hostname}:{parts.port}").geturl()
        with pytest.raises(MigrationError, match=r"permission denied for schema public: bootstrap\.sql gives"):
            folder.apply()


UNFIT = ["002_b", "005_leaves_a_gap", "003_twin", "000_older_than_the_newest_applied"]
ODD_NAMES = [
    *("3_c", "0003_c", "003-c", "003_C", "003_c d", "003", "notes", "functions/Loop_g", "functions/003_c"),
    "٠٠٤_c",
]
IN_A_TRANSACTION = [
    *("COMMIT;", "commit ;", "COMMIT WORK;", "COMMIT AND CHAIN;", "BEGIN;", "BEGIN TRANSACTION;", "START TRANSACTION;"),
    *("ROLLBACK;", "END;", "ABORT;", "SELECT 1; COMMIT;", "/* so far */ COMMIT;", "COMMIT"),
]


class TestRefusal:
    """Nothing is changed, neither by the file that does not fit nor by the one that is pending beside it."""

    @pytest.fixture
    def refused(self, folder: Folder) -> Refused:
        folder.apply()
        folder.put("003_pending.sql", "CREATE TABLE pending (x integer);")
        before = folder.state()

        def check(name: str) -> None:
            for act in (folder.apply, folder.plan):
                with pytest.raises(MigrationError) as refusal:
                    act()
                assert refusal.value.message.startswith(f"{name}: ")
                assert migrations.verify(folder.url, folder.path) == [refusal.value.message]
            assert folder.state() == before

        return check

    @pytest.mark.parametrize("name", [*UNFIT, *ODD_NAMES])
    def test_file_that_does_not_fit_is_named(self, folder: Folder, refused: Refused, name: str) -> None:
        folder.put(f"{name}.sql", "CREATE TABLE refused (x integer);")
        refused(f"{name}.sql")

    def test_applied_file_that_the_folder_lacks_is_named(self, folder: Folder, refused: Refused) -> None:
        (folder.path / "001_a.sql").unlink()
        refused("001_a.sql")

    def test_applied_file_that_was_renamed_is_named(self, folder: Folder, refused: Refused) -> None:
        (folder.path / "002_b.sql").rename(folder.path / "002_x.sql")
        refused("002_b.sql")

    def test_file_that_is_not_utf8_is_named(self, folder: Folder, refused: Refused) -> None:
        folder.put("004_d.sql", b"SELECT 'caf\xe9'")
        refused("004_d.sql")

    @pytest.mark.parametrize("statement", IN_A_TRANSACTION)
    def test_transaction_control_is_named(self, folder: Folder, refused: Refused, statement: str) -> None:
        folder.put("004_d.sql", f"CREATE TABLE d (x integer);\n{statement}\n")
        refused("004_d.sql")

    def test_block_and_words_about_transactions_are_not_refused(self, folder: Folder) -> None:
        folder.put("003_c.sql", "-- COMMIT; follows\nDO $$\nBEGIN\n  PERFORM 'a; COMMIT;';\nEND;\n$$;\n")
        assert "003_c.sql" in folder.apply()

    def test_folder_without_migrations_is_named(self, folder: Folder) -> None:
        with pytest.raises(MigrationError, match=f"no migrations in {folder.path / 'none'}"):
            migrations.apply(folder.url, folder.path / "none")


class TestOutsideATransaction:
    def test_index_is_built_concurrently(self, folder: Folder) -> None:
        folder.put("003_c.sql", f"{NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY by_x ON a (x);\n")
        assert "003_c.sql" in folder.apply()
        assert folder.sql.one(VALID)["valid"]
        assert folder.apply() == []

    def test_index_that_waits_for_a_writer_is_valid_once_it_is_recorded(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.apply()
        folder.put("003_c.sql", f"{NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY IF NOT EXISTS by_x ON a (x);")
        monkeypatch.setattr(migrations, "DDL_LOCK_TIMEOUT", "100ms")
        with ThreadPoolExecutor(1) as pool, folder.sql.connection.transaction():
            folder.sql("INSERT INTO a VALUES (1)")
            applying = pool.submit(folder.apply)
            wait([applying], timeout=1)
        with suppress(MigrationError):
            applying.result(30)
        folder.apply()
        assert folder.sql.one(VALID)["valid"]

    def test_index_that_fails_is_not_left_invalid(self, folder: Folder) -> None:
        folder.apply()
        folder.sql("INSERT INTO a VALUES (1), (1)")
        folder.put("003_c.sql", f"{NO_TRANSACTION}\nCREATE UNIQUE INDEX CONCURRENTLY by_x ON a (x);")
        before = folder.state()
        with pytest.raises(MigrationError, match=r"^003_c\.sql: could not create unique index"):
            folder.apply()
        assert folder.state() == before
        folder.sql("DELETE FROM a")
        assert folder.apply() == ["003_c.sql"]

    def test_index_that_a_lost_builder_left_invalid_is_built_anew(self, folder: Folder) -> None:
        folder.apply()
        folder.sql("INSERT INTO a VALUES (1), (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            folder.sql("CREATE UNIQUE INDEX CONCURRENTLY by_x ON a (x)")
        assert not folder.sql.one(VALID)["valid"]
        folder.put("003_c.sql", f"{NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY IF NOT EXISTS by_x ON a (x);")
        assert folder.apply() == ["003_c.sql"]
        assert folder.sql.one(VALID)["valid"]


class TestSimultaneousCalls:
    @pytest.mark.parametrize(
        "last", ["INSERT INTO a VALUES (1)", f"{NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY i ON a (x)"]
    )
    def test_each_file_is_applied_once(self, folder: Folder, last: str) -> None:
        folder.put("003_slow.sql", "SELECT pg_sleep(0.3)")
        folder.put("004_last.sql", last)
        barrier = Barrier(3)

        def apply(_: int) -> list[str]:
            barrier.wait(30)
            return folder.apply()

        with ThreadPoolExecutor(3) as pool:
            applied = list(pool.map(apply, range(3)))
        assert sorted(applied) == [[], [], list(folder.plan())]
        assert migrations.verify(folder.url, folder.path) == []

    def test_lock_that_somebody_holds_is_waited_for_and_then_an_error(self, folder: Folder) -> None:
        folder.sql("SELECT pg_advisory_lock(%s)", LOCK_KEY)
        before = folder.state()
        with pytest.raises(MigrationError, match=f"advisory lock {LOCK_KEY}"):
            folder.apply(lock_timeout_seconds=0.1)
        assert folder.state() == before
        folder.sql("SELECT pg_advisory_unlock(%s)", LOCK_KEY)
        assert len(folder.apply(lock_timeout_seconds=0.1)) == 3


def test_083_that_was_applied_by_hand_is_repeated_and_its_rows_brought_to_the_rules(
    empty_database_url: str, empty_sql: Sql
) -> None:
    empty_sql.connection.execute((MIGRATIONS / "083_loop_runs_persistence.sql").read_bytes())
    empty_sql(
        "INSERT INTO loop_runs (issue_id, actor, request_id, status, started_at, completed_at, metadata) "
        "SELECT 'AFU9-' || n, 'ann', 'r', s, now(), CASE WHEN s = 'blocked' THEN now() END, '{\"a\": 1}' FROM unnest("
        "ARRAY['pending', 'running', 'running', 'completed', 'failed', 'blocked']) WITH ORDINALITY AS t(s, n)"
    )
    empty_sql("UPDATE loop_runs SET issue_id = 'AFU9-2' WHERE issue_id = 'AFU9-3'")
    empty_sql(
        "INSERT INTO loop_run_steps (run_id, step_number, step_type, status) "
        "SELECT id, row_number() OVER (PARTITION BY id), 'S', s FROM loop_runs, "
        "unnest(ARRAY['pending', 'running', 'completed', 'failed', 'skipped']) AS s"
    )
    seed = "id, issue_id, actor, request_id, mode, created_at, started_at, metadata"
    before = empty_sql(f"SELECT {seed} FROM loop_runs ORDER BY id")
    assert len(migrations.apply(empty_database_url, MIGRATIONS)) == len(migrations.read_folder(MIGRATIONS))
    assert empty_sql(f"SELECT {seed} FROM loop_runs ORDER BY id") == before
    runs = empty_sql("SELECT status, error_code, completed_at IS NOT NULL AS ended FROM loop_runs ORDER BY issue_id")
    lost, kept = ("failed", "LEASE_EXPIRED", True), [(s, None, True) for s in ("completed", "failed", "blocked")]
    assert [tuple(run.values()) for run in runs] == [lost, lost, lost, *kept]
    steps = empty_sql("SELECT status, count(*), count(completed_at) AS ended FROM loop_run_steps GROUP BY 1 ORDER BY 1")
    counts = [("completed", 6, 6), ("failed", 18, 18), ("skipped", 6, 6)]
    assert [tuple(step.values()) for step in steps] == counts
    assert_sound(empty_database_url)


class TestCatalog:
    """What the seed says of its two tables. Which values they refuse: test_database."""

    @pytest.mark.parametrize("table", SEED_COLUMNS)
    def test_table_has_the_seeds_columns(self, sql: Sql, table: str) -> None:
        columns = sql(
            "SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
            f"WHERE attrelid = '{table}'::regclass AND attnum > 0"
        )
        assert {f"{c['attname']} {c['typname']}" for c in columns} >= set(SEED_COLUMNS[table].split(", "))

    def test_four_columns_of_runs_are_indexed(self, sql: Sql) -> None:
        indexed = sql("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'loop_runs'")
        columns = {row["indexname"]: row["indexdef"].partition("USING btree (")[2] for row in indexed}
        for name, first in {
            "idx_loop_runs_issue_id": "issue_id",
            "idx_loop_runs_status": "status",
            "idx_loop_runs_request_id": "request_id",
            "idx_loop_runs_created_at": "created_at DESC",
        }.items():
            assert columns[name].rstrip(")").split(", ")[0] == first

    def test_steps_go_with_their_run(self, sql: Sql) -> None:
        keys = sql("SELECT pg_get_constraintdef(oid) AS is FROM pg_constraint WHERE contype = 'f'")
        assert {"is": "FOREIGN KEY (run_id) REFERENCES loop_runs(id) ON DELETE CASCADE"} in keys

    def test_every_table_and_column_has_a_comment(self, sql: Sql) -> None:
        silent = sql(
            "SELECT relname, attname FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND attnum > 0 "
            "AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, attnum) IS NULL)"
        )
        assert silent == []

    def test_schema_says_the_newest_file_and_the_code_asks_for_it(self, sql: Sql) -> None:
        newest = max(file.number or 0 for file in migrations.read_folder(MIGRATIONS))
        assert sql.one("SELECT loop_schema() ->> 'version' AS is")["is"] == str(newest) == str(REQUIRED_SCHEMA)


class TestMigrateFunction:
    @pytest.fixture
    def invoke(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Invoke:
        monkeypatch.setenv("DATABASE_URL", folder.url)
        monkeypatch.setenv("MIGRATIONS_DIR", str(folder.path))
        return lambda **event: migrate.handler(event, Context())  # type: ignore[arg-type]

    def test_actions_answer_what_they_found_and_did(self, invoke: Invoke) -> None:
        said = {"schemaVersion": "loop.migrate.v1"}
        assert invoke(action="plan") == said | {"action": "plan", "files": dict.fromkeys(NAMES, "pending")}
        problems = [f"{name}: is pending" for name in NAMES]
        assert invoke(action="verify") == said | {"action": "verify", "ok": False, "problems": problems}
        assert invoke(action="apply") == said | {"action": "apply", "applied": NAMES}
        assert invoke(action="apply") == said | {"action": "apply", "applied": []}
        assert invoke(action="verify") == said | {"action": "verify", "ok": True, "problems": []}

    @pytest.mark.parametrize("event", [{}, {"action": "drop"}, {"action": None}, {"Action": "apply"}])
    def test_unknown_action_fails_and_says_the_known_ones(
        self, invoke: Invoke, folder: Folder, event: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidRequestError, match=r'"plan".*"apply".*"verify".*"audit"'):
            invoke(**event)
        assert folder.plan()["001_a.sql"] == "pending"

    def test_failing_migration_fails_the_invocation(self, invoke: Invoke, folder: Folder) -> None:
        folder.put("003_c.sql", "SELECT 1 / 0")
        with pytest.raises(MigrationError, match=r"^003_c\.sql: division by zero"):
            invoke(action="apply")
