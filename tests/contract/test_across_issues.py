"""What looks across issues: lists of issues, runs and loops, statistics; and what one issue and one run explain."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from loop_runner import history
from loop_runner.services import Services
from tests.conftest import LOOPS, ROOT, Client, Sql
from tests.contract.conftest import assert_error
from tests.contract.test_answers import as_answered

if TYPE_CHECKING:
    from loop_runner.settings import Settings

ISSUE = "/api/loop/issues/AFU9-123"
NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)


def get(client: Client, path: str, **query: str) -> dict[str, Any]:
    answer = client("GET", path, query=query)
    assert answer.status == 200, answer.text
    body: dict[str, Any] = answer.json
    return body


def everything(client: Client, path: str, **query: str) -> list[dict[str, Any]]:
    """The items of all pages."""
    items: list[dict[str, Any]] = []
    while True:
        page = get(client, path, **query)
        items += page["items"]
        if page["nextCursor"] is None:
            return items
        query["cursor"] = page["nextCursor"]


def add_run(sql: Sql, at: datetime = NOW, **columns: Any) -> str:
    """A run that has ended, without steps; its id."""
    values = {
        "issue_id": "A", "actor": "ann", "request_id": "r", "mode": "execute", "status": "completed",
        "created_at": at, "started_at": at, "completed_at": at, "duration_ms": 0, **columns,
    }  # fmt: skip
    if values["status"] in {"pending", "running"}:
        values |= {"completed_at": None, "duration_ms": None}
    names = ", ".join(values)
    row = sql.one(
        f"INSERT INTO loop_runs ({names}) VALUES ({', '.join(['%s'] * len(values))}) RETURNING id", *values.values()
    )
    return str(row["id"])


def add_step(sql: Sql, run_id: str, **columns: Any) -> None:
    values = {
        "run_id": run_id, "step_number": 1, "step_type": "WORK", "status": "completed", "created_at": NOW,
        "started_at": NOW, "completed_at": NOW, "duration_ms": 0, **columns,
    }  # fmt: skip
    sql("SET session_replication_role = replica")  # the run has ended: it takes no step
    sql(
        f"INSERT INTO loop_run_steps ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})", *values.values()
    )
    sql("SET session_replication_role = origin")


# --- issues


def test_issues_are_listed_newest_first_with_their_last_run_and_without_facts(client: Client, sql: Sql) -> None:
    client.register("A", githubUrl="u")
    client.register("B")
    client.run("B")
    client.run("B", {"mode": "dryRun"})
    new, old = get(client, "/api/loop/issues")["items"]
    assert (new["issueId"], old["issueId"]) == ("B", "A")
    assert old | {"createdAt": 0, "updatedAt": 0} == {
        "issueId": "A", "loop": "issue-delivery", "state": "CREATED", "version": 1, "hold": None, "nextAttemptAt": None,
        "createdAt": 0, "updatedAt": 0, "lastRun": None,
    }  # fmt: skip
    row = as_answered(sql.one("SELECT * FROM loop_runs WHERE mode = 'execute'"), "runId")
    assert new["lastRun"] == {
        key: row[key]
        for key in (
            "runId", "status", "actor", "createdAt", "completedAt", "leaseExpiresAt", "step", "attempt", "loopStatus",
            "blockerCode", "errorCode", "message",
        )
    }  # fmt: skip
    assert new["lastRun"]["blockerCode"] == "NO_GITHUB_LINK"


def test_issues_are_filtered_by_loop_and_state(client: Client, sql: Sql) -> None:
    for name, loop, state in [
        ("a", "issue-delivery", "CREATED"), ("b", "issue-delivery", "PICKED"), ("c", "agent-merge", "CREATED"),
        ("d", "gone", "CREATED"), ("e", "issue-delivery", "NOWHERE"),
    ]:  # fmt: skip
        sql("INSERT INTO loop_issues (id, loop_name, state) VALUES (%s, %s, %s)", name, loop, state)

    def found(**query: str) -> str:
        return "".join(item["issueId"] for item in everything(client, "/api/loop/issues", limit="1", **query))

    assert found() == "edcba"
    assert found(loop="issue-delivery") == "eba"
    assert found(state="CREATED") == "dca"
    assert found(loop="issue-delivery", state="CREATED") == "a"
    assert found(loop="gone") == "d"
    assert found(state="NOWHERE") == "e"
    assert found(loop="none") == found(state="picked") == found(loop="agent-merge", state="PICKED") == ""


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_of_issues_have_each_once_also_of_one_instant(client: Client, sql: Sql, limit: int) -> None:
    for number in range(7):
        at, state = NOW + timedelta(seconds=number // 3), f"S{number % 2}"
        sql(
            "INSERT INTO loop_issues (id, loop_name, state, created_at) VALUES (%s, 'l', %s, %s)",
            f"A{number}",
            state,
            at,
        )
    rows = sql("SELECT id FROM loop_issues ORDER BY created_at DESC, id DESC")
    assert [item["issueId"] for item in everything(client, "/api/loop/issues", limit=str(limit))] == [
        r["id"] for r in rows
    ]


def test_no_issue_is_an_empty_list(client: Client) -> None:
    assert get(client, "/api/loop/issues") == {"schemaVersion": "loop.issues.v1", "items": [], "nextCursor": None}


# --- runs


def test_runs_of_all_issues_are_listed_newest_first_as_their_rows(client: Client, sql: Sql) -> None:
    for issue in ("A", "B"):
        client.register(issue, githubUrl="u")
        client.run(issue)
    client.run("A", {"mode": "dryRun"})
    body = get(client, "/api/loop/runs")
    rows = sql("SELECT * FROM loop_runs ORDER BY created_at DESC, id DESC")
    assert body == {
        "schemaVersion": "loop.runs.v1", "items": [as_answered(row, "runId") for row in rows], "nextCursor": None,
    }  # fmt: skip
    assert len(rows) == 3


def test_runs_are_filtered_by_each_and_all_of_the_filters(client: Client, sql: Sql) -> None:
    names = {}
    for number, (status, loop, actor) in enumerate([
        ("completed", "x", "ann"), ("failed", "x", "bob"), ("failed", "y", "ann"), ("blocked", "y", "bob"),
        ("cancelled", "x", "ann"), ("running", "y", "bob"), ("pending", None, "ann"),
    ]):  # fmt: skip
        at = NOW + timedelta(minutes=number)
        names[add_run(sql, at, issue_id=f"I{number}", status=status, loop_name=loop, actor=actor)] = str(number)

    def found(**query: str) -> str:
        return "".join(names[item["runId"]] for item in everything(client, "/api/loop/runs", limit="2", **query))

    assert found() == "6543210"
    assert found(status="failed") == "21"
    assert found(status="pending,running") == "65"
    assert found(status="failed,failed,blocked") == "321"
    assert found(loop="x") == "410"
    assert found(actor="bob") == "531"
    assert found(loop="y", actor="bob", status="blocked,running") == "53"
    assert found(loop="y", actor="eve") == found(loop="z") == ""
    since, until = ((NOW + timedelta(minutes=n)).isoformat() for n in (2, 4))
    assert found(since=since) == "65432"
    assert found(until=until) == "3210"  # exclusive
    assert found(since=since, until=until) == "32"
    assert found(since=since, until=until, status="failed", actor="ann") == "2"
    assert found(since=until, until=since) == ""
    assert found(since="2026-11-24T13:32:00+01:00", until="2026-11-24T12:34Z") == "32"


def test_a_filter_that_no_index_finds_looks_at_so_many_runs_a_page(
    client: Client, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_SCAN", 10)
    wanted = [add_run(sql, NOW + timedelta(minutes=n), actor="eve" if n % 14 == 3 else "ann") for n in range(40)]
    pages, query = [], {"actor": "eve", "limit": "2"}
    while True:
        page = get(client, "/api/loop/runs", **query)
        pages.append([wanted.index(item["runId"]) for item in page["items"]])
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert pages == [[31], [], [17], [3], []]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"status": "done"}, "status"),
        ({"status": ""}, "status"),
        ({"status": "failed,"}, "status"),
        ({"status": "FAILED"}, "status"),
        ({"loop": ""}, "loop"),
        ({"actor": "a\0"}, "actor"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-11-24T12:00:00"}, "since"),
        ({"until": "2026-11-24"}, "until"),
        ({"until": ""}, "until"),
        ({"until": "0001-01-01T00:00:00+14:00"}, "until"),
        ({"issueId": "A"}, "issueId"),
        ({"limit": "0"}, "limit"),
    ],
)
def test_a_filter_that_is_none_is_400(client: Client, query: dict[str, str], named: str) -> None:
    answer = client("GET", "/api/loop/runs", query=query)
    assert named in assert_error(answer, 400, "INVALID_REQUEST")["message"]


def test_a_cursor_goes_with_the_filters_of_its_page(client: Client, sql: Sql) -> None:
    for number in range(3):
        add_run(sql, NOW + timedelta(minutes=number), actor="ann")
    cursor = get(client, "/api/loop/runs", actor="ann", limit="1")["nextCursor"]
    for query in ({}, {"actor": "bob"}, {"actor": "ann", "loop": "x"}):
        answer = client("GET", "/api/loop/runs", query={**query, "cursor": cursor})
        assert "cursor" in assert_error(answer, 400, "INVALID_REQUEST")["message"]


# --- one run


def test_a_run_has_its_events_and_no_other(client: Client, sql: Sql) -> None:
    client.register(githubUrl="u")
    first, second = client.run().json["runId"], client.run().json["runId"]
    for run_id in (first, second):
        events = get(client, f"/api/loop/runs/{run_id}")["events"]
        rows = sql("SELECT * FROM loop_events WHERE run_id = %s ORDER BY event_id DESC", run_id)
        assert [event["eventId"] for event in events] == [row["event_id"] for row in rows]
        assert {event["runId"] for event in events} == {run_id}


def test_a_failed_run_names_the_run_that_retried_it_whatever_came_between(client: Client, sql: Sql) -> None:
    client.register(githubUrl="u")
    store = client.services.runs
    lost = store.create_run(issue_id="AFU9-123", actor="bob", request_id="r", lease_seconds=0)
    client.run(body={"mode": "dryRun"})
    retry = client.run().json["runId"]
    assert get(client, f"/api/loop/runs/{lost.id}")["retriedBy"] == retry
    assert get(client, f"/api/loop/runs/{retry}")["retryOf"] == str(lost.id)
    assert get(client, f"/api/loop/runs/{retry}")["retriedBy"] is None


def test_a_run_says_where_its_log_lines_are(settings: Settings, sql: Sql) -> None:
    client = Client(Services(replace(settings, log_group="/loop/$x", region="eu-central-1")))
    client.register(githubUrl="u")
    run_id = client.run().json["runId"]
    assert get(client, f"/api/loop/runs/{run_id}")["logUrl"] == (
        "https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-central-1#logsV2:log-groups/log-group/"
        "$252Floop$252F$2524x/log-events/2026$252F11$252F24$252F$255B$2524LATEST$255D0123"
    )
    sql("SET session_replication_role = replica")
    sql("UPDATE loop_runs SET log_stream = NULL")
    assert get(client, f"/api/loop/runs/{run_id}")["logUrl"] is None
    client.services.database.close()


# --- loops


def test_loops_are_as_their_files_have_them(client: Client) -> None:
    body = get(client, "/api/loop/loops")
    assert [item["loop"] for item in body["items"]] == sorted(path.stem for path in LOOPS.glob("*.toml"))
    assert body["nextCursor"] is None
    merge = body["items"][0]
    assert merge["initialState"] == "CREATED"
    assert [step["executor"] for step in merge["steps"]] == ["callback", "approval", "lambda"]
    client.register("A")
    client.run("A")
    (delivery,) = (item for item in body["items"] if item["loop"] == "issue-delivery")
    assert get(client, "/api/loop/issues/A", include="loop")["loopDefinition"] == delivery
    assert "loopDefinition" not in get(client, "/api/loop/issues/A")
    for query in ({"include": "runs"}, {"include": ""}, {"expand": "loop"}):
        assert_error(client("GET", "/api/loop/issues/A", query=query), 400, "INVALID_REQUEST")
    assert get(client, "/api/loop/runs")["items"][0]["loopVersion"] == delivery["version"]
    assert delivery["steps"][0]["skipIf"] == [{"fact": "draft"}]
    assert delivery["steps"][4]["gates"][1]["is"] == "approved"


def test_a_loop_that_is_not_valid_is_listed_with_what_is_wrong(settings: Settings, tmp_path: Any) -> None:
    (tmp_path / "broken.toml").write_text("name = 1")
    client = Client(Services(replace(settings, loops_dir=tmp_path)))
    (item,) = get(client, "/api/loop/loops")["items"]
    assert item["loop"] == "broken"
    assert "broken.toml: name" in item["error"]
    client.services.database.close()


# --- statistics


def at(minute: float) -> datetime:
    return NOW + timedelta(minutes=minute)


WINDOW = {"since": (NOW - timedelta(hours=1)).isoformat(), "until": (NOW + timedelta(hours=2)).isoformat()}


def test_statistics_of_nothing(client: Client) -> None:
    body = get(client, "/api/loop/stats")
    zero = dict.fromkeys(["pending", "running", "completed", "failed", "blocked", "cancelled"], 0)
    assert body["runs"] == {"total": 0, "byStatus": zero, "retries": 0, "durationMs": None, "successRate": None}
    assert (body["steps"], body["blocked"], body["live"]) == ([], [], {"total": 0, "oldest": None})
    assert len(body["hours"]) in {24, 25}
    assert all(hour["byStatus"] == zero and hour["durationMs"] is None for hour in body["hours"])
    since, until = (datetime.fromisoformat(body[key]) for key in ("since", "until"))
    assert until - since == timedelta(days=1)


def test_statistics_count_what_was_recorded_in_the_window_and_no_dry_run(client: Client, sql: Sql) -> None:
    for minute, status, attempt in [(-60, "completed", 1), (0, "failed", 2), (1, "completed", 3), (2, "cancelled", 1)]:
        add_run(sql, at(minute), status=status, attempt=attempt, duration_ms=100 + minute)
    add_run(sql, at(-60.001))
    add_run(sql, at(120))
    add_run(sql, at(3), mode="dryRun")
    runs = get(client, "/api/loop/stats", **WINDOW)["runs"]
    assert runs["total"] == 4
    assert {status: n for status, n in runs["byStatus"].items() if n} == {"completed": 2, "failed": 1, "cancelled": 1}
    assert (runs["retries"], runs["successRate"]) == (2, 0.6667)
    assert runs["durationMs"] == {"p50": 100, "p95": 102, "max": 102}


def test_statistics_of_steps_are_percentiles_that_were_measured(client: Client, sql: Sql) -> None:
    for number in range(100):
        run_id = add_run(sql, at(number / 100), issue_id=f"I{number}", loop_name="x")
        add_step(sql, run_id, duration_ms=number + 1, status="failed" if number == 99 else "completed")
        add_step(sql, run_id, step_number=2, step_type="SKIPPED", status="skipped", started_at=None, duration_ms=None)
    add_step(sql, add_run(sql, at(0), loop_name="a"), step_number=7, step_type="OTHER", duration_ms=5)
    other, work = get(client, "/api/loop/stats", **WINDOW)["steps"]
    assert (other["loop"], other["stepNumber"], other["stepType"]) == ("a", 7, "OTHER")
    assert work == {
        "loop": "x", "stepNumber": 1, "stepType": "WORK", "byStatus": {"completed": 99, "failed": 1},
        "durationMs": {"p50": 50, "p95": 95, "max": 100},
    }  # fmt: skip


def test_statistics_have_each_hour_of_the_window(client: Client, sql: Sql) -> None:
    add_run(sql, at(-31))
    add_step(sql, add_run(sql, at(31), status="failed"), duration_ms=9)
    hours = get(client, "/api/loop/stats", **WINDOW)["hours"]
    assert [hour["hour"] for hour in hours] == [f"2026-11-24T{hour}:00:00.000000Z" for hour in (11, 12, 13, 14)]
    assert [sum(hour["byStatus"].values()) for hour in hours] == [1, 0, 1, 0]
    assert hours[2]["byStatus"]["failed"] == 1
    assert [hour["durationMs"] for hour in hours] == [None, None, {"p50": 9, "p95": 9, "max": 9}, None]


def test_statistics_say_what_was_blocked_by_what_and_for_how_long(client: Client, sql: Sql) -> None:
    stories: dict[str, list[tuple[int, str | None]]] = {
        "A": [(0, "X"), (1, "X"), (3, "Y"), (4, None), (10, "X"), (11, None)],
        "B": [(100, "X")],
        "C": [(0, None), (1, "Y"), (5, "X"), (6, None)],
    }
    for issue, story in stories.items():
        for minute, code in story:
            add_run(sql, at(minute), issue_id=issue, status="blocked" if code else "completed", blocker_code=code)
    add_run(sql, at(-61), issue_id="C", status="blocked", blocker_code="X")  # before the window
    minute = 60_000
    assert get(client, "/api/loop/stats", **WINDOW)["blocked"] == [
        {
            "code": "X", "runs": 5, "issues": 3, "ongoing": 1,
            "blockedMs": {"p50": minute, "p95": 20 * minute, "max": 20 * minute},
        },
        {"code": "Y", "runs": 2, "issues": 2, "ongoing": 0,
         "blockedMs": {"p50": minute, "p95": 4 * minute, "max": 4 * minute}},
    ]  # fmt: skip


def test_statistics_name_the_oldest_live_run_however_old_it_is(client: Client, sql: Sql) -> None:
    oldest = add_run(sql, NOW - timedelta(days=400), issue_id="old", status="running")
    add_run(sql, NOW, issue_id="new", status="pending")
    live = get(client, "/api/loop/stats")["live"]
    assert (live["total"], live["oldest"]["runId"]) == (2, oldest)
    assert live["oldest"] == get(client, "/api/loop/runs", status="running")["items"][0]


@pytest.mark.parametrize(
    "query",
    [
        {"since": "2026-11-24T12:00:00Z", "until": "2026-11-24T12:00:00Z"},
        {"since": "2026-11-24T12:00:00Z", "until": "2026-11-24T11:00:00Z"},
        {"since": "2026-11-01T00:00:00Z", "until": "2026-11-08T00:00:00.000001Z"},
        {"since": "2100-01-01T00:00:00Z"},
        {"since": "now"},
        {"hours": "24"},
    ],
)
def test_a_window_that_is_none_or_too_long_is_400(client: Client, query: dict[str, str]) -> None:
    assert_error(client("GET", "/api/loop/stats", query=query), 400, "INVALID_REQUEST")


def test_a_week_is_the_longest_window(client: Client) -> None:
    body = get(client, "/api/loop/stats", since="2026-11-01T00:00:00Z", until="2026-11-08T00:00:00Z")
    assert len(body["hours"]) == 168


# --- health, document, console


def test_deep_health_says_what_the_database_is(client: Client, sql: Sql) -> None:
    body = get(client, "/api/health/deep")
    assert body["status"] == "ok"
    found = body["database"]
    assert found["migration"] == found["requiredMigration"] == sql.one("SELECT loop_schema() AS s")["s"]["version"]
    assert found["serverVersion"] == sql.one("SELECT current_setting('server_version') AS v")["v"]
    assert_error(client("GET", "/api/health/deep", actor=None), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(("schema", "said"), [((1, 1), "apply"), ((9999, 9999), "deploy")])
def test_deep_health_is_503_where_code_and_schema_do_not_fit(
    client: Client, sql: Sql, schema: tuple[int, int], said: str
) -> None:
    version, minimum = schema
    sql(f"""CREATE OR REPLACE FUNCTION loop_schema() RETURNS jsonb LANGUAGE sql IMMUTABLE AS
        $$ SELECT '{{"version": {version}, "minimumCode": {minimum}}}'::jsonb $$""")
    answer = client("GET", "/api/health/deep")
    assert said in assert_error(answer, 503, "UNAVAILABLE")["message"]
    assert int(answer.headers["retry-after"]) > 0


def test_the_openapi_document_is_served_to_who_may_call_the_api(settings: Settings) -> None:
    client = Client(Services(replace(settings, openapi_file=ROOT / "docs/openapi.json")))
    answer = client("GET", "/api/openapi.json")
    assert answer.json == json.loads((ROOT / "docs/openapi.json").read_text())
    assert answer.headers["content-type"] == "application/json"
    assert_error(client("GET", "/api/openapi.json", actor=None), 401, "UNAUTHORIZED")


def test_the_console_needs_nobody_and_its_page_may_load_nothing_from_elsewhere(client: Client) -> None:
    page = client("GET", "/console", actor=None)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    again = client("GET", "/console", actor=None, headers={"If-None-Match": f'"x", W/{page.headers["etag"]}'})
    assert (again.status, again.text) == (304, "")


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "functions/loop_api/console").iterdir()))
def test_each_file_of_the_console_is_served_as_what_it_is(client: Client, file: str) -> None:
    answer = client("GET", f"/console/{file}", actor=None)
    assert answer.status == 200
    assert answer.text == (ROOT / "functions/loop_api/console" / file).read_text()
    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[
        file.rsplit(".", maxsplit=1)[-1]
    ]
    assert answer.headers["content-type"].split(";")[0] == kind


@pytest.mark.parametrize("file", ["app.py", "../app.py", "..", "console", "index.htm", "%2e%2e", "a" * 300])
def test_nothing_else_is_served_as_a_file(client: Client, file: str) -> None:
    if "/" in file:  # a path of no route, for which an identity is asked first
        assert_error(client("GET", f"/console/{file}"), 404, "NOT_FOUND")
    assert client("GET", f"/console/{file}", actor=None).status in {401, 404}
