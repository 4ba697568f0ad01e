"""What goes on without a caller: retries, background runs, issues that go on by themselves; the token of a visit."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from loop_runner import background
from loop_runner.background import MAX_SENDS
from loop_runner.claims import ClaimRequest
from loop_runner.errors import InvalidRequestError
from loop_runner.models import RunMode
from loop_runner.results import Blocked, Completed, Failed, StepCall, Waiting
from tests.contract.conftest import Unchanged, assert_error
from tests.fake_steps import LOOPS

if TYPE_CHECKING:
    from tests.conftest import Answer
    from tests.fake_steps import Steps

BUSY = Failed("Busy", "later")
LOST = Failed("Busy", "later", is_unknown=True)
ASYNC = {"prefer": "respond-async"}


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


def assert_queued(answer: Answer) -> str:
    """The answer is a queued run's, and nothing else; its id."""
    assert answer.status == 202, answer.text
    body = answer.json
    assert set(body) == {"schemaVersion", "requestId", "issueId", "runId", "loopStatus", "message"}
    assert (body["loopStatus"], body["schemaVersion"]) == ("paused", "loop.runNextStep.v1")
    assert body["message"] == f"queued: GET /api/loop/runs/{body['runId']} tells how it goes"
    assert answer.headers["location"] == f"/api/loop/runs/{body['runId']}"
    assert "etag" not in answer.headers
    return str(body["runId"])


def seconds_until(text: str, since: datetime) -> float:
    return (datetime.fromisoformat(text) - since).total_seconds()


# ---------------------------------------------------------------------------------------------- retry


@pytest.mark.parametrize(("asked", "seconds"), [(90.0, 90), (9.0, 30)])
def test_a_planned_attempt_waits_as_long_as_the_failed_step_asked_for(steps: Steps, asked: float, seconds: int) -> None:
    steps.register("work")
    steps.will(Failed("Busy", "later", retry_after_seconds=asked))
    body = steps.run().json
    (run,) = steps.runs()
    assert seconds_until(body["error"]["retryAt"], run["completed_at"]) == seconds


def test_a_failure_of_the_policy_plans_the_next_attempt_and_sends_its_message(steps: Steps) -> None:
    steps.register("work")
    steps.will(BUSY)
    body = steps.run().json
    (run,) = steps.runs()
    assert (body["loopStatus"], body["error"]["code"]) == ("paused", "Busy")
    assert seconds_until(body["error"]["retryAt"], run["completed_at"]) == 30
    assert "it is tried again by itself in 30 s" in body["message"]
    issue = steps.issue()
    assert (issue["next_attempt_at"], issue["next_attempt_after"]) == (run["retry_at"], run["id"])
    assert steps.client("GET", "/api/loop/issues/A-1").json["nextAttemptAt"] == body["error"]["retryAt"]
    assert steps.sent.all == [({"issueId": "A-1", "after": str(run["id"])}, 30.0)]
    assert steps.events()[-2:] == ["run_failed", "retry_planned"]
    planned = steps.sql.one("SELECT event_data FROM loop_events WHERE event_type = 'loop_retry_planned'")["event_data"]
    assert (planned["errorCode"], planned["attempt"]) == ("Busy", 1)
    assert datetime.fromisoformat(planned["retryAt"]) == run["retry_at"]


def test_a_planned_attempt_is_a_run_of_its_own_of_the_same_actor(steps: Steps) -> None:
    steps.register("work")
    steps.will(BUSY)
    first = steps.run(headers={"x-request-id": str(UUID(int=5))}, actor="bob").json["runId"]
    steps.let_be_due()
    steps.work({"issueId": "A-1", "after": first})
    old, new = steps.runs()
    assert (new["attempt"], str(new["retry_of"]), new["status"]) == (2, first, "completed")
    assert (new["actor"], new["request_id"]) == ("bob", str(UUID(int=5)))
    assert (old["status"], old["attempt"]) == ("failed", 1)
    assert (steps.issue()["state"], steps.issue()["next_attempt_after"]) == ("DONE", None)
    assert [call.attempt for call in steps.calls] == [1, 2]


def test_an_error_without_a_policy_plans_nothing(steps: Steps) -> None:
    steps.register("work")
    steps.will(Failed("Broken", "it broke"), Failed("Broken", "it broke"))
    for attempt in (1, 2):
        body = steps.run().json
        assert (body["loopStatus"], "retryAt" in body["error"]) == ("failed", False)
        assert steps.runs()[-1]["attempt"] == attempt
    assert (steps.issue()["next_attempt_at"], steps.sent.all) == (None, [])


