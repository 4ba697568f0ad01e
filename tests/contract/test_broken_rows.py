"""An answer that would violate its own model is a 500 that says nothing of the inside; so is what no one expects."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from loop_runner.observability import logger
from loop_runner.services import Services
from loop_runner.settings import Settings
from tests.conftest import LOOPS, Client, Sql
from tests.contract.conftest import assert_error

SECRET = "hunter2"
ISSUE = "/api/loop/issues/AFU9-123"


@pytest.fixture
def run_id(client: Client) -> str:
    client.register(githubUrl="https://github.com/acme/app/issues/1")
    return str(client.run().json["runId"])


def corrupt(sql: Sql, statement: str) -> None:
    """Change rows as no function of ours may: the rules of the lifecycle do not look."""
    with sql.connection.transaction():
        sql("SET LOCAL session_replication_role = replica")
        sql(statement)


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(f"""metadata = '["{SECRET}"]'""", id="metadata is a list"),
        pytest.param(f"""next_step = '"{SECRET}"'""", id="next step is text"),
        pytest.param(f"""next_step = '{{"stepNumber": "{SECRET}"}}'""", id="next step has no type"),
        pytest.param("next_step = '[]'", id="next step is a list"),
    ],
)
def test_a_run_whose_row_is_not_of_its_form_is_500(client: Client, sql: Sql, run_id: str, column: str) -> None:
    corrupt(sql, f"UPDATE loop_runs SET {column}")
    for path in (f"/api/loop/runs/{run_id}", f"{ISSUE}/runs"):
        answer = client("GET", path)
        assert_error(answer, 500, "INTERNAL_ERROR")
        assert SECRET not in answer.text


def test_a_run_whose_steps_are_not_of_their_form_is_500(client: Client, sql: Sql, run_id: str) -> None:
    corrupt(sql, f"""UPDATE loop_run_steps SET metadata = '["{SECRET}"]'""")
    answer = client("GET", f"/api/loop/runs/{run_id}")
    assert_error(answer, 500, "INTERNAL_ERROR")
    assert SECRET not in answer.text


def test_events_that_are_not_of_their_form_are_500(client: Client, sql: Sql, run_id: str) -> None:
    sql("ALTER TABLE loop_events DROP CONSTRAINT chk_loop_events")
    sql(f"""UPDATE loop_events SET event_data = '["{SECRET}"]'""")
    answer = client("GET", f"{ISSUE}/events")
    assert_error(answer, 500, "INTERNAL_ERROR")
    assert SECRET not in answer.text


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_an_issue_whose_row_is_not_of_its_form_is_500(client: Client, sql: Sql, run_id: str, method: str) -> None:
    sql("ALTER TABLE loop_issues DROP CONSTRAINT chk_loop_issues")
    sql(f"""UPDATE loop_issues SET facts = '["{SECRET}"]'""")
    path = f"{ISSUE}/run-next-step" if method == "POST" else ISSUE
    answer = client(method, path, {"loop": "issue-delivery"} if method == "PUT" else {})
    assert_error(answer, 500, "INTERNAL_ERROR")
    assert SECRET not in answer.text


def test_a_live_run_whose_row_is_not_of_its_form_is_500(client: Client, sql: Sql, run_id: str) -> None:
    corrupt(
        sql,
        f"""UPDATE loop_runs SET status = 'running', completed_at = NULL, metadata = '["{SECRET}"]',
        lease_expires_at = clock_timestamp() + interval '1 hour'""",
    )
    for answer in (client("GET", ISSUE), client.run()):
        assert_error(answer, 500, "INTERNAL_ERROR")
        assert SECRET not in answer.text


def test_the_log_says_what_went_wrong_with_the_request_id_and_without_the_value(
    client: Client, sql: Sql, run_id: str
) -> None:
    corrupt(sql, f"""UPDATE loop_runs SET metadata = '["{SECRET}"]'""")
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logger.registered_formatter)
    lines_of_functions = logging.getLogger(logger.name)
    lines_of_functions.addHandler(handler)
    try:
        answer = client("GET", f"/api/loop/runs/{run_id}")
    finally:
        lines_of_functions.removeHandler(handler)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert SECRET not in log.getvalue()
    assert {line["requestId"] for line in lines} == {answer.json["requestId"]}
    assert [line["level"] for line in lines] == ["ERROR", "INFO"]
    assert "ValidationError" in lines[0]["exception"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{ISSUE}/run-next-step"),
        ("PATCH", ISSUE),
        ("GET", ISSUE),
        ("GET", f"{ISSUE}/runs"),
        ("GET", f"{ISSUE}/events"),
        ("GET", "/api/loop/runs/01234567-89ab-7def-8123-456789abcdef"),
    ],
)
def test_a_database_out_of_reach_is_503_that_shows_no_address(method: str, path: str) -> None:
    url = f"postgresql://owner:{SECRET}@127.0.0.1:1/none"
    client = Client(Services(Settings(url, LOOPS, Path("none"), trust_actor_header=True)))
    answer = client(method, path, {})
    error = assert_error(answer, 503, "UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"
    assert "try again" in error["message"]
    assert not any(word in answer.text for word in (SECRET, "owner", "none", ":1/"))


@pytest.mark.parametrize(("method", "path"), [("POST", f"{ISSUE}/run-next-step"), ("GET", ISSUE)])
def test_a_database_without_the_schema_is_503_that_says_what_to_do(
    empty_database_url: str, method: str, path: str
) -> None:
    services = Services(Settings(empty_database_url, LOOPS, Path("none"), trust_actor_header=True))
    answer = Client(services)(method, path, {})
    services.database.close()
    assert '{"action":"apply"}' in assert_error(answer, 503, "UNAVAILABLE")["message"]
