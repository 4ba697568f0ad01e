"""Owns the calls of the SQL functions that write the ledger: claim, start, park, finish, cancel, sweep.

Each is one round trip and one commit (migrations/functions/). Dictionaries cross the wire; values leave here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, LiteralString, TypedDict, cast
from uuid import UUID, uuid4

from pydantic import TypeAdapter

from loop_runner.claims import Claim, NotPlanned, Recorded, Started, TaskOf, ToResolve
from loop_runner.database import DEPLOYMENT_SECONDS, SCHEMA_TOO_OLD
from loop_runner.errors import (
    IdempotencyKeyReusedError,
    IssueNotFoundError,
    LoopConflictError,
    PreconditionFailedError,
    RunFinishedError,
    RunNotFoundError,
    UnavailableError,
)
from loop_runner.models import Instant, Issue, Run, RunMode, RunStatus, RunStep, new_run_id
from loop_runner.settings import CODE_VERSION, MAX_FACTS_BYTES, REQUIRED_SCHEMA, START_BY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from loop_runner.claims import ClaimRequest
    from loop_runner.database import Database
    from loop_runner.loops import Step
    from loop_runner.models import Json, NextStep
    from loop_runner.outcomes import Outcome

_INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)
_VERSIONS: Final = {"codeVersion": CODE_VERSION, "requiredSchema": REQUIRED_SCHEMA}


class _ClaimedRun(TypedDict):
    """What a claim reads of its run's row."""

    actor: str
    principal: str | None
    request_id: str
    attempt: int
    queued_at: str | None


class FactsTooLargeError(Exception):
    """The facts of a step's result would make those of its issue too large; nothing was written."""


