"""Owns the shapes of requests, errors and the answer of run-next-step: docs/contracts/loop-api.v1.md as models, strict.

What the reading routes answer is in answers: the hot path does not import it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints
from pydantic.alias_generators import to_camel

from loop_runner.models import Instant, Json, LoopStatus, NextStep, RunMode, StepStatus
from loop_runner.results import BlockedResult, CompletedResult, FailedResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop_runner.models import Run, RunStep

ISSUE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class _Strict(BaseModel):
    model_config = ConfigDict(
        defer_build=True,  # as rows, see models
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


class FactsPatch(RootModel[Json]):
    """Body of PATCH issue: a merge patch of its facts (RFC 7396)."""


class ToldCompleted(CompletedResult):
    """The step did its work."""

    task_token: Annotated[TaskToken, Field(alias="taskToken")]


class ToldBlocked(BlockedResult):
    """The step cannot do its work yet."""

    task_token: Annotated[TaskToken, Field(alias="taskToken")]


class ToldFailed(FailedResult):
    """The step did not do its work."""

    task_token: Annotated[TaskToken, Field(alias="taskToken")]


class ToldResult(RootModel[Annotated[ToldCompleted | ToldBlocked | ToldFailed, Field(discriminator="status")]]):
    """Body of POST result: what a step function returns, and the token of who tells it."""


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


class DeliveryPayload(RootModel[Json]):
    """What GitHub says has happened: https://docs.github.com/en/webhooks/webhook-events-and-payloads."""


class DeliveryAnswer(Answer):
    """What became of a delivery of GitHub's webhook; ``passedOn``: to the issues that wait for its pull requests."""

    schema_version: Literal["loop.githubWebhook.v1"] = "loop.githubWebhook.v1"
    request_id: UUID
    delivery: UUID
    event: str
    passed_on: bool


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
