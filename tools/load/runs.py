"""Owns what runs leave: what the SQL functions that move them would have written, had they been called in the past."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from loop_runner.facts import merge_patch
from loop_runner.messages import LONGEST_DELAY_SECONDS
from loop_runner.models import LoopStatus, NextStep, RunMode, RunStatus, StepStatus
from loop_runner.resolver import APPROVAL_REQUIRED
from loop_runner.retry import HEARTBEAT_TIMEOUT, LEASE_EXPIRED, TIMEOUT
from tools.durations import milliseconds
from tools.load.issue import fact_keys
from tools.load.rows import RunRow, StepRow

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from loop_runner.identity import Identity
    from loop_runner.models import Json
    from loop_runner.outcomes import Outcome, StepRecord
    from loop_runner.resolver import Ready
    from tools.load.issue import PastIssue

NOT_STARTED: Final = "NOT_STARTED"
_TRIED_AGAIN: Final = "lost: no outcome came in time, it is tried again by itself"
_NO_OUTCOME: Final = "lost: the lease ended before an outcome was recorded"
_LOST: Final[Mapping[str, tuple[str, str]]] = {
    NOT_STARTED: (
        "the background run was not started in time; run the next step again",
        "not started in time: run the next step again",
    ),
    TIMEOUT: ("the outcome of the step was not told in time", _NO_OUTCOME),
    HEARTBEAT_TIMEOUT: ("no heartbeat came in time", _NO_OUTCOME),
    LEASE_EXPIRED: ("no outcome was recorded before the lease ended; run the next step again", _NO_OUTCOME),
}
"""By error code: error_message and message of a run that loop_expire_run ends."""


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that runs the next step: who made it, and what it brought along."""

    by: Identity
    request_id: str
    lambda_request_id: str
    log_stream: str
    idempotency_key: str | None = None
    request_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """For how long a run owns its issue."""

    token: UUID
    length: timedelta


