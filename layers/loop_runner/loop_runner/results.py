"""Owns the protocol of steps that are executed elsewhere: what a step function is given, and what it may answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from loop_runner.models import Json
from loop_runner.retry import LONGEST_DELAY_SECONDS
from loop_runner.sanitize import TEXT_LIMIT

if TYPE_CHECKING:
    from uuid import UUID

    from loop_runner.loops import Step
    from loop_runner.models import Issue

INVALID_STEP_RESULT: Final = "InvalidStepResult"


@dataclass(frozen=True, slots=True)
class StepCall:
    """What a step is executed with. ``function`` is the whole name; ``seconds`` is what it may take.

    ``idempotency_token`` stays the same while the outcome of an execution is unknown: a step looks before it acts.
    """

    issue: Issue
    step: Step
    run_id: UUID
    attempt: int
    actor: str
    request_id: str
    idempotency_token: UUID
    function: str = ""
    seconds: float = 0.0
    task_token: str | None = None

    def event(self) -> Json:
        """The event of a step function."""
        event: Json = {
            "issueId": self.issue.id,
            "loop": self.issue.loop_name,
            "state": self.issue.state,
            "facts": self.issue.facts,
            "step": {"number": self.step.number, "type": self.step.type},
            "runId": str(self.run_id),
            "attempt": self.attempt,
            "idempotencyToken": str(self.idempotency_token),
            "actor": self.actor,
            "requestId": self.request_id,
        }
        return event if self.task_token is None else event | {"taskToken": self.task_token}


@dataclass(frozen=True, slots=True)
class Completed:
    """The step did its work; ``facts`` is a merge patch of the issue's facts, ``outcome`` names another way out."""

    facts: Json = field(default_factory=dict)
    outcome: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """The step found that it cannot do its work yet."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The step did not do its work: a stable name, and why, for people.

    ``is_unknown``: or nobody knows whether it did, now or in the attempt before, since nothing was executed now.
    ``retry_after_seconds``: no sooner makes another attempt sense, where one is made at all.
    """

    code: str
    message: str
    is_unknown: bool = False
    retry_after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whoever has the task token will tell the outcome."""


Result = Completed | Blocked | Failed

_Text = Annotated[str, StringConstraints(max_length=TEXT_LIMIT)]
_Delay = Annotated[float, Field(ge=0, le=LONGEST_DELAY_SECONDS)]


class _Model(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class CompletedResult(_Model):
    """The step did its work."""

    status: Literal["completed"]
    facts: Json | None = None
    outcome: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    message: _Text | None = None


class BlockerResult(_Model):
    """Why the step cannot do its work yet."""

    code: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
    message: Annotated[_Text, StringConstraints(min_length=1)]


class BlockedResult(_Model):
    """The step cannot do its work yet."""

    status: Literal["blocked"]
    blocker: BlockerResult


class ErrorResult(_Model):
    """Why the step failed; retry policies match the name, and wait at least ``retryAfterSeconds``."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    message: _Text
    retry_after_seconds: Annotated[_Delay | None, Field(alias="retryAfterSeconds")] = None


class FailedResult(_Model):
    """The step did not do its work."""

    status: Literal["failed"]
    error: ErrorResult


StepResult = Annotated[CompletedResult | BlockedResult | FailedResult, Field(discriminator="status")]
_RESULT: Final[TypeAdapter[CompletedResult | BlockedResult | FailedResult]] = TypeAdapter(
    StepResult, config=ConfigDict(defer_build=True)
)


def read_result(value: Any) -> Result:
    """The result that an answer stands for. ValueError says what is wrong with it."""
    try:
        result = _RESULT.validate_python(value)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ValueError("; ".join(problems)[:1000]) from None
    match result:
        case CompletedResult():
            return Completed(result.facts or {}, result.outcome, result.message)
        case BlockedResult():
            return Blocked(result.blocker.code, result.blocker.message)
        case FailedResult():
            said = result.error
            return Failed(said.name, said.message, retry_after_seconds=said.retry_after_seconds or 0.0)