class IssueMovedError(Exception):
    """The issue is not at the version any more for which an outcome holds, but at ``version``; nothing was written."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


class Ledger:
    """Claims issues for runs, and ends runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self,
        request: ClaimRequest,
        *,
        long_states: Mapping[str, Sequence[str]] | None = None,
        resolved_version: int | None = None,
    ) -> Claim | Recorded | ToResolve:
        """Claim the issue for one run; or the run as recorded that the call, or its Idempotency-Key, had already.

        A request for a background run is recorded as a pending one. In one of the ``long_states`` nothing is claimed
        unless the caller has looked at this version of the issue.
        Raises IssueNotFoundError, IdempotencyKeyReusedError, LoopConflictError (another run owns the issue),
        PreconditionFailedError (If-Match), UnavailableError (database, or its schema).
        """
        run_id, lease_token = new_run_id(), uuid4()
        answer = self._call(run_id, "loop_claim", _given({
            **_VERSIONS,
            "runId": str(run_id),
            "issueId": request.issue_id,
            "actor": request.actor,
            "principal": request.principal,
            "requestId": str(request.request_id),
            "mode": request.mode,
            "leaseToken": str(lease_token),
            "leaseMs": request.lease_ms,
            "startByMs": START_BY_SECONDS * 1000 if request.in_background else None,
            "ifMatch": None if request.if_match is None else sorted(request.if_match),
            "idempotencyKey": request.idempotency_key,
            "requestHash": request.request_hash,
            "longStates": long_states or None,
            "resolvedVersion": resolved_version,
            "lambdaRequestId": request.lambda_request_id,
            "logStream": request.log_stream,
        }), is_claimed=False)  # fmt: skip
        match answer["outcome"]:
            case "issueNotFound":
                raise IssueNotFoundError.of(request.issue_id)
            case "keyReused":
                raise _key_reused(answer)
            case "conflict":
                raise conflict_of(answer)
            case "stale":
                raise PreconditionFailedError.of(request.issue_id, Issue.model_validate(answer["issue"]).version)
            case "queued":
                return Recorded.of(answer, run_id, by_this_call=True)
            case "resolve":
                return ToResolve(Issue.model_validate(answer["issue"]), _INSTANT.validate_python(answer["now"]))
        return self._claimed(request, run_id, lease_token, answer)

    def claim_planned(self, request: ClaimRequest, after: UUID) -> Claim | Recorded | NotPlanned:
        """Claim the attempt that the run ``after`` planned, for that run's actor, if it is still planned and due.

        ``request`` names nobody: actor and request id are the planning run's. Raises IssueNotFoundError,
        LoopConflictError, UnavailableError.
        """
        run_id, lease_token = new_run_id(), uuid4()
        answer = self._call(run_id, "loop_claim", _given({
            **_VERSIONS,
            "runId": str(run_id),
            "issueId": request.issue_id,
            "mode": RunMode.EXECUTE,
            "after": str(after),
            "leaseToken": str(lease_token),
            "leaseMs": request.lease_ms,
            "lambdaRequestId": request.lambda_request_id,
            "logStream": request.log_stream,
        }), is_claimed=False)  # fmt: skip
        match answer["outcome"]:
            case "issueNotFound":
                raise IssueNotFoundError.of(request.issue_id)
            case "conflict":
                raise conflict_of(answer)
            case "notPlanned":
                return NotPlanned()
            case "notDue":
                return NotPlanned(float(cast("float", answer["seconds"])))
        return self._claimed(request, run_id, lease_token, answer)

    def begin(self, request: ClaimRequest, run_id: UUID) -> Claim | NotPlanned:
        """Begin a queued run, on behalf of its actor; once, however often this is called. Raises UnavailableError."""
        lease_token = uuid4()
        answer = self._call(run_id, "loop_begin", _given({
            **_VERSIONS,
            "runId": str(run_id),
            "leaseToken": str(lease_token),
            "leaseMs": request.lease_ms,
            "lambdaRequestId": request.lambda_request_id,
            "logStream": request.log_stream,
        }), is_claimed=False)  # fmt: skip
        if answer["outcome"] == "notPending":
            return NotPlanned()
        claim = self._claimed(request, run_id, lease_token, answer)
        assert isinstance(claim, Claim)  # noqa: S101  nothing else is answered
        return claim

    def _claimed(self, request: ClaimRequest, run_id: UUID, lease_token: UUID, answer: Json) -> Claim | Recorded:
        match answer["outcome"]:
            case "schemaTooOld":
                raise UnavailableError(SCHEMA_TOO_OLD, retry_after_seconds=DEPLOYMENT_SECONDS)
            case "codeTooOld":
                raise UnavailableError(
                    "the database schema needs a newer release of the functions: deploy it",
                    retry_after_seconds=DEPLOYMENT_SECONDS,
                )
            case "ended":
                return Recorded.of(answer, run_id, by_this_call=False)
        issue, now = Issue.model_validate(answer["issue"]), _INSTANT.validate_python(answer["now"])
        if "run" not in answer:  # a dry run is recorded when it ends
            return Claim(request, run_id, lease_token, issue, now, attempt=1)
        run = cast("_ClaimedRun", answer["run"])
        queued_at = run["queued_at"] and _INSTANT.validate_python(run["queued_at"])
        request = replace(request, actor=run["actor"], principal=run["principal"], request_id=run["request_id"])
        return Claim(
            request,
            run_id,
            lease_token,
            issue,
            now,
            run["attempt"],
            took_over=bool(answer.get("tookOver")),
            queue_seconds=(now - queued_at).total_seconds() if queued_at else None,
        )

    def start_step(
        self,
        claim: Claim,
        step: Step,
        loop_version: str,
        *,
        skipped: Sequence[Step] = (),
        retry_if_lost: Mapping[str, float | None],
        token_hash: str | None = None,
        heartbeat_seconds: int | None = None,
    ) -> Started | Recorded:
        """Record that a step which is executed elsewhere begins, after those skipped; the run where it must not.

        ``retry_if_lost``: by error code, after how long the step is tried again if nobody records its outcome.
        """
        answer = self._call(claim.run_id, "loop_start_step", {
            **_given({"tokenHash": token_hash, "heartbeatSeconds": heartbeat_seconds}),
            "runId": str(claim.run_id),
            "issueId": claim.issue.id,
            "leaseToken": str(claim.lease_token),
            "loopVersion": loop_version,
            "stepNumber": step.number,
            "stepType": step.type,
            "timeoutSeconds": step.timeout,
            "retryIfLost": dict(retry_if_lost) or None,
            "skipped": [{"stepNumber": each.number, "stepType": each.type} for each in skipped],
        })  # fmt: skip
        if answer["outcome"] != "started":
            return Recorded.of(answer, claim.run_id, by_this_call=False)
        return Started(int(cast("int", answer["attempt"])), UUID(str(answer["idempotencyToken"])))

    def park(self, claim: Claim, message: str, next_step: NextStep) -> Recorded:
        """Let the run wait for the outcome of its step; the run as it stands where the outcome was faster."""
        answer = self._call(claim.run_id, "loop_park", {
            "runId": str(claim.run_id),
            "issueId": claim.issue.id,
            "leaseToken": str(claim.lease_token),
            "message": message,
            "nextStep": next_step.model_dump(exclude_none=True),
        })  # fmt: skip
        return Recorded.of(answer, claim.run_id, by_this_call=bool(answer["recorded"]))

    def finish(self, claim: Claim, outcome: Outcome) -> Recorded:
        """End the claimed run: its record, its steps, the issue's state and facts and the events, all or nothing.

        Raises UnavailableError with the run's id: the run is lost when its lease ends. FactsTooLargeError: nothing was
        written. A dry run with an Idempotency-Key may find that another one was faster, or raise
        IdempotencyKeyReusedError.
        """
        if claim.request.mode is not RunMode.DRY_RUN:
            return self._finish(claim.run_id, claim.issue.id, outcome, {"leaseToken": str(claim.lease_token)})
        answer = self._call(claim.run_id, "loop_record_dry_run", _given({
            **_end_of(claim.run_id, claim.issue.id, outcome),
            "actor": claim.request.actor,
            "principal": claim.request.principal,
            "requestId": str(claim.request.request_id),
            "startedAt": claim.now.isoformat(),
            "loopName": claim.issue.loop_name,
            "stateBefore": claim.issue.state,
            "issueVersion": claim.issue.version,
            "idempotencyKey": claim.request.idempotency_key,
            "requestHash": claim.request.request_hash,
            "lambdaRequestId": claim.request.lambda_request_id,
            "logStream": claim.request.log_stream,
        }))  # fmt: skip
        if answer.get("outcome") == "keyReused":
            raise _key_reused(answer)
        return Recorded.of(answer, claim.run_id, by_this_call=bool(answer["recorded"]))

    def finish_task(self, task: TaskOf, outcome: Outcome, told_by: str) -> Recorded:
        """End the run that waits, as the holder of its task token. See ``finish``.

        Raises RunFinishedError where somebody else has ended it.
        """
        told_id = str(uuid4())
        fence = {"tokenHash": task.token_hash, "toldBy": told_by, "toldId": told_id}
        recorded = self._finish(task.run.id, task.issue.id, outcome, fence)
        is_ours = any(told_id in str(step.metadata) for step in recorded.steps)
        if not recorded.by_this_call and not is_ours:  # ours: told twice, since the first answer was lost
            raise RunFinishedError.of(recorded.run.id, recorded.run.status)
        return recorded

    def _finish(self, run_id: UUID, issue_id: str, outcome: Outcome, fence: Mapping[str, str]) -> Recorded:
        answer = self._call(run_id, "loop_finish", _given({
            **_end_of(run_id, issue_id, outcome),
            **fence,
            "stateAfter": outcome.state_after,
            "facts": outcome.facts or None,
            "maxBytes": MAX_FACTS_BYTES,
            "retrySeconds": outcome.retry_seconds,
            "attemptsAreUsedUp": outcome.attempts_are_used_up or None,
            "advance": outcome.advance or None,
            "isUnknown": outcome.is_unknown or None,
            "ifVersion": outcome.if_version,
            "steps": [
                _given({
                    "stepNumber": step.number,
                    "stepType": step.type,
                    "status": step.status,
                    "errorMessage": step.error_message,
                })
                for step in outcome.steps
            ],
        }))  # fmt: skip
        if answer.get("outcome") == "factsTooLarge":
            raise FactsTooLargeError(
                f"the facts of issue {issue_id} would have {answer['bytes']} bytes, {MAX_FACTS_BYTES} is the most"
            )
        if answer.get("outcome") == "moved":
            raise IssueMovedError(int(cast("int", answer["version"])))
        return Recorded.of(answer, run_id, by_this_call=bool(answer["recorded"]))

    def task_of(self, run_id: UUID) -> TaskOf | None:
        """The run and the step for whose outcome it waits or has waited; None where there is no such step.

        Raises RunNotFoundError.
        """
        rows = self._database.query("SELECT loop_get_waiting(%s) AS answer", [run_id])
        answer = rows[0]["answer"]
        if answer is None:
            raise RunNotFoundError.of(run_id)
        if answer["step"] is None or answer["issue"] is None:
            return None
        return TaskOf(
            Run.model_validate(answer["run"]),
            RunStep.model_validate(answer["step"]),
            str(answer["step"]["task_token_hash"]),
            Issue.model_validate(answer["issue"]),
            _INSTANT.validate_python(answer["now"]),
        )

    def heartbeat(self, task: TaskOf) -> Recorded:
        """Extend the lease of a run that waits. Raises RunFinishedError where it does not any more."""
        request = {"runId": str(task.run.id), "issueId": task.issue.id, "tokenHash": task.token_hash}
        answer = self._database.call("loop_heartbeat", request)
        recorded = Recorded.of(answer, task.run.id, by_this_call=bool(answer["recorded"]))
        if not recorded.by_this_call:
            raise RunFinishedError.of(recorded.run.id, recorded.run.status)
        return recorded

    def cancel(self, run_id: UUID, *, actor: str, principal: str | None, reason: str | None) -> Recorded:
        """Cancel a run: at once, at its next safe point, or the waiting retry of a failed one; the run as it stands.

        Raises RunNotFoundError, RunFinishedError.
        """
        request = _given({"runId": str(run_id), "actor": actor, "principal": principal, "reason": reason})
        answer = self._database.call("loop_cancel", request)
        if answer["outcome"] == "notFound":
            raise RunNotFoundError.of(run_id)
        recorded = Recorded.of(answer, run_id, by_this_call=bool(answer.get("recorded")))
        if answer["outcome"] == "finished":
            raise RunFinishedError.of(recorded.run.id, recorded.run.status)
        return recorded

    def sweep(self, *, max_runs: int, ended_by: str) -> list[Run]:
        """End at most ``max_runs`` runs whose lease is over; as they stand. Others may sweep at the same time."""
        answer = self._database.call("loop_sweep", {"maxRuns": max_runs, "endedBy": ended_by})
        return [Run.model_validate(run) for run in cast("list[Json]", answer["runs"])]

    def take_due(self, *, max_items: int, resend_after_seconds: float, max_sends: int) -> Json:
        """What needs a message: {attempts: [{issueId, after}], runs: [{issueId, runId}]}; the runs count as sent."""
        return self._database.call(
            "loop_take_due",
            {"maxItems": max_items, "resendAfterSeconds": resend_after_seconds, "maxSends": max_sends},
            repeatable=False,
        )

    def purge(self, *, older_than_days: int, max_runs: int) -> int:
        """Delete at most ``max_runs`` runs that ended so long ago, with their steps and events; how many there were."""
        rows = self._database.query(
            "SELECT loop_purge(clock_timestamp() - %s * interval '1 day', %s) AS purged", [older_than_days, max_runs]
        )
        return int(rows[0]["purged"])

    def _call(
        self, run_id: UUID, function: LiteralString, request: Mapping[str, object], *, is_claimed: bool = True
    ) -> Json:
        """Call a function for a run; where the issue is or may be claimed for it, an error names the run to look at.

        What ends a run is worth waiting for: a step has done its work.
        """
        try:
            return self._database.call(function, request, persistent=is_claimed)
        except UnavailableError as error:
            if is_claimed or error.may_be_done:
                error.details["runId"] = str(run_id)
            raise