class PastRuns:
    """The runs of an issue, one at a time. Calls must come in the order of their times."""

    def __init__(self, issue: PastIssue) -> None:
        self._issue, self._past = issue, issue.past
        self._step: StepRow | None = None

    def claim(self, run_id: UUID, call: PastCall, lease: Lease, at: datetime, *, is_queued: bool) -> RunRow:
        """As loop_claim; a run that was lost must have been expired."""
        issue = self._issue
        run = _row_of(run_id, issue, call, at, RunMode.EXECUTE)
        run.status = (RunStatus.PENDING if is_queued else RunStatus.RUNNING).value
        if is_queued:
            run.queued_at = run.sent_at = at
            run.sends = 1
        else:
            run.started_at = at
        run.attempt, run.retry_of = issue.failed_attempts + 1, issue.failed_run_id
        run.lease_token, run.lease_expires_at = lease.token, at + lease.length
        self._past.runs.append(run)
        if not is_queued:
            self._take_plan()
        self._tell_start(run, at, "loop_run_queued" if is_queued else "loop_run_started")
        return run

    def begin(self, run: RunRow, call: PastCall, lease: Lease, at: datetime) -> None:
        """As loop_begin."""
        issue = self._issue
        run.status, run.started_at = RunStatus.RUNNING.value, at
        run.attempt, run.retry_of = issue.failed_attempts + 1, issue.failed_run_id
        run.state_before = issue.state
        run.lease_token, run.lease_expires_at = lease.token, at + lease.length
        run.lambda_request_id, run.log_stream = call.lambda_request_id, call.log_stream
        self._take_plan()
        self._tell_start(run, at, "loop_run_started")

    def start_step(
        self,
        run: RunRow,
        ready: Ready,
        at: datetime,
        *,
        retry_if_lost: Mapping[str, float | None],
        token_hash: str | None = None,
        heartbeat_seconds: int | None = None,
    ) -> None:
        """As loop_start_step."""
        issue, step = self._issue, ready.step
        is_other = issue.failed_step not in {None, step.number}
        run.attempt = 1 if is_other else issue.failed_attempts + 1
        run.retry_of = None if is_other else issue.failed_run_id
        run.step, run.loop_version = step.number, issue.loop.version
        if issue.idempotency_token is None or issue.token_step != step.number:
            issue.idempotency_token, issue.token_step = run.id, step.number
            issue.change_plainly()
        for each in ready.skipped:
            self._skip(run, each.number, each.type, at)
        self._step = StepRow(
            run_id=run.id,
            step_number=step.number,
            step_type=step.type,
            status=StepStatus.RUNNING.value,
            created_at=at,
            started_at=at,
            retry_if_lost_seconds=json.dumps(retry_if_lost) if retry_if_lost else None,
            task_token_hash=token_hash,
            heartbeat_seconds=heartbeat_seconds,
            timeout_at=_later(at, step.timeout),
        )
        self._past.steps.append(self._step)

    def park(self, run: RunRow, message: str, next_step: NextStep, at: datetime) -> None:
        """As loop_park."""
        run.loop_status = LoopStatus.PAUSED.value
        run.message, run.next_step = message, _json_of(next_step)
        run.issue_version = self._issue.version
        self.beat(run, at)

    def beat(self, run: RunRow, at: datetime) -> None:
        """As loop_heartbeat."""
        step = self._step
        assert step and step.timeout_at  # noqa: S101, PT018  it waits
        run.lease_expires_at = step.timeout_at
        if step.heartbeat_seconds is not None:
            run.lease_expires_at = min(step.timeout_at, _later(at, step.heartbeat_seconds))

    def finish(self, run: RunRow, outcome: Outcome, at: datetime, told: Json | None = None) -> None:
        """As loop_finish; ``told``: what the step's row says of who told its outcome."""
        issue, is_failed = self._issue, outcome.status is RunStatus.FAILED
        before, patch = issue.state, cast("Json", {})
        if not is_failed:
            issue.state = outcome.state_after or before
            facts = merge_patch(issue.facts, outcome.facts or {})
            if facts != issue.facts:
                issue.facts, patch = facts, outcome.facts or {}
        if issue.state != before or patch:
            issue.change(at)
        for record in outcome.steps:
            self._record(run, record, at, told)
        if is_failed and not outcome.steps:
            self._close_step(StepStatus.FAILED, at, outcome.error_message)

        _end(run, outcome.status, at)
        _explain(run, outcome)
        run.loop_version = outcome.loop_version or run.loop_version
        run.step = outcome.step or run.step
        run.state_after, run.issue_version = issue.state, issue.version
        run.retry_at = None if outcome.retry_seconds is None else _later(at, outcome.retry_seconds)
        self._leave(run, outcome, has_moved=issue.state != before)
        if patch:
            told_keys = {"actor": run.actor, "version": issue.version, "factKeys": fact_keys(patch)}
            self._past.tell(issue.id, at, "loop_facts_changed", told_keys, run.id)
        self._tell_end(run, at)
        self._tell_retry(run, at)

    def expire(self, run: RunRow, ended_by: str, at: datetime) -> None:
        """As loop_expire_run."""
        issue, step = self._issue, self._step
        is_queued = run.status == RunStatus.PENDING
        code = NOT_STARTED if is_queued else LEASE_EXPIRED
        if run.loop_status and step and step.timeout_at and run.lease_expires_at:
            code = TIMEOUT if run.lease_expires_at >= step.timeout_at else HEARTBEAT_TIMEOUT
        plans: dict[str, float | None] = json.loads((step and step.retry_if_lost_seconds) or "{}")
        seconds = plans.get(code)
        lost = "the run was lost" if code == LEASE_EXPIRED else "no outcome came in time"
        self._close_step(StepStatus.FAILED, at, lost)

        _end(run, RunStatus.FAILED, at)
        run.error_code = code
        run.error_message, run.message = _LOST[code]
        run.state_after, run.issue_version = run.state_before, issue.version
        run.loop_status = LoopStatus.FAILED.value
        if seconds is not None:
            run.retry_at, run.message, run.loop_status = _later(at, seconds), _TRIED_AGAIN, LoopStatus.PAUSED.value
        if not is_queued and code in plans and seconds is None:
            issue.forget_failures()
        elif not is_queued:
            issue.failed_attempts, issue.failed_run_id, issue.failed_step = run.attempt, run.id, run.step
            issue.next_attempt_at, issue.next_attempt_after = run.retry_at, run.id if run.retry_at else None
        issue.change_plainly()
        self._past.tell(issue.id, at, "loop_run_failed", {"errorCode": code, "endedBy": ended_by}, run.id)
        self._tell_retry(run, at)

    def cancel(
        self, run: RunRow, by: Identity, reason: str, at: datetime, *, ends_at: datetime, outcome: Outcome | None = None
    ) -> None:
        """As loop_cancel, and loop_end_cancelled at the next safe point; ``outcome``: what came of the step by then."""
        issue = self._issue
        run.cancel_requested_at, run.cancel_requested_by, run.cancel_reason = at, by.actor, reason
        self._close_step(StepStatus.CANCELLED, ends_at, None, _kept_of(outcome) if outcome else None)
        _end(run, RunStatus.CANCELLED, ends_at)
        run.message = f"cancelled by {by.actor}: {reason}"
        run.state_before = run.state_after = issue.state
        run.issue_version = issue.version
        run.loop_status = (LoopStatus.ACTIVE if issue.hold is None else LoopStatus.PAUSED).value
        told = {"actor": by.actor, "reason": reason, "stepNumber": run.step}
        self._past.tell(issue.id, ends_at, "loop_run_cancelled", told, run.id)

    def cancel_retry(self, by: Identity, reason: str, at: datetime) -> None:
        """As loop_cancel, of a failed run whose retry waits."""
        issue = self._issue
        told = {"actor": by.actor, "principal": by.principal, "reason": reason}
        self._past.tell(issue.id, at, "loop_retry_cancelled", told, issue.next_attempt_after)
        issue.forget_plan()
        issue.change_plainly()

    def record_dry_run(self, run_id: UUID, call: PastCall, outcome: Outcome, at: datetime, ends_at: datetime) -> None:
        """As loop_record_dry_run."""
        issue = self._issue
        run = _row_of(run_id, issue, call, at, RunMode.DRY_RUN)
        run.started_at = at
        _end(run, outcome.status, ends_at)
        _explain(run, outcome)
        run.loop_version, run.step = outcome.loop_version, outcome.step
        run.state_after, run.issue_version = issue.state, issue.version
        self._past.runs.append(run)

    # ------------------------------------------------------------------------------------------------ means

    def _take_plan(self) -> None:
        """A run begins: it is the attempt that was planned, or comes before it."""
        if self._issue.next_attempt_at is not None and self._issue.hold is None:
            self._issue.forget_plan()
            self._issue.change_plainly()

    def _leave(self, run: RunRow, outcome: Outcome, *, has_moved: bool) -> None:
        """What the end of the run makes of its issue, beside state and facts."""
        issue = self._issue
        before = _rest_of(issue)
        is_failed, is_completed = outcome.status is RunStatus.FAILED, outcome.status is RunStatus.COMPLETED
        if is_failed and not outcome.attempts_are_used_up:
            issue.failed_attempts, issue.failed_run_id, issue.failed_step = run.attempt, run.id, run.step
        elif is_failed or is_completed or has_moved:
            issue.forget_failures()
        if is_completed and outcome.steps:
            issue.approval = None
        requester: Json = {"actor": run.actor, "principal": run.principal}
        if has_moved:
            issue.approval_requesters = []
        elif outcome.blocker_code == APPROVAL_REQUIRED and requester not in issue.approval_requesters:
            issue.approval_requesters = [*issue.approval_requesters, requester]
        if outcome.steps and not outcome.is_unknown:
            issue.idempotency_token = None
        if run.retry_at is not None and run.completed_at is not None:
            issue.next_attempt_at, issue.next_attempt_after = run.retry_at, run.id
            is_sent = run.retry_at - run.completed_at <= timedelta(seconds=LONGEST_DELAY_SECONDS)
            issue.next_attempt_sent_at = run.retry_at if is_sent else None
        if _rest_of(issue) != before:
            issue.change_plainly()

    def _record(self, run: RunRow, record: StepRecord, at: datetime, told: Json | None) -> None:
        if record.status is StepStatus.SKIPPED:
            self._skip(run, record.number, record.type, at)
            return
        if self._step is None:
            self._step = StepRow(
                run_id=run.id,
                step_number=record.number,
                step_type=record.type,
                status=record.status.value,
                created_at=at,
                started_at=run.started_at,
            )
            self._past.steps.append(self._step)
        self._close_step(record.status, at, record.error_message, told)
        if record.status is StepStatus.COMPLETED:
            self._tell_step(run, record.number, record.type, at, "loop_step_completed")

    def _skip(self, run: RunRow, number: int, type_: str, at: datetime) -> None:
        status = StepStatus.SKIPPED.value
        self._past.steps.append(
            StepRow(run_id=run.id, step_number=number, step_type=type_, status=status, created_at=at, completed_at=at)
        )
        self._tell_step(run, number, type_, at, "loop_step_skipped")

    def _close_step(self, status: StepStatus, at: datetime, error: str | None, notes: Json | None = None) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.status = status.value
            step.completed_at, step.duration_ms = at, milliseconds(step.started_at, at)
            step.error_message = error
            step.metadata = json.dumps(notes or {})

    def _tell_start(self, run: RunRow, at: datetime, event_type: str) -> None:
        told = {"actor": run.actor, "principal": run.principal, "attempt": run.attempt, "state": self._issue.state}
        self._past.tell(run.issue_id, at, event_type, told, run.id)

    def _tell_step(self, run: RunRow, number: int, type_: str, at: datetime, event_type: str) -> None:
        self._past.tell(run.issue_id, at, event_type, {"stepNumber": number, "stepType": type_}, run.id)

    def _tell_end(self, run: RunRow, at: datetime) -> None:
        told = {
            "stepNumber": run.step,
            "stateBefore": run.state_before,
            "stateAfter": run.state_after,
            "blockerCode": run.blocker_code,
            "errorCode": run.error_code,
        }
        end = "finished" if run.status == RunStatus.COMPLETED else run.status
        self._past.tell(run.issue_id, at, f"loop_run_{end}", told, run.id)

    def _tell_retry(self, run: RunRow, at: datetime) -> None:
        if run.retry_at is not None:
            told = {"errorCode": run.error_code, "attempt": run.attempt, "retryAt": run.retry_at.isoformat()}
            self._past.tell(run.issue_id, at, "loop_retry_planned", told, run.id)


