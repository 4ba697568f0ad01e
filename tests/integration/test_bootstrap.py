"""The roles of a new database, made as on Aurora: by a master user who is no superuser and whose password AWS keeps."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import boto3
import psycopg
import pytest
from moto import mock_aws
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from functions.migrate import app as migrate
from loop_runner import aws, bootstrap
from loop_runner.errors import MigrationError
from loop_runner.migrations import BOOTSTRAP
from loop_runner.services import Services
from loop_runner.settings import Settings
from tests.conftest import LOOPS, MIGRATIONS, Client, Context, Sql
from tools.local.postgres import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Lines

MASTER = "loop_master"
PASSWORD = "m@ster/p%73ss #1"  # what RDS makes has such characters
ROLES = ("loop_app", "loop_owner")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of this module's own: roles belong to the server."""
    with Server() as server:
        yield server


@pytest.fixture
def superuser(server: Server) -> Iterator[Sql]:
    """Of a server that looks as Aurora's: the master user owns the database, and may grant rds_iam."""
    with psycopg.connect(server.url, autocommit=True, row_factory=dict_row) as connection:
        sql = Sql(connection)
        sql(f"CREATE ROLE {MASTER} LOGIN CREATEROLE CREATEDB PASSWORD '{PASSWORD}'")
        sql("CREATE ROLE rds_iam")
        sql(f"GRANT rds_iam TO {MASTER} WITH ADMIN OPTION")
        sql(f"CREATE DATABASE loop OWNER {MASTER}")
        yield sql
        sql("DROP DATABASE loop WITH (FORCE)")
        for role in (*ROLES, "rds_iam", MASTER):
            sql(f"DROP ROLE IF EXISTS {role}")


def url_of(server: Server, user: str, password: str) -> str:
    return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{server.port}/loop"


@pytest.fixture
def ask_members_of_rds_iam_for_tokens(server: Server, superuser: Sql) -> Iterator[Callable[[], None]]:
    """From then on, as on RDS; the owner's password stands for its token."""
    rules = server._cluster.data / "pg_hba.conf"
    before = rules.read_text()

    def write(text: str) -> None:
        rules.write_text(text)
        superuser("SELECT pg_reload_conf()")

    yield lambda: write(f"host all loop_owner all scram-sha-256\nhost all +rds_iam all reject\n{before}")
    write(before)


