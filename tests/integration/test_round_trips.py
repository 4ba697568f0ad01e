"""A run costs two round trips and two commits (design, section 4, rule 10), counted on the wire and in the rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from loop_runner.results import Completed, Failed, Waiting
from loop_runner.services import Services
from tests.fake_steps import Steps
from tests.wire import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loop_runner.settings import Settings
    from tests.conftest import Client, Sql

ISSUE = "/api/loop/issues/AFU9-123"
URL = "https://github.com/acme/app/issues/1"


@pytest.fixture
def proxy(app_database_url: str) -> Iterator[Proxy]:
    with Proxy(app_database_url) as proxy:
        yield proxy


@pytest.fixture
def services(settings: Settings, proxy: Proxy) -> Iterator[Services]:
    """The functions' own, on a connection that leads through the proxy."""
    services = Services(replace(settings, database_url=proxy.url))
    yield services
    services.database.close()


def cost(proxy: Proxy, call: Callable[[], Any], status: int = 200) -> int:
    """The round trips of a call, each of which was one statement in a transaction of its own."""
    proxy.forget()
    answer = call()
    assert answer.status == status, answer.text
    assert proxy.completed == ["SELECT 1"] * proxy.round_trips
    assert proxy.ready == Counter({"I": proxy.round_trips} if proxy.round_trips else {})
    return proxy.round_trips


def transactions_of_run(sql: Sql, run_id: str) -> list[str]:
    """The transactions that wrote the run's rows: of each row, and each event, the last one that did."""
    rows = sql(
        """
        SELECT xmin::text AS x, 'run' AS what FROM loop_runs WHERE id = %(id)s
        UNION ALL SELECT xmin::text, 'step' FROM loop_run_steps WHERE run_id = %(id)s
        UNION ALL SELECT xmin::text, event_type FROM loop_events WHERE run_id = %(id)s
        UNION ALL SELECT xmin::text, 'issue' FROM loop_issues
        """.replace("%(id)s", "%s"),
        *[run_id] * 3,
    )
    by_transaction: dict[str, list[str]] = {}
    for row in rows:
        by_transaction.setdefault(row["x"], []).append(row["what"])
    return sorted(", ".join(sorted(written)) for written in by_transaction.values())


# --- two


def test_a_completed_run_costs_two_round_trips(client: Client, proxy: Proxy) -> None:
    client.register(githubUrl=URL)
    assert cost(proxy, client.run) == 2


def test_a_run_with_a_skipped_step_costs_two_round_trips(client: Client, proxy: Proxy) -> None:
    client.register(draft={"committed": True, "status": "valid"})
    assert cost(proxy, client.run) == 2


def test_a_blocked_run_costs_two_round_trips(client: Client, proxy: Proxy) -> None:
    client.register()
    assert cost(proxy, client.run) == 2


def test_a_run_of_a_finished_issue_costs_two_round_trips(client: Client, proxy: Proxy, sql: Sql) -> None:
    client.register()
    sql("UPDATE loop_issues SET state = 'CLOSED'")
    assert cost(proxy, client.run) == 2


@pytest.mark.parametrize("facts", [{}, {"githubUrl": URL}])
def test_a_dry_run_costs_two_round_trips(client: Client, proxy: Proxy, facts: dict[str, str]) -> None:
    client.register(**facts)
    assert cost(proxy, lambda: client.run(body={"mode": "dryRun"})) == 2


def test_the_takeover_of_a_lost_run_costs_no_more(client: Client, proxy: Proxy, sql: Sql) -> None:
    client.register(githubUrl=URL)
    client.services.runs.create_run(issue_id="AFU9-123", actor="bob", request_id="r")
    sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp()")
    assert cost(proxy, client.run) == 2


def test_the_first_call_of_a_process_costs_the_connection_and_two(client: Client, proxy: Proxy, sql: Sql) -> None:
    client.register(githubUrl=URL)
    client.services.database.close()
    proxy.forget()
    assert client.run().status == 200
    assert (proxy.sent[""], proxy.sent["S"], proxy.sent["Q"]) == (1, 2, 0)


# --- steps that are executed elsewhere


