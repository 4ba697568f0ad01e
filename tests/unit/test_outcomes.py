"""What the result of a step makes of its run and issue: total, and nothing moves but by what the loop says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.lifecycle import RUN_TRANSITIONS, TERMINAL_STEP
from loop_runner.loops import Loop, Step
from loop_runner.models import LoopStatus, RunStatus, StepStatus
from loop_runner.outcomes import StepRecord, Visit, of_refused_facts, of_result, of_unexpected_error
from loop_runner.results import Blocked, Completed, Failed
from loop_runner.sanitize import is_storable
from tests.unit.strategies import FACTS, NOW, issue, loops

LOOP: dict[str, Any] = {
    "name": "generated",
    "initial_state": "OPEN",
    "completed_states": ["CLOSED"],
    "failed_states": ["ABANDONED"],
    "auto_advance": True,
    "steps": [
        {
            "number": 10,
            "type": "WORK",
            "from": ["OPEN"],
            "to": "WORKED",
            "outcomes": {"again": "OPEN", "gave_up": "ABANDONED", "at_once": "CLOSED"},
            "executor": {"kind": "lambda", "function": "work"},
            "retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 5, "MaxAttempts": 2}],
        },
        {
            "number": 20,
            "type": "LOOK",
            "from": ["WORKED"],
            "to": "LOOKED",
            "skip_if": [{"fact": "seen"}],
            "executor": {"kind": "approval"},
        },
        {"number": 30, "type": "CLOSE", "from": ["LOOKED"], "to": "CLOSED", "executor": {"kind": "transition"}},
    ],
}


def visit(attempt: int = 1, facts: dict[str, Any] | None = None, **loop: Any) -> Visit:
    made = Loop.model_validate(LOOP | loop)
    return Visit(made, made.steps[0], issue("OPEN", facts), NOW, attempt)


@pytest.mark.parametrize(
    ("outcome", "state", "status", "next_step", "advance"),
    [
        (None, "WORKED", LoopStatus.ACTIVE, "LOOK", True),
        ("again", "OPEN", LoopStatus.ACTIVE, "WORK", True),
        ("gave_up", "ABANDONED", LoopStatus.FAILED, None, False),
        ("at_once", "CLOSED", LoopStatus.COMPLETED, None, False),
    ],
)
def test_a_completed_step_leads_where_its_outcome_says(
    outcome: str | None, state: str, status: LoopStatus, next_step: str | None, advance: bool
) -> None:
    made = of_result(Completed({"a": 1}, outcome), visit())
    assert (made.status, made.state_after, made.loop_status) == (RunStatus.COMPLETED, state, status)
    assert (made.next_step.step_type if made.next_step else None, made.advance) == (next_step, advance)
    assert (made.facts, made.step, made.steps) == ({"a": 1}, 10, (StepRecord(10, "WORK", StepStatus.COMPLETED),))
    assert made.message == f"WORK completed{f' ({outcome})' if outcome else ''}, issue AFU9-123 is {state}"


@pytest.mark.parametrize(
    ("before", "written", "next_step"), [({}, {"seen": True}, "CLOSE"), ({"seen": True}, {"seen": None}, "LOOK")]
)
def test_the_next_step_is_the_one_by_the_facts_that_the_step_has_written(
    before: dict[str, Any], written: dict[str, Any], next_step: str
) -> None:
    made = of_result(Completed(written), visit(facts=before))
    assert made.next_step
    assert made.next_step.step_type == next_step


def test_a_loop_that_does_not_advance_does_not() -> None:
    assert not of_result(Completed(), visit(auto_advance=False)).advance


def test_an_outcome_that_the_step_has_not_is_a_failure_of_the_policy() -> None:
    made = of_result(Completed({"a": 1}, "to"), visit())
    assert (made.error_code, made.state_after, made.facts) == ("InvalidStepResult", None, None)
    assert made.error_message == "WORK has no outcome 'to'; it has: again, gave_up, at_once"
    retried = LOOP["steps"][0] | {"retry": [{"ErrorEquals": ["InvalidStepResult"]}]}
    assert of_result(Completed({}, "to"), visit(steps=[retried, *LOOP["steps"][1:]])).retry_seconds == 1


@pytest.mark.parametrize(
    ("code", "attempt", "seconds", "used_up", "status"),
    [
        ("Busy", 1, 5.0, False, LoopStatus.PAUSED),
        ("Busy", 2, 10.0, False, LoopStatus.PAUSED),
        ("Busy", 3, None, True, LoopStatus.FAILED),
        ("Broken", 1, None, False, LoopStatus.FAILED),
    ],
)
def test_a_failed_step_stays_and_is_tried_again_as_its_policy_says(
    code: str, attempt: int, seconds: float | None, used_up: bool, status: LoopStatus
) -> None:
    made = of_result(Failed(code, "no"), visit(attempt))
    assert (made.status, made.state_after, made.facts, made.advance) == (RunStatus.FAILED, None, None, False)
    assert (made.retry_seconds, made.attempts_are_used_up, made.loop_status) == (seconds, used_up, status)
    assert (made.error_code, made.error_message) == (code, "no")
    assert made.steps == (StepRecord(10, "WORK", StepStatus.FAILED, "no"),)
    assert ("it is tried again by itself in" in made.message) == (seconds is not None)
    assert made.next_step
    assert made.next_step.step_type == "WORK"


def test_what_is_not_known_is_passed_on() -> None:
    assert of_result(Failed("A", "m", is_unknown=True), visit()).is_unknown
    assert not of_result(Failed("A", "m"), visit()).is_unknown


def test_a_step_that_is_blocked_says_how_to_go_on() -> None:
    made = of_result(Blocked("NO_QUOTA", "Ask for quota."), visit())
    assert (made.status, made.blocker_code, made.loop_status) == (RunStatus.BLOCKED, "NO_QUOTA", LoopStatus.PAUSED)
    assert made.message == "Ask for quota. To go on: POST /api/loop/issues/AFU9-123/run-next-step {}"
    assert made.steps == (StepRecord(10, "WORK", StepStatus.BLOCKED, "Ask for quota."),)
    assert (made.state_after, made.facts, made.error_code) == (None, None, None)


def test_the_steps_that_were_skipped_are_recorded_before_the_one_executed() -> None:
    loop = Loop.model_validate(LOOP)
    at = Visit(loop, loop.steps[2], issue("WORKED"), NOW, 1, (loop.steps[1],))
    for result in (Completed(), Blocked("NO", "m"), Failed("A", "m")):
        skipped, executed = of_result(result, at).steps
        assert skipped == StepRecord(20, "LOOK", StepStatus.SKIPPED)
        assert executed.number == 30


def test_facts_that_were_refused_fail_the_step_and_keep_the_issue() -> None:
    completed = of_result(Completed({"a": 1}), visit())
    made = of_refused_facts(completed, "too many")
    assert (made.status, made.error_code, made.error_message) == (RunStatus.FAILED, "InvalidStepResult", "too many")
    assert (made.state_after, made.facts, made.advance, made.next_step) == (None, None, False, None)
    assert made.steps == (StepRecord(10, "WORK", StepStatus.FAILED, "too many"),)
    assert (made.step, made.loop_version) == (completed.step, completed.loop_version)


def test_an_unexpected_error_says_nothing_of_the_inside() -> None:
    made = of_unexpected_error()
    assert (made.status, made.loop_status, made.steps) == (RunStatus.FAILED, LoopStatus.FAILED, ())
    assert (made.state_after, made.retry_seconds, made.is_unknown) == (None, None, False)


TEXTS = st.text(st.characters(exclude_categories=()), max_size=20) | st.just("\0" * 5000) | st.just("\ud800")
RESULTS = (
    st.builds(Completed, FACTS, st.none() | st.sampled_from(["again", "gave_up", "rejected", "x"]), st.none() | TEXTS)
    | st.builds(Blocked, st.just("NO"), TEXTS)
    | st.builds(Failed, TEXTS, TEXTS, st.booleans())
)


@st.composite
def visits(draw: st.DrawFn) -> Visit:
    loop: Loop = draw(loops())
    step: Step = draw(st.sampled_from(loop.steps))
    return Visit(loop, step, issue(step.from_[0], draw(FACTS)), NOW, draw(st.integers(1, 10**6)))


@given(visits(), RESULTS)
def test_any_result_of_any_step_ends_its_run_as_it_may_and_can_be_stored(
    at: Visit, result: Completed | Blocked | Failed
) -> None:
    made = of_result(result, at)
    assert made.status in RUN_TRANSITIONS[RunStatus.RUNNING]
    assert made.status is not RunStatus.CANCELLED
    assert made.step == at.step.number
    assert {step.status for step in made.steps} <= TERMINAL_STEP
    assert [step.number for step in made.steps][-1] == at.step.number
    assert (made.status is RunStatus.BLOCKED) == (made.blocker_code is not None)
    assert (made.status is RunStatus.FAILED) == (made.error_code is not None) == (made.error_message is not None)
    if made.status is RunStatus.COMPLETED:
        assert made.state_after in at.step.targets
        assert (made.loop_status is LoopStatus.ACTIVE) == (made.state_after not in at.loop.final_states)
    else:
        assert (made.state_after, made.facts, made.advance) == (None, None, False)
    texts = [made.message, made.error_code, made.error_message, *(step.error_message for step in made.steps)]
    for text in filter(None, texts):
        assert is_storable(text)
        assert len(text) <= 5000
    assert len(made.error_code or "") <= 128