def _row_of(run_id: UUID, issue: PastIssue, call: PastCall, at: datetime, mode: RunMode) -> RunRow:
    return RunRow(
        id=run_id,
        issue_id=issue.id,
        actor=call.by.actor,
        principal=call.by.principal,
        request_id=call.request_id,
        mode=mode.value,
        created_at=at,
        loop_name=issue.loop.name,
        state_before=issue.state,
        idempotency_key=call.idempotency_key,
        request_hash=call.request_hash,
        lambda_request_id=call.lambda_request_id,
        log_stream=call.log_stream,
    )


def _kept_of(outcome: Outcome) -> Json:
    """As loop_finish_cancelled."""
    kept: Json = {
        "status": outcome.status.value,
        "facts": outcome.facts,
        "message": outcome.message,
        "errorCode": outcome.error_code,
        "blockerCode": outcome.blocker_code,
    }
    return {"outcome": {key: value for key, value in kept.items() if value is not None}}


def _rest_of(issue: PastIssue) -> tuple[object, ...]:
    return (
        issue.failed_run_id,
        issue.approval,
        issue.approval_requesters,
        issue.idempotency_token,
        issue.next_attempt_at,
    )


def _end(run: RunRow, status: RunStatus, at: datetime) -> None:
    run.status = status.value
    run.completed_at, run.duration_ms = at, milliseconds(run.started_at, at)


def _explain(run: RunRow, outcome: Outcome) -> None:
    run.blocker_code, run.error_code = outcome.blocker_code, outcome.error_code
    run.error_message, run.message = outcome.error_message, outcome.message
    run.loop_status, run.next_step = outcome.loop_status.value, _json_of(outcome.next_step)


def _later(at: datetime, seconds: float) -> datetime:
    return at + timedelta(seconds=seconds)


@cache
def _json_of(step: NextStep | None) -> str | None:
    return None if step is None else json.dumps(step.model_dump(exclude_none=True))
