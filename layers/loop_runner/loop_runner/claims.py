"""Owns the values that the ledger takes and gives: who asks, what was claimed, what stands recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from loop_runner.models import Issue, Run, RunMode, RunStep

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from loop_runner.models import Json


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Who asks for which issue, and for how long at most. ``if_match`` holds acceptable issue versions.

    ``idempotency_key`` goes with ``request_hash``: what it stands for. ``in_background``: the run is queued, not begun.
    """

    issue_id: str
    actor: str
    request_id: UUID | str
    mode: RunMode
    lease_ms: int
    principal: str | None = None
    if_match: frozenset[int] | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    in_background: bool = False
    lambda_request_id: str | None = None
    log_stream: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The issue as it was under its lock, at ``now`` by the database's clock; a run's id, token and attempt.

    ``took_over``: a lost run was ended for it. ``queue_seconds``: how long it was queued, where it was.
    """

    request: ClaimRequest
    run_id: UUID
    lease_token: UUID
    issue: Issue
    now: datetime
    attempt: int
    took_over: bool = False
    queue_seconds: float | None = None

    @property
    def idempotency_token(self) -> UUID:
        """The id of the run that first executed what may not have ended; this run's where there is none."""
        return self.issue.idempotency_token or self.run_id


@dataclass(frozen=True, slots=True)
class Started:
    """A step that is executed elsewhere was started; which attempt at it this is, and its idempotency token."""

    attempt: int
    idempotency_token: UUID


@dataclass(frozen=True, slots=True)
class ToResolve:
    """Nothing was claimed: the step that is next may take longer than a call can wait."""

    issue: Issue
    now: datetime


@dataclass(frozen=True, slots=True)
class NotPlanned:
    """No attempt is planned here any more; or one is, but due in ``seconds`` only."""

    seconds: float | None = None


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


@dataclass(frozen=True, slots=True)
class TaskOf:
    """A run that waits, or has waited, for the outcome of its step, and the hash of the token with which it is told."""

    run: Run
    step: RunStep
    token_hash: str
    issue: Issue
    now: datetime
