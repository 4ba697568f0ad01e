"""Migrations on deployment: what CloudFormation asks the migrate function, and what it is answered, by way of S3."""

from __future__ import annotations

import json
import shutil
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.rows import dict_row

from functions.migrate import app as migrate
from loop_runner import custom_resource, migrations
from loop_runner.errors import InvalidRequestError, LoopError
from tests.conftest import MIGRATIONS, Context, Sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Lines

STACK = "arn:aws:cloudformation:eu-central-1:123456789012:stack/loop-runner/51af3dc0"
NEXT = "999_next.sql"


class Bucket:
    """An S3 of this machine: what was put, and what it does with the next ones instead of taking them."""

    def __init__(self) -> None:
        self.puts: list[dict[str, Any]] = []
        self.will: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.tries = 0
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                bucket.tries += 1
                if bucket.will:
                    bucket.will.pop(0)(self)
                    return
                assert self.headers["content-type"] == "", "the signature of the URL is for none"
                assert self.path == "/answer?X-Amz-Signature=0"
                assert len(body) <= 4096, "CloudFormation takes no more"
                bucket.puts.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/answer?X-Amz-Signature=0"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    bucket.close()


class Release:
    """A release of the migrate function, with migrations of its own, on the test's database."""

    def __init__(self, folder: Path, url: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(MIGRATIONS, folder)
        self.folder, self._bucket, self._patch = folder, bucket, monkeypatch
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("MIGRATIONS_DIR", str(folder))

    def send(self, request: str, *, timeout_ms: int = 120_000, **parts: Any) -> dict[str, Any]:
        """What CloudFormation is answered."""
        event = {
            "RequestType": request,
            "ResponseURL": self._bucket.url,
            "StackId": STACK,
            "RequestId": f"{request}-1",
            "LogicalResourceId": "Migrations",
            "ResourceType": "Custom::Migrations",
            "ResourceProperties": {"ServiceToken": "arn", "Release": "layer:2"},
            **parts,
        }
        before = len(self._bucket.puts)
        returned = migrate.handler(event, Context(timeout_ms))  # type: ignore[arg-type]
        (answer,) = self._bucket.puts[before:]
        assert returned == answer
        assert {name: answer[name] for name in ("StackId", "RequestId", "LogicalResourceId")} == {
            name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")
        }
        assert answer["PhysicalResourceId"] == parts.get("PhysicalResourceId", "loop-runner-migrations")
        return answer


@pytest.fixture
def release(tmp_path: Path, empty_database_url: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Release:
    return Release(tmp_path / "migrations", empty_database_url, bucket, monkeypatch)


@pytest.fixture
def empty_sql(empty_database_url: str) -> Iterator[Sql]:
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        yield Sql(connection)


def applied(sql: Sql) -> list[str]:
    return [row["file_name"] for row in sql("SELECT file_name FROM schema_migrations ORDER BY file_name")]


def test_creation_applies_every_migration(release: Release, empty_sql: Sql, empty_database_url: str) -> None:
    answer = release.send("Create")
    assert answer["Status"] == "SUCCESS", answer
    assert migrations.verify(empty_database_url, release.folder) == []
    assert release.send("Create")["Status"] == "SUCCESS", "Lambda may bring a request twice"


def test_update_applies_what_the_new_release_adds(release: Release, empty_sql: Sql) -> None:
    release.send("Create")
    newest = sorted(path.name for path in release.folder.glob("[0-9]*.sql"))[-1]
    added = f"{int(newest[:3]) + 1:03}_added.sql"
    (release.folder / added).write_text("CREATE TABLE added (x integer);")
    answer = release.send("Update", PhysicalResourceId="given-before")
    assert answer["Status"] == "SUCCESS", answer
    assert added in applied(empty_sql)


def test_failing_migration_fails_the_deployment_with_its_reason_and_leaves_no_trace(
    release: Release, empty_sql: Sql
) -> None:
    release.send("Create")
    before = applied(empty_sql)
    newest = sorted(path.name for path in release.folder.glob("[0-9]*.sql"))[-1]
    failing = f"{int(newest[:3]) + 1:03}_failing.sql"
    (release.folder / failing).write_text("CREATE TABLE added (x integer); SELECT 1 / 0;")
    answer = release.send("Update")
    assert answer["Status"] == "FAILED"
    assert answer["Reason"].startswith(f"{failing}: division by zero; nothing of it was applied (log stream ")
    assert applied(empty_sql) == before
    (release.folder / failing).unlink()
    assert release.send("Update")["Status"] == "SUCCESS", "the rollback, with the files of before"


def test_rollback_to_an_older_release_leaves_the_newer_schema_as_it_is(release: Release, empty_sql: Sql) -> None:
    release.send("Create")
    empty_sql(f"INSERT INTO schema_migrations (file_name, sha256, duration_ms) VALUES ('{NEXT}', 'x', 0)")
    before = empty_sql("SELECT * FROM schema_migrations ORDER BY file_name")
    assert release.send("Update")["Status"] == "SUCCESS"
    assert empty_sql("SELECT * FROM schema_migrations ORDER BY file_name") == before


def test_new_stack_of_an_older_release_is_refused(release: Release, empty_sql: Sql) -> None:
    release.send("Create")
    empty_sql(f"INSERT INTO schema_migrations (file_name, sha256, duration_ms) VALUES ('{NEXT}', 'x', 0)")
    answer = release.send("Create")
    assert (answer["Status"], answer["Reason"].partition(":")[0]) == ("FAILED", NEXT)


def test_deletion_touches_nothing_and_needs_no_database(
    release: Release, empty_sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.send("Create")
    before = applied(empty_sql)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert release.send("Delete", PhysicalResourceId="loop-runner-migrations")["Status"] == "SUCCESS"
    assert applied(empty_sql) == before


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "postgresql://app:s3cret@127.0.0.1:1/none"}, "the database cannot be reached"),
        ({"MIGRATIONS_DIR": "/nowhere"}, "there are no migrations in /nowhere"),
        ({"DATABASE_AUTH": "iam"}, "sslmode=verify-full"),
    ],
)
def test_whatever_is_wrong_is_answered_with_its_reason_and_without_a_secret(
    release: Release, variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    answer = release.send("Create")
    assert answer["Status"] == "FAILED"
    assert reason in answer["Reason"]
    assert "s3cret" not in json.dumps(answer)


def test_password_of_the_url_is_in_no_answer_and_no_line(
    release: Release, empty_database_url: str, written: Callable[[], Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = urlsplit(empty_database_url)
    monkeypatch.setenv("DATABASE_URL", url._replace(netloc=f"postgres:s3cret@{url.hostname}:{url.port}").geturl())
    answer = release.send("Create")
    assert "password authentication failed" in answer["Reason"]
    assert "s3cret" not in json.dumps([answer, written()])


def test_unexpected_fault_is_answered_too(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("s3cret")

    monkeypatch.setattr(migrations, "apply", fail)
    answer = release.send("Update")
    assert (answer["Status"], answer["Reason"].partition(":")[0]) == ("FAILED", "RuntimeError")
    assert "s3cret" not in answer["Reason"]


def test_long_reason_is_cut(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATIONS_DIR", f"/{'安' * 5000}")
    answer = release.send("Create")
    assert (answer["Status"], "安" * 400 in answer["Reason"]) == ("FAILED", True)


class TestMigrationThatTakesTooLong:
    """Of a function with eight seconds; a quarter is for the answer, half of the rest for statements."""

    TIMEOUT_MS = 8_000

    @pytest.fixture(autouse=True)
    def slow(self, release: Release) -> None:
        newest = sorted(path.name for path in release.folder.glob("[0-9]*.sql"))[-1]
        slow = f"{int(newest[:3]) + 1:03}_slow.sql"
        (release.folder / slow).write_text("CREATE TABLE added (x integer); SELECT pg_sleep(60);")

    def test_is_ended_by_the_server_and_answered_in_time(self, release: Release, empty_sql: Sql) -> None:
        started = time.monotonic()
        answer = release.send("Create", timeout_ms=self.TIMEOUT_MS)
        assert time.monotonic() - started < self.TIMEOUT_MS / 1000
        assert answer["Status"] == "FAILED"
        assert "canceling statement due to statement timeout; nothing of it was applied" in answer["Reason"]
        assert empty_sql("SELECT 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND pid <> pg_backend_pid()") == []
        assert empty_sql.one("SELECT to_regclass('added') AS added")["added"] is None

    def test_is_answered_in_time_though_the_server_does_not_speak(
        self, release: Release, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrations, "_left", lambda _deadline: 60.0)
        started = time.monotonic()
        answer = release.send("Create", timeout_ms=self.TIMEOUT_MS)
        assert time.monotonic() - started < self.TIMEOUT_MS / 1000
        assert (answer["Status"], answer["Reason"].partition(":")[0]) == (
            "FAILED",
            "the database has not answered in time",
        )


def refuse(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(503)
    handler.end_headers()


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def babble(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"not HTTP\r\n\r\n")


def say_nothing(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(2)


class TestAnswer:
    @pytest.fixture(autouse=True)
    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(custom_resource, "PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(custom_resource, "PUT_SECONDS", 0.5)

    @pytest.mark.parametrize("fault", [refuse, hang_up, babble, say_nothing])
    def test_is_put_again_until_it_arrives(
        self, release: Release, bucket: Bucket, fault: Callable[[BaseHTTPRequestHandler], None]
    ) -> None:
        bucket.will = [fault, fault]
        assert release.send("Delete")["Status"] == "SUCCESS"
        assert bucket.tries == 3

    def test_that_cannot_be_delivered_fails_the_invocation_for_lambda_to_send_it_again(
        self, release: Release, bucket: Bucket
    ) -> None:
        bucket.will = [refuse] * 1000
        started = time.monotonic()
        with pytest.raises(LoopError, match="gateway endpoint"):
            release.send("Delete", timeout_ms=2_000)
        assert time.monotonic() - started < 2
        assert bucket.tries > 1


def test_event_without_an_address_for_the_answer_is_no_request_of_cloudformation(release: Release) -> None:
    with pytest.raises(InvalidRequestError, match="the event must be"):
        migrate.handler({"RequestType": "Delete"}, Context())  # type: ignore[arg-type]
