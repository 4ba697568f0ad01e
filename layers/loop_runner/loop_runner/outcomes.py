"""Owns how a run ends: what a resolution, or a step's result, makes of the run and of its issue. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loop_runner.facts import merge_patch
from loop_runner.models import LoopStatus, RunStatus, StepStatus
from loop_runner.resolver import APPROVAL_REQUIRED, next_step, next_step_after
from loop_runner.results import INVALID_STEP_RESULT, Blocked, Completed, Failed
from loop_runner.retry import retry_after
from loop_runner.sanitize import clean_text

if TYPE_CHECKING:
    from datetime import datetime

    from loop_runner import resolver
    from loop_runner.loops import Loop, Step
    from loop_runner.models import Issue, Json, NextStep
    from loop_runner.results import Result

UNEXPECTED_ERROR: Final = "UNEXPECTED_ERROR"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that the run touched."""

    number: int
    type: str
    status: StepStatus
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ends: everything that is written with its terminal status. ``facts`` is a merge patch.

    ``retry_seconds``: the step is tried again by itself. ``attempts_are_used_up``: its next attempt counts anew.
    ``advance``: the issue goes on by itself. ``is_unknown``: what came of the step, now or before, is not known.
    ``if_version``: it holds for this version of the issue and for no other.
    """

    status: RunStatus
    loop_status: LoopStatus
    message: str
    loop_version: str | None = None
    step: int | None = None
    state_after: str | None = None
    facts: Json | None = None
    blocker_code: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    next_step: NextStep | None = None
    steps: tuple[StepRecord, ...] = ()
    retry_seconds: float | None = None
    attempts_are_used_up: bool = False
    advance: bool = False
    is_unknown: bool = False
    if_version: int | None = None


def of_blocked(blocked: resolver.Blocked) -> Outcome:
    """Nothing can run: the first blocker is the run's."""
    first = blocked.blockers[0]
    return Outcome(
        status=RunStatus.BLOCKED,
        loop_status=LoopStatus.PAUSED,
        message=first.message,
        step=blocked.step.number if blocked.step else None,
        blocker_code=first.code,
        next_step=next_step(blocked.step) if blocked.step else None,
    )


def of_ended(ended: resolver.Ended, issue: Issue, *, dry_run: bool) -> Outcome:
    """Nothing is left to run."""
    skips = ", ".join(step.type for step in ended.skipped)
    message = f"issue {issue.id} is {ended.state}, nothing is left to run"
    if skips and dry_run:
        message = f"dry run: {skips} would be skipped, issue {issue.id} would be {ended.state}"
    return Outcome(
        status=RunStatus.COMPLETED,
        loop_status=ended.loop_status,
        message=message,
        state_after=ended.state,
        steps=_skipped(ended.skipped),
    )


def of_dry_run(ready: resolver.Ready, issue: Issue) -> Outcome:
    """What would run."""
    skips = f", after skipping {', '.join(step.type for step in ready.skipped)}" if ready.skipped else ""
    return Outcome(
        status=RunStatus.COMPLETED,
        loop_status=LoopStatus.ACTIVE,
        message=f"dry run: {ready.step.type} would run and move issue {issue.id} to {ready.step.to}{skips}",
        step=ready.step.number,
        next_step=next_step(ready.step),
    )


@dataclass(frozen=True, slots=True)
class Visit:
    """A run's visit to a step of its loop, by the issue as it was claimed. ``chance``: of its retry's jitter."""

    loop: Loop
    step: Step
    issue: Issue
    now: datetime
    attempt: int
    skipped: tuple[Step, ...] = ()
    chance: float | None = None


def of_result(result: Result, visit: Visit) -> Outcome:
    """What the result of the step makes of its run and issue."""
    loop, step, issue, skipped = visit.loop, visit.step, visit.issue, visit.skipped
    match result:
        case Completed(outcome=name) if name is not None and name not in (step.outcomes or {}):
            known = ", ".join(step.outcomes or {}) or "none"
            invalid = Failed(INVALID_STEP_RESULT, f"{step.type} has no outcome {name!r}; it has: {known}")
            return _of_failed(invalid, visit)
        case Completed():
            return _of_completed(result, visit)
        case Blocked(code=code, message=message):
            reason = clean_text(message)
            return Outcome(
                status=RunStatus.BLOCKED,
                loop_status=LoopStatus.PAUSED,
                message=f"{reason.rstrip('.')}. To go on: POST /api/loop/issues/{issue.id}/run-next-step {{}}",
                loop_version=loop.version,
                step=step.number,
                blocker_code=code,
                next_step=next_step(step),
                steps=(*_skipped(skipped), StepRecord(step.number, step.type, StepStatus.BLOCKED, reason)),
            )
        case Failed():
            return _of_failed(result, visit)


