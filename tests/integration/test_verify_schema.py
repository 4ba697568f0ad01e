"""``make verify`` on schemas: what is not as the migrations say is found, shown, and helped by the remedy it names."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from loop_runner import migrations
from tests.conftest import MIGRATIONS, ROOT
from tools.verify.catalog import KINDS
from tools.verify.report import Report
from tools.verify.schema import check_schema

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Sql

DO = re.compile(r"^ +do +(.*)$", re.MULTILINE)
DURATION = "loop_duration_ms(started timestamp with time zone, completed timestamp with time zone)"


def check(url: str, folder: Path = MIGRATIONS) -> Report:
    report = Report()
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        check_schema(report, connection, url, folder)
    return report


@dataclass(frozen=True)
class Broken:
    """What breaks a part of the schema."""

    kind: str
    name: str
    statement: str

    def __str__(self) -> str:
        return self.statement


BROKEN = [
    Broken("indexes", "loop_runs.idx_loop_runs_status", "DROP INDEX idx_loop_runs_status"),
    Broken(
        "indexes",
        "loop_runs.uq_loop_runs_live",
        "DROP INDEX uq_loop_runs_live; CREATE INDEX uq_loop_runs_live ON loop_runs (id)",
    ),
    Broken("indexes", "loop_events.mine", "CREATE INDEX mine ON loop_events (run_id)"),
    Broken(
        "checks",
        "loop_runs.chk_loop_runs",
        "ALTER TABLE loop_runs DROP CONSTRAINT chk_loop_runs",
    ),
    Broken(
        "checks",
        "loop_events.chk_loop_events",
        "ALTER TABLE loop_events DROP CONSTRAINT chk_loop_events,"
        " ADD CONSTRAINT chk_loop_events CHECK (loop_is_event(event_type, '{}')) NOT VALID",
    ),
    Broken(
        "checks",
        "loop_events.chk_loop_events",
        "ALTER TABLE loop_events DROP CONSTRAINT chk_loop_events,"
        " ADD CONSTRAINT chk_loop_events CHECK (loop_is_event(event_type, event_data))",
    ),
    Broken("checks", "loop_issues.mine", "ALTER TABLE loop_issues ADD CONSTRAINT mine CHECK (version < 7)"),
    Broken(
        "keys",
        "loop_run_steps.uq_loop_run_steps_run_step",
        "ALTER TABLE loop_run_steps DROP CONSTRAINT uq_loop_run_steps_run_step",
    ),
    Broken(
        "keys",
        "loop_run_steps.loop_run_steps_run_id_fkey",
        "ALTER TABLE loop_run_steps DROP CONSTRAINT loop_run_steps_run_id_fkey,"
        " ADD CONSTRAINT loop_run_steps_run_id_fkey FOREIGN KEY (run_id) REFERENCES loop_runs (id)",
    ),
    Broken("keys", "loop_issues.loop_issues_pkey", "ALTER TABLE loop_issues DROP CONSTRAINT loop_issues_pkey"),
    Broken("triggers", "loop_runs.loop_runs_lifecycle", "DROP TRIGGER loop_runs_lifecycle ON loop_runs"),
    Broken("triggers", "loop_runs.loop_runs_lifecycle", "ALTER TABLE loop_runs DISABLE TRIGGER loop_runs_lifecycle"),
    Broken(
        "triggers",
        "loop_events.mine",
        "CREATE TRIGGER mine BEFORE UPDATE ON loop_events EXECUTE FUNCTION loop_refuse_transition()",
    ),
    Broken("columns", "loop_runs.message", "ALTER TABLE loop_runs DROP COLUMN message"),
    Broken("columns", "loop_issues.mine", "ALTER TABLE loop_issues ADD COLUMN mine text"),
    Broken("tables", "loop_events", "ALTER TABLE loop_events SET UNLOGGED"),
    Broken(
        "functions",
        DURATION,
        "CREATE OR REPLACE FUNCTION loop_duration_ms(started timestamptz, completed timestamptz) RETURNS bigint"
        " LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 1::bigint'",
    ),
    Broken("functions", "loop_finish(request jsonb)", "ALTER FUNCTION loop_finish(jsonb) SECURITY DEFINER"),
    Broken("functions", "loop_claim(request jsonb)", "DROP FUNCTION loop_claim"),
]


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_what_is_not_as_the_migrations_say_is_named_and_its_remedy_helps(
    database_url: str, sql: Sql, capsys: pytest.CaptureFixture[str], broken: Broken
) -> None:
    sql(broken.statement)
    report = check(database_url)
    shown = capsys.readouterr().out
    assert report.failed == [broken.kind]
    assert f"✗ {broken.kind} " in shown
    assert f"       {broken.name}\n" in shown
    (remedy,) = DO.findall(shown)
    if file := re.fullmatch(r"make sql < (migrations/functions/\w+\.sql)", remedy):
        sql((ROOT / file[1]).read_text())
    else:
        for statement in remedy.removesuffix("; or keep it: say so in a migration").split("; "):
            sql(statement)
    assert check(database_url).failed == []


SHOWN = {
    "ALTER TABLE loop_runs ALTER sends TYPE bigint": (
        *("columns", "integer NOT NULL DEFAULT 0", "bigint NOT NULL DEFAULT 0"),
    ),
    "ALTER TABLE loop_runs ALTER actor DROP NOT NULL": ("columns", "text NOT NULL", "text"),
    "ALTER TABLE loop_runs ALTER sends SET DEFAULT 2": (
        *("columns", "integer NOT NULL DEFAULT 0", "integer NOT NULL DEFAULT 2"),
    ),
    'ALTER TABLE loop_runs ALTER actor TYPE text COLLATE "C"': (
        *("columns", "text NOT NULL", 'text COLLATE "C" NOT NULL'),
    ),
    "ALTER TABLE loop_events ALTER event_id SET GENERATED BY DEFAULT": (
        *("columns", "bigint NOT NULL GENERATED ALWAYS AS IDENTITY", "bigint NOT NULL GENERATED AS IDENTITY"),
    ),
    "DROP TABLE loop_events": ("tables", "table", "none"),
    "ALTER FUNCTION loop_refuse_transition() STRICT": ("functions", "line 4: AS $function$", "line 4: STRICT"),
}


@pytest.mark.parametrize("statement", SHOWN)
def test_expected_and_found_are_shown_and_what_goes_with_it_is_not_told_again(
    database_url: str, sql: Sql, capsys: pytest.CaptureFixture[str], statement: str
) -> None:
    kind, expected, found = SHOWN[statement]
    sql(statement)
    assert check(database_url).failed == [kind]
    assert f"expected {expected} found {found} do " in " ".join(capsys.readouterr().out.split())


def test_many_differences_are_counted_and_the_first_are_shown(
    database_url: str, sql: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    for column in "abcdefg":
        sql(f"ALTER TABLE loop_issues ADD COLUMN {column} text")
    check(database_url)
    shown = capsys.readouterr().out
    assert re.search(r"✗ columns +7 of \d+ not as", shown)
    assert len(DO.findall(shown)) == 5
    assert "and 2 more\n" in shown


def test_what_others_keep_in_the_schema_is_their_own_affair(database_url: str, sql: Sql) -> None:
    sql("CREATE TABLE mine (id integer PRIMARY KEY, x text CHECK (x > ''))")
    sql("CREATE INDEX ON mine (x)")
    sql("CREATE FUNCTION loop_mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    assert check(database_url).failed == []


def test_database_behind_the_checkout_is_told_to_apply_first(
    database_url: str, sql: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    sql("DELETE FROM schema_migrations WHERE file_name = 'functions/loop_claim.sql'")
    sql("DROP FUNCTION loop_claim")
    assert check(database_url).failed == ["migrations", "functions"]
    shown = capsys.readouterr().out
    assert "found    functions/loop_claim.sql: is pending" in shown
    apply, first = DO.findall(shown)
    assert '{"action":"apply"}' in apply
    assert first == "see migrations above, first"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(MIGRATIONS, tmp_path / "migrations")
    return tmp_path / "migrations"


def add(folder: Path, sql: str) -> None:
    """A migration after the newest."""
    newest = max(int(path.name[:3]) for path in folder.glob("[0-9]*.sql"))
    (folder / f"{newest + 1:03}_more.sql").write_text(sql)


GRANTS = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
        CREATE ROLE {role};
    END IF;
    EXECUTE format(
        'CREATE FUNCTION loop_here() RETURNS bigint LANGUAGE sql SECURITY DEFINER
         SET search_path = %1$I, pg_temp AS ''SELECT count(*) FROM %1$I.loop_runs''', current_schema()
    );
END
$$;
CREATE FUNCTION loop_guarded() RETURNS bigint LANGUAGE sql SECURITY DEFINER
    SET search_path = public, pg_temp AS 'SELECT count(*) FROM loop_runs';
REVOKE EXECUTE ON FUNCTION loop_guarded() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loop_guarded() TO {role};
GRANT SELECT ON loop_runs TO {role};
"""


