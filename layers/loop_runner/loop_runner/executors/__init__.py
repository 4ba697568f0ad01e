"""Owns how steps are executed: one protocol, one function a kind. Executors never see the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loop_runner.executors.approval import approval
from loop_runner.executors.invoke import hand_over, invoke
from loop_runner.executors.transition import transition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop_runner.executors.protocol import Executor

EXECUTORS: Final[Mapping[str, Executor]] = {
    "transition": transition,
    "approval": approval,
    "lambda": invoke,
    "callback": hand_over,
}
"""By the ``kind`` of a step's executor."""

INSTANT: Final = (transition, approval)
"""Those that need no time: nothing has to be watched."""
