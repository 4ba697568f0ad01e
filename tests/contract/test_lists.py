"""Runs and events by pages, newest first, each once; and health, which needs nobody and nothing."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from loop_runner.pages import Page
from loop_runner.services import Services
from loop_runner.settings import Settings
from tests.conftest import LOOPS, Client, Sql
from tests.contract.conftest import Unchanged, assert_error
from tests.contract.test_answers import as_answered

if TYPE_CHECKING:
    from collections.abc import Iterator

ISSUE = "/api/loop/issues/AFU9-123"
LISTS = [pytest.param(f"{ISSUE}/runs", id="runs"), pytest.param(f"{ISSUE}/events", id="events")]
EVENT_KEYS = {"eventId", "issueId", "runId", "eventType", "eventData", "occurredAt"}

with_list = pytest.mark.parametrize("path", LISTS)


@pytest.fixture(autouse=True)
def registered(client: Client) -> None:
    client.register()


def page(client: Client, path: str, **query: str) -> dict[str, Any]:
    answer = client("GET", path, query=query)
    assert answer.status == 200, answer.text
    body: dict[str, Any] = answer.json
    assert set(body) == {"schemaVersion", "items", "nextCursor"}
    assert body["schemaVersion"] == ("loop.runs.v1" if path.endswith("runs") else "loop.events.v1")
    return body


def pages(client: Client, path: str, limit: int) -> Iterator[list[dict[str, Any]]]:
    """The pages from the first to the last."""
    query = {"limit": str(limit)}
    while True:
        found = page(client, path, **query)
        yield found["items"]
        if found["nextCursor"] is None:
            return
        query["cursor"] = found["nextCursor"]


def run_times(client: Client, sql: Sql, count: int) -> None:
    """Runs of which every two were created at the same instant."""
    sql("DELETE FROM loop_runs")
    for number in range(count):
        sql(
            """INSERT INTO loop_runs (issue_id, actor, request_id, status, created_at, started_at, completed_at)
            SELECT 'AFU9-123', 'ann', 'r', 'completed', at, at, at
            FROM (SELECT '2026-01-01T12:00:00.000001Z'::timestamptz + %s * interval '1 microsecond' AS at) AS t""",
            number // 2,
        )


# --- items


def test_a_list_of_runs_has_their_rows_newest_first(client: Client, sql: Sql) -> None:
    client.register("AFU9-124")
    client.run("AFU9-124")
    for mode in ("execute", "dryRun", "execute"):
        client.run(body={"mode": mode})
    body = page(client, f"{ISSUE}/runs")
    rows = sql("SELECT * FROM loop_runs WHERE issue_id = 'AFU9-123' ORDER BY created_at DESC, id DESC")
    assert body["items"] == [as_answered(row, "runId") for row in rows]
    assert (len(body["items"]), body["nextCursor"]) == (3, None)


def test_a_list_of_events_has_their_rows_newest_first(client: Client, sql: Sql) -> None:
    client("PATCH", ISSUE, {"b": 1, "a": None, "secret": "hunter2"}, actor="bob")
    run_id = client.run().json["runId"]
    client.run(body={"mode": "dryRun"})
    body = page(client, f"{ISSUE}/events")
    assert body["nextCursor"] is None
    assert all(set(item) == EVENT_KEYS for item in body["items"])
    assert [(item["eventType"], item["runId"], item["eventData"]) for item in reversed(body["items"])] == [
        ("loop_issue_registered", None, {"actor": "ann", "loop": "issue-delivery", "state": "CREATED"}),
        ("loop_facts_changed", None, {"actor": "bob", "version": 2, "factKeys": ["a", "b", "secret"]}),
        ("loop_run_started", run_id, {"actor": "ann", "attempt": 1, "state": "CREATED"}),
        ("loop_run_blocked", run_id, {"blockerCode": "NO_GITHUB_LINK", "stepNumber": 1, "stateBefore": "CREATED",
                                      "stateAfter": "CREATED"}),
    ]  # fmt: skip
    for item in body["items"]:
        row = sql.one("SELECT * FROM loop_events WHERE event_id = %s", item["eventId"])
        assert datetime.fromisoformat(item["occurredAt"]) == row["occurred_at"]
        assert item["issueId"] == row["issue_id"]
    assert "hunter2" not in json.dumps(body)


@with_list
def test_a_registered_issue_without_any_has_an_empty_list(client: Client, sql: Sql, path: str) -> None:
    sql("DELETE FROM loop_events")
    assert page(client, path) == page(client, path, limit="1")
    assert (page(client, path)["items"], page(client, path)["nextCursor"]) == ([], None)


# --- pages


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
def test_pages_of_runs_lead_to_the_end_and_have_each_run_once(client: Client, sql: Sql, limit: int) -> None:
    run_times(client, sql, 7)
    found = list(pages(client, f"{ISSUE}/runs", limit))
    rows = sql("SELECT id FROM loop_runs ORDER BY created_at DESC, id DESC")
    assert [run["runId"] for part in found for run in part] == [str(row["id"]) for row in rows]
    assert all(len(part) == limit for part in found[:-1])
    assert 1 <= len(found[-1]) <= limit


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_of_events_lead_to_the_end_and_have_each_event_once(client: Client, sql: Sql, limit: int) -> None:
    for number in range(6):
        client("PATCH", ISSUE, {"a": number})
    found = list(pages(client, f"{ISSUE}/events", limit))
    rows = sql("SELECT event_id FROM loop_events ORDER BY event_id DESC")
    assert [event["eventId"] for part in found for event in part] == [row["event_id"] for row in rows]
    assert len(rows) == 7
    assert all(len(part) == limit for part in found[:-1])


def test_what_is_added_while_paging_moves_no_page(client: Client, sql: Sql) -> None:
    run_times(client, sql, 4)
    first = page(client, f"{ISSUE}/runs", limit="2")
    client.run()
    second = page(client, f"{ISSUE}/runs", limit="2", cursor=first["nextCursor"])
    assert len({run["runId"] for run in first["items"] + second["items"]}) == 4
    assert second["nextCursor"] is None


@with_list
def test_twenty_is_the_default_and_a_hundred_the_most(client: Client, sql: Sql, path: str) -> None:
    run_times(client, sql, 101)
    sql("""INSERT INTO loop_events (issue_id, event_type)
        SELECT 'AFU9-123', 'loop_run_queued' FROM generate_series(1, 100)""")
    assert len(page(client, path)["items"]) == 20
    assert len(page(client, path, limit="1")["items"]) == 1
    hundred = page(client, path, limit="100")
    assert len(hundred["items"]) == 100
    assert len(page(client, path, limit="100", cursor=hundred["nextCursor"])["items"]) == 1


# --- refusals


@with_list
def test_a_limit_out_of_bounds_is_400(
    client: Client, unchanged: Unchanged, path: str, subtests: pytest.Subtests
) -> None:
    for limit in ("0", "101", "-1", "", "1.5", "ten", "1e1", " 1", "1000", "\u0661"):
        with subtests.test(limit=limit), unchanged():
            answer = client("GET", path, query={"limit": limit})
            assert "limit" in assert_error(answer, 400, "INVALID_REQUEST")["message"]


@with_list
def test_an_unknown_parameter_is_400(client: Client, path: str, subtests: pytest.Subtests) -> None:
    for key in ("offset", "status", "Limit", "page", "before"):
        with subtests.test(key=key):
            answer = client("GET", path, query={"limit": "1", key: "1"})
            assert key in assert_error(answer, 400, "INVALID_REQUEST")["message"]


@with_list
def test_a_cursor_that_is_none_is_400(client: Client, path: str, subtests: pytest.Subtests) -> None:
    for cursor in ("", "x", "null", "!!", "e30", "W10", "MQ", "\0", "ä", "A" * 8000):
        with subtests.test(cursor=cursor):
            answer = client("GET", path, query={"cursor": cursor})
            assert "cursor" in assert_error(answer, 400, "INVALID_REQUEST")["message"]


def test_the_cursor_of_one_list_is_none_of_the_other(client: Client, sql: Sql) -> None:
    run_times(client, sql, 2)
    client("PATCH", ISSUE, {"a": 1})
    for path, other in (("runs", "events"), ("events", "runs")):
        cursor = page(client, f"{ISSUE}/{path}", limit="1")["nextCursor"]
        assert_error(client("GET", f"{ISSUE}/{other}", query={"cursor": cursor}), 400, "INVALID_REQUEST")


@with_list
def test_a_tampered_cursor_is_400(client: Client, sql: Sql, path: str) -> None:
    run_times(client, sql, 2)
    client("PATCH", ISSUE, {"a": 1})
    cursor = page(client, path, limit="1")["nextCursor"]
    for position, before in enumerate(cursor):
        tampered = cursor[:position] + ("x" if before != "x" else "y") + cursor[position + 1 :]
        assert_error(client("GET", path, query={"cursor": tampered}), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "instant",
    [
        "0001-01-01T00:00:00+00:00",
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00+23:59:59.999999",
        "9999-12-31T23:59:59.999999-14:00",
        "9999-12-31T23:59:59.999999-23:59",
        "2026-11-24T12:00:00+00:00:00.000001",
    ],
)
def test_a_cursor_at_the_end_of_the_calendar_is_a_page(client: Client, instant: str) -> None:
    cursor = Page().cursor_after(datetime.fromisoformat(instant), UUID(int=2**128 - 1))
    assert page(client, f"{ISSUE}/runs", cursor=cursor)["items"] == []


# --- health


@pytest.mark.parametrize("headers", [{}, {"x-afu9-sub": "a,b"}, {"x-afu9-sub": "ann"}])
def test_health_needs_neither_identity_nor_database(headers: dict[str, str]) -> None:
    client = Client(Services(Settings("postgresql://nobody@127.0.0.1:1/none", LOOPS, Path("none"))))
    answer = client("GET", "/api/health", actor=None, headers=headers)
    assert (answer.status, answer.json) == (200, {"schemaVersion": "loop.health.v1", "status": "ok"})
    assert answer.headers["content-type"] == "application/json"
