"""Owns the arithmetic of durations outside the database, for who writes rows or compares them with their times."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

_MILLISECOND: Final = timedelta(milliseconds=1)


def milliseconds(started: datetime | None, completed: datetime | None) -> int | None:
    """As the SQL function loop_duration_ms: rounded half up, never negative, None when either is.

    In whole numbers: ``round`` takes the half to the even one, and a float may miss it.
    """
    if started is None or completed is None:
        return None
    return max(0, (completed - started + _MILLISECOND / 2) // _MILLISECOND)
