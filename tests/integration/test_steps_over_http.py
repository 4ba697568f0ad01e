"""What goes on while nobody calls, and what callers may do meanwhile: over HTTP, on the local stack, with its queue."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.own_stack import calls_of, let_go, own_stack
from tests.stack_client import Issue, error_of, ok, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.local.stack import Stack


@pytest.fixture(scope="module")
def stack(server_url: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with own_stack(server_url, migrated_template, tmp_path_factory.mktemp("own")) as stack:
        yield stack


@pytest.fixture
def issue(stack: Stack) -> Issue:
    return Issue(stack.url, f"ISSUE-{uuid4().hex[:8]}")


def event_types(issue: Issue) -> list[str]:
    return [event["eventType"] for event in issue.events()]


# ---------------------------------------------------------------------------------------------- background


def test_step_that_takes_longer_than_a_call_runs_in_the_background(stack: Stack, issue: Issue) -> None:
    issue.register("long", do="wait")
    run_id = issue.queue()
    wait_until(lambda: calls_of(stack, issue.id))
    run = issue.run_of(run_id)
    assert (run["status"], run["actor"]) == ("running", issue.actor)
    assert issue.get()["liveRun"]["runId"] == run_id
    assert error_of(issue.call("POST", f"{issue.path}/run-next-step", {})) == (409, "LOOP_CONFLICT")
    let_go(stack, issue.id)
    run = issue.wait_for_end(run_id)
    assert (run["status"], run["stateAfter"], run["loopStatus"]) == ("completed", "DONE", "completed")
    assert [call["runId"] for call in calls_of(stack, issue.id)] == [run_id]
    assert event_types(issue) == [
        "loop_issue_registered",
        "loop_run_queued",
        "loop_run_started",
        "loop_step_completed",
        "loop_facts_changed",
        "loop_run_finished",
    ]


def test_replay_of_a_queued_run_is_the_same_202(issue: Issue) -> None:
    issue.register("long")
    headers = {"idempotency-key": "once"}
    run_id = issue.queue(headers)
    issue.wait_for_end(run_id)
    again = issue.call("POST", f"{issue.path}/run-next-step", {}, headers=headers)
    assert (again.status, again.json()["runId"], again.json()["loopStatus"]) == (202, run_id, "paused")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == f"/api/loop/runs/{run_id}"


# ---------------------------------------------------------------------------------------------- callback


def test_outcome_may_be_told_before_the_function_has_returned(stack: Stack, issue: Issue) -> None:
    issue.register("handed", do="tell at once")
    answer = issue.run()
    assert (answer["loopStatus"], answer["stepExecuted"]["status"]) == ("completed", "completed")
    assert (issue.get()["state"], issue.get()["facts"]["told"]) == ("DONE", True)
    (call,) = calls_of(stack, issue.id)
    late = issue.call("POST", f"/api/loop/runs/{answer['runId']}/heartbeat", {"taskToken": call["taskToken"]})
    assert error_of(late) == (409, "RUN_FINISHED")


def test_step_that_waits_is_told_with_its_token_only_and_once(stack: Stack, issue: Issue) -> None:
    issue.register("handed", do="answer", answer={})
    answer = issue.run()
    assert (answer["loopStatus"], answer["stepExecuted"]["status"]) == ("paused", "running")
    (call,) = calls_of(stack, issue.id)
    path, token = f"/api/loop/runs/{answer['runId']}", {"taskToken": call["taskToken"]}
    result = {"status": "completed", "facts": {"told": True}}
    for what in ("result", "heartbeat"):
        wrong = issue.call("POST", f"{path}/{what}", {"taskToken": "guessed", **(result if what == "result" else {})})
        assert error_of(wrong) == (403, "FORBIDDEN")
    assert ok(issue.call("POST", f"{path}/heartbeat", token))["status"] == "running"
    assert ok(issue.call("POST", f"{path}/result", token | result, actor="worker"))["status"] == "completed"
    assert error_of(issue.call("POST", f"{path}/result", token | result)) == (409, "RUN_FINISHED")
    assert issue.get()["state"] == "DONE"
    assert call["taskToken"] not in str([issue.runs(), issue.events(), issue.run_of(answer["runId"])])


# ---------------------------------------------------------------------------------------------- retry


def test_retry_that_succeeds_at_the_third_attempt_needs_no_further_call(stack: Stack, issue: Issue) -> None:
    issue.register("retried", do="fail twice", name="Soon")
    answer = issue.run()
    assert (answer["loopStatus"], answer["error"]["code"]) == ("paused", "Soon")
    assert answer["error"]["retryAt"] == issue.get()["nextAttemptAt"]
    issue.wait_for_state("DONE")
    assert [(run["attempt"], run["status"]) for run in issue.runs()] == [(1, "failed"), (2, "failed"), (3, "completed")]
    assert [call["attempt"] for call in calls_of(stack, issue.id)] == [1, 2, 3]
    assert event_types(issue).count("loop_retry_planned") == 2
    assert "nextAttemptAt" not in issue.get()


def test_call_by_hand_takes_the_place_of_the_waiting_retry_and_continues_the_count(stack: Stack, issue: Issue) -> None:
    issue.register("retried", do="fail", name="Late")
    assert issue.run()["loopStatus"] == "paused"
    issue.patch(do="complete")
    answer = issue.run()
    assert answer["loopStatus"] == "completed"
    assert "nextAttemptAt" not in issue.get()
    assert [call["attempt"] for call in calls_of(stack, issue.id)] == [1, 2]


# ---------------------------------------------------------------------------------------------- auto-advance


def test_issue_goes_on_by_itself_until_it_is_blocked_and_again_when_it_may(stack: Stack, issue: Issue) -> None:
    issue.register("auto")
    assert issue.run()["loopStatus"] == "active"
    wait_until(lambda: issue.runs()[-1]["status"] == "blocked")
    assert [(run["status"], run.get("stateAfter")) for run in issue.runs()] == [
        ("completed", "PREPARED"),
        ("completed", "WORKED"),
        ("blocked", "WORKED"),
    ]
    assert "nextAttemptAt" not in issue.get()
    issue.patch(ready=True)
    assert issue.run()["loopStatus"] == "completed"
    assert {run["actor"] for run in issue.runs()} == {issue.actor}
    assert [call["step"]["type"] for call in calls_of(stack, issue.id)] == ["PREPARE", "WORK"]


def test_held_issue_stops_after_its_live_run_and_goes_on_from_there_when_it_is_resumed(
    stack: Stack, issue: Issue
) -> None:
    issue.register("auto", do="wait", ready=True)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(issue.run)
        wait_until(lambda: calls_of(stack, issue.id))
        held = ok(issue.call("POST", f"{issue.path}/hold", {"reason": "freeze"}, actor="bob"))
        assert (held["hold"]["by"], held["hold"]["reason"], held["state"]) == ("bob", "freeze", "OPEN")
        refused = issue.call("POST", f"{issue.path}/state", {"state": "WORKED", "reason": "no"})
        assert error_of(refused) == (409, "LOOP_CONFLICT")
        let_go(stack, issue.id)
        run_id = call.result()["runId"]
    assert issue.run_of(run_id)["status"] == "completed", "a hold tears down no live run"
    assert (issue.get()["state"], issue.get()["hold"]["by"]) == ("PREPARED", "bob")

    swept = stack.invoke("RunSweeperFunction", {})
    assert (swept["sent"], len(issue.runs())) == (0, 1), "the sweeper leaves held issues alone"
    ok(issue.call("POST", f"{issue.path}/resume", {"reason": "thawed"}, actor="bob"))
    stack.invoke("RunSweeperFunction", {})
    issue.wait_for_state("DONE")
    assert event_types(issue).count("loop_issue_held") == event_types(issue).count("loop_issue_resumed") == 1


def test_call_on_a_held_issue_is_blocked_and_says_how_to_resume(issue: Issue) -> None:
    issue.register("plain")
    ok(issue.call("POST", f"{issue.path}/hold", {"reason": "freeze"}))
    answer = issue.run()
    assert answer["blocker"]["code"] == "ON_HOLD"
    assert f"POST {issue.path}/resume" in answer["blocker"]["message"]
    ok(issue.call("POST", f"{issue.path}/resume", {"reason": "thawed"}))
    assert issue.run()["loopStatus"] == "completed"


def test_call_on_a_held_issue_does_not_take_the_place_of_its_waiting_retry(issue: Issue) -> None:
    issue.register("retried", do="fail", name="Late")
    issue.run()
    planned = issue.get()["nextAttemptAt"]
    ok(issue.call("POST", f"{issue.path}/hold", {"reason": "freeze"}))
    assert issue.run()["blocker"]["code"] == "ON_HOLD"
    ok(issue.call("POST", f"{issue.path}/resume", {"reason": "thawed"}))
    assert issue.get()["nextAttemptAt"] == planned


def test_state_is_set_by_hand_and_the_issue_goes_on_from_there(stack: Stack, issue: Issue) -> None:
    issue.register("auto", ready=True)
    refused = issue.call("POST", f"{issue.path}/state", {"state": "NOWHERE", "reason": "x"})
    assert error_of(refused) == (400, "INVALID_REQUEST")
    body = {"state": "WORKED", "reason": "done elsewhere"}
    assert ok(issue.call("POST", f"{issue.path}/state", body, actor="bob"))["state"] == "WORKED"
    assert issue.run()["loopStatus"] == "completed"
    assert calls_of(stack, issue.id) == []
    (event,) = [each["eventData"] for each in issue.events() if each["eventType"] == "loop_state_set"]
    assert event == {
        "actor": "bob", "reason": "done elsewhere", "stateBefore": "OPEN", "stateAfter": "WORKED", "version": 2
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- cancel


def test_run_that_is_cancelled_in_flight_keeps_its_outcome_on_the_step_and_the_issue_stays(
    stack: Stack, issue: Issue
) -> None:
    issue.register("plain", do="wait")
    before = issue.get()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(issue.run)
        wait_until(lambda: calls_of(stack, issue.id))
        run_id = issue.get()["liveRun"]["runId"]
        asked = ok(issue.cancel(run_id))
        assert (asked["status"], asked["cancelRequestedBy"]) == ("running", issue.actor)
        let_go(stack, issue.id)
        answer = call.result()
    assert answer["runId"] == run_id
    run = issue.run_of(run_id)
    assert (run["status"], run["cancelReason"]) == ("cancelled", "not any more")
    (step,) = run["steps"]
    assert (step["status"], step["metadata"]["outcome"]["status"]) == ("cancelled", "completed")
    assert step["metadata"]["outcome"]["facts"] == {"doneBy": run_id}
    assert issue.get() == before
    assert event_types(issue)[-1] == "loop_run_cancelled"
    again = issue.cancel(run_id)
    assert (again.status, again.json()["status"]) == (200, "cancelled")


def test_step_after_a_cancelled_one_has_the_same_idempotency_token(stack: Stack, issue: Issue) -> None:
    issue.register("long", do="wait")
    run_id = issue.queue()
    wait_until(lambda: calls_of(stack, issue.id))
    issue.cancel(run_id)
    let_go(stack, issue.id)
    assert issue.wait_for_end(run_id)["status"] == "cancelled"
    issue.wait_for_end(issue.queue())
    assert [call["idempotencyToken"] for call in calls_of(stack, issue.id)] == [run_id, run_id]


def test_retry_that_is_cancelled_is_dropped_and_cancelled_once(stack: Stack, issue: Issue) -> None:
    issue.register("retried", do="fail", name="Late")
    run_id = issue.run()["runId"]
    assert "nextAttemptAt" in issue.get()
    cancelled = ok(issue.cancel(run_id))
    assert cancelled["status"] == "failed", "the run has ended, its retry is what is cancelled"
    assert "nextAttemptAt" not in issue.get()
    assert issue.cancel(run_id).status == 200
    assert event_types(issue).count("loop_retry_cancelled") == 1
    assert len(calls_of(stack, issue.id)) == 1


def test_run_that_has_ended_otherwise_cannot_be_cancelled(issue: Issue) -> None:
    issue.register("plain")
    run_id = issue.run()["runId"]
    assert error_of(issue.cancel(run_id)) == (409, "RUN_FINISHED")
    issue = Issue(issue.url, f"{issue.id}-failed")
    issue.register("plain", do="raise")
    assert error_of(issue.cancel(issue.run()["runId"])) == (409, "RUN_FINISHED")
