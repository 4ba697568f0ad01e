"""``make verify`` holds on a fresh stack, and fails where an answer, a row or the ledger is not as said."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.conftest import MIGRATIONS, ROOT, Sql, create_database, drop_database
from tools.local.client import Answer, request
from tools.local.sample import read_sample
from tools.local.stack import Stack
from tools.verify import endpoint as endpoint_module
from tools.verify.__main__ import verify
from tools.verify.api import check_endpoint
from tools.verify.catalog import KINDS
from tools.verify.endpoint import Endpoint
from tools.verify.report import Mismatch, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENDPOINT = [
    *("health", "no identity", "unknown issue", "register", "bad body", "dry run"),
    *("run", "answer = rows", "rows", "GET run", "GET events"),
]
CHECKS = ["database", "migrations", "replay", *KINDS, *ENDPOINT, "audit"]


@pytest.fixture(scope="module")
def stack(server_url: str, migrated_template: str) -> Iterator[Stack]:
    url = create_database(server_url, migrated_template)
    with Stack(port=0, database_url=url, workers_per_function=1) as stack:
        yield stack
    drop_database(server_url, url)


@pytest.fixture
def rows(stack: Stack) -> Iterator[Sql]:
    """The stack's database."""
    with psycopg.connect(stack.database_url, autocommit=True, row_factory=dict_row) as connection:
        yield Sql(connection)


def verified(stack: Stack, url: str = "", database_url: str = "") -> Report:
    sample, urls = read_sample(ROOT), (url or stack.url, database_url or stack.database_url)
    return verify(*urls, folder=MIGRATIONS, loop=sample["loop"], facts=sample["facts"])


def called(stack: Stack, rows: Sql, url: str) -> Report:
    """The endpoint's part of it."""
    report, sample = Report(), read_sample(ROOT)
    left = check_endpoint(report, Endpoint(url), rows.connection, sample["loop"], sample["facts"])
    report.summary(left)
    return report


def test_fresh_stack_holds_in_every_check(stack: Stack, rows: Sql, capsys: pytest.CaptureFixture[str]) -> None:
    report = verified(stack)
    assert (report.passed, report.failed, report.skipped) == (CHECKS, [], [])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("   ")] == ["✓"] * len(CHECKS)
    last = rf"{len(CHECKS)} checks, all hold\. Issue (VERIFY-\w+) and its runs stay in the ledger: 2\."
    issue = re.fullmatch(last, lines[-1])
    assert issue
    runs = rows("SELECT mode, status FROM loop_runs WHERE issue_id = %s ORDER BY created_at", issue[1])
    assert [tuple(run.values()) for run in runs] == [("dryRun", "completed"), ("execute", "completed")]


# ---------------------------------------------------------------------------------------------- answers


@dataclass
class Exchange:
    """A call that reached the API and its answer, which may be changed."""

    call: str
    sent: dict[str, Any]
    has_identity: bool
    status: int
    headers: dict[str, str]
    body: Any


