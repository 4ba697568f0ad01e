"""Owns run_next_step: claim, resolve, execute, finish. Two round trips to the database, around one step.

A step that is executed elsewhere adds one, its start; one whose outcome is told later is parked instead of finished.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from loop_runner import metrics, outcomes, resolver
from loop_runner.claims import Claim, NotPlanned, Recorded, Started, ToResolve
from loop_runner.errors import UnavailableError
from loop_runner.executors import EXECUTORS, INSTANT
from loop_runner.ledger import FactsTooLargeError, IssueMovedError
from loop_runner.loops import API_STEP_SECONDS, CallbackExecutor, LambdaExecutor, Loop
from loop_runner.messages import LONGEST_DELAY_SECONDS, of_attempt, of_run
from loop_runner.models import Issue, Run, RunMode, RunStatus, RunStep, build
from loop_runner.observability import logger
from loop_runner.outcomes import Visit
from loop_runner.resolver import Ready, next_step, resolve_next_step
from loop_runner.results import Failed, StepCall, Waiting
from loop_runner.retry import HEARTBEAT_TIMEOUT, LEASE_EXPIRED, TIMEOUT, retry_after
from loop_runner.settings import FINISH_RESERVE_SECONDS

if TYPE_CHECKING:
    from uuid import UUID

    from loop_runner.claims import ClaimRequest, TaskOf
    from loop_runner.executors.protocol import Executor
    from loop_runner.ledger import Ledger
    from loop_runner.loops import LoopCatalog
    from loop_runner.messages import Messages
    from loop_runner.outcomes import Outcome
    from loop_runner.results import Result

HAND_OVER_SECONDS: Final = 10.0
"""How long a function may take to accept a task token."""

_LOOKS: Final = 5

build(Issue, Run, RunStep)


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs next steps. ``function_prefix`` precedes the names of step functions."""

    ledger: Ledger
    loops: LoopCatalog
    messages: Messages
    function_prefix: str = ""

    def run_next_step(self, request: ClaimRequest, *, deadline: float) -> Recorded:
        """Run exactly one step of the issue, or none where it is blocked or has ended, and record the run.

        ``deadline``, on time.monotonic, is when the outcome must be recorded. A run that was asked for in the
        background, or whose step takes longer than a call can wait, is queued. What is claimed is recorded: an error in
        between ends the run as failed. Raises what Ledger.claim and finish raise.
        """
        claim = self._claim(request)
        if isinstance(claim, Claim):
            return self._run(claim, deadline)
        if claim.by_this_call:
            self.messages.send([of_run(claim.run.issue_id, claim.run.id)])
        return claim

    def begin(self, request: ClaimRequest, run_id: UUID, *, deadline: float) -> Recorded | NotPlanned:
        """Begin a queued run and run its step. Raises what Ledger.begin and finish raise."""
        claim = self.ledger.begin(request, run_id)
        return self._run(claim, deadline) if isinstance(claim, Claim) else claim

    def go_on(self, request: ClaimRequest, after: UUID, *, deadline: float) -> Recorded | NotPlanned:
        """Run the attempt that the run ``after`` planned. Raises what Ledger.claim_planned and finish raise."""
        claim = self.ledger.claim_planned(request, after)
        return self._run(claim, deadline) if isinstance(claim, Claim) else claim

    def tell(self, task: TaskOf, result: Result, told_by: str) -> Recorded:
        """End the run that waits with the result that was told. Raises RunFinishedError, UnavailableError."""
        logger.append_keys(issueId=task.issue.id, loop=task.issue.loop_name, step=task.step.step_type)
        recorded = self._told(task, result, told_by)
        if recorded.by_this_call:
            metrics.ended(recorded.run, recorded.steps)
        return recorded

    def _told(self, task: TaskOf, result: Result, told_by: str) -> Recorded:
        loop = self.loops.get(task.issue.loop_name)
        step = loop.step_of(task.step.step_number, task.step.step_type) if isinstance(loop, Loop) else None
        if not isinstance(loop, Loop) or step is None:
            outcome = replace(
                outcomes.of_unexpected_error(),
                step=task.step.step_number,
                error_code="LoopChanged",
                error_message=f"the loop {task.issue.loop_name} has no step {task.step.step_type} any more",
                steps=(outcomes.failed_step(task.step.step_number, task.step.step_type),),
            )
            return self.ledger.finish_task(task, outcome, told_by)

        outcome = outcomes.of_result(result, Visit(loop, step, task.issue, task.now, task.run.attempt))
        try:
            recorded = self.ledger.finish_task(task, outcome, told_by)
        except FactsTooLargeError as error:
            outcome = outcomes.of_refused_facts(outcome, str(error))
            recorded = self.ledger.finish_task(task, outcome, told_by)
        self._announce(recorded, outcome)
        return recorded

    # ------------------------------------------------------------------------------------------------ claim

    def _claim(self, request: ClaimRequest) -> Claim | Recorded:
        """Claim; where the state may lead to a long step, look first and claim for what was seen."""
        version: int | None = None
        for _ in range(_LOOKS):
            claim = self.ledger.claim(
                request,
                long_states=None if request.in_background else self.loops.long_states,
                resolved_version=version,
            )
            if not isinstance(claim, ToResolve):
                return claim
            version = claim.issue.version
            if self._is_long(claim):
                request = replace(request, in_background=True)
        raise UnavailableError("the issue changes faster than its next step can be found: try again")

    def _is_long(self, seen: ToResolve) -> bool:
        resolution = resolve_next_step(self.loops.get(seen.issue.loop_name), seen.issue, seen.now)
        return (
            isinstance(resolution, Ready)
            and isinstance(resolution.step.executor, LambdaExecutor)
            and resolution.step.timeout > API_STEP_SECONDS
        )

    # ------------------------------------------------------------------------------------------------ run

    def _run(self, claim: Claim, deadline: float) -> Recorded:
        issue, is_dry = claim.issue, claim.request.mode is RunMode.DRY_RUN
        logger.append_keys(
            requestId=str(claim.request.request_id), runId=str(claim.run_id), issueId=issue.id, loop=issue.loop_name
        )
        metrics.began(took_over=claim.took_over, attempt=claim.attempt, queue_seconds=claim.queue_seconds)
        recorded = self._recorded(claim, deadline)
        is_ours = recorded.by_this_call or recorded.run.status is RunStatus.CANCELLED
        if recorded.run.completed_at and is_ours and not is_dry:
            metrics.ended(recorded.run, recorded.steps)
        return recorded

    def _recorded(self, claim: Claim, deadline: float) -> Recorded:
        step_deadline = deadline - min(FINISH_RESERVE_SECONDS, (deadline - time.monotonic()) / 4)
        try:
            outcome = self._outcome(claim, step_deadline)
        except UnavailableError:
            raise
        except Exception:
            logger.exception("the run failed unexpectedly")
            outcome = outcomes.of_unexpected_error()
        if isinstance(outcome, Recorded):
            return outcome
        recorded = self._finish(claim, outcome)
        run = recorded.run
        is_ours = recorded.by_this_call or (run.status, run.error_code) == (outcome.status, outcome.error_code)
        if not is_ours and run.mode is RunMode.EXECUTE:
            logger.warning("the lease was lost: nothing was written", extra={"status": run.status})
        return recorded

    def _finish(self, claim: Claim, outcome: Outcome) -> Recorded:
        """End the run; an outcome that the database refuses ends it as failed rather than leave it to its lease."""
        try:
            recorded = self.ledger.finish(claim, outcome)
        except UnavailableError:
            raise
        except FactsTooLargeError as error:
            return self.ledger.finish(claim, outcomes.of_refused_facts(outcome, str(error)))
        except IssueMovedError as moved:
            return self.ledger.finish(claim, outcomes.of_moved(outcome, claim.issue.id, moved.version))
        except Exception:
            logger.exception("the outcome could not be recorded")
            return self.ledger.finish(claim, outcomes.of_unexpected_error())
        self._announce(recorded, outcome)
        return recorded

    def _announce(self, recorded: Recorded, outcome: Outcome) -> None:
        """Send the message that lets the issue go on by itself; what is due later is the sweeper's to send."""
        run = recorded.run
        if not recorded.by_this_call or run.status is not outcome.status:
            return
        delay = 0.0 if outcome.advance else outcome.retry_seconds
        if delay is not None and delay <= LONGEST_DELAY_SECONDS:
            self.messages.send([of_attempt(run.issue_id, run.id)], delay)

    def _outcome(self, claim: Claim, deadline: float) -> Outcome | Recorded:
        issue, dry_run = claim.issue, claim.request.mode is RunMode.DRY_RUN
        loop = self.loops.get(issue.loop_name)
        resolution = resolve_next_step(loop, issue, claim.now)
        if not isinstance(resolution, resolver.Ended) and resolution.step:
            logger.append_keys(step=resolution.step.type)
        match resolution:
            case resolver.Blocked() as blocked:
                outcome = outcomes.of_blocked(blocked)
            case resolver.Ended() as ended:
                outcome = outcomes.of_ended(ended, issue, dry_run=dry_run)
            case Ready() as ready if dry_run:
                outcome = outcomes.of_dry_run(ready, issue)
            case Ready() as ready:
                return self._executed(claim, ready, deadline)
        return replace(outcome, loop_version=loop.version if isinstance(loop, Loop) else None)

    def _executed(self, claim: Claim, ready: Ready, deadline: float) -> Outcome | Recorded:
        step, executor = ready.step, ready.step.executor
        call = StepCall(
            issue=claim.issue,
            step=step,
            run_id=claim.run_id,
            attempt=claim.attempt,
            actor=claim.request.actor,
            request_id=str(claim.request.request_id),
            idempotency_token=claim.idempotency_token,
        )
        if isinstance(executor, LambdaExecutor | CallbackExecutor):
            seconds = step.timeout if isinstance(executor, LambdaExecutor) else HAND_OVER_SECONDS
            token = secrets.token_urlsafe(32) if isinstance(executor, CallbackExecutor) else None
            call = replace(
                call, function=f"{self.function_prefix}{executor.function}", seconds=seconds, task_token=token
            )
            if time.monotonic() < deadline:
                started = self._start(claim, ready, token)
                if isinstance(started, Recorded):
                    return started
                claim, ready = replace(claim, attempt=started.attempt), replace(ready, skipped=())
                call = replace(call, attempt=started.attempt, idempotency_token=started.idempotency_token)
            deadline = min(deadline, time.monotonic() + seconds)
        result = _in_time(EXECUTORS[executor.kind], call, deadline)
        if isinstance(result, Waiting):
            message = f"{step.type} waits for its outcome: POST /api/loop/runs/{claim.run_id}/result"
            return self.ledger.park(claim, message, next_step(step))
        visit = Visit(ready.loop, step, claim.issue, claim.now, claim.attempt, ready.skipped)
        return outcomes.of_result(result, visit)

    def _start(self, claim: Claim, ready: Ready, token: str | None) -> Started | Recorded:
        step = ready.step
        waiting_for = [TIMEOUT, HEARTBEAT_TIMEOUT] if token else []
        retries = {code: retry_after(step.retry, code, claim.attempt) for code in (LEASE_EXPIRED, *waiting_for)}
        return self.ledger.start_step(
            claim,
            step,
            ready.loop.version,
            skipped=ready.skipped,
            retry_if_lost={code: retry.seconds for code, retry in retries.items() if retry},
            token_hash=token and hash_of_token(token),
            heartbeat_seconds=getattr(step.executor, "heartbeat_seconds", None),
        )


def hash_of_token(token: str) -> str:
    """What of a task token is stored: its SHA-256, in hex. The token has 256 random bits, there is nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()


def _in_time(executor: Executor, call: StepCall, deadline: float) -> Result | Waiting:
    """What the executor says, or that it said nothing in time; then it goes on unheard, and its outcome is not used."""
    if time.monotonic() >= deadline:
        # what came of an execution before this one is as unknown as it was
        return Failed(TIMEOUT, "no time was left to execute the step: it was not begun", is_unknown=True)
    if executor in INSTANT:
        return executor(call)
    said: queue.SimpleQueue[Result | Waiting | BaseException] = queue.SimpleQueue()

    def execute() -> None:
        try:
            said.put(executor(call))
        except BaseException as error:
            said.put(error)

    threading.Thread(target=execute, name=f"step of run {call.run_id}", daemon=True).start()
    try:
        result = said.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return Failed(TIMEOUT, "the step had not ended when its time was over", is_unknown=True)
    if isinstance(result, BaseException):
        raise result
    return result
