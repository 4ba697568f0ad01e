"""Fixtures: a real PostgreSQL, a database of its own for each test, and the functions called as API Gateway calls them.

The server is TEST_DATABASE_URL (a superuser's), else one from the wheel, started for the session.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row

from loop_runner import migrations
from loop_runner.audit import audit
from loop_runner.database import Database
from loop_runner.http import Api
from loop_runner.observability import logger
from loop_runner.services import Services
from loop_runner.settings import Settings
from tools.local.roles import app_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fake_steps import Steps

ROOT = Path(__file__).parent.parent
MIGRATIONS = ROOT / "migrations"
LOOPS = ROOT / "loops"
ACTOR = "ann"

Lines = list[dict[str, Any]]
"""What functions write, each line read as JSON."""

hypothesis_settings.register_profile("default", deadline=None, derandomize=True)
hypothesis_settings.load_profile("default")


def pytest_report_header() -> str:
    """What the figures of this session stand for."""
    url = os.environ.get("TEST_DATABASE_URL")
    if not url:
        return "PostgreSQL: 18, from the wheel"
    with psycopg.connect(url) as connection:
        return f"PostgreSQL: {connection.info.parameter_status('server_version')}, of TEST_DATABASE_URL"


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Counts something that the session's end prints the sum of: ``count("crash points", 12)``."""

    def count(name: str, number: int) -> None:
        request.node.user_properties.append(("count", [name, number]))  # reaches the end from every process of xdist

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was counted."""
    sums: dict[str, int] = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", None) == "teardown":  # the last one of a test: it has all that was counted
            for key, value in report.user_properties:
                if key == "count":
                    sums[value[0]] = sums.get(value[0], 0) + value[1]
    if sums:
        terminalreporter.section("counts")
        for name, number in sorted(sums.items()):
            terminalreporter.line(f"{name}: {number}")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A superuser's URL of a PostgreSQL server that tests may fill."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    from tools.local.postgres import Server

    with Server() as server:
        yield server.url


def create_database(server_url: str, template: str = "template1") -> str:
    """A new database on the server, as a URL."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return with_database(server_url, name)


def drop_database(server_url: str, url: str) -> None:
    name = conninfo_to_dict(url)["dbname"]
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def with_database(server_url: str, name: str) -> str:
    parts = conninfo_to_dict(server_url)
    user, password, host, port = (parts.get(key, "") for key in ("user", "password", "host", "port"))
    return f"postgresql://{user}:{password}@{host}:{port or 5432}/{name}"


@pytest.fixture(scope="session")
def migrated_template(server_url: str, app_role: str) -> Iterator[str]:
    """The name of a database with all migrations applied, to clone."""
    url = create_database(server_url)
    migrations.apply(url, MIGRATIONS)
    yield str(conninfo_to_dict(url)["dbname"])
    drop_database(server_url, url)


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database without any table."""
    url = create_database(server_url)
    yield url
    drop_database(server_url, url)


@pytest.fixture
def database_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    url = create_database(server_url, migrated_template)
    yield url
    drop_database(server_url, url)


@pytest.fixture(scope="session")
def reused_database_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """A migrated database for ``emptied_database_url``."""
    url = create_database(server_url, migrated_template)
    yield url
    drop_database(server_url, url)


@pytest.fixture
def emptied_database_url(reused_database_url: str) -> str:
    """A migrated database without rows, there at once: modules of many small tests take it for their database_url."""
    with psycopg.connect(reused_database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE loop_events, loop_run_steps, loop_runs, loop_issues RESTART IDENTITY")
    return reused_database_url


@pytest.fixture
def sql(database_url: str) -> Iterator[Sql]:
    """Direct access to the test's database, beside the code under test."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield Sql(connection)


@dataclass
class Sql:
    connection: psycopg.Connection[DictRow]

    def __call__(self, statement: str, *parameters: Any) -> list[DictRow]:
        cursor = self.connection.execute(statement, parameters or None)  # without any, % is no placeholder
        return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *parameters: Any) -> DictRow:
        (row,) = self(statement, *parameters)
        return row


@pytest.fixture(scope="session")
def app_role(server_url: str) -> str:
    """A password of role loop_app, as which the functions connect; the role belongs to the server."""
    return str(conninfo_to_dict(app_url(server_url))["password"])


def assert_sound(url: str) -> None:
    """The ledger in this database keeps every rule: the migrate function's audit finds nothing."""
    assert {finding["rule"]: finding["ids"] for finding in audit(url) if finding["violations"]} == {}