@contextmanager
def tampered(stack: Stack, tamper: Callable[[Exchange], object]) -> Iterator[str]:
    """The URL of a server that passes calls on to the stack and changes its answers."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            passed = {name: value for name, value in headers.items() if name not in {"host", "content-length"}}
            answer = request(stack.url, self.command, self.path, sent, passed)
            exchange = Exchange(
                f"{self.command} {self.path}",
                json.loads(sent or b"{}"),
                "x-afu9-sub" in headers,
                answer.status,
                dict(answer.headers),
                answer.json(),
            )
            tamper(exchange)
            content = json.dumps(exchange.body).encode()
            self.send_response(exchange.status)
            for name, text in (exchange.headers | {"content-length": str(len(content))}).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = answer  # noqa: N815

        def log_message(self, *_arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


CALLS: dict[str, Callable[[Exchange], bool]] = {
    "health": lambda exchange: exchange.call == "GET /api/health",
    "no identity": lambda exchange: exchange.call.startswith("POST") and not exchange.has_identity,
    "unknown issue": lambda exchange: (
        exchange.call.startswith("POST") and exchange.has_identity and exchange.sent == {}
    ),
    "register": lambda exchange: exchange.call.startswith("PUT"),
    "bad body": lambda exchange: exchange.sent == {"mode": "x"},
    "dry run": lambda exchange: exchange.sent == {"mode": "dryRun"},
    "run": lambda exchange: exchange.sent == {"mode": "execute"},
    "GET run": lambda exchange: exchange.call.startswith("GET /api/loop/runs/"),
    "GET events": lambda exchange: exchange.call.endswith("/events"),
}


def changed(path: str) -> Callable[[Exchange], None]:
    """Puts another value at a dotted path of the body."""

    def change(exchange: Exchange) -> None:
        *parts, last = path.split(".")
        value = exchange.body
        for part in parts:
            value = value[int(part)] if isinstance(value, list) else value[part]
        value[last] = value[last] + 1 if isinstance(value[last], int) else f"not {value[last]}"

    return change


def status(number: int) -> Callable[[Exchange], None]:
    return lambda exchange: setattr(exchange, "status", number)


def header(name: str) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.headers.update({name: '"7"'})


def without(name: str) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.body.pop(name)


def added(name: str) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.body.update({name: None})


@dataclass(frozen=True)
class Wrong:
    """A change of the answer to one call, which checks fail, and what is shown of it."""

    call: str
    tamper: Callable[[Exchange], object]
    shown: str
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.call}: {self.shown}"


ANSWERED = ("answer = rows",)
WRONG = [
    Wrong("health", status(500), "500"),
    Wrong("health", changed("status"), "status"),
    Wrong("no identity", status(200), "401"),
    Wrong("no identity", changed("error.code"), "code"),
    Wrong("unknown issue", status(200), "404"),
    Wrong("unknown issue", changed("error.code"), "code"),
    Wrong("register", status(401), "TRUST_ACTOR_HEADER"),
    Wrong("register", status(400), "LOOP="),
    Wrong("register", changed("state"), "state"),
    Wrong("register", changed("version"), "version"),
    Wrong("register", changed("facts.githubUrl"), "facts.githubUrl"),
    Wrong("register", header("etag"), "etag"),
    Wrong("bad body", status(500), "400"),
    Wrong("bad body", changed("schemaVersion"), "schemaVersion"),
    Wrong("bad body", changed("requestId"), "requestId"),
    Wrong("dry run", status(500), "500"),
    Wrong("dry run", changed("message"), "message"),
    Wrong("dry run", added("stepExecuted"), "stepExecuted"),
    Wrong("run", status(500), "functions' log"),
    *(
        Wrong("run", changed(field), field, ANSWERED)
        for field in (
            *("schemaVersion", "requestId", "issueId", "loopStatus", "message"),
            *("nextStep.stepNumber", "nextStep.stepType", "stepExecuted.stepNumber", "stepExecuted.stepType"),
            *("stepExecuted.status", "stepExecuted.startedAt", "stepExecuted.completedAt", "stepExecuted.durationMs"),
        )
    ),
    Wrong("run", without("nextStep"), "nextStep", ANSWERED),
    Wrong("run", added("more"), "more", ANSWERED),
    Wrong("run", header("etag"), "etag", ANSWERED),
    Wrong("run", header("x-request-id"), "x-request-id", ANSWERED),
    Wrong("run", changed("runId"), "a row of loop_runs with id not", (*ANSWERED, "rows", "GET run")),
    Wrong("GET run", status(404), "404"),
    Wrong("GET run", changed("leaseExpiresAt"), "leaseExpiresAt"),
    Wrong("GET run", changed("steps.0.durationMs"), "steps.0.durationMs"),
    Wrong("GET run", without("principal"), "principal"),
    Wrong("GET events", lambda exchange: exchange.body["items"].pop(), "items.3"),
    Wrong("GET events", changed("items.0.eventType"), "items.0.eventType"),
]
NEED = {"health": ENDPOINT[1:], "register": ENDPOINT[4:], "run": ENDPOINT[7:]}


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_answer_that_is_not_what_its_rows_say_is_named(
    stack: Stack, rows: Sql, capsys: pytest.CaptureFixture[str], wrong: Wrong
) -> None:
    seen = CALLS[wrong.call]
    with tampered(stack, lambda exchange: wrong.tamper(exchange) if seen(exchange) else None) as url:
        report = called(stack, rows, url)
    failed = wrong.failed or (wrong.call,)
    skipped = NEED.get(failed[0], [])
    assert (report.failed, report.skipped) == ([*failed], skipped)
    shown = capsys.readouterr().out
    assert wrong.shown in shown
    assert shown.count("✗") == len(failed)
    not_made = f", {len(skipped)} not made" if skipped else ""
    assert f"\n{len(failed)} of {len(ENDPOINT) - len(skipped)} checks do not hold{not_made}." in shown


@pytest.mark.parametrize("call", ["no identity", "unknown issue", "bad body"])
def test_refused_call_that_leaves_a_run_is_named(
    stack: Stack, rows: Sql, capsys: pytest.CaptureFixture[str], call: str
) -> None:
    def leave_a_run(exchange: Exchange) -> None:
        if CALLS[call](exchange):
            issue_id = exchange.call.split("/")[4]
            rows("INSERT INTO loop_runs (issue_id, actor, request_id, mode) VALUES (%s, '', '', 'dryRun')", issue_id)

    with tampered(stack, leave_a_run) as url:
        report = called(stack, rows, url)
    rows("DELETE FROM loop_runs WHERE request_id = ''")
    assert report.failed[0] == call
    assert "leaves a run" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Mischief:
    """What a trigger does to rows behind the back of the functions, which checks fail, and what is shown of it."""

    event: str
    body: str
    shown: str
    failed: tuple[str, ...]

    def __str__(self) -> str:
        return self.body


STEP, RUN, END = "INSERT ON loop_run_steps", "INSERT ON loop_runs", "INSERT ON loop_events"


def at_the_end(statement: str) -> str:
    """For a trigger on events: with the last of a run, when everything else of it is written."""
    return f"IF NEW.event_type = 'loop_run_finished' THEN {statement}; END IF"


MISCHIEF = [
    Mischief(
        STEP,
        "UPDATE loop_run_steps SET duration_ms = duration_ms + 1 WHERE id = NEW.id",
        *("stepExecuted.durationMs", ("answer = rows", "audit")),
    ),
    Mischief(
        END,
        at_the_end("UPDATE loop_runs SET message = 'other' WHERE id = NEW.run_id"),
        *("message", ("answer = rows",)),
    ),
    Mischief(
        END,
        at_the_end("UPDATE loop_runs SET duration_ms = 77777 WHERE id = NEW.run_id"),
        "duration_ms",
        ("rows", "audit"),
    ),
    Mischief(END, at_the_end("UPDATE loop_issues SET state = 'X'"), "state_after", ("rows", "audit")),
    Mischief(END, at_the_end("UPDATE loop_issues SET version = version + 1"), "issue_version", ("rows",)),
    Mischief(STEP, "DELETE FROM loop_events WHERE run_id = NEW.run_id", "first event", ("rows", "audit")),
    Mischief(
        "INSERT ON loop_issues",
        "UPDATE loop_issues SET facts = '{}' WHERE id = NEW.id",
        *("facts.githubUrl", ("register",)),
    ),
    Mischief(
        RUN,
        "UPDATE loop_issues SET version = version + 1 WHERE NEW.mode = 'dryRun'",
        *("issue.version", ("dry run",)),
    ),
]


@pytest.mark.parametrize("mischief", MISCHIEF, ids=str)
def test_row_that_is_not_what_its_answer_says_is_named(
    stack: Stack, rows: Sql, capsys: pytest.CaptureFixture[str], mischief: Mischief
) -> None:
    rows(
        "CREATE FUNCTION mischief() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" PERFORM set_config('session_replication_role', 'replica', true); {mischief.body}; RETURN NULL; END $$"
    )
    rows(f"CREATE TRIGGER mischief AFTER {mischief.event} FOR EACH ROW EXECUTE FUNCTION mischief()")
    try:
        report = verified(stack)
    finally:
        rows("DROP FUNCTION mischief CASCADE")
        rows("TRUNCATE loop_runs, loop_run_steps, loop_events, loop_issues")
    assert report.failed == ["triggers", *mischief.failed]
    assert mischief.shown in capsys.readouterr().out


def test_database_of_another_endpoint_is_found_out(
    stack: Stack, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = verified(stack, database_url=database_url)
    assert report.failed == ["register"]
    assert "DATABASE_URL is the endpoint's database" in capsys.readouterr().out


def test_broken_rule_of_the_ledger_is_told_with_the_query_that_shows_its_rows(
    stack: Stack, rows: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    event = rows.one("INSERT INTO loop_events (issue_id, event_type) VALUES ('gone', 'loop_facts_changed') RETURNING *")
    report = verified(stack)
    rows("DELETE FROM loop_events WHERE event_id = %s", event["event_id"])
    assert report.failed == ["audit"]
    shown = capsys.readouterr().out
    assert "event-issue" in shown
    assert f"SELECT * FROM loop_events WHERE event_id IN ('{event['event_id']}');" in shown


# ---------------------------------------------------------------------------------------------- out of reach


def test_endpoint_that_is_down_is_one_failure_that_says_how_to_start_it(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    report = verified(stack, url)
    assert (report.failed, report.skipped) == (["health"], ENDPOINT[1:])
    shown = capsys.readouterr().out
    assert "refused" in shown
    assert "make dev" in shown


def test_something_else_at_the_url_is_told_from_the_api(
    stack: Stack, rows: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    with tampered(stack, lambda exchange: setattr(exchange, "body", ["hello"])) as url:
        report = called(stack, rows, url)
    assert (report.failed, report.skipped) == (["health"], ENDPOINT[1:])
    assert "this is not the API" in capsys.readouterr().out


def test_database_out_of_reach_is_one_failure_that_shows_no_password(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    report = verified(stack, database_url="postgresql://owner:s3cret@127.0.0.1:1/none")
    assert (report.passed, report.failed) == ([], ["database"])
    shown = capsys.readouterr().out
    assert "s3cret" not in shown
    assert "DATABASE_URL" in shown


# ---------------------------------------------------------------------------------------------- deployments

HOST = "abc123.execute-api.eu-central-1.amazonaws.com"
PATH = "/api/loop/issues/VERIFY-1/run-next-step"
KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/(\d{8})/eu-central-1/execute-api/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


def test_deployed_endpoint_is_called_with_a_signature_and_without_the_local_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, computed once more."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    calls: list[tuple[Any, ...]] = []

    def send(*parts: Any, **_options: Any) -> Answer:
        calls.append(parts)
        return Answer(403, {}, b'{"message": "Forbidden"}')

    monkeypatch.setattr(endpoint_module, "request", send)
    endpoint = Endpoint(f"https://{HOST}/")
    endpoint.call("POST", PATH, {"mode": "execute"})
    endpoint.call("GET", "/api/health", has_identity=False)
    (url, method, path, body, headers), (*_, without_identity) = calls
    assert (url, path) == (f"https://{HOST}", PATH)
    assert not {"authorization", "x-afu9-sub"} & set(without_identity)
    assert "x-afu9-sub" not in headers
    found = AUTHORIZATION.fullmatch(headers["authorization"])
    assert found
    date, names, signature = found.groups()
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(names.split(";"))
    signed = [f"{name}:{(headers | {'host': HOST})[name]}" for name in names.split(";")]
    canonical = "\n".join([method, path, "", *signed, "", names, hashlib.sha256(body).hexdigest()])
    scope = f"{date}/eu-central-1/execute-api/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, digest])
    assert hmac.digest(key, text.encode(), "sha256").hex() == signature


def test_deployed_endpoint_without_credentials_says_how_to_get_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Mismatch) as refusal:
        Endpoint(f"https://{HOST}").call("GET", "/api/loop/runs/x")
    assert "aws sso login" in refusal.value.differences[0].do


# ---------------------------------------------------------------------------------------------- command


def command(folder: Path, **variables: str) -> tuple[int, str, str]:
    kept = {name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "PATH", "TMPDIR"}}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tools.verify"],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(folder), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_exit_status_is_0_when_all_holds_and_1_when_anything_does_not(stack: Stack, rows: Sql) -> None:
    variables = {"URL": stack.url, "DATABASE_URL": stack.database_url}
    ended, shown, errors = command(ROOT, **variables)
    assert (ended, errors) == (0, ""), shown
    assert "all hold" in shown
    assert "\x1b" not in shown
    index = rows.one("SELECT pg_get_indexdef('idx_loop_runs_status'::regclass) AS it")["it"]
    rows("DROP INDEX idx_loop_runs_status")
    ended, shown, errors = command(ROOT, **variables)
    rows(index)
    assert (ended, errors) == (1, "")
    assert "✗ indexes" in shown
    assert f"1 of {len(CHECKS)} checks do not hold." in shown


def test_without_urls_the_running_dev_stack_is_taken_and_missed_where_there_is_none(
    tmp_path: Path, stack: Stack
) -> None:
    for name in ("events", "migrations", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    ended, shown, errors = command(tmp_path)
    assert (ended, shown) == (1, "")
    assert "make dev" in errors
    ended, shown, errors = command(tmp_path, URL="localhost:3000")
    assert (ended, shown) == (1, "")
    assert "URL=localhost:3000" in errors
    published = tmp_path / ".local" / "database-url"
    published.parent.mkdir()
    published.write_text(stack.database_url)
    with published.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a running stack does
        ended, shown, errors = command(tmp_path, PORT=stack.url.rpartition(":")[2])
    assert (ended, errors) == (0, ""), shown


def test_loop_of_ones_own_is_verified_with(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    urls = (stack.url, stack.database_url)
    assert verify(*urls, folder=MIGRATIONS, loop="issue-delivery", facts={}).failed == [], "a blocked run will do"
    assert "Link the issue to GitHub" in capsys.readouterr().out
    assert verify(*urls, folder=MIGRATIONS, loop="unknown", facts={}).failed == ["register"]
    assert "make verify LOOP=<name>" in capsys.readouterr().out
