"""POST cancel: at once, at the next safe point, or the waiting retry; once and for all, whoever asks how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from loop_runner.results import Blocked, Completed, Failed, StepCall, Waiting
from tests.contract.conftest import Unchanged, assert_error
from tests.fake_steps import Waits

if TYPE_CHECKING:
    from tests.conftest import Answer
    from tests.fake_steps import Steps

ASYNC = {"prefer": "respond-async"}
DONE = {"status": "completed"}


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


def run_of(steps: Steps, run_id: str) -> Waits:
    return Waits(steps, run_id, "")


def assert_cancelled(answer: Answer, reason: str | None = None, actor: str = "ann") -> dict[str, Any]:
    """The answer is a run that is cancelled, by whom and why."""
    assert answer.status == 200, answer.text
    body: dict[str, Any] = answer.json
    assert (body["schemaVersion"], body["status"], body["loopStatus"]) == ("loop.run.v1", "cancelled", "active")
    assert (body["cancelRequestedBy"], body["cancelReason"]) == (actor, reason)
    assert body["completedAt"]
    assert body["cancelRequestedAt"]
    assert body["message"] == f"cancelled by {actor}" + (f": {reason}" if reason else "")
    assert {step["status"] for step in body["steps"]} <= {"cancelled"}
    return body


# ---------------------------------------------------------------------------------------------- at once


def test_a_run_that_waits_for_an_outcome_ends_at_once(steps: Steps) -> None:
    waits = steps.ask()
    before = steps.issue()
    body = assert_cancelled(waits.cancel("not needed", "bob"), "not needed", "bob")
    assert (body["stateBefore"], body["stateAfter"], body["issueVersion"]) == ("OPEN", "OPEN", 1)
    assert waits.step["status"] == "cancelled"
    issue = steps.issue()
    assert {key: issue[key] for key in ("state", "facts", "version")} == {
        key: before[key] for key in ("state", "facts", "version")
    }
    assert_error(waits.tell(DONE), 409, "RUN_FINISHED")
    assert_error(waits.beat(), 409, "RUN_FINISHED")
    assert steps.run().json["loopStatus"] == "completed"


def test_a_queued_run_ends_at_once_and_its_message_begins_nothing(steps: Steps) -> None:
    steps.register("work")
    run_id = steps.run(headers=ASYNC).json["runId"]
    body = assert_cancelled(run_of(steps, run_id).cancel())
    assert (body["startedAt"], body["steps"]) == (None, [])
    steps.work({"issueId": "A-1", "runId": run_id})
    assert (steps.calls, steps.runs()[0]["status"]) == ([], "cancelled")
    assert steps.events()[1:] == ["run_queued", "run_cancelled"]


def test_a_run_whose_lease_is_over_ends_at_once(steps: Steps) -> None:
    def lose(call: StepCall) -> Completed:
        steps.lose_lease()
        assert_cancelled(run_of(steps, str(call.run_id)).cancel())
        return Completed()

    steps.register("work")
    steps.will(lose)
    steps.run()
    assert (steps.runs()[0]["status"], steps.issue()["state"]) == ("cancelled", "OPEN")


def test_the_event_of_a_cancelled_run_says_who_and_why(steps: Steps) -> None:
    steps.ask().cancel("not needed", "bob")
    event = steps.sql.one("SELECT event_data FROM loop_events WHERE event_type = 'loop_run_cancelled'")["event_data"]
    assert event == {"actor": "bob", "reason": "not needed", "stepNumber": 1}
    assert steps.events().count("run_cancelled") == 1
    assert "run_failed" not in steps.events()


# ---------------------------------------------------------------------------------------------- at the next safe point


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        (Completed({"a": 1}, message="made it"), {"status": "completed", "facts": {"a": 1}}),
        (Failed("Busy", "later"), {"status": "failed", "errorCode": "Busy"}),
        (Blocked("NO_QUOTA", "Ask"), {"status": "blocked", "blockerCode": "NO_QUOTA"}),
    ],
    ids=["completed", "failed", "blocked"],
)
def test_a_step_that_is_being_executed_ends_and_its_outcome_is_kept_on_its_row(
    steps: Steps, result: Any, kept: dict[str, Any]
) -> None:
    def cancel(call: StepCall) -> Any:
        answer = run_of(steps, str(call.run_id)).cancel("stop", "bob")
        assert (answer.status, answer.json["status"], answer.json["cancelReason"]) == (200, "running", "stop")
        return result

    steps.register("work")
    steps.will(cancel)
    body = steps.run().json
    (run,), (step,) = steps.runs(), steps.steps()
    assert (run["status"], step["status"], body["stepExecuted"]["status"]) == ("cancelled", "cancelled", "cancelled")
    assert step["metadata"]["outcome"].items() >= kept.items()
    assert (steps.issue()["state"], steps.issue()["facts"], steps.issue()["version"]) == ("OPEN", {}, 1)
    assert (steps.issue()["next_attempt_at"], steps.sent.all) == (None, []), "what is cancelled is not tried again"
    assert steps.events()[-1] == "run_cancelled"
    assert not {"run_failed", "run_finished", "run_blocked", "retry_planned"} & set(steps.events())
    assert (body["loopStatus"], body["message"]) == ("active", "cancelled by bob: stop")


def test_a_step_that_has_not_begun_does_not(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    start = steps.services.ledger.start_step

    def cancelled(*args: Any, **parts: Any) -> Any:
        assert run_of(steps, str(args[0].run_id)).cancel().status == 200
        return start(*args, **parts)

    monkeypatch.setattr(steps.services.ledger, "start_step", cancelled)
    steps.register("work")
    body = steps.run().json
    assert (steps.calls, steps.steps(), body["message"]) == ([], [], "cancelled by ann")
    assert (steps.runs()[0]["status"], "stepExecuted" in body) == ("cancelled", False)


def test_a_run_does_not_begin_to_wait_when_it_is_to_be_cancelled(steps: Steps) -> None:
    def cancel(call: StepCall) -> Waiting:
        assert run_of(steps, str(call.run_id)).cancel().json["status"] == "running"
        return Waiting()

    steps.register("ask")
    steps.will(cancel)
    body = steps.run().json
    assert (steps.runs()[0]["status"], body["loopStatus"]) == ("cancelled", "active")
    assert_error(Waits(steps, body["runId"], str(steps.calls[0].task_token)).tell(DONE), 409, "RUN_FINISHED")


def test_an_outcome_that_is_told_after_the_request_is_kept_and_the_run_is_cancelled(steps: Steps) -> None:
    told: list[Answer] = []

    def cancel(call: StepCall) -> Waiting:
        waits = Waits(steps, str(call.run_id), str(call.task_token))
        waits.cancel()
        told.append(waits.tell({**DONE, "facts": {"a": 1}}))
        return Waiting()

    steps.register("ask")
    steps.will(cancel)
    steps.run()
    assert_cancelled(told[0])
    assert steps.steps()[0]["metadata"]["outcome"]["facts"] == {"a": 1}
    assert (steps.issue()["state"], steps.issue()["facts"]) == ("OPEN", {})


def test_a_run_that_is_to_be_cancelled_and_is_lost_ends_cancelled(steps: Steps) -> None:
    def lose(call: StepCall) -> Completed:
        run_of(steps, str(call.run_id)).cancel()
        steps.lose_lease()
        assert steps.sweep()["ended"] == 1
        return Completed({"a": 1})

    steps.register("work")
    steps.will(lose)
    steps.run()
    assert (steps.runs()[0]["status"], steps.issue()["facts"]) == ("cancelled", {})
    assert (steps.issue()["next_attempt_at"], steps.events()[-1]) == (None, "run_cancelled")


# ---------------------------------------------------------------------------------------------- the waiting retry


def test_the_waiting_retry_of_a_failed_run_is_dropped_and_the_run_stays_failed(steps: Steps) -> None:
    steps.register("work")
    steps.will(Failed("Busy", "later"))
    run_id = steps.run().json["runId"]
    answer = run_of(steps, run_id).cancel("no more", "bob")
    assert (answer.status, answer.json["status"], answer.json["errorCode"]) == (200, "failed", "Busy")
    assert (steps.issue()["next_attempt_at"], steps.issue()["next_attempt_after"]) == (None, None)
    data = steps.sql.one("SELECT event_data FROM loop_events WHERE event_type = 'loop_retry_cancelled'")["event_data"]
    assert data == {"actor": "bob", "reason": "no more"}
    steps.work({"issueId": "A-1", "after": run_id})
    assert (len(steps.calls), steps.sweep()["sent"]) == (1, 0)
    assert run_of(steps, run_id).cancel().status == 200
    assert steps.events().count("retry_cancelled") == 1
    assert steps.run().json["loopStatus"] == "completed"
    assert steps.runs()[1]["attempt"] == 2


def test_a_retry_that_has_begun_is_not_dropped(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    steps.will(Failed("Busy", "later"))
    run_id = steps.run().json["runId"]
    steps.run()
    with unchanged():
        assert_error(run_of(steps, run_id).cancel(), 409, "RUN_FINISHED")


# ---------------------------------------------------------------------------------------------- again, and too late


def test_the_same_again_is_the_same_answer_and_the_first_request_counts(steps: Steps, unchanged: Unchanged) -> None:
    waits = steps.ask()
    first = waits.cancel("first", "bob").json
    with unchanged():
        assert waits.cancel("second", "eve").json == first


def test_the_same_again_while_the_step_is_executed_keeps_the_first_request(steps: Steps) -> None:
    def cancel(call: StepCall) -> Completed:
        for reason, actor in (("first", "bob"), ("second", "eve")):
            body = run_of(steps, str(call.run_id)).cancel(reason, actor).json
            assert (body["status"], body["cancelRequestedBy"], body["cancelReason"]) == ("running", "bob", "first")
        return Completed()

    steps.register("work")
    steps.will(cancel)
    assert steps.run().json["message"] == "cancelled by bob: first"


@pytest.mark.parametrize(
    ("result", "status"),
    [(Completed(), "completed"), (Failed("Broken", "it broke"), "failed"), (Blocked("NO_QUOTA", "Ask"), "blocked")],
)
def test_a_run_that_has_ended_cannot_be_cancelled(steps: Steps, unchanged: Unchanged, result: Any, status: str) -> None:
    steps.register("work")
    steps.will(result)
    run_id = steps.run().json["runId"]
    for _ in range(2):
        with unchanged():
            error = assert_error(run_of(steps, run_id).cancel(), 409, "RUN_FINISHED")
        assert error["details"] == {"status": status}


def test_a_dry_run_cannot_be_cancelled(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    run_id = steps.run(body={"mode": "dryRun"}).json["runId"]
    with unchanged():
        assert_error(run_of(steps, run_id).cancel(), 409, "RUN_FINISHED")


def test_what_is_no_run_or_no_reason_is_refused(steps: Steps, unchanged: Unchanged) -> None:
    waits = steps.ask()
    with unchanged():
        assert_error(run_of(steps, str(UUID(int=7))).cancel(), 404, "RUN_NOT_FOUND")
        assert_error(run_of(steps, "x").cancel(), 400, "INVALID_REQUEST")
        for body in (
            '{"reason": ""}',
            '{"reason": "  "}',
            '{"reason": 1}',
            '{"why": "x"}',
            "[]",
            f'{{"reason": "{"x" * 501}"}}',
        ):
            answer = steps.client("POST", f"/api/loop/runs/{waits.run_id}/cancel", body)
            assert_error(answer, 400, "INVALID_REQUEST")
        assert_error(steps.client("POST", f"/api/loop/runs/{waits.run_id}/cancel", {}, None), 401, "UNAUTHORIZED")
    assert steps.client("POST", f"/api/loop/runs/{waits.run_id}/cancel").status == 200, "a reason is optional"