@pytest.fixture
def secret_arn(superuser: Sql, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of the master user's secret, as RDS writes it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    aws.client.cache_clear()
    with mock_aws():
        content = json.dumps({"username": MASTER, "password": PASSWORD})
        yield boto3.client("secretsmanager").create_secret(Name="rds!cluster-1", SecretString=content)["ARN"]
    aws.client.cache_clear()


@pytest.fixture
def apply(server: Server, secret_arn: str, superuser: Sql, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The migrate function's apply. What IAM would let the owner in with, is a password that it gets on the way."""
    monkeypatch.setenv("DATABASE_URL", url_of(server, "loop_owner", "token"))
    monkeypatch.setenv("MASTER_SECRET_ARN", secret_arn)
    monkeypatch.setenv("MIGRATIONS_DIR", str(MIGRATIONS))

    def bootstrap_and_let_in(*arguments: object) -> None:
        bootstrap.bootstrap(*arguments)  # type: ignore[arg-type]
        for role in ROLES:
            superuser(f"ALTER ROLE {role} PASSWORD 'token'")

    monkeypatch.setattr(migrate, "bootstrap", bootstrap_and_let_in)
    return lambda: list(migrate.handler({"action": "apply"}, Context(600_000))["applied"])  # type: ignore[arg-type]


def test_new_database_gets_its_roles_its_schema_and_a_run(
    apply: Callable[[], list[str]], server: Server, superuser: Sql
) -> None:
    assert apply()[0].startswith("083_")
    assert apply() == [], "at each deployment, once more"
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    with psycopg.connect(server.url_of("loop")) as connection:
        assert connection.execute(owners).fetchall() == [("loop_owner",)]
    services = Services(Settings(url_of(server, "loop_app", "token"), LOOPS, MIGRATIONS, trust_actor_header=True))
    with closing(services.database):
        client = Client(services)
        assert client.register(githubUrl="u").status == 201
        assert client.run().json["stepExecuted"]["status"] == "completed"


def test_master_user_who_is_kept_out_once_there_are_roles_of_iam_keeps_no_deployment_from_going_on(
    apply: Callable[[], list[str]],
    superuser: Sql,
    written: Callable[[], Lines],
    ask_members_of_rds_iam_for_tokens: Callable[[], None],
) -> None:
    """Since PostgreSQL 16 whoever makes a role administers it, and is a member of what it is a member of."""
    apply()
    ask_members_of_rds_iam_for_tokens()
    written()
    assert apply() == []
    (told,) = (line["reason"] for line in written() if line["level"] == "WARNING")
    assert f'user "{MASTER}"' in told
    superuser("ALTER ROLE loop_owner NOLOGIN")
    with pytest.raises(MigrationError, match=f'bootstrap.sql: .*user "{MASTER}"'):
        apply()


def test_roles_sign_in_with_iam_have_timeouts_and_no_power(apply: Callable[[], list[str]], superuser: Sql) -> None:
    apply()
    roles = superuser(
        "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin,"
        " pg_has_role(oid, 'rds_iam', 'MEMBER') AS iam FROM pg_roles WHERE rolname = ANY(%s) ORDER BY rolname",
        list(ROLES),
    )
    assert roles == [
        {"rolname": name, "rolsuper": False, "rolcreaterole": False, "rolcreatedb": False, "rolcanlogin": True,
         "iam": True}
        for name in ROLES
    ]  # fmt: skip
    (settings,) = superuser("SELECT rolconfig FROM pg_roles WHERE rolname = 'loop_app'")
    assert settings["rolconfig"] == [
        "lock_timeout=5s", "statement_timeout=8s", "idle_in_transaction_session_timeout=10s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE t ()", "DROP TABLE loop_runs", "DELETE FROM loop_runs", "TRUNCATE loop_events", "CREATE SCHEMA s"],
)
def test_role_of_the_functions_changes_no_definition_and_deletes_nothing(
    apply: Callable[[], list[str]], server: Server, statement: str
) -> None:
    apply()
    with psycopg.connect(url_of(server, "loop_app", "token")) as connection, pytest.raises(pg.InsufficientPrivilege):
        connection.execute(statement)


def test_master_user_that_comes_after_the_migrations_leaves_the_rights_to_their_owner(
    apply: Callable[[], list[str]], server: Server
) -> None:
    apply()
    rights = "SELECT relname, relacl::text FROM pg_class WHERE relname LIKE 'loop%' ORDER BY relname"
    with psycopg.connect(server.url_of("loop"), autocommit=True) as connection:
        before = connection.execute(rights).fetchall()
        with psycopg.connect(url_of(server, MASTER, PASSWORD), autocommit=True) as master:
            master.execute((MIGRATIONS / BOOTSTRAP).read_bytes())
        assert connection.execute(rights).fetchall() == before


def test_owner_of_the_tables_who_comes_after_the_migrations_gives_the_rights(database_url: str, sql: Sql) -> None:
    sql("REVOKE ALL ON loop_runs FROM loop_app")
    sql((MIGRATIONS / BOOTSTRAP).read_text())
    assert sql.one("SELECT has_table_privilege('loop_app', 'loop_runs', 'INSERT') AS may")["may"]


def test_secret_that_cannot_be_read_is_told_with_what_to_do(
    apply: Callable[[], list[str]], secret_arn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_SECRET_ARN", f"{secret_arn}-gone")
    with pytest.raises(MigrationError, match=r"ResourceNotFoundException.*SecretsManagerEndpoint"):
        apply()


def test_master_users_password_is_told_nobody(
    apply: Callable[[], list[str]], superuser: Sql, written: Callable[[], Lines]
) -> None:
    superuser(f"ALTER ROLE {MASTER} PASSWORD 'rotated'")
    with pytest.raises(MigrationError, match=f'bootstrap.sql: .*authentication failed for user "{MASTER}"') as failed:
        apply()
    told = f"{failed.value.message} {json.dumps(written())}"
    assert PASSWORD not in told
    assert quote(PASSWORD, safe="") not in told


def test_refusal_of_the_server_is_told(
    apply: Callable[[], list[str]], superuser: Sql, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser(f"ALTER ROLE {MASTER} NOCREATEROLE")
    with pytest.raises(MigrationError, match=r"bootstrap\.sql: permission denied to create role"):
        apply()


def test_host_port_and_database_are_those_of_the_functions_url(secret_arn: str) -> None:
    url = "postgresql://loop_owner@db.example/loop?sslmode=verify-full&sslrootcert=/opt/certs/rds.pem"
    made = conninfo_to_dict(bootstrap._as_user_of(secret_arn, url))
    assert made == {**conninfo_to_dict(url), "user": MASTER, "password": PASSWORD, "port": "5432"}
    assert urlsplit(url).port is None
