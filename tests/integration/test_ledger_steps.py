"""Fences of steps that are executed elsewhere: stale holders change nothing, repeated calls find what they did."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Barrier
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from loop_runner.claims import Claim, ClaimRequest, NotPlanned, Recorded, Started, TaskOf
from loop_runner.database import Database
from loop_runner.errors import IssueNotFoundError, LoopConflictError, RunFinishedError
from loop_runner.execution import hash_of_token
from loop_runner.ledger import Ledger
from loop_runner.loops import Loop, Step
from loop_runner.models import LoopStatus, NextStep, RunMode, RunStatus, StepStatus
from loop_runner.outcomes import Outcome, StepRecord
from loop_runner.results import Failed, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from loop_runner.models import Json
    from tests.fake_steps import Steps

HOLD = Jsonb({"reason": "audit", "by": "eve", "since": "2026-11-24T12:00:00Z"})
TOKEN = hash_of_token("token")
NEXT = NextStep(step_number=1, step_type="WORK")
DONE = Outcome(
    RunStatus.COMPLETED,
    LoopStatus.COMPLETED,
    "WORK completed",
    step=1,
    state_after="DONE",
    facts={"a": 1},
    steps=(StepRecord(1, "WORK", StepStatus.COMPLETED),),
)
BUSY = Outcome(
    RunStatus.FAILED,
    LoopStatus.PAUSED,
    "WORK failed",
    step=1,
    error_code="Busy",
    error_message="later",
    steps=(StepRecord(1, "WORK", StepStatus.FAILED),),
    retry_seconds=0.0,
)
TABLES = ("loop_issues", "loop_runs", "loop_run_steps", "loop_events")


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


def rows(steps: Steps) -> dict[str, Any]:
    """Every row with its version: any write shows."""
    return {table: steps.sql(f"SELECT xmin, t FROM {table} AS t ORDER BY ctid") for table in TABLES}


def asks(actor: str = "ann", issue_id: str = "A-1", **fields: Any) -> ClaimRequest:
    return replace(ClaimRequest(issue_id, actor, uuid4(), RunMode.EXECUTE, lease_ms=60_000), **fields)


def claim(steps: Steps, actor: str = "ann", **fields: Any) -> Claim:
    claimed = steps.services.ledger.claim(asks(actor, **fields))
    assert isinstance(claimed, Claim)
    return claimed


def step_of(steps: Steps, loop: str = "ask") -> Step:
    found = steps.services.loops.get(loop)
    assert isinstance(found, Loop)
    return found.steps[0]


def start(steps: Steps, claimed: Claim, token_hash: str | None = TOKEN) -> Started | Recorded:
    return steps.services.ledger.start_step(
        claimed, step_of(steps), "v", retry_if_lost={"LEASE_EXPIRED": 30}, token_hash=token_hash, heartbeat_seconds=60
    )


def park(steps: Steps, claimed: Claim) -> Recorded:
    return steps.services.ledger.park(claimed, "waits", NEXT)


def task(steps: Steps, run_id: UUID) -> TaskOf:
    found = steps.services.ledger.task_of(run_id)
    assert found
    return found


@pytest.fixture
def asked(steps: Steps) -> Steps:
    steps.register("ask")
    return steps


# ---------------------------------------------------------------------------------------------- stale holders


@pytest.mark.parametrize("how", ["taken over", "swept", "forged"])
def test_a_stale_holder_starts_nothing_parks_nothing_and_ends_nothing(asked: Steps, how: str) -> None:
    stale = claim(asked)
    if how == "forged":
        stale = replace(stale, lease_token=uuid4())
    else:
        asked.lose_lease()
        if how == "swept":
            asked.sweep()
        else:
            successor = claim(asked, "ben")
            start(asked, successor, hash_of_token("another"))
    before = rows(asked)
    started, parked = start(asked, stale), park(asked, stale)
    finished = asked.services.ledger.finish(stale, DONE)
    assert rows(asked) == before
    assert isinstance(started, Recorded)
    assert [each.by_this_call for each in (started, parked, finished)] == [False] * 3
    status = "running" if how == "forged" else "failed"
    assert [str(each.run.status) for each in (started, parked, finished)] == [status] * 3
    assert finished.run.id == stale.run_id


def test_a_run_of_another_is_not_parked_with_ones_own_token(asked: Steps) -> None:
    first = claim(asked)
    start(asked, first)
    asked.register("ask", "A-2")
    second = claim(asked, issue_id="A-2")
    before = rows(asked)
    assert not park(asked, replace(first, lease_token=second.lease_token)).by_this_call
    assert rows(asked) == before


def test_a_step_that_is_not_a_callback_is_not_parked(asked: Steps) -> None:
    claimed = claim(asked)
    start(asked, claimed, token_hash=None)
    before = rows(asked)
    assert not park(asked, claimed).by_this_call
    assert rows(asked) == before


def test_a_token_ends_the_run_that_it_was_made_for_and_no_other(asked: Steps) -> None:
    claimed = claim(asked)
    start(asked, claimed)
    park(asked, claimed)
    waiting = task(asked, claimed.run_id)
    assert waiting.token_hash == TOKEN
    before = rows(asked)
    for forged in (hash_of_token("x"), "", TOKEN.upper()):
        with pytest.raises(RunFinishedError):
            asked.services.ledger.finish_task(replace(waiting, token_hash=forged), DONE, "eve")
        with pytest.raises(RunFinishedError):
            asked.services.ledger.heartbeat(replace(waiting, token_hash=forged))
    assert rows(asked) == before
    assert asked.services.ledger.finish_task(waiting, DONE, "agent").by_this_call


def test_the_holder_of_the_lease_ends_a_run_that_waits_only_with_the_lease(asked: Steps) -> None:
    """A process that parked its run and then comes back late still holds its lease token: it is the same run's."""
    claimed = claim(asked)
    start(asked, claimed)
    park(asked, claimed)
    asked.services.ledger.finish_task(task(asked, claimed.run_id), DONE, "agent")
    before = rows(asked)
    assert not asked.services.ledger.finish(claimed, BUSY).by_this_call
    assert not park(asked, claimed).by_this_call
    assert rows(asked) == before


