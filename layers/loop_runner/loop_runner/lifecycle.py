"""Owns which way a run and a step may go. The database enforces the same (migration 086); a test compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loop_runner.models import RunStatus, StepStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_TRANSITIONS: Final[Mapping[RunStatus, frozenset[RunStatus]]] = {
    RunStatus.PENDING: frozenset({RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.BLOCKED, RunStatus.CANCELLED}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.BLOCKED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}

STEP_TRANSITIONS: Final[Mapping[StepStatus, frozenset[StepStatus]]] = {
    StepStatus.PENDING: frozenset({StepStatus.RUNNING, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED}),
    StepStatus.RUNNING: frozenset({StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.BLOCKED, StepStatus.CANCELLED}),
    StepStatus.COMPLETED: frozenset(),
    StepStatus.FAILED: frozenset(),
    StepStatus.BLOCKED: frozenset(),
    StepStatus.CANCELLED: frozenset(),
    StepStatus.SKIPPED: frozenset(),
}


TERMINAL_RUN: Final = frozenset(status for status, targets in RUN_TRANSITIONS.items() if not targets)
TERMINAL_STEP: Final = frozenset(status for status, targets in STEP_TRANSITIONS.items() if not targets)


def sources_of_run(target: RunStatus) -> list[RunStatus]:
    """The statuses from which a run may come to ``target``."""
    return [source for source, targets in RUN_TRANSITIONS.items() if target in targets]


def sources_of_step(target: StepStatus) -> list[StepStatus]:
    """The statuses from which a step may come to ``target``."""
    return [source for source, targets in STEP_TRANSITIONS.items() if target in targets]
