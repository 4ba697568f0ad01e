"""Owns the words of the ledger: statuses and the values that rows become.

A row's model is also the resource that the API answers with: the columns in camelCase, times as aware UTC datetimes,
durations in whole milliseconds. A newer schema may have more columns: they are ignored.
"""

from __future__ import annotations

import json
import secrets
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel


class RunMode(StrEnum):
    """What a call asks for."""

    EXECUTE = "execute"
    DRY_RUN = "dryRun"


class RunStatus(StrEnum):
    """Status of a run; see lifecycle."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    """Status of a step that a run touched; see lifecycle."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class LoopStatus(StrEnum):
    """How an issue stands after a run."""

    ACTIVE = "active"
    PAUSED = "paused"
    FAILED = "failed"
    COMPLETED = "completed"


def _to_utc(instant: datetime) -> datetime:
    return instant.astimezone(UTC)


def _to_text(instant: datetime) -> str:
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    AfterValidator(_to_utc),
    PlainSerializer(_to_text, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Json = dict[str, JsonValue]


class Row(BaseModel):
    """A row, read by column name, written as JSON in camelCase, nulls included."""

    omits_null: ClassVar[bool] = False

    model_config = ConfigDict(
        defer_build=True,  # until it is first used: no function uses all of them, and its cold start would pay for all
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,
    )


class NextStep(Row):
    """The step that the next run would execute."""

    step_number: int
    step_type: str
    estimated_duration_ms: Annotated[int | None, Field(exclude_if=lambda value: value is None)] = None


class NextCall(Row):
    """The call that lets an issue go on; what stands in <> in its body is the caller's to fill in.

    ``if_match``: the issue's version, where the call must name it.
    """

    method: str
    path: str
    body: Json
    if_match: Annotated[int | None, Field(exclude_if=lambda value: value is None)] = None

    def __str__(self) -> str:
        """As messages end with it."""
        return f"{self.method} {self.path} {json.dumps(self.body, ensure_ascii=False, separators=(',', ':'))}"


class Approval(Row):
    """The last decision on an issue; it counts for ``version`` and this step, and for no other."""

    decision: str
    actor: str
    principal: str | None = None
    comment: str | None = None
    at: Instant
    version: int
    step_number: int


class Issue(Row):
    """A row of loop_issues."""

    id: Annotated[str, Field(serialization_alias="issueId")]
    loop_name: Annotated[str, Field(serialization_alias="loop")]
    state: str
    facts: Json
    version: int
    hold: Json | None = None
    approval: Approval | None = None
    idempotency_token: UUID | None = None
    next_attempt_at: Instant | None = None
    created_at: Instant
    updated_at: Instant


class Run(Row):
    """A row of loop_runs. The fencing token and the request's hash stay inside."""

    id: Annotated[UUID, Field(serialization_alias="runId")]
    issue_id: str
    actor: str
    principal: str | None = None
    request_id: str
    mode: RunMode
    status: RunStatus
    created_at: Instant
    started_at: Instant | None = None
    completed_at: Instant | None = None
    duration_ms: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    metadata: Json
    loop_name: str | None = None
    loop_version: str | None = None
    step: int | None = None
    attempt: int
    retry_of: UUID | None = None
    state_before: str | None = None
    state_after: str | None = None
    issue_version: int | None = None
    blocker_code: str | None = None
    loop_status: LoopStatus | None = None
    next_step: NextStep | None = None
    message: str | None = None
    idempotency_key: str | None = None
    lease_expires_at: Instant | None = None
    retry_at: Instant | None = None
    queued_at: Instant | None = None
    sent_at: Instant | None = None
    sends: int = 0
    cancel_requested_at: Instant | None = None
    cancel_requested_by: str | None = None
    cancel_reason: str | None = None
    lambda_request_id: str | None = None
    log_stream: str | None = None


class RunStep(Row):
    """A row of loop_run_steps. The hash of the task token stays inside."""

    id: Annotated[UUID, Field(serialization_alias="stepId")]
    run_id: UUID
    step_number: int
    step_type: str
    status: StepStatus
    created_at: Instant
    started_at: Instant | None = None
    completed_at: Instant | None = None
    duration_ms: int | None = None
    error_message: str | None = None
    metadata: Json
    timeout_at: Instant | None = None
    heartbeat_seconds: int | None = None
    retry_if_lost_seconds: dict[str, float | None] | None = None


class RunWithSteps(Run):
    """A run and the steps it touched, by step number."""

    steps: tuple[RunStep, ...]


class Event(Row):
    """A row of loop_events."""

    event_id: int
    issue_id: str
    run_id: UUID | None = None
    event_type: str
    event_data: Json
    occurred_at: Instant


def build(*models: type[BaseModel]) -> None:
    """Make ready what every call uses: at INIT, which has a whole core, however small the function is."""
    for model in models:
        model.model_rebuild()


def new_run_id() -> UUID:
    """A time-ordered UUID, version 7 (RFC 9562, section 5.7): neighbours in time are neighbours in the index."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return UUID(int=value)