@pytest.fixture
def sound(database_url: str) -> Iterator[None]:
    """Whatever the test did, its database's ledger is sound afterwards."""
    yield
    assert_sound(database_url)


@pytest.fixture
def app_database_url(database_url: str, app_role: str) -> str:
    """The test's database, for the functions: as role loop_app."""
    parts = urlsplit(database_url)
    return parts._replace(netloc=f"loop_app:{app_role}@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
def settings(app_database_url: str) -> Settings:
    return Settings(database_url=app_database_url, loops_dir=LOOPS, migrations_dir=MIGRATIONS, trust_actor_header=True)


@pytest.fixture
def database(app_database_url: str) -> Iterator[Database]:
    with closing(Database(app_database_url)) as database:
        yield database


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    services = Services(settings)
    yield services
    services.database.close()


@dataclass
class Context:
    """What Lambda gives a handler beside the event."""

    timeout_ms: int = 29_000
    aws_request_id: str = "8f7c9f5e-0000-4000-8000-00000000c0de"
    function_name: str = "function"
    log_stream_name: str = "2026/11/24/[$LATEST]0123"
    started: float = field(default_factory=time.monotonic)

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int(self.timeout_ms - (time.monotonic() - self.started) * 1000))


@pytest.fixture
def context() -> Context:
    return Context()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        return str(self.json["error"]["code"])


def event(
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
    authorizer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An API Gateway HTTP API event, payload 2.0. ``body``: text as it is, anything else as JSON."""
    made: dict[str, Any] = {
        "version": "2.0",
        "routeKey": f"{method} {path}",
        "rawPath": path,
        "rawQueryString": "&".join(f"{key}={value}" for key, value in (query or {}).items()),
        "headers": headers or {},
        "requestContext": {"http": {"method": method, "path": path, "protocol": "HTTP/1.1"}, "stage": "$default"},
        "isBase64Encoded": False,
    }
    if query:
        made["queryStringParameters"] = query
    if body is not None:
        made["body"] = body if isinstance(body, str) else json.dumps(body)
    if authorizer is not None:
        made["requestContext"]["authorizer"] = authorizer
    return made


class Client:
    """Calls the real handlers in this process, each route's function as template.yaml has it."""

    def __init__(self, services: Services) -> None:
        from functions.loop_api import app as loop_api
        from functions.run_next_step import app as run_next_step

        self.services = services
        self.context = Context()
        self._run_next_step, self._loop_api = _on(run_next_step.api, services), _on(loop_api.api, services)

    def __call__(self, method: str, path: str, body: Any = None, actor: str | None = ACTOR, **parts: Any) -> Answer:
        headers = {**({"x-afu9-sub": actor} if actor is not None else {}), **parts.pop("headers", {})}
        return self.send(event(method, path, body, headers=headers, **parts))

    def send(self, event: dict[str, Any]) -> Answer:
        api = self._loop_api
        http = event["requestContext"]["http"]
        if event["rawPath"].endswith("/run-next-step") and http["method"] == "POST":
            api = self._run_next_step
        answer = api.handle(event, self.context)  # type: ignore[arg-type]
        return Answer(answer["statusCode"], answer["headers"], answer["body"])

    def register(self, issue_id: str = "AFU9-123", **facts: Any) -> Answer:
        return self("PUT", f"/api/loop/issues/{issue_id}", {"loop": "issue-delivery", "facts": facts})

    def run(self, issue_id: str = "AFU9-123", body: Any = None, **parts: Any) -> Answer:
        return self("POST", f"/api/loop/issues/{issue_id}/run-next-step", body, **parts)


def _on(api: Api, services: Services) -> Api:
    """The same routes on the test's services."""
    copy = Api(lambda: services)
    copy.routes = api.routes
    return copy


@pytest.fixture
def client(services: Services) -> Client:
    return Client(services)


@pytest.fixture
def steps(settings: Settings, tmp_path: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """The functions on loops whose steps are executed elsewhere; what comes of them, the test says."""
    from tests.fake_steps import Steps

    steps = Steps(settings, tmp_path, sql, monkeypatch)
    yield steps
    steps.services.database.close()


class Stdout:
    """Standard output as it is now; the logger's is what it was when the logger was made."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Lines]:
    """The lines since the last look; each is JSON."""
    monkeypatch.setattr(logger.registered_handler, "stream", Stdout())
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