def test_the_outcome_of_a_step_that_was_given_up_is_refused(asked: Steps) -> None:
    claimed = claim(asked)
    start(asked, claimed)
    park(asked, claimed)
    waiting = task(asked, claimed.run_id)
    asked.let_time_out()
    asked.sweep()
    successor = claim(asked, "ben")
    start(asked, successor, hash_of_token("another"))
    before = rows(asked)
    with pytest.raises(RunFinishedError):
        asked.services.ledger.finish_task(waiting, DONE, "agent")
    with pytest.raises(RunFinishedError):
        asked.services.ledger.heartbeat(waiting)
    assert rows(asked) == before


# ---------------------------------------------------------------------------------------------- again, unheard


class Twice(Database):
    """Makes each repeatable call twice and answers the second time: as where the first acknowledgement was lost."""

    def call(self, function: Any, request: Any, *, repeatable: bool = True, persistent: bool = False) -> Json:
        answer = super().call(function, request, repeatable=repeatable, persistent=persistent)
        return super().call(function, request, repeatable=repeatable, persistent=persistent) if repeatable else answer


def once_and_twice(steps: Steps, scenario: Callable[[str], Any]) -> tuple[Any, Any]:
    """What the scenario answers for issue A-1, and for A-2 on a database whose acknowledgements are lost."""
    first = scenario("A-1")
    services, once = steps.services, steps.services.database
    twice = Twice(once._url)
    parts = ("ledger", "runner", "issues", "runs", "history")
    kept = {part: services.__dict__.pop(part, None) for part in parts}
    services.__dict__["database"] = twice
    try:
        with closing(twice):
            second = scenario("A-2")
    finally:
        services.__dict__["database"] = once
        for part in parts:
            services.__dict__.pop(part, None)
        services.__dict__.update({part: value for part, value in kept.items() if value is not None})
    return first, second


