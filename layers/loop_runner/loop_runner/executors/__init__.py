"""Owns how steps are executed: one protocol, one module a kind. Executors never see the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loop_runner.executors.transition import transition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop_runner.executors.protocol import Executor

EXECUTORS: Final[Mapping[str, Executor]] = {"transition": transition}
"""By the ``kind`` of a step's executor."""
