"""Owns the protocol of executors: called with a step, they say how it went (loop_runner.results)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from loop_runner.results import Blocked, Completed, Failed, StepCall, Waiting

if TYPE_CHECKING:
    from loop_runner.results import Result

__all__ = ["Blocked", "Completed", "Executor", "Failed", "StepCall", "Waiting"]


class Executor(Protocol):
    """Executes a step."""

    def __call__(self, call: StepCall, /) -> Result | Waiting:
        """Execute the step and say how it went."""
