"""Owns ``approval``: the resolver lets a step come here only once the issue's current version carries a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loop_runner.executors.protocol import Completed

if TYPE_CHECKING:
    from loop_runner.executors.protocol import StepCall


def approval(call: StepCall, /) -> Completed:
    """Complete with what was decided."""
    decision = call.issue.approval
    if decision is None or decision.decision == "approved":
        return Completed()
    return Completed(outcome=decision.decision)