def story(steps: Steps, issue_id: str) -> list[Any]:
    """All that the ledger has of an issue, but for ids and times."""
    runs = steps.sql(
        "SELECT status, loop_status, error_code, blocker_code, attempt, state_after, issue_version, sends, step,"
        " retry_of IS NULL AS is_first, retry_at IS NULL AS is_last FROM loop_runs WHERE issue_id = %s ORDER BY id",
        issue_id,
    )
    of_steps = steps.sql(
        "SELECT s.status, s.step_number, s.error_message, s.metadata ->> 'toldBy' AS told_by FROM loop_run_steps AS s"
        " JOIN loop_runs AS r ON r.id = s.run_id WHERE r.issue_id = %s ORDER BY r.id, s.step_number",
        issue_id,
    )
    issue = steps.issue(issue_id)
    kept = {key: issue[key] for key in ("state", "facts", "version", "failed_attempts", "approval_requesters")}
    return [runs, of_steps, steps.events(issue_id), kept, issue["idempotency_token"] is None]


SCENARIOS = ["lambda", "failed", "told", "told failed", "waits", "queued", "planned", "approval", "cancelled", "beat"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_call_whose_acknowledgement_was_lost_is_one_call(steps: Steps, scenario: str) -> None:
    loop = {"approval": "approve", "lambda": "work", "failed": "work", "queued": "work", "planned": "work"}
    for issue_id in ("A-1", "A-2"):
        steps.register(loop.get(scenario, "ask"), issue_id)

    def play(issue_id: str) -> list[Any]:
        if scenario in {"failed", "planned"}:
            steps.will(Failed("Busy", "later"))
        elif loop.get(scenario) is None:
            steps.will(Waiting())
        answers = [steps.run(issue_id, headers={"prefer": "respond-async"} if scenario == "queued" else {}).status]
        run_id = str(steps.sql.one("SELECT id FROM loop_runs WHERE issue_id = %s", issue_id)["id"])
        token = {"taskToken": steps.calls[-1].task_token} if steps.calls else {}
        calls: dict[str, tuple[str, Any]] = {
            "told": ("result", {**token, "status": "completed", "facts": {"a": 1}}),
            "told failed": ("result", {**token, "status": "failed", "error": {"name": "Busy", "message": "x"}}),
            "cancelled": ("cancel", {}),
            "beat": ("heartbeat", token),
        }
        if scenario in calls:
            what, body = calls[scenario]
            answers.append(steps.client("POST", f"/api/loop/runs/{run_id}/{what}", body).status)
        elif scenario == "queued":
            steps.work({"issueId": issue_id, "runId": run_id})
        elif scenario == "planned":
            steps.let_be_due()
            steps.work({"issueId": issue_id, "after": run_id})
        return [answers, story(steps, issue_id), len([call for call in steps.calls if call.issue.id == issue_id])]

    once, twice = once_and_twice(steps, play)
    assert twice == once
    if scenario == "queued":
        assert [message["issueId"] for message, _ in steps.sent.all] == ["A-1", "A-2"]
    assert {*once[0]} <= {200, 202}


def test_an_outcome_that_is_told_again_with_another_id_is_refused(asked: Steps) -> None:
    claimed = claim(asked)
    start(asked, claimed)
    park(asked, claimed)
    waiting = task(asked, claimed.run_id)
    asked.services.ledger.finish_task(waiting, DONE, "agent")
    before = rows(asked)
    with pytest.raises(RunFinishedError):
        asked.services.ledger.finish_task(waiting, DONE, "agent")
    assert rows(asked) == before


# ---------------------------------------------------------------------------------------------- begun once


def compete(url: str, act: Callable[[Ledger], Any], number: int = 4) -> list[Any]:
    """What each of several at once gets; a conflict is told as its run's id."""
    barrier = Barrier(number)

    def one(_: int) -> Any:
        with closing(Database(url)) as database:
            database.query("SELECT 1", [])
            barrier.wait(30)
            try:
                return act(Ledger(database))
            except LoopConflictError as conflict:
                return conflict.details["runId"]

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def test_a_queued_run_is_begun_by_one_of_many_at_once(asked: Steps, app_database_url: str) -> None:
    queued = asked.services.ledger.claim(asks(in_background=True))
    assert isinstance(queued, Recorded)
    outcomes = compete(app_database_url, lambda ledger: ledger.begin(asks(actor=""), queued.run.id))
    claims = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    assert len(claims) == 1
    assert outcomes.count(NotPlanned()) == 3
    assert (claims[0].run_id, claims[0].request.actor, claims[0].attempt) == (queued.run.id, "ann", 1)
    assert asked.events()[1:] == ["run_queued", "run_started"]
    before = rows(asked)
    assert asked.services.ledger.begin(asks(actor=""), queued.run.id) == NotPlanned()
    assert rows(asked) == before


def test_what_is_no_queued_run_is_not_begun(asked: Steps) -> None:
    running = claim(asked)
    of_the_store = asked.services.runs.create_run(issue_id="A-9", actor="ann", request_id="r", lease_seconds=60)
    assert of_the_store.status is RunStatus.PENDING
    before = rows(asked)
    for run_id in (running.run_id, of_the_store.id, uuid4()):
        assert asked.services.ledger.begin(asks(actor=""), run_id) == NotPlanned()
    assert rows(asked) == before


def planned(steps: Steps) -> UUID:
    claimed = claim(steps)
    steps.services.ledger.finish(claimed, BUSY)
    return claimed.run_id


def test_a_planned_attempt_is_claimed_by_one_of_many_at_once(asked: Steps, app_database_url: str) -> None:
    after = planned(asked)
    outcomes = compete(app_database_url, lambda ledger: ledger.claim_planned(asks(actor=""), after))
    claims = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    assert len(claims) == 1
    assert outcomes.count(str(claims[0].run_id)) == 3, "the others meet the live run"
    assert (claims[0].attempt, claims[0].request.actor) == (2, "ann")
    assert len(asked.runs()) == 2


def test_an_attempt_is_claimed_only_as_it_is_planned(asked: Steps) -> None:
    after = planned(asked)
    ledger = asked.services.ledger
    before = rows(asked)
    assert ledger.claim_planned(asks(actor=""), uuid4()) == NotPlanned()
    with pytest.raises(IssueNotFoundError):
        ledger.claim_planned(asks(actor="", issue_id="A-9"), after)
    assert rows(asked) == before
    asked.sql("UPDATE loop_issues SET next_attempt_at = clock_timestamp() + interval '89.5 s'")
    before = rows(asked)
    early = ledger.claim_planned(asks(actor=""), after)
    assert isinstance(early, NotPlanned)
    assert early.seconds in {89, 90}
    assert rows(asked) == before
    asked.let_be_due()
    asked.sql("UPDATE loop_issues SET hold = %s", HOLD)
    assert ledger.claim_planned(asks(actor=""), after) == NotPlanned()
    asked.sql("UPDATE loop_issues SET hold = NULL")
    assert isinstance(ledger.claim_planned(asks(actor=""), after), Claim)


# ---------------------------------------------------------------------------------------------- what is due


def test_what_is_due_is_taken_in_order_and_at_most_so_much(steps: Steps) -> None:
    for number in range(5):
        steps.register("work", f"A-{number}")
        steps.sql(
            "UPDATE loop_issues SET next_attempt_at = now() - %s * interval '1 s', next_attempt_after = %s"
            " WHERE id = %s",
            number, UUID(int=number), f"A-{number}",
        )  # fmt: skip
    steps.sql("UPDATE loop_issues SET hold = %s WHERE id = 'A-4'", HOLD)
    steps.sql("UPDATE loop_issues SET next_attempt_at = now() + interval '1 hour' WHERE id = 'A-0'")
    due = steps.services.ledger.take_due(max_items=2, resend_after_seconds=60, max_sends=6)
    assert due == {
        "attempts": [{"issueId": "A-3", "after": str(UUID(int=3))}, {"issueId": "A-2", "after": str(UUID(int=2))}],
        "runs": [],
    }


def test_a_message_of_a_queued_run_is_taken_for_lost_after_its_time_and_so_often(steps: Steps) -> None:
    ledger = steps.services.ledger
    ids = []
    for number in range(4):
        steps.register("work", f"A-{number}")
        queued = ledger.claim(asks(issue_id=f"A-{number}", in_background=True))
        assert isinstance(queued, Recorded)
        ids.append(str(queued.run.id))
    steps.sql("UPDATE loop_runs SET sent_at = now() - (id::text = %s)::integer * interval '59 s'", ids[0])
    steps.sql("UPDATE loop_runs SET sent_at = now() - interval '61 s' WHERE id = ANY(%s::uuid[])", ids[1:])
    steps.sql("UPDATE loop_runs SET sends = 6 WHERE id = %s::uuid", ids[2])
    steps.sql("UPDATE loop_runs SET lease_expires_at = now() WHERE id = %s::uuid", ids[3])
    due = ledger.take_due(max_items=9, resend_after_seconds=60, max_sends=6)
    assert due == {"attempts": [], "runs": [{"issueId": "A-1", "runId": ids[1]}]}
    assert ledger.take_due(max_items=9, resend_after_seconds=60, max_sends=6)["runs"] == [], "it was sent just now"
    assert [run["sends"] for run in steps.runs()] == [1, 2, 6, 1]


def test_a_message_that_another_sweeper_is_about_to_send_is_left_to_it(steps: Steps, database_url: str) -> None:
    for number in range(2):
        steps.register("work", f"A-{number}")
        steps.services.ledger.claim(asks(issue_id=f"A-{number}", in_background=True))
    steps.sql("UPDATE loop_runs SET sent_at = now() - interval '61 s'")
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM loop_runs WHERE issue_id = 'A-0' FOR NO KEY UPDATE")
        due = steps.services.ledger.take_due(max_items=9, resend_after_seconds=60, max_sends=6)  # does not wait
    assert [run["issueId"] for run in cast("list[Json]", due["runs"])] == ["A-1"]


# ---------------------------------------------------------------------------------------------- what was lost


@dataclass
class Lost:
    """What a step carries, and what of it comes: after how long it is tried again, and as which attempt."""

    carries: dict[str, float | None]
    retry: float | None
    attempts: int


LOST = {
    "later": Lost({"LEASE_EXPIRED": 7.5}, 7.5, 1),
    "at once": Lost({"LEASE_EXPIRED": 0}, 0, 1),
    "used up": Lost({"LEASE_EXPIRED": None}, None, 0),
    "no policy for it": Lost({"States.Timeout": 7.5}, None, 1),
    "no policy": Lost({}, None, 1),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
@pytest.mark.parametrize("by", ["sweeper", "caller"])
def test_whoever_ends_a_lost_run_plans_what_its_step_carries(asked: Steps, lost: Lost, by: str) -> None:
    claimed = claim(asked)
    asked.services.ledger.start_step(claimed, step_of(asked), "v", retry_if_lost=lost.carries)
    asked.lose_lease()
    if by == "sweeper":
        asked.sweep()
        assert asked.issue()["failed_attempts"] == lost.attempts
        assert asked.issue()["next_attempt_after"] == (None if lost.retry is None else claimed.run_id)
        assert asked.issue()["next_attempt_at"] == asked.runs()[0]["retry_at"]
    else:
        assert claim(asked, "ben").attempt == lost.attempts + 1
        assert asked.issue()["next_attempt_at"] is None, "the call is the next attempt"
    run = asked.runs()[0]
    assert (run["error_code"], asked.steps()[0]["status"]) == ("LEASE_EXPIRED", "failed")
    assert run["loop_status"] == ("failed" if lost.retry is None else "paused")
    assert (run["retry_at"] and (run["retry_at"] - run["completed_at"]).total_seconds()) == lost.retry
    assert asked.events().count("retry_planned") == (lost.retry is not None)


def test_a_lost_run_that_had_begun_no_step_is_not_tried_again_by_itself(asked: Steps) -> None:
    claim(asked)
    asked.lose_lease()
    asked.sweep()
    assert (asked.issue()["next_attempt_at"], asked.issue()["failed_attempts"]) == (None, 1)
