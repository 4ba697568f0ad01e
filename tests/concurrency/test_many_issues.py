"""Many processes at work on many issues: callers, sweepers, purgers. None waits for ever, nothing is done twice."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from functions.run_sweeper import app as run_sweeper
from loop_runner import background
from loop_runner.background import SWEEPER
from loop_runner.claims import Claim, ClaimRequest
from loop_runner.models import RunMode
from tests.aging import let_days_pass
from tests.concurrency.conftest import open_gates
from tests.conftest import Context

if TYPE_CHECKING:
    from tests.concurrency.conftest import Crowd
    from tests.conftest import Client, Sql

pytestmark = pytest.mark.usefixtures("sound")


def lose_run(client: Client, issue_id: str) -> str:
    """Claim the issue and be heard of no more; the run's id. Its lease is over already."""
    request = ClaimRequest(issue_id=issue_id, actor="cyd", request_id=uuid4(), mode=RunMode.EXECUTE, lease_ms=0)
    claim = client.services.ledger.claim(request)
    assert isinstance(claim, Claim)
    return str(claim.run_id)


def test_of_fifty_issues_driven_at_once_every_call_is_answered_with_200(crowd: Crowd, sql: Sql) -> None:
    def drive(client: Client, issue_id: str) -> list[tuple[int, str]]:
        """From the first PUT to CLOSED; each fact is added when the issue waits for it."""
        answers = [client.register(issue_id)]
        for key, value in open_gates().items():
            answers += [client.run(issue_id), client("PATCH", f"/api/loop/issues/{issue_id}", {key: value})]
        answers += [client.run(issue_id) for _ in range(3)]
        return [(answer.status, answer.json.get("loopStatus", "")) for answer in answers]

    for answers in crowd([partial(drive, issue_id=f"AFU9-{number}") for number in range(50)]):
        assert {status for status, _ in answers} == {200, 201}
        assert answers[-1] == (200, "completed")
    assert sql.one("SELECT count(*) FROM loop_issues WHERE state = 'CLOSED'")["count"] == 50


def test_a_lost_run_is_ended_once_whether_a_sweeper_or_the_next_caller_is_faster(
    client: Client, crowd: Crowd, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "SWEEP_BATCH", 3)  # so that sweepers meet in many batches
    issues = [f"AFU9-{number}" for number in range(80)]
    for issue_id in issues:
        client.register(issue_id, **open_gates())
    lost = {lose_run(client, issue_id) for issue_id in issues}

    def sweep(client: Client) -> int:
        run_sweeper.services = lambda: client.services  # type: ignore[assignment]  # this process's own
        return sum(run_sweeper.handler({}, Context())["ended"] for _ in range(25))  # type: ignore[arg-type]

    def call(client: Client, seed: int) -> list[int]:
        shuffled = random.Random(seed).sample(issues, len(issues))
        return [client.run(issue_id, actor=f"caller-{seed}").status for issue_id in shuffled]

    swept, called = 0, set()
    for result in crowd([sweep] * 4 + [partial(call, seed=seed) for seed in range(4)]):
        if isinstance(result, int):
            swept += result
        else:
            called |= set(result)
    assert called <= {200, 409}
    ends = sql("SELECT run_id, event_data FROM loop_events WHERE event_data ->> 'errorCode' = 'LEASE_EXPIRED'")
    assert len(ends) == 80
    assert {str(end["run_id"]) for end in ends} == lost
    assert swept == sum(end["event_data"]["endedBy"] == SWEEPER for end in ends)
    successors = sql(
        "SELECT DISTINCT ON (issue_id) * FROM loop_runs WHERE actor <> 'cyd' ORDER BY issue_id, created_at"
    )
    assert {(run["attempt"], str(run["retry_of"])) for run in successors} == {(2, run_id) for run_id in lost}


def test_old_runs_are_deleted_once_beside_calls_which_lose_nothing(client: Client, crowd: Crowd, sql: Sql) -> None:
    issues = [f"AFU9-{number}" for number in range(20)]
    for issue_id in issues:
        client.register(issue_id, **open_gates())
        for _ in range(3):
            client.run(issue_id, headers={"idempotency-key": str(uuid4())})
        client.run(issue_id, {"mode": "dryRun"})
    client.register("LOST-1")
    kept = lose_run(client, "LOST-1")
    client.services.ledger.sweep(max_runs=1, ended_by=SWEEPER)
    let_days_pass(sql, 2)

    def purge(client: Client) -> int:
        purged = 0
        while some := client.services.ledger.purge(older_than_days=1, max_runs=3):
            purged += some
        return purged

    def call(client: Client, seed: int) -> list[str]:
        """Ids of the runs that were answered with 200."""
        answers = [
            client.run(issue_id, {"mode": mode}, headers={"idempotency-key": str(uuid4())})
            for issue_id in random.Random(seed).sample(issues, len(issues))
            for mode in ("execute", "dryRun")
        ]
        assert {answer.status for answer in answers} <= {200, 409}
        return [answer.json["runId"] for answer in answers if answer.status == 200]

    results = crowd([purge] * 3 + [partial(call, seed=seed) for seed in range(3)])
    assert sum(results[:3]) + client.services.ledger.purge(older_than_days=1, max_runs=100) == 20 * 4
    answered = {run_id for call in results[3:] for run_id in call}
    assert {str(row["id"]) for row in sql("SELECT id FROM loop_runs")} == answered | {kept}
    assert sql("SELECT 1 FROM loop_events WHERE run_id IS NOT NULL AND run_id NOT IN (SELECT id FROM loop_runs)") == []
    assert sql.one("SELECT count(*) FROM loop_events WHERE run_id IS NULL")["count"] == 21
