"""Owns the calls of the SQL functions that write the ledger: claim, finish, and the record of a dry run.

Each is one round trip and one commit (migrations/functions/). Dictionaries cross the wire; values of models leave here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString, cast
from uuid import UUID, uuid4

from pydantic import TypeAdapter

from loop_runner.database import DEPLOYMENT_SECONDS, SCHEMA_TOO_OLD
from loop_runner.errors import (
    IdempotencyKeyReusedError,
    IssueNotFoundError,
    LoopConflictError,
    PreconditionFailedError,
    UnavailableError,
)
from loop_runner.models import (
    Instant,
    Issue,
    LoopStatus,
    NextStep,
    Run,
    RunMode,
    RunStatus,
    RunStep,
    StepStatus,
    new_run_id,
)
from loop_runner.settings import CODE_VERSION, REQUIRED_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from loop_runner.database import Database
    from loop_runner.models import Json

_INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Who asks for which issue, and for how long at most. ``if_match`` holds acceptable issue versions.

    ``idempotency_key`` goes with ``request_hash``: what it stands for.
    """

    issue_id: str
    actor: str
    request_id: UUID
    mode: RunMode
    lease_ms: int
    principal: str | None = None
    if_match: frozenset[int] | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    lambda_request_id: str | None = None
    log_stream: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The issue as it was under its lock, at ``now`` by the database's clock; a run's id, token and attempt."""

    request: ClaimRequest
    run_id: UUID
    lease_token: UUID
    issue: Issue
    now: datetime
    attempt: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that the run touched."""

    number: int
    type: str
    status: StepStatus
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ends: everything that is written with its terminal status. ``facts`` is a merge patch."""

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


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run as it stands in the ledger. ``by_this_call`` is false where somebody else had ended it.

    ``is_replay``: it is the run of an earlier call, for which this call's Idempotency-Key stands.
    """

    run: Run
    steps: tuple[RunStep, ...]
    by_this_call: bool
    is_replay: bool = False

    @classmethod
    def of(cls, answer: Json, run_id: UUID, *, by_this_call: bool) -> Recorded:
        """What a SQL function answered to a call whose run would have been ``run_id``."""
        run = Run.model_validate(answer["run"])
        steps = tuple(RunStep.model_validate(step) for step in cast("list[Json]", answer["steps"]))
        return cls(run, steps, by_this_call=by_this_call, is_replay=run.id != run_id)


class Ledger:
    """Claims issues for runs, and ends runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, request: ClaimRequest) -> Claim | Recorded:
        """Claim the issue for one run; or the run as recorded that the call, or its Idempotency-Key, had already.

        Raises IssueNotFoundError, IdempotencyKeyReusedError, LoopConflictError (another run owns the issue),
        PreconditionFailedError (If-Match), UnavailableError (database, or its schema).
        """
        run_id, lease_token = new_run_id(), uuid4()
        answer = self._call(run_id, "loop_claim", _given({
            "codeVersion": CODE_VERSION,
            "requiredSchema": REQUIRED_SCHEMA,
            "runId": str(run_id),
            "issueId": request.issue_id,
            "actor": request.actor,
            "principal": request.principal,
            "requestId": str(request.request_id),
            "mode": request.mode,
            "leaseToken": str(lease_token),
            "leaseMs": request.lease_ms,
            "ifMatch": None if request.if_match is None else sorted(request.if_match),
            "idempotencyKey": request.idempotency_key,
            "requestHash": request.request_hash,
            "lambdaRequestId": request.lambda_request_id,
            "logStream": request.log_stream,
        }), is_claimed=False)  # fmt: skip
        match answer["outcome"]:
            case "schemaTooOld":
                raise UnavailableError(SCHEMA_TOO_OLD, retry_after_seconds=DEPLOYMENT_SECONDS)
            case "codeTooOld":
                raise UnavailableError(
                    "the database schema needs a newer release of the functions: deploy it",
                    retry_after_seconds=DEPLOYMENT_SECONDS,
                )
            case "issueNotFound":
                raise IssueNotFoundError.of(request.issue_id)
            case "keyReused":
                raise _key_reused(answer)
            case "ended":
                return Recorded.of(answer, run_id, by_this_call=False)
            case "conflict":
                raise conflict(Run.model_validate(answer["run"]), _INSTANT.validate_python(answer["now"]))
            case "stale":
                raise PreconditionFailedError.of(request.issue_id, Issue.model_validate(answer["issue"]).version)
        attempt = cast("dict[str, Any]", answer.get("run", {})).get("attempt", 1)
        now = _INSTANT.validate_python(answer["now"])
        return Claim(request, run_id, lease_token, Issue.model_validate(answer["issue"]), now, attempt)

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

    def finish(self, claim: Claim, outcome: Outcome) -> Recorded:
        """End the claimed run: its record, its steps, the issue's state and facts and the events, all or nothing.

        Raises UnavailableError with the run's id: the run is lost when its lease ends. A dry run with an
        Idempotency-Key may find that another one was faster, or raise IdempotencyKeyReusedError.
        """
        request: dict[str, Any] = {
            "runId": str(claim.run_id),
            "issueId": claim.issue.id,
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
        if claim.request.mode is RunMode.DRY_RUN:
            answer = self._call(claim.run_id, "loop_record_dry_run", _given(request | {
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
        else:
            answer = self._call(claim.run_id, "loop_finish", _given(request | {
                "leaseToken": str(claim.lease_token),
                "stateAfter": outcome.state_after,
                "facts": outcome.facts or None,
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
        if answer.get("outcome") == "keyReused":
            raise _key_reused(answer)
        return Recorded.of(answer, claim.run_id, by_this_call=bool(answer["recorded"]))

    def sweep(self, *, max_runs: int, ended_by: str) -> list[UUID]:
        """End at most ``max_runs`` runs whose lease is over; their ids. Others may sweep at the same time."""
        answer = self._database.call("loop_sweep", {"maxRuns": max_runs, "endedBy": ended_by})
        return [UUID(run_id) for run_id in cast("list[str]", answer["ended"])]

    def purge(self, *, older_than_days: int, max_runs: int) -> int:
        """Delete at most ``max_runs`` runs that ended so long ago, with their steps and events; how many there were."""
        rows = self._database.query(
            "SELECT loop_purge(clock_timestamp() - %s * interval '1 day', %s) AS purged", [older_than_days, max_runs]
        )
        return int(rows[0]["purged"])


def conflict(run: Run, now: datetime) -> LoopConflictError:
    """The error that names the holder, and when to come back at the latest."""
    until = run.lease_expires_at or now
    key = "startBy" if run.status is RunStatus.PENDING else "leaseExpiresAt"
    instant = _INSTANT.dump_python(until, mode="json")
    return LoopConflictError(
        f"run {run.id} of {run.actor} owns issue {run.issue_id} until it ends, at the latest until {instant}; "
        "try again then",
        details={"runId": str(run.id), "actor": run.actor, key: instant},
        headers={"retry-after": str(min(5, max(1, math.ceil((until - now).total_seconds()))))},
    )


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
