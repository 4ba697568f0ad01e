"""A process may be killed at any point of what takes more than one call: functions, task tokens, approvals, retries,
background runs, cancellations. Nothing is lost, no attempt is executed twice, and the issue goes on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from loop_runner.executors.protocol import Completed, Failed, Waiting
from loop_runner.github_events import Delivery
from tests.crash.crashes import (
    Scenario,
    assert_survives_a_crash_at_any_point,
    messages_come_again,
    the_caller_repeats_its_call,
    the_caller_repeats_its_call_at_once,
    the_sweep_comes_by,
)
from tests.crash.run_queue import deliver
from tests.crash.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from loop_runner.executors.protocol import StepCall
    from tests.conftest import Answer, Client
    from tests.crash.crashes import Crashes, Recover


NOT_HEARD_OF = Failed("States.Timeout", "it did not answer in time", is_unknown=True)


def waits(_call: StepCall, _client: Client) -> Waiting:
    return Waiting()


def fails(_call: StepCall, _client: Client) -> Failed:
    return Failed("Trial.Broken", "it did not work")


def is_not_heard_of(_call: StepCall, _client: Client) -> Failed:
    return NOT_HEARD_OF


def tells_before_it_answers(call: StepCall, client: Client) -> Waiting:
    result = {"taskToken": call.task_token, "status": "completed"}
    assert client("POST", f"/api/loop/runs/{call.run_id}/result", result).status == 200
    return Waiting()


def is_cancelled_and_tells(call: StepCall, client: Client) -> Waiting:
    assert client("POST", f"/api/loop/runs/{call.run_id}/cancel", {}).status == 200
    return tells_before_it_answers(call, client)


def is_cancelled_and_completes(call: StepCall, client: Client) -> Completed:
    assert client("POST", f"/api/loop/runs/{call.run_id}/cancel", {}).status == 200
    return Completed(facts={"built": True})


def is_held_and_completes(call: StepCall, client: Client) -> Completed:
    assert client("POST", f"/api/loop/issues/{call.issue.id}/hold", {"reason": "wait"}).status == 200
    return Completed()


# --- before


def queued(trial: Trial) -> None:
    trial.register()
    assert trial.run_in_background().status == 202


def waiting(trial: Trial) -> None:
    trial.register()
    trial.result = Waiting()
    assert trial.run().json["loopStatus"] == "paused"
    trial.result = Completed()


def running(trial: Trial) -> None:
    trial.register()
    trial.claim("ben")


def failed_with_a_retry(trial: Trial) -> None:
    trial.register()
    trial.result = Failed("Trial.Broken", "it did not work")
    assert trial.run().json["error"]["retryAt"]
    trial.result = Completed()


def failed_with_a_retry_that_is_due(trial: Trial) -> None:
    failed_with_a_retry(trial)
    trial.let_time_pass()


def needs_an_approval(trial: Trial) -> None:
    trial.register()
    assert trial.run().json["blocker"]["code"] == "APPROVAL_REQUIRED"


def held(trial: Trial) -> None:
    trial.register()
    assert hold(trial, trial.client).status == 200


def waits_for_github(trial: Trial) -> None:
    trial.facts = {**trial.facts, "prUrl": f"https://github.com/octo/{trial.issue}/pull/7"}
    trial.register()


# --- calls


def tell_of_the_pull_request(trial: Trial, client: Client) -> None:
    """What GitHub's delivery has come to, as the message that run-worker gets; it is always the same one."""
    delivery = Delivery(UUID(trial.issue.removeprefix("TRIAL-")), f"octo/{trial.issue}", (7,))
    deliver(client.services, json.dumps(delivery.message()))


def deliver_the_last_message(trial: Trial, client: Client) -> None:
    deliver(client.services, trial.messages()[-1])


def beat(trial: Trial, client: Client) -> Answer:
    return trial.tell(client, "heartbeat")


def tell_failure(trial: Trial, client: Client) -> Answer:
    return trial.tell(client, status="failed", error={"name": "Trial.Broken", "message": "it did not work"})


def hold(trial: Trial, client: Client) -> Answer:
    return trial.call(client, "POST", "/hold", {"reason": "wait"})


