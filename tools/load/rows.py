"""Owns the rows that a load writes, as COPY takes them: a field is a column, what is jsonb is text already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID


@dataclass(slots=True, kw_only=True)
class IssueRow:
    """A row of loop_issues."""

    id: str
    loop_name: str
    state: str
    facts: str
    version: int
    created_at: datetime
    updated_at: datetime
    registered_by: str
    registered_principal: str | None
    hold: str | None
    failed_attempts: int
    failed_run_id: UUID | None
    approval: str | None
    approval_requesters: str
    idempotency_token: UUID | None
    next_attempt_at: datetime | None
    next_attempt_after: UUID | None
    next_attempt_sent_at: datetime | None


@dataclass(slots=True, kw_only=True)
class RunRow:
    """A row of loop_runs."""

    id: UUID
    issue_id: str
    actor: str
    principal: str | None
    request_id: str
    mode: str
    status: str = "pending"
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    error_message: str | None = None
    metadata: str = "{}"
    loop_name: str
    loop_version: str | None = None
    step: int | None = None
    attempt: int = 1
    retry_of: UUID | None = None
    state_before: str | None = None
    state_after: str | None = None
    issue_version: int | None = None
    blocker_code: str | None = None
    error_code: str | None = None
    loop_status: str | None = None
    next_step: str | None = None
    message: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    lease_token: UUID | None = None
    lease_expires_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str | None = None
    cancel_reason: str | None = None
    lambda_request_id: str | None = None
    log_stream: str | None = None
    retry_at: datetime | None = None
    queued_at: datetime | None = None
    sent_at: datetime | None = None
    sends: int = 0


@dataclass(slots=True, kw_only=True)
class StepRow:
    """A row of loop_run_steps; its id is the database's to give."""

    run_id: UUID
    step_number: int
    step_type: str
    status: str
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    error_message: str | None = None
    metadata: str = "{}"
    retry_if_lost_seconds: str | None = None
    task_token_hash: str | None = None
    heartbeat_seconds: int | None = None
    timeout_at: datetime | None = None


@dataclass(slots=True, kw_only=True)
class EventRow:
    """A row of loop_events; its id is the database's to give, in the order in which rows come."""

    issue_id: str
    run_id: UUID | None
    event_type: str
    event_data: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to be written; an issue may have been written before."""

    issues: list[IssueRow]
    runs: list[RunRow]
    steps: list[StepRow]
    events: list[EventRow]

    def __len__(self) -> int:
        return len(self.issues) + len(self.runs) + len(self.steps) + len(self.events)


class _HasRow(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def row(self) -> IssueRow: ...


class Past:
    """What has happened and is not written yet."""

    def __init__(self) -> None:
        self.runs: list[RunRow] = []
        self.steps: list[StepRow] = []
        self._events: list[EventRow] = []
        self._changed: dict[str, _HasRow] = {}

    def changed(self, issue: _HasRow) -> None:
        """The row of the issue is another one now."""
        self._changed[issue.id] = issue

    def tell(
        self, issue_id: str, at: datetime, event_type: str, data: Mapping[str, object], run_id: UUID | None = None
    ) -> None:
        """Add an event; what is None is left out."""
        told = json.dumps({key: value for key, value in data.items() if value is not None})
        self._events.append(
            EventRow(issue_id=issue_id, run_id=run_id, event_type=event_type, event_data=told, occurred_at=at)
        )

    def __len__(self) -> int:
        return len(self._changed) + len(self.runs) + len(self.steps) + len(self._events)

    def take(self) -> Rows:
        """All of it, once."""
        rows = Rows([issue.row for issue in self._changed.values()], self.runs, self.steps, self._events)
        self.runs, self.steps, self._events, self._changed = [], [], [], {}
        return rows
