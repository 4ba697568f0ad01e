"""Owns the shapes of errors and of run-next-step, as docs/contracts/loop-api.v1.md has them: models, strict.

What the other routes take is in bodies, what they answer in answers: the hot path imports neither.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from loop_runner.models import Instant, Json, LoopStatus, NextStep, RunMode, StepStatus

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
