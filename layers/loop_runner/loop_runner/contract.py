"""Owns the shapes of requests and answers: docs/contracts/loop-api.v1.md as models, strict in both directions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from loop_runner.models import (
    Approval,
    Event,
    Instant,
    Issue,
    Json,
    LoopStatus,
    NextStep,
    Run,
    RunMode,
    RunStatus,
    RunWithSteps,
    StepStatus,
)
from loop_runner.resolver import Blocked, next_step_after, resolve_next_step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from loop_runner.loops import KnownLoop
    from loop_runner.models import RunStep

ISSUE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,  # errors are logged, payloads never
    )


class RequestBody(_Strict):
    """A JSON body that a caller sends."""

    model_config = ConfigDict(validate_by_name=False)


class Answer(_Strict):
    """A JSON body that we send. Optional parts that there are not are left out."""

    omits_null: ClassVar[bool] = True


class RunNextStepRequest(RequestBody):
    """Body of POST run-next-step."""

    mode: Annotated[RunMode, Field(strict=False)] = RunMode.EXECUTE


class RegisterIssueRequest(RequestBody):
    """Body of PUT issue."""

    loop: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    facts: Json = {}


Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
TaskToken = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class CancelRequest(RequestBody):
    """Body of POST cancel."""

    reason: Reason | None = None


class HeartbeatRequest(RequestBody):
    """Body of POST heartbeat."""

    task_token: TaskToken


class DecisionRequest(RequestBody):
    """Body of POST approvals."""

    decision: Literal["approved", "rejected"]
    comment: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)] | None = None


class ReasonRequest(RequestBody):
    """Body of POST hold and resume."""

    reason: Reason


class StateRequest(RequestBody):
    """Body of POST state."""

    state: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    reason: Reason


class StepExecuted(Answer):
    """The step that the run executed."""

    step_number: int
    step_type: str
    status: StepStatus
    started_at: Instant
    completed_at: Instant | None = None
    duration_ms: int | None = None

    @classmethod
    def of(cls, step: RunStep) -> Self:
        """The step's row, in short."""
        return cls(
            step_number=step.step_number,
            step_type=step.step_type,
            status=step.status,
            started_at=step.started_at,  # type: ignore[arg-type]  # null for skipped steps only: an error here
            completed_at=step.completed_at,
            duration_ms=step.duration_ms,
        )


class BlockerView(Answer):
    """Why a run is blocked; the message ends with the call that clears it."""

    code: str
    message: str


class RunErrorView(Answer):
    """Why a run failed; ``retryAt``: when its step is tried again by itself."""

    code: str
    message: str
    retry_at: Instant | None = None


class RunNextStepResponse(Answer):
    """Answer of POST run-next-step: a pure function of the run's row and its steps."""

    schema_version: Literal["loop.runNextStep.v1"] = "loop.runNextStep.v1"
    request_id: UUID
    issue_id: str
    run_id: UUID
    step_executed: StepExecuted | None = None
    next_step: NextStep | None = None
    loop_status: LoopStatus
    message: str | None = None
    blocker: BlockerView | None = None
    error: RunErrorView | None = None

    @classmethod
    def of(cls, run: Run, steps: Sequence[RunStep], request_id: UUID) -> Self:
        """The answer that the record gives."""
        executed = next((step for step in steps if step.started_at is not None), None)
        if run.queued_at is not None:  # what was true when it was queued, and is what every replay says
            return cls(
                request_id=request_id,
                issue_id=run.issue_id,
                run_id=run.id,
                loop_status=LoopStatus.PAUSED,
                message=f"queued: GET /api/loop/runs/{run.id} tells how it goes",
            )
        return cls(
            request_id=request_id,
            issue_id=run.issue_id,
            run_id=run.id,
            step_executed=StepExecuted.of(executed) if executed else None,
            next_step=run.next_step,
            loop_status=run.loop_status,  # type: ignore[arg-type]  # a run that has not ended has no answer: an error
            message=run.message,
            blocker=BlockerView(code=run.blocker_code, message=run.message or "") if run.blocker_code else None,
            error=RunErrorView(code=run.error_code, message=run.error_message or "", retry_at=run.retry_at)
            if run.error_code
            else None,
        )


