"""Owns run_next_step: claim, resolve, execute, finish. Two round trips to the database, around one step."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from loop_runner.errors import UnavailableError
from loop_runner.executors import EXECUTORS
from loop_runner.executors.protocol import Completed, Failed, StepCall
from loop_runner.executors.transition import transition
from loop_runner.facts import merge_patch
from loop_runner.ledger import Claim, Outcome, StepRecord
from loop_runner.loops import Loop
from loop_runner.models import LoopStatus, RunMode, RunStatus, StepStatus
from loop_runner.observability import logger
from loop_runner.resolver import Blocked, Ended, Ready, next_step, next_step_after, resolve_next_step
from loop_runner.sanitize import clean_text
from loop_runner.settings import FINISH_RESERVE_SECONDS

if TYPE_CHECKING:
    from loop_runner.executors.protocol import Executor
    from loop_runner.ledger import ClaimRequest, Ledger, Recorded
    from loop_runner.loops import LoopCatalog, Step
    from loop_runner.models import Issue

UNEXPECTED_ERROR: Final = "UNEXPECTED_ERROR"

TIMEOUT: Final = "States.Timeout"
"""A step had not ended in time (Amazon States Language, Errors)."""


def run_next_step(ledger: Ledger, loops: LoopCatalog, request: ClaimRequest, *, deadline: float) -> Recorded:
    """Run exactly one step of the issue, or none where it is blocked or has ended, and record the run.

    ``deadline``, on time.monotonic, is when the outcome must be recorded. What is claimed is recorded: an error in
    between ends the run as failed. Raises what Ledger.claim and finish raise.
    """
    step_deadline = deadline - min(FINISH_RESERVE_SECONDS, (deadline - time.monotonic()) / 4)
    claim = ledger.claim(request)
    if not isinstance(claim, Claim):
        return claim
    logger.append_keys(runId=str(claim.run_id))
    try:
        outcome = _outcome(claim, loops, step_deadline)
    except Exception:
        logger.exception("the run failed unexpectedly")
        outcome = _failed_unexpectedly()
    recorded = _finish(ledger, claim, outcome)
    if not recorded.by_this_call and recorded.run.status != outcome.status:
        logger.warning("the lease was lost: nothing was written", extra={"status": recorded.run.status})
    return recorded


def _finish(ledger: Ledger, claim: Claim, outcome: Outcome) -> Recorded:
    """End the run; an outcome that the database refuses ends it as failed rather than leave it to its lease."""
    try:
        return ledger.finish(claim, outcome)
    except UnavailableError:
        raise
    except Exception:
        logger.exception("the outcome could not be recorded")
        return ledger.finish(claim, _failed_unexpectedly())


def _outcome(claim: Claim, loops: LoopCatalog, deadline: float) -> Outcome:
    issue, dry_run = claim.issue, claim.request.mode is RunMode.DRY_RUN
    loop = loops.get(issue.loop_name)
    match resolve_next_step(loop, issue, claim.now):
        case Blocked() as blocked:
            outcome = _blocked(blocked)
        case Ended() as ended:
            outcome = _ended(ended, issue, dry_run=dry_run)
        case Ready() as ready if dry_run:
            outcome = _would_run(ready, issue)
        case Ready() as ready:
            outcome = _executed(claim, ready, deadline)
    return replace(outcome, loop_version=loop.version if isinstance(loop, Loop) else None)


def _blocked(blocked: Blocked) -> Outcome:
    first = blocked.blockers[0]
    return Outcome(
        status=RunStatus.BLOCKED,
        loop_status=LoopStatus.PAUSED,
        message=first.message,
        step=blocked.step.number if blocked.step else None,
        blocker_code=first.code,
        next_step=next_step(blocked.step) if blocked.step else None,
    )


def _ended(ended: Ended, issue: Issue, *, dry_run: bool) -> Outcome:
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


def _would_run(ready: Ready, issue: Issue) -> Outcome:
    skips = f", after skipping {', '.join(step.type for step in ready.skipped)}" if ready.skipped else ""
    return Outcome(
        status=RunStatus.COMPLETED,
        loop_status=LoopStatus.ACTIVE,
        message=f"dry run: {ready.step.type} would run and move issue {issue.id} to {ready.step.to}{skips}",
        step=ready.step.number,
        next_step=next_step(ready.step),
    )


def _executed(claim: Claim, ready: Ready, deadline: float) -> Outcome:
    loop, step, issue = ready.loop, ready.step, claim.issue
    result = _in_time(EXECUTORS[step.executor.kind], StepCall(issue, step, claim.run_id, claim.attempt), deadline)
    match result:
        case Completed(facts=facts):
            after = issue.model_copy(update={"state": step.to, "facts": merge_patch(issue.facts, facts)})
            return Outcome(
                status=RunStatus.COMPLETED,
                loop_status=_status_in(loop, step.to),
                message=f"{step.type} completed, issue {issue.id} is {step.to}",
                step=step.number,
                state_after=step.to,
                facts=facts or None,
                next_step=next_step_after(loop, after, claim.now),
                steps=(*_skipped(ready.skipped), StepRecord(step.number, step.type, StepStatus.COMPLETED)),
            )
        case Failed(code=code, message=message):
            reason = clean_text(message)
            return Outcome(
                status=RunStatus.FAILED,
                loop_status=LoopStatus.FAILED,
                message=f"{step.type} failed, issue {issue.id} stays {issue.state}: run the next step to try again",
                step=step.number,
                error_code=code,
                error_message=reason,
                next_step=next_step(step),
                steps=(*_skipped(ready.skipped), StepRecord(step.number, step.type, StepStatus.FAILED, reason)),
            )


def _in_time(executor: Executor, call: StepCall, deadline: float) -> Completed | Failed:
    """What the executor says, or that it said nothing in time; then it goes on unheard, and its outcome is not used."""
    if time.monotonic() >= deadline:
        return Failed(TIMEOUT, "no time was left to execute the step: it was not begun")
    if executor is transition:
        return executor(call)
    said: queue.SimpleQueue[Completed | Failed | BaseException] = queue.SimpleQueue()

    def execute() -> None:
        try:
            said.put(executor(call))
        except BaseException as error:
            said.put(error)

    threading.Thread(target=execute, name=f"step of run {call.run_id}", daemon=True).start()
    try:
        result = said.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return Failed(TIMEOUT, "the step had not ended when the invocation ran out of time")
    if isinstance(result, BaseException):
        raise result
    return result


def _status_in(loop: Loop, state: str) -> LoopStatus:
    if state in loop.completed_states:
        return LoopStatus.COMPLETED
    return LoopStatus.FAILED if state in loop.failed_states else LoopStatus.ACTIVE


def _skipped(steps: tuple[Step, ...]) -> tuple[StepRecord, ...]:
    return tuple(StepRecord(step.number, step.type, StepStatus.SKIPPED) for step in steps)


def _failed_unexpectedly() -> Outcome:
    """The details stay in the log: what is unexpected may hold anything."""
    return Outcome(
        status=RunStatus.FAILED,
        loop_status=LoopStatus.FAILED,
        message="the run failed, the issue stays as it is: run the next step to try again",
        error_code=UNEXPECTED_ERROR,
        error_message="unexpected error: the log lines of this requestId say why",
    )
