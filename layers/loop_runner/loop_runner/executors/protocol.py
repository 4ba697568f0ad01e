"""Owns the protocol of executors: what a step is executed with, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID

    from loop_runner.loops import Step
    from loop_runner.models import Issue, Json


@dataclass(frozen=True, slots=True)
class StepCall:
    """What a step is executed with."""

    issue: Issue
    step: Step
    run_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class Completed:
    """The step did its work; ``facts`` is a merge patch of the issue's facts."""

    facts: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The step did not do its work: a stable name, and why, for people."""

    code: str
    message: str


class Executor(Protocol):
    """Executes a step."""

    def __call__(self, call: StepCall, /) -> Completed | Failed:
        """Execute the step and say how it went."""
