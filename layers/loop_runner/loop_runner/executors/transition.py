"""Owns ``transition``: the step's gates hold, there is nothing else to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loop_runner.executors.protocol import Completed

if TYPE_CHECKING:
    from loop_runner.executors.protocol import StepCall


def transition(_call: StepCall, /) -> Completed:
    """Complete at once."""
    return Completed()
