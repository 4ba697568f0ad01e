"""What functions write: JSON lines with the ids of the run on each, metrics of bounded dimensions, no payload."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from loop_runner import background
from loop_runner.metrics import Metric
from tests.conftest import ROOT, Client, Lines, Sql

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.fake_steps import Steps

ISSUE = "/api/loop/issues/AFU9-123"
IDS = {"requestId", "runId", "issueId", "loop", "step"}
DIMENSIONS = {"service", "status", "loop", "step"}
REQUEST = "3f0c5b1e-7a52-4b8e-9d57-0c2b8a6f1d34"


def metrics_of(lines: Lines) -> list[tuple[str, float, dict[str, str]]]:
    """Name, value and dimensions of each metric of the lines, as CloudWatch extracts them; of a line, once a set."""
    found = []
    for line in lines:
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", ()):
            assert directive["Namespace"] == "LoopRunner"
            for names in directive["Dimensions"]:
                assert set(names) <= DIMENSIONS
                for metric in directive["Metrics"]:
                    assert metric["Unit"] in {"Count", "Milliseconds", "Seconds"}
                    found.append((metric["Name"], line[metric["Name"]], {name: line[name] for name in names}))
    return found


def counted(lines: Lines, name: Metric) -> float:
    """The sum over the dimension sets that have the service."""
    return sum(value for each, value, dimensions in metrics_of(lines) if each == name and "service" in dimensions)


def test_each_line_of_a_run_has_its_ids(client: Client, written: Callable[[], Lines]) -> None:
    client.register(githubUrl="u")
    written()
    run_id = client.run(headers={"x-request-id": REQUEST}).json["runId"]
    lines = written()
    assert [line.get("message") for line in lines] == [None, "answered"]
    for line in lines:
        assert {key: line[key] for key in IDS} == {
            "requestId": REQUEST, "runId": run_id, "issueId": "AFU9-123", "loop": "issue-delivery",
            "step": "S1_PICK_ISSUE",
        }  # fmt: skip


def test_a_blocked_run_and_an_error_have_the_ids_too(
    client: Client, written: Callable[[], Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.register()
    written()
    client.run()
    assert all(line.keys() >= IDS for line in written())

    def fail(*_: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("loop_runner.outcomes.of_blocked", fail)
    client.run()
    lines = written()
    assert "the run failed unexpectedly" in [line.get("message") for line in lines]
    assert all(line.keys() >= IDS for line in lines if "_aws" not in line)


def test_a_run_is_counted_by_status_and_its_step_is_measured(client: Client, written: Callable[[], Lines]) -> None:
    client.register(githubUrl="u")
    written()
    duration = client.run().json["stepExecuted"]["durationMs"]
    client.run()
    assert metrics_of(written()) == [
        ("Runs", 1, {"status": "completed", "service": "loop-runner"}),
        ("Runs", 1, {"loop": "issue-delivery", "status": "completed"}),
        ("StepDuration", duration, {"loop": "issue-delivery", "step": "S1_PICK_ISSUE", "service": "loop-runner"}),
        ("Runs", 1, {"status": "blocked", "service": "loop-runner"}),
        ("Runs", 1, {"loop": "issue-delivery", "status": "blocked"}),
    ]


def test_a_dry_run_and_a_call_that_only_reads_are_not_counted(client: Client, written: Callable[[], Lines]) -> None:
    client.register(githubUrl="u")
    client.run(body={"mode": "dryRun"})
    client("GET", ISSUE)
    client("GET", "/api/loop/stats")
    assert metrics_of(written()) == []


def test_conflicts_takeovers_and_retries_are_counted(client: Client, sql: Sql, written: Callable[[], Lines]) -> None:
    client.register(githubUrl="u")
    client.services.runs.create_run(issue_id="AFU9-123", actor="bob", request_id="r")
    written()
    assert client.run().status == 409
    lines = written()
    assert (counted(lines, Metric.CONFLICTS), counted(lines, Metric.RUNS)) == (1, 0)
    sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp()")
    client.run()
    lines = written()
    found = {name: counted(lines, name) for name in Metric if name is not Metric.STEP_DURATION}
    assert found == {"Runs": 1, "Retries": 1, "Conflicts": 0, "Takeovers": 1, "LostRuns": 1, "QueueAge": 0}


def test_lost_runs_that_the_sweeper_ends_are_counted_and_named(
    client: Client, sql: Sql, written: Callable[[], Lines]
) -> None:
    client.register(githubUrl="u")
    client.register("OTHER", githubUrl="u")
    runs = [
        client.services.runs.create_run(issue_id=issue, actor="bob", request_id="r", lease_seconds=0)
        for issue in ("AFU9-123", "OTHER")
    ]
    written()
    background.sweep(client.services.ledger, client.services.messages, retention_days=0, deadline=float("inf"))
    lines = written()
    named = [(line["runId"], line["issueId"], line["code"]) for line in lines if line.get("level") == "WARNING"]
    assert sorted(named) == sorted((str(run.id), run.issue_id, "LEASE_EXPIRED") for run in runs)
    assert (counted(lines, Metric.LOST_RUNS), counted(lines, Metric.RUNS)) == (2, 2)


def test_a_queued_run_tells_how_long_it_waited_and_its_worker_has_the_ids(
    steps: Steps, written: Callable[[], Lines]
) -> None:
    steps.register("work")
    queued = steps.run(headers={"prefer": "respond-async"}).json["runId"]
    written()
    for message, _ in steps.sent.all:
        steps.work(message)
    lines = written()
    ((_, waited, _),) = [each for each in metrics_of(lines) if each[0] == "QueueAge"]
    assert 0 <= waited < 60
    assert counted(lines, Metric.RUNS) == 1
    assert all((line["runId"], line["issueId"]) == (queued, "A-1") for line in lines if "Runs" in line)


def test_a_cancelled_run_is_counted_once(client: Client, written: Callable[[], Lines]) -> None:
    client.register(githubUrl="u")
    run_id = client.run(headers={"prefer": "respond-async"}).json["runId"]
    written()
    for _ in range(2):
        assert client("POST", f"/api/loop/runs/{run_id}/cancel").status == 200
    assert metrics_of(written()) == [
        ("Runs", 1, {"status": "cancelled", "service": "loop-runner"}),
        ("Runs", 1, {"loop": "issue-delivery", "status": "cancelled"}),
    ]


def test_no_payload_and_no_secret_is_written(client: Client, written: Callable[[], Lines]) -> None:
    secret = "canary-7f3a"
    client.register(githubUrl=secret)
    client("PATCH", ISSUE, {"draft": {"note": secret}})
    client("PATCH", ISSUE, f'{{"draft": "{secret}"')
    client("POST", f"{ISSUE}/hold", {"reason": secret})
    client("POST", f"{ISSUE}/resume", {"reason": secret})
    client.run(body={"mode": secret})
    client.run(headers={"idempotency-key": secret})
    client("POST", "/api/loop/runs/01a20b7d-054d-7c54-a982-de8e7344bfb2/heartbeat", {"taskToken": secret})
    client("GET", "/api/loop/runs", query={"actor": secret})
    assert secret not in json.dumps(written())


def test_operations_page_has_each_metric() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    for metric in Metric:
        assert f"\n| {metric} |" in page