@pytest.fixture
def steps(services: Services, tmp_path: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps(services.settings, tmp_path, sql, monkeypatch)
    yield steps
    steps.services.database.close()


@pytest.mark.parametrize(
    ("loop", "said", "trips"),
    [
        pytest.param("approve", None, 2, id="a run that an approval blocks"),
        pytest.param("work", Completed(), 3, id="a lambda: its start"),
        pytest.param("work", Failed("Busy", "later"), 3, id="a lambda that is tried again"),
        pytest.param("ask", Waiting(), 3, id="a callback that waits: start and park, its end is told"),
        pytest.param("ask", Completed(), 3, id="a callback that knows its outcome"),
    ],
)
def test_a_step_that_is_executed_elsewhere_costs_one_more(
    steps: Steps, proxy: Proxy, loop: str, said: Any, trips: int
) -> None:
    steps.register(loop)
    steps.will(said)
    assert cost(proxy, steps.run) == trips


def test_an_approved_step_costs_no_more_than_a_transition(steps: Steps, proxy: Proxy) -> None:
    steps.register("approve")
    decision = {"decision": "approved"}
    path = "/api/loop/issues/A-1/approvals"
    decided = cost(proxy, lambda: steps.client("POST", path, decision, "bob", headers={"if-match": '"1"'}))
    assert decided == 3, "read, look whether the connection is there, decide"
    assert cost(proxy, steps.run) == 2


def test_an_outcome_and_a_heartbeat_cost_two_round_trips(steps: Steps, proxy: Proxy) -> None:
    waits = steps.ask()
    assert cost(proxy, waits.beat) == 2
    assert cost(proxy, lambda: waits.tell({"status": "completed"})) == 2


def test_to_queue_a_run_costs_one_round_trip_and_a_look_where_the_step_may_be_long(steps: Steps, proxy: Proxy) -> None:
    steps.register("work")
    assert cost(proxy, lambda: steps.run(headers={"prefer": "respond-async"}), status=202) == 1
    steps.register("long", "A-2")
    assert cost(proxy, lambda: steps.run("A-2"), status=202) == 2


# --- one or none


def test_a_refusal_of_the_claim_costs_one_round_trip(client: Client, proxy: Proxy) -> None:
    client.register(githubUrl=URL)
    assert cost(proxy, lambda: client.run("NEW-1"), status=404) == 1
    assert cost(proxy, lambda: client.run(headers={"if-match": '"7"'}), status=412) == 1
    client.services.runs.create_run(issue_id="AFU9-123", actor="bob", request_id="r")
    assert cost(proxy, client.run, status=409) == 1


def test_reading_an_issue_a_run_or_a_list_costs_one_round_trip(client: Client, proxy: Proxy) -> None:
    client.register(githubUrl=URL)
    run_id = client.run().json["runId"]
    for path in (ISSUE, f"/api/loop/runs/{run_id}"):
        assert cost(proxy, lambda path=path: client("GET", path)) == 1  # type: ignore[misc]
    for path in (f"{ISSUE}/runs", f"{ISSUE}/events"):
        proxy.forget()
        assert client("GET", path).status == 200
        assert proxy.round_trips == 1


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        pytest.param({"path": f"{ISSUE}/run-next-step", "actor": None}, 401, id="no identity"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "authorizer": {}}, 401, id="no principal"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "actor": "a,b"}, 400, id="identity given twice"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "body": "{"}, 400, id="bad body"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "body": {"mode": "x"}}, 400, id="bad mode"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "body": "x" * 70_000}, 413, id="large body"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "headers": {"if-match": "1"}}, 400, id="bad If-Match"),
        pytest.param({"path": "/api/loop/issues/a b/run-next-step"}, 400, id="bad issue id"),
        pytest.param({"path": "/nowhere"}, 404, id="unknown path"),
        pytest.param({"path": ISSUE}, 405, id="wrong method"),
    ],
)
def test_what_is_refused_by_its_form_does_not_even_connect(
    client: Client, proxy: Proxy, parts: dict[str, Any], status: int
) -> None:
    assert client("POST", **parts).status == status
    assert proxy.sent == Counter()


def test_health_does_not_connect(client: Client, proxy: Proxy) -> None:
    assert client("GET", "/api/health", actor=None).status == 200
    assert proxy.sent == Counter()


# --- commits


def test_a_run_is_written_by_two_transactions_all_of_its_end_by_one(client: Client, sql: Sql) -> None:
    client.register(draft={"committed": True, "status": "valid"})
    run_id = client.run().json["runId"]
    assert transactions_of_run(sql, run_id) == [
        "issue, loop_run_finished, loop_step_completed, loop_step_skipped, run, step, step",
        "loop_run_started",
    ]


def test_a_blocked_run_is_written_by_two_transactions(client: Client, sql: Sql) -> None:
    client.register()
    run_id = client.run().json["runId"]
    assert transactions_of_run(sql, run_id) == ["issue", "loop_run_blocked, run", "loop_run_started"]


def test_a_dry_run_is_written_by_one_transaction(client: Client, sql: Sql) -> None:
    client.register()
    run_id = client.run(body={"mode": "dryRun"}).json["runId"]
    assert transactions_of_run(sql, run_id) == ["issue", "run"]