def test_grants_fixed_search_paths_and_concurrent_indexes_do_not_disturb(empty_database_url: str, folder: Path) -> None:
    role = f"app_{uuid4().hex}"
    add(folder, GRANTS.format(role=role))
    add(folder, f"{migrations.NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY IF NOT EXISTS late ON loop_events (run_id);\n")
    migrations.apply(empty_database_url, folder)
    assert check(empty_database_url, folder).failed == []
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("DROP INDEX late")
        assert check(empty_database_url, folder).failed == ["indexes"]
        connection.execute("ALTER FUNCTION loop_guarded() RESET search_path")
        assert check(empty_database_url, folder).failed == ["indexes", "functions"]
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize("schema", ["public", '"Own schema"'])
def test_owner_who_is_no_superuser_can_verify(empty_database_url: str, schema: str) -> None:
    role, parts = f"owner_{uuid4().hex}", conninfo_to_dict(empty_database_url)
    database = parts["dbname"]
    url = f"postgresql://{role}:secret@{parts['host']}:{parts['port']}/{database}"
    with psycopg.connect(empty_database_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'".encode())
        superuser.execute(f'ALTER DATABASE "{database}" OWNER TO {role}'.encode())
        superuser.execute(f"ALTER ROLE {role} SET search_path = {schema}".encode())
        superuser.execute(f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role}".encode())
        migrations.apply(url, MIGRATIONS)
        assert check(url).failed == []
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("DROP INDEX idx_loop_runs_status")
        assert check(url).failed == ["indexes"]
        superuser.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_role_that_may_not_make_a_schema_is_told_to_be_the_owner(
    database_url: str, sql: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    role, parts = f"app_{uuid4().hex}", conninfo_to_dict(database_url)
    sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    report = check(f"postgresql://{role}:secret@{parts['host']}:{parts['port']}/{parts['dbname']}")
    sql(f"DROP OWNED BY {role}")
    sql(f"DROP ROLE {role}")
    assert (report.failed, report.skipped) == (["replay"], list(KINDS))
    shown = capsys.readouterr().out
    assert "permission denied" in shown
    assert "the schema's owner" in shown


def test_verifying_the_schema_changes_nothing(database_url: str, sql: Sql) -> None:
    def catalog() -> list[Any]:
        return [sql(f"SELECT xmin, oid FROM {name} ORDER BY oid") for name in ("pg_namespace", "pg_class", "pg_proc")]

    before = catalog()
    assert check(database_url).failed == []
    assert catalog() == before


def test_migration_that_does_not_apply_is_named_and_nothing_is_compared(
    database_url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(folder, "CREATE TABLE loop_runs (x integer);")
    report = check(database_url, folder)
    assert (report.failed, report.skipped) == (["migrations", "replay"], list(KINDS))
    assert re.search(r'found    \d+_more\.sql: relation "loop_runs" already exists', capsys.readouterr().out)