def test_when_the_attempts_are_used_up_the_run_fails_and_the_next_one_counts_anew(steps: Steps) -> None:
    steps.register("work")
    steps.will(*[BUSY] * 4)
    for _ in range(4):
        steps.run()
    runs = steps.runs()
    assert [run["attempt"] for run in runs] == [1, 2, 3, 1]
    assert [run["loop_status"] for run in runs] == ["paused", "paused", "failed", "paused"]
    assert [run["retry_at"] is None for run in runs] == [False, False, True, False]
    assert [run["retry_of"] for run in runs] == [None, runs[0]["id"], runs[1]["id"], None]


def test_a_call_by_hand_takes_the_place_of_the_planned_attempt(steps: Steps, unchanged: Unchanged) -> None:
    def meanwhile(call: StepCall) -> Completed:
        assert (steps.issue()["next_attempt_at"], steps.issue()["next_attempt_after"]) == (None, None)
        return Completed()

    steps.register("work")
    steps.will(BUSY, meanwhile)
    first = steps.run().json["runId"]
    assert steps.run().json["loopStatus"] == "completed"
    assert [run["attempt"] for run in steps.runs()] == [1, 2]
    assert steps.issue()["next_attempt_at"] is None
    with unchanged():
        steps.work({"issueId": "A-1", "after": first})
    assert len(steps.calls) == 2