def resume(trial: Trial, client: Client) -> Answer:
    return trial.call(client, "POST", "/resume", {"reason": "go on"})


def set_state(trial: Trial, client: Client) -> Answer:
    return trial.call(client, "POST", "/state", {"state": "BUILT", "reason": "by hand"})


# --- recoveries


def the_retry_is_cancelled(_crashes: Crashes, trial: Trial) -> list[Any]:
    """And the message that was sent for it comes again: it begins nothing."""
    _, *others = trial.runs()
    answer = trial.cancel()
    assert answer.status == (409 if others else 200), answer.text
    trial.let_time_pass()
    trial.deliver()
    assert len(trial.runs()) == 1 + len(others)
    lost = trial.expire()
    trial.sweep()
    return lost


def the_delivery_comes_again(crashes: Crashes, trial: Trial) -> list[Any]:
    """As SQS brings what nobody has said that it is done; and so do the messages of its runs."""
    crashes.scenario.call(trial, trial.client)
    crashes.scenario.call(trial, trial.client)
    return messages_come_again(crashes, trial)


# --- after


def delivery_stands_for_one_run(trial: Trial) -> None:
    """One that has come to its end."""
    (run,) = trial.runs()
    assert (run["actor"], run["status"], trial.row()["state"]) == ("github", "completed", "BUILT")


def key_stands_for_one_run(trial: Trial) -> None:
    answers = [trial.run_with_key() for _ in range(2)]
    (run,) = (run for run in trial.runs() if run["idempotency_key"])
    assert {answer.json["runId"] for answer in answers} == {str(run["id"])}


def background_key_stands_for_one_run(trial: Trial) -> None:
    answers = [trial.run_in_background() for _ in range(2)]
    (run,) = (run for run in trial.runs() if run["idempotency_key"])
    assert {(answer.status, answer.json["runId"]) for answer in answers} == {(202, str(run["id"]))}


def is_told_at_most_once(*event_types: str) -> Callable[[Trial], None]:
    def check(trial: Trial) -> None:
        for event_type in event_types:
            assert sum(event["event_type"] == event_type for event in trial.events()) <= 1

    return check


def cancellation_is_told_once(trial: Trial) -> None:
    is_told_at_most_once("loop_run_cancelled", "loop_retry_cancelled")(trial)
    trial.expire()


def outcome_is_kept_and_the_issue_stays(trial: Trial) -> None:
    """Of a run that was cancelled; where the process died before, the run was lost or is yet to come."""
    cancelled = [run for run in trial.runs() if run["status"] == "cancelled"]
    for run in cancelled:
        assert run["state_after"] == run["state_before"] == "NEW"
        step = trial.sql.one("SELECT * FROM loop_run_steps WHERE run_id = %s AND status <> 'skipped'", run["id"])
        assert step["status"] == "cancelled"
        assert step["metadata"].get("outcome", {"status": "completed"})["status"] == "completed"


def hold_ends(trial: Trial) -> None:
    """A run that was live went on to its end meanwhile; nothing began."""
    if trial.row()["hold"]:
        state = trial.row()["state"]
        assert trial.run().json["blocker"]["code"] == "ON_HOLD"
        assert trial.row()["state"] == state
        assert resume(trial, trial.client).status == 200
    is_told_at_most_once("loop_issue_held", "loop_issue_resumed")(trial)


def issue_has_gone_on_by_itself(trial: Trial) -> None:
    """Unless its first run was lost: that is for a person to see."""
    trial.let_time_pass()
    trial.sweep()
    trial.deliver()
    first, *_ = trial.runs() or [{"status": None}]
    assert trial.row()["state"] == ("SHIPPED" if first["status"] == "completed" else "NEW")


AT_ONCE = (the_caller_repeats_its_call_at_once,)
CALLER, SWEEP, MESSAGES = (the_caller_repeats_its_call,), (the_sweep_comes_by,), (messages_come_again,)