def of_unexpected_error() -> Outcome:
    """The details stay in the log: what is unexpected may hold anything."""
    return Outcome(
        status=RunStatus.FAILED,
        loop_status=LoopStatus.FAILED,
        message="the run failed, the issue stays as it is: run the next step to try again",
        error_code=UNEXPECTED_ERROR,
        error_message="unexpected error: the log lines of this requestId say why",
    )


def of_refused_facts(outcome: Outcome, reason: str) -> Outcome:
    """The step completed with facts that its issue cannot hold: it failed."""
    *before, last = outcome.steps
    return Outcome(
        status=RunStatus.FAILED,
        loop_status=LoopStatus.FAILED,
        message=f"{last.type} failed, the issue stays as it is: run the next step to try again",
        loop_version=outcome.loop_version,
        step=outcome.step,
        error_code=INVALID_STEP_RESULT,
        error_message=reason,
        steps=(*before, StepRecord(last.number, last.type, StepStatus.FAILED, reason)),
    )


def of_moved(outcome: Outcome, issue_id: str, version: int) -> Outcome:
    """The issue changed while an approval of what it was before was carried out: it is asked for again."""
    return Outcome(
        status=RunStatus.BLOCKED,
        loop_status=LoopStatus.PAUSED,
        message=f"the issue has changed since it was decided on. Approve it as it is now (If-Match: "
        f'"{version}"). To go on: POST /api/loop/issues/{issue_id}/approvals {{"decision":"approved"}}',
        loop_version=outcome.loop_version,
        step=outcome.step,
        blocker_code=APPROVAL_REQUIRED,
    )


def failed_step(number: int, type_: str) -> StepRecord:
    """A step that failed, the run says why."""
    return StepRecord(number, type_, StepStatus.FAILED)


def _of_completed(result: Completed, visit: Visit) -> Outcome:
    loop, step, issue = visit.loop, visit.step, visit.issue
    target = step.to if result.outcome is None else (step.outcomes or {})[result.outcome]
    after = issue.model_copy(
        update={"state": target, "facts": merge_patch(issue.facts, result.facts), "approval": None, "hold": None}
    )
    note = "" if result.message is None else f": {clean_text(result.message)}"
    outcome = "" if result.outcome is None else f" ({result.outcome})"
    return Outcome(
        status=RunStatus.COMPLETED,
        loop_status=_status_in(loop, target),
        message=f"{step.type} completed{outcome}, issue {issue.id} is {target}{note}",
        loop_version=loop.version,
        step=step.number,
        state_after=target,
        facts=result.facts or None,
        next_step=next_step_after(loop, after, visit.now),
        steps=(*_skipped(visit.skipped), StepRecord(step.number, step.type, StepStatus.COMPLETED)),
        advance=loop.auto_advance and target not in loop.final_states,
        if_version=issue.version if step.executor.kind == "approval" else None,
    )


def _of_failed(result: Failed, visit: Visit) -> Outcome:
    step, issue = visit.step, visit.issue
    reason = clean_text(result.message)
    retry = retry_after(step.retry, result.code, visit.attempt, visit.chance, result.retry_after_seconds)
    seconds = retry.seconds if retry else None
    what_now = (
        "run the next step to try again" if seconds is None else f"it is tried again by itself in {seconds:.0f} s"
    )
    return Outcome(
        status=RunStatus.FAILED,
        loop_status=LoopStatus.FAILED if seconds is None else LoopStatus.PAUSED,
        message=f"{step.type} failed, issue {issue.id} stays {issue.state}: {what_now}",
        loop_version=visit.loop.version,
        step=step.number,
        error_code=clean_text(result.code, 128),
        error_message=reason,
        next_step=next_step(step),
        steps=(*_skipped(visit.skipped), StepRecord(step.number, step.type, StepStatus.FAILED, reason)),
        retry_seconds=seconds,
        attempts_are_used_up=retry is not None and seconds is None,
        is_unknown=result.is_unknown,
    )


def _status_in(loop: Loop, state: str) -> LoopStatus:
    if state in loop.completed_states:
        return LoopStatus.COMPLETED
    return LoopStatus.FAILED if state in loop.failed_states else LoopStatus.ACTIVE


def _skipped(steps: tuple[Step, ...]) -> tuple[StepRecord, ...]:
    return tuple(StepRecord(step.number, step.type, StepStatus.SKIPPED) for step in steps)