class LiveRun(Answer):
    """The run that owns an issue now."""

    run_id: UUID
    status: RunStatus
    actor: str
    started_at: Instant | None = None
    lease_expires_at: Instant | None = None

    @classmethod
    def of(cls, run: Run) -> Self:
        """The run as its issue shows it."""
        return cls(
            run_id=run.id,
            status=run.status,
            actor=run.actor,
            started_at=run.started_at,
            lease_expires_at=run.lease_expires_at,
        )


class UnmetGate(Answer):
    """What keeps the next step from running; the message ends with the call that clears it. A gate's names its fact."""

    blocker: str
    fact: str | None = None
    message: str


class IssueAnswer(Answer):
    """Answer of PUT, PATCH and GET issue."""

    schema_version: Literal["loop.issue.v1"] = "loop.issue.v1"
    issue_id: str
    loop: str
    state: str
    version: int
    facts: Json
    hold: Json | None = None
    approval: Approval | None = None
    live_run: LiveRun | None = None
    next_step: NextStep | None = None
    unmet_gates: tuple[UnmetGate, ...]
    next_attempt_at: Instant | None = None

    @classmethod
    def of(cls, issue: Issue, live_run: Run | None, loop: KnownLoop, now: datetime) -> Self:
        """The issue as it stands, with what the next run would do; ``now`` is the database's clock."""
        resolution = resolve_next_step(loop, issue, now)
        blockers = resolution.blockers if isinstance(resolution, Blocked) else ()
        return cls(
            issue_id=issue.id,
            loop=issue.loop_name,
            state=issue.state,
            version=issue.version,
            facts=issue.facts,
            hold=issue.hold and {**issue.hold, "state": issue.state},
            approval=issue.approval if issue.approval and issue.approval.version == issue.version else None,
            live_run=LiveRun.of(live_run) if live_run else None,
            next_step=next_step_after(loop, issue, now),
            unmet_gates=tuple(
                UnmetGate(blocker=blocker.code, fact=blocker.fact, message=blocker.message) for blocker in blockers
            ),
            next_attempt_at=issue.next_attempt_at,
        )


class RunAnswer(RunWithSteps):
    """Answer of GET run: the row, in camelCase, nulls included, with its steps."""

    omits_null: ClassVar[bool] = False
    schema_version: Literal["loop.run.v1"] = "loop.run.v1"

    @classmethod
    def of(cls, run: RunWithSteps) -> Self:
        """The run's row and steps as they are."""
        return cls(**dict(run))


class RunList(Answer):
    """A page of runs, newest first."""

    omits_null: ClassVar[bool] = False
    schema_version: Literal["loop.runs.v1"] = "loop.runs.v1"
    items: tuple[Run, ...]
    next_cursor: str | None


class EventList(Answer):
    """A page of events, newest first."""

    omits_null: ClassVar[bool] = False
    schema_version: Literal["loop.events.v1"] = "loop.events.v1"
    items: tuple[Event, ...]
    next_cursor: str | None


class HealthAnswer(Answer):
    """Answer of GET health: the function runs; the database was not asked."""

    schema_version: Literal["loop.health.v1"] = "loop.health.v1"
    status: Literal["ok"] = "ok"


class ErrorBody(Answer):
    """What went wrong and what to do."""

    code: str
    message: str
    details: Json | None = None


class ErrorAnswer(Answer):
    """The envelope of every error that our functions make."""

    schema_version: Literal["loop.error.v1"] = "loop.error.v1"
    request_id: UUID
    error: ErrorBody
    timestamp: Instant