def test_a_message_that_comes_too_early_is_sent_again_for_when_it_is_due(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    steps.will(Failed("Late", "much later"))
    first = steps.run().json["runId"]
    assert steps.sent.all == [], "SQS cannot delay a message for so long: the sweeper sends it"
    with unchanged():
        steps.work({"issueId": "A-1", "after": first})
    ((message, delay),) = steps.sent.all
    assert (message, delay) == ({"issueId": "A-1", "after": first}, 900)


def test_a_message_that_comes_again_does_nothing(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    steps.will(BUSY, BUSY)
    first = steps.run().json["runId"]
    steps.let_be_due()
    for _ in range(3):
        steps.work({"issueId": "A-1", "after": first})
    assert len(steps.runs()) == len(steps.calls) == 2
    second = str(steps.runs()[1]["id"])
    assert [message["after"] for message, _ in steps.sent.all] == [first, second]
    with unchanged():
        steps.work({"issueId": "A-2", "after": second})
        steps.work({"issueId": "A-1", "after": str(uuid4())})
        steps.work({"issueId": "A-1", "runId": str(uuid4())})
        steps.work({"issueId": "A-1", "runId": second})


def test_what_is_no_message_fails_so_that_it_comes_to_the_dead_letters(steps: Steps, unchanged: Unchanged) -> None:
    invocation = background.Invocation(60_000, time.monotonic() + 60)
    with unchanged():
        for body in ("{", "", "{}", '{"runId": "x"}', '{"after": null}', "[]", "null", '"a"'):
            with pytest.raises((InvalidRequestError, ValueError, AttributeError)):
                background.work(steps.services.runner, steps.services.issues, body, invocation)


def test_a_message_that_meets_a_live_run_leaves_it_alone(steps: Steps) -> None:
    steps.register("work")
    steps.will(BUSY)
    first = steps.run().json["runId"]
    steps.let_be_due()

    def meanwhile(call: StepCall) -> Completed:
        steps.work({"issueId": "A-1", "after": first})
        return Completed()

    steps.will(meanwhile)
    steps.work({"issueId": "A-1", "after": first})
    assert [run["status"] for run in steps.runs()] == ["failed", "completed"]
    assert len(steps.calls) == 2


def test_the_sweeper_sends_what_is_due_and_nothing_else(steps: Steps) -> None:
    steps.register("work")
    steps.register("work", "A-2")
    steps.will(Failed("Late", "much later"), Failed("Late", "much later"))
    first = steps.run().json["runId"]
    steps.run("A-2")
    assert steps.sweep()["sent"] == 0
    steps.sql("UPDATE loop_issues SET next_attempt_at = now() WHERE id = 'A-1'")
    assert steps.sweep()["sent"] == 1
    assert steps.sent.all == [({"issueId": "A-1", "after": first}, 0.0)]
    assert steps.sweep()["sent"] == 0, "it is under way"
    steps.sql("UPDATE loop_issues SET next_attempt_sent_at = next_attempt_sent_at - interval '61 s'")
    assert steps.sweep()["sent"] == 1, "until somebody has acted on it: a message may be lost"


def test_a_lost_run_is_tried_again_by_the_policy_that_it_carries(steps: Steps) -> None:
    steps.register("work")

    def lose(call: StepCall) -> Completed:
        steps.lose_lease()
        assert steps.sweep()["ended"] == 1
        return Completed({"late": True})

    steps.will(lose)
    body = steps.run().json
    (run,) = steps.runs()
    assert (run["status"], run["error_code"], run["loop_status"]) == ("failed", "LEASE_EXPIRED", "paused")
    assert (body["error"]["code"], body["loopStatus"]) == ("LEASE_EXPIRED", "paused")
    assert run["retry_at"] - run["completed_at"] == timedelta(seconds=30)
    assert steps.events()[-2:] == ["run_failed", "retry_planned"]
    assert steps.issue()["facts"] == {}, "its own late outcome changes nothing"
    steps.let_be_due()
    assert steps.sweep()["sent"] == 1
    steps.work(steps.sent.all[-1][0])
    assert [call.attempt for call in steps.calls] == [1, 2]
    assert steps.runs()[1]["status"] == "completed"


def test_a_lost_run_whose_attempts_are_used_up_is_not_tried_again(steps: Steps) -> None:
    steps.register("work")

    def lose(call: StepCall) -> Completed:
        steps.lose_lease()
        steps.sweep()
        return Completed()

    steps.will(lose, lose, lose, lose)
    for _ in range(4):
        steps.run()
    assert [run["attempt"] for run in steps.runs()] == [1, 2, 3, 1]
    assert [run["loop_status"] for run in steps.runs()] == ["paused", "paused", "failed", "paused"]


@pytest.mark.parametrize("wait", ["time out", "no heartbeat"])
def test_an_outcome_that_never_comes_is_a_failed_attempt_by_the_policy(steps: Steps, wait: str) -> None:
    waits = steps.ask()
    steps.let_time_out() if wait == "time out" else steps.lose_lease()
    steps.sweep()
    run = waits.row
    code = "States.Timeout" if wait == "time out" else "States.HeartbeatTimeout"
    assert (run["error_code"], run["loop_status"]) == (code, "paused")
    assert run["retry_at"] - run["completed_at"] == timedelta(seconds=30)
    steps.let_be_due()
    steps.will(Waiting())
    steps.work({"issueId": "A-1", "after": waits.run_id})
    assert [run["attempt"] for run in steps.runs()] == [1, 2]
    assert steps.runs()[1]["status"] == "running"


def test_what_a_told_failure_plans_is_sent(steps: Steps) -> None:
    waits = steps.ask()
    waits.tell({"status": "failed", "error": {"name": "Busy", "message": "later"}})
    assert steps.sent.all == [({"issueId": "A-1", "after": waits.run_id}, 30.0)]


# ---------------------------------------------------------------------------------------------- the visit's token


@pytest.mark.parametrize("unsure", [LOST, "lease"])
def test_the_token_of_a_visit_stays_while_its_outcome_is_unknown(steps: Steps, unsure: Any) -> None:
    steps.register("work")

    def lose(call: StepCall) -> Completed:
        steps.lose_lease()
        assert steps.sweep()["ended"] == 1
        return Completed()

    steps.will(lose if unsure == "lease" else unsure, LOST, BUSY)
    first = steps.run().json["runId"]
    for _ in range(3):
        steps.run()
    assert [str(call.idempotency_token) for call in steps.calls[:3]] == [first] * 3
    assert steps.calls[3].idempotency_token == steps.calls[3].run_id, "an outcome was recorded: it is another execution"


def test_the_token_of_a_visit_stays_when_a_run_in_flight_is_cancelled(steps: Steps) -> None:
    waits = steps.ask()
    assert waits.cancel().status == 200
    steps.run()
    assert str(steps.calls[1].idempotency_token) == waits.run_id


@pytest.mark.parametrize(
    "result",
    [BUSY, Completed(outcome="gave_up"), Blocked("NO_QUOTA", "Ask for quota")],
    ids=["failed", "done", "blocked"],
)
def test_the_token_of_a_visit_goes_with_its_outcome(steps: Steps, result: Any) -> None:
    steps.register("work")
    steps.will(LOST, result)
    steps.run()
    assert steps.issue()["idempotency_token"] == steps.runs()[0]["id"]
    steps.run()
    assert steps.issue()["idempotency_token"] is None


def test_a_step_that_was_not_begun_does_not_end_the_doubt_about_the_one_before(steps: Steps) -> None:
    """No time was left for it: nothing is known of the first execution that was not known before."""
    steps.register("work")
    steps.will(LOST)
    first = steps.run().json["runId"]
    request = ClaimRequest("A-1", "ann", uuid4(), RunMode.EXECUTE, lease_ms=60_000)
    run = steps.services.runner.run_next_step(request, deadline=time.monotonic() - 1).run
    assert (run.error_code, len(steps.calls)) == ("States.Timeout", 1)
    steps.run()
    assert str(steps.calls[1].idempotency_token) == first


# ---------------------------------------------------------------------------------------------- background


def test_a_run_in_the_background_is_queued_and_then_run_once(steps: Steps) -> None:
    steps.register("work")
    run_id = assert_queued(steps.run(headers=ASYNC))
    (run,) = steps.runs()
    assert (run["status"], run["started_at"], run["actor"], run["sends"]) == ("pending", None, "ann", 1)
    assert run["lease_expires_at"] - run["queued_at"] == timedelta(seconds=600)
    message = {"issueId": "A-1", "runId": run_id}
    assert (steps.sent.all, steps.calls) == ([(message, 0.0)], [])
    for _ in range(3):
        steps.work(message)
    (run,) = steps.runs()
    assert (run["status"], len(steps.calls), steps.issue()["state"]) == ("completed", 1, "DONE")
    assert steps.events()[1:4] == ["run_queued", "run_started", "step_completed"]


def test_a_step_that_a_call_cannot_wait_for_is_queued_without_being_asked(steps: Steps) -> None:
    steps.register("long")
    run_id = assert_queued(steps.run())
    steps.work({"issueId": "A-1", "runId": run_id})
    assert steps.runs()[0]["status"] == "completed"
    assert_error(steps.run("A-9"), 404, "ISSUE_NOT_FOUND")


def test_an_end_of_a_loop_with_a_long_step_needs_no_queue(steps: Steps) -> None:
    steps.register("long")
    steps.work({"issueId": "A-1", "runId": assert_queued(steps.run())})
    assert (steps.run().status, steps.run().json["loopStatus"]) == (200, "completed")


def test_a_dry_run_is_never_queued(steps: Steps) -> None:
    steps.register("long")
    answer = steps.run(body={"mode": "dryRun"}, headers=ASYNC)
    assert (answer.status, answer.json["nextStep"]["stepType"], steps.sent.all) == (200, "WORK", [])


def test_a_queued_run_owns_its_issue(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    run_id = assert_queued(steps.run(headers=ASYNC))
    with unchanged():
        error = assert_error(steps.run(), 409, "LOOP_CONFLICT")
        assert set(error["details"]) == {"runId", "actor", "startBy"}
        assert error["details"]["runId"] == run_id
        assert_error(steps.run(headers=ASYNC), 409, "LOOP_CONFLICT")


def test_the_replay_of_a_queued_run_is_the_same_202_for_ever(steps: Steps) -> None:
    steps.register("work")
    headers = {"idempotency-key": "k"}
    run_id = assert_queued(steps.run(headers=ASYNC | headers))
    for _ in range(2):
        again = steps.run(headers=ASYNC | headers)
        assert assert_queued(again) == run_id
        assert again.headers["idempotency-replayed"] == "true"
        steps.work({"issueId": "A-1", "runId": run_id})
    assert steps.runs()[0]["status"] == "completed"
    assert len(steps.sent.all) == 1, "a replay sends nothing"
    assert_error(steps.run(headers=headers), 422, "IDEMPOTENCY_KEY_REUSED")


def test_the_key_of_a_step_that_was_queued_without_being_asked_replays_it(steps: Steps) -> None:
    steps.register("long")
    headers = {"idempotency-key": "k"}
    run_id = assert_queued(steps.run(headers=headers))
    assert assert_queued(steps.run(headers=headers)) == run_id


def test_a_message_that_is_lost_is_sent_again_five_times_and_then_the_run_is_ended(steps: Steps) -> None:
    steps.register("work")
    run_id = assert_queued(steps.run(headers=ASYNC))
    assert steps.sweep()["sent"] == 0, "it may still come"
    for _ in range(MAX_SENDS + 2):
        steps.sql("UPDATE loop_runs SET sent_at = now() - interval '61 s'")
        steps.sweep()
    assert [message for message, _ in steps.sent.all] == [{"issueId": "A-1", "runId": run_id}] * 6
    steps.lose_lease()
    assert steps.sweep()["ended"] == 1
    (run,) = steps.runs()
    assert (run["status"], run["error_code"], run["loop_status"]) == ("failed", "NOT_STARTED", "failed")
    assert steps.events()[1:] == ["run_queued", "run_failed"]
    assert steps.issue()["failed_attempts"] == 0, "an attempt counts when it starts"
    steps.work({"issueId": "A-1", "runId": run_id})
    assert steps.calls == []
    assert steps.run().json["loopStatus"] == "completed"


def test_a_run_that_is_overdue_is_not_begun_any_more(steps: Steps) -> None:
    steps.register("work")
    run_id = assert_queued(steps.run(headers=ASYNC))
    steps.lose_lease()
    steps.work({"issueId": "A-1", "runId": run_id})
    assert (steps.calls, steps.runs()[0]["status"]) == ([], "pending")


def test_what_a_queued_run_finds_when_it_begins_counts(steps: Steps) -> None:
    steps.register("approve")
    run_id = assert_queued(steps.run(headers=ASYNC))
    steps.client("PATCH", "/api/loop/issues/A-1", {"a": 1})
    steps.work({"issueId": "A-1", "runId": run_id})
    (run,) = steps.runs()
    assert (run["status"], run["blocker_code"], run["issue_version"]) == ("blocked", "APPROVAL_REQUIRED", 2)


def test_a_state_that_may_lead_to_a_long_step_is_looked_at_before_it_is_claimed(steps: Steps) -> None:
    text = 'name = "mixed"' + LOOPS["long"].replace(
        "timeout_seconds", 'skip_if = [{ fact = "short" }]\ntimeout_seconds'
    )
    (steps.folder / "mixed.toml").write_text(text)
    steps.register("mixed", short=True)
    assert (steps.run().json["loopStatus"], steps.sent.all, steps.calls) == ("completed", [], [])
    assert len(steps.runs()) == 1


# ---------------------------------------------------------------------------------------------- by itself


def test_an_issue_of_a_loop_that_advances_goes_on_until_it_is_done(steps: Steps) -> None:
    steps.register("auto")
    body = steps.run(actor="bob").json
    assert (body["loopStatus"], body["stepExecuted"]["stepType"]) == ("active", "WORK")
    message = {"issueId": "A-1", "after": body["runId"]}
    assert steps.sent.all == [(message, 0.0)]
    assert str(steps.issue()["next_attempt_after"]) == body["runId"]
    steps.work(message)
    steps.work(message)
    assert [(run["actor"], run["attempt"], run["status"]) for run in steps.runs()] == [("bob", 1, "completed")] * 2
    assert (steps.issue()["state"], steps.issue()["next_attempt_at"]) == ("CLOSED", None)
    assert len(steps.sent.all) == 1, "an end is followed by nothing"
    assert steps.sweep()["sent"] == 0


@pytest.mark.parametrize(
    "result", [Failed("Broken", "it broke"), Blocked("NO_QUOTA", "Ask")], ids=["failed", "blocked"]
)
def test_an_issue_that_failed_or_is_blocked_does_not_go_on_by_itself(steps: Steps, result: Any) -> None:
    steps.register("auto")
    steps.will(result)
    steps.run()
    assert (steps.issue()["next_attempt_at"], steps.sent.all) == (None, [])


def test_a_held_issue_does_not_go_on_by_itself_until_it_is_resumed(steps: Steps) -> None:
    def hold(call: StepCall) -> Completed:
        assert steps.client("POST", "/api/loop/issues/A-1/hold", {"reason": "audit"}, "eve").status == 200
        return Completed()

    steps.register("auto")
    steps.will(hold)
    run_id = steps.run().json["runId"]
    assert steps.issue()["state"] == "DONE", "the live run ends, and its end moves the state"
    steps.work({"issueId": "A-1", "after": run_id})
    assert (len(steps.runs()), steps.sweep()["sent"]) == (1, 0)
    steps.client("POST", "/api/loop/issues/A-1/resume", {"reason": "done"}, "eve")
    assert steps.sweep()["sent"] == 1
    steps.work({"issueId": "A-1", "after": run_id})
    assert steps.issue()["state"] == "CLOSED"