def conflict_of(answer: Json) -> LoopConflictError:
    """The error that names the holder, and when to come back at the latest."""
    run, now = Run.model_validate(answer["run"]), _INSTANT.validate_python(answer["now"])
    until = run.lease_expires_at or now
    key = "startBy" if run.status is RunStatus.PENDING else "leaseExpiresAt"
    instant = _INSTANT.dump_python(until, mode="json")
    return LoopConflictError(
        f"run {run.id} of {run.actor} owns issue {run.issue_id} until it ends, at the latest until {instant}; "
        "try again then",
        details={"runId": str(run.id), "actor": run.actor, key: instant},
        headers={"retry-after": str(min(5, max(1, math.ceil((until - now).total_seconds()))))},
    )


def _end_of(run_id: UUID, issue_id: str, outcome: Outcome) -> dict[str, Any]:
    """What is written of any run that ends."""
    return {
        "runId": str(run_id),
        "issueId": issue_id,
        "status": outcome.status,
        "loopStatus": outcome.loop_status,
        "message": outcome.message,
        "loopVersion": outcome.loop_version,
        "step": outcome.step,
        "blockerCode": outcome.blocker_code,
        "errorCode": outcome.error_code,
        "errorMessage": outcome.error_message,
        "nextStep": outcome.next_step and outcome.next_step.model_dump(exclude_none=True),
    }


def _key_reused(answer: Json) -> IdempotencyKeyReusedError:
    run = Run.model_validate(answer["run"])
    return IdempotencyKeyReusedError(
        f"the Idempotency-Key stands for another request of issue {run.issue_id}, that of run {run.id}: "
        "choose a new key, or send that request again as it was",
        details={"runId": str(run.id)},
    )


def _given(request: Mapping[str, object]) -> dict[str, object]:
    """Only what has a value: an absent key is null in SQL, and costs nothing."""
    return {key: value for key, value in request.items() if value is not None}
