"""Owns the reads that look back: an issue's timeline, a run with all that belongs to it, runs across issues."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast
from uuid import UUID

from loop_runner.errors import RunNotFoundError
from loop_runner.models import Event, Run, RunStatus, RunWithSteps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop_runner.database import Database
    from loop_runner.models import Json

MAX_SCAN: Final = 5_000
"""How many runs a page looks at for those of a loop or an actor, which no index finds: what it costs is bounded."""

_LATEST: Final = datetime.max.replace(tzinfo=UTC)

_LIST_EVENTS: Final = """
SELECT *
FROM loop_events
WHERE issue_id = %(issue_id)s AND (occurred_at, event_id) < (%(before_at)s, %(before_id)s)
ORDER BY occurred_at DESC, event_id DESC
LIMIT %(limit)s
"""


class RunInFull(RunWithSteps):
    """A run with its steps, its events, newest first, and the run that retried it, where one did."""

    events: tuple[Event, ...]
    retried_by: UUID | None = None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs: of one of the statuses, of the loop, of the actor, recorded from ``since`` on, before ``until``."""

    statuses: Sequence[RunStatus] = ()
    loop: str | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunsPage:
    """Some runs, newest first, and the run behind which the next page begins; None at the end."""

    runs: list[Run]
    last: Run | None


class History:
    """Reads of loop_events, and of runs across issues."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_events(self, issue_id: str, *, limit: int, before: tuple[datetime, int] | None = None) -> list[Event]:
        """At most ``limit`` events of the issue, newest first; ``before``: time and id of the event to go on from."""
        before_at, before_id = before or (_LATEST, 0)
        rows = self._database.query(
            _LIST_EVENTS, {"issue_id": issue_id, "limit": limit, "before_at": before_at, "before_id": before_id}
        )
        return [Event.model_validate(row) for row in rows]

    def get_run(self, run_id: UUID) -> RunInFull:
        """The run with its steps and events. Raises RunNotFoundError."""
        answer = self._database.query("SELECT loop_read_run(%s) AS answer", [run_id])[0]["answer"]
        if answer is None:
            raise RunNotFoundError.of(run_id)
        return RunInFull.model_validate(answer)

    def list_runs(self, wanted: RunFilter, *, limit: int, before: tuple[datetime, UUID] | None = None) -> RunsPage:
        """At most ``limit`` runs, newest first; ``before``: created_at and id of the run to go on from.

        May give fewer than there are, even none, after a look at MAX_SCAN runs: the next page goes on from there.
        """
        scan = MAX_SCAN if wanted.loop is not None or wanted.actor is not None else limit + 1
        request: dict[str, object] = {"limit": limit + 1, "scan": scan}
        if wanted.statuses:
            request["statuses"] = list(wanted.statuses)
        if before:
            request |= {"beforeAt": before[0].isoformat(), "beforeId": str(before[1])}
        request |= {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name in ("loop", "actor", "since", "until")
            if (value := getattr(wanted, name)) is not None
        }
        rows = cast("list[Json]", self._database.call("loop_list_runs", request)["runs"])
        runs = [Run.model_validate(row) for row in rows if row["fits"]]
        if len(runs) > limit:
            return RunsPage(runs[:limit], runs[limit - 1])
        is_end = not rows or cast("int", rows[-1]["place"]) < scan
        return RunsPage(runs, None if is_end else Run.model_validate(rows[-1]))
