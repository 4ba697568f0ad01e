"""Owns the statistics of a window of time: what runs did in it, and what is at work now."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BeforeValidator, Field, computed_field

from loop_runner.errors import InvalidRequestError
from loop_runner.models import Instant, Row, Run, RunStatus, StepStatus

if TYPE_CHECKING:
    from datetime import datetime

    from loop_runner.database import Database

LONGEST_WINDOW: Final = timedelta(days=7)


class Durations(Row):
    """Percentiles in whole milliseconds, each one that was measured (percentile_disc); ``max`` is the longest."""

    p50: int
    p95: int
    max: int


def _durations(value: Any) -> Any:
    return None if value is None else dict(zip(("p50", "p95", "max"), value, strict=True))


def _of_each(value: Any) -> Any:
    return {status: value.get(status, 0) for status in RunStatus}


RunsByStatus = Annotated[dict[RunStatus, int], BeforeValidator(_of_each)]
Measured = Annotated[Durations | None, BeforeValidator(_durations), Field(validation_alias="durations")]


class RunStats(Row):
    """The runs of the window. ``successRate``: completed of completed and failed, 0 to 1; null without any of them."""

    total: int
    by_status: RunsByStatus
    retries: int
    duration_ms: Measured

    @computed_field  # type: ignore[prop-decorator]
    @property
    def success_rate(self) -> float | None:
        """Completed of completed and failed."""
        completed, failed = (self.by_status[status] for status in (RunStatus.COMPLETED, RunStatus.FAILED))
        return round(completed / (completed + failed), 4) if completed + failed else None


class StepStats(Row):
    """A step as the window's runs executed it."""

    loop: str | None
    step_number: int
    step_type: str
    by_status: dict[StepStatus, int]
    duration_ms: Measured


class BlockedStats(Row):
    """What a blocker has kept: ``runs`` of ``issues``; ``blockedMs``: how long, ``ongoing`` of them still are."""

    code: str
    runs: int
    issues: int
    ongoing: int
    blocked_ms: Measured


class HourStats(Row):
    """The runs that were recorded in an hour (UTC), and how long their steps took."""

    hour: Instant
    by_status: RunsByStatus
    duration_ms: Measured


class LiveStats(Row):
    """The runs that are pending or running now, whenever they began."""

    total: int
    oldest: Run | None


class Stats(Row):
    """What loop_stats answered for a window."""

    since: Instant
    until: Instant
    runs: RunStats
    steps: tuple[StepStats, ...]
    blocked: tuple[BlockedStats, ...]
    hours: tuple[HourStats, ...]
    live: LiveStats


def read_stats(database: Database, since: datetime | None, until: datetime | None) -> Stats:
    """The statistics of the window: of the last day where nothing is given. Raises InvalidRequestError."""
    request: dict[str, object] = {"maxSeconds": int(LONGEST_WINDOW.total_seconds())}
    request |= {name: at.isoformat() for name, at in (("since", since), ("until", until)) if at}
    answer = database.call("loop_stats", request)
    if answer["outcome"] == "badWindow":
        raise InvalidRequestError(f"until must come after since, by {LONGEST_WINDOW.days} days at most")
    return Stats.model_validate(answer)