SCENARIOS = [
    Scenario("a function is invoked", Trial.run, loop="far"),
    Scenario("a function fails", Trial.run, loop="far", execute=fails, recoveries=(*SWEEP, *MESSAGES)),
    Scenario("a function times out", Trial.run, loop="far", execute=is_not_heard_of, recoveries=MESSAGES),
    Scenario(
        "a task is handed over",
        Trial.run_with_key,
        loop="told",
        execute=waits,
        after=key_stands_for_one_run,
        recoveries=(*AT_ONCE, *CALLER, *SWEEP),
    ),
    Scenario(
        "a task is told before it is parked",
        Trial.run_with_key,
        loop="told",
        execute=tells_before_it_answers,
        after=key_stands_for_one_run,
        recoveries=CALLER,
    ),
    Scenario(
        "a result",
        Trial.tell_result,
        before=waiting,
        loop="told",
        recoveries=(*AT_ONCE, *SWEEP),
    ),
    Scenario("a result that fails", tell_failure, before=waiting, loop="told", recoveries=MESSAGES),
    Scenario("a heartbeat", beat, before=waiting, loop="told", recoveries=(*AT_ONCE, *SWEEP)),
    Scenario("a message begins a run", deliver_the_last_message, before=queued, recoveries=MESSAGES),
    Scenario(
        "a delivery of GitHub",
        tell_of_the_pull_request,
        before=waits_for_github,
        loop="hub",
        after=delivery_stands_for_one_run,
        recoveries=(the_delivery_comes_again,),
    ),
    Scenario(
        "a background run",
        Trial.run_in_background,
        after=background_key_stands_for_one_run,
        recoveries=(*CALLER, *SWEEP, *MESSAGES),
    ),
    Scenario(
        "a message goes on",
        deliver_the_last_message,
        before=failed_with_a_retry_that_is_due,
        loop="far",
        recoveries=(*SWEEP, *MESSAGES, the_retry_is_cancelled),
    ),
    Scenario(
        "a message comes too early",
        deliver_the_last_message,
        before=failed_with_a_retry,
        loop="far",
        recoveries=MESSAGES,
    ),
    Scenario(
        "an issue goes on by itself", Trial.run, loop="alone", after=issue_has_gone_on_by_itself, recoveries=SWEEP
    ),
    Scenario(
        "an issue goes on by messages",
        deliver_the_last_message,
        before=lambda trial: (trial.register(), trial.run()),
        loop="alone",
        recoveries=MESSAGES,
    ),
    *(
        Scenario(
            f"a cancellation of a {before.__name__} run",
            Trial.cancel,
            before=before,
            loop=loop,
            after=cancellation_is_told_once,
            recoveries=(*AT_ONCE, *SWEEP),
        )
        for before, loop in (
            (queued, "far"),
            (waiting, "told"),
            (running, "far"),
            (failed_with_a_retry, "far"),
        )
    ),
    Scenario(
        "a function is cancelled",
        Trial.run,
        loop="far",
        execute=is_cancelled_and_completes,
        after=outcome_is_kept_and_the_issue_stays,
        recoveries=SWEEP,
    ),
    Scenario(
        "a task is cancelled and told",
        Trial.run,
        loop="told",
        execute=is_cancelled_and_tells,
        after=outcome_is_kept_and_the_issue_stays,
        recoveries=CALLER,
    ),
    Scenario(
        "an approval",
        Trial.decide,
        before=needs_an_approval,
        loop="decided",
        after=is_told_at_most_once("loop_approval_decided"),
        recoveries=CALLER,
    ),
    Scenario("a hold", hold, after=hold_ends, recoveries=CALLER),
    Scenario("a resumption", resume, before=held, after=hold_ends, recoveries=CALLER),
    Scenario("a hold of a running issue", Trial.run, execute=is_held_and_completes, after=hold_ends, recoveries=SWEEP),
    Scenario("a state set by hand", set_state, after=is_told_at_most_once("loop_state_set"), recoveries=CALLER),
]


@pytest.mark.parametrize(
    ("crashes", "recover"),
    [
        pytest.param(scenario, recover, id=f"{scenario.name}-{recover.__name__}".replace(" ", "-"))
        for scenario in SCENARIOS
        for recover in scenario.recoveries
    ],
    indirect=["crashes"],
)
def test_process_killed_at_any_point_of_what_takes_longer_loses_nothing_and_repeats_nothing(
    crashes: Crashes, recover: Recover, audit: Callable[[], None], count: Callable[[str, int], None]
) -> None:
    assert_survives_a_crash_at_any_point(crashes, recover, audit, count)
