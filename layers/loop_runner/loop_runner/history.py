"""Owns the reads of the timeline, newest first, by keyset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loop_runner.models import Event

if TYPE_CHECKING:
    from loop_runner.database import Database

_LIST_EVENTS = """
SELECT *
FROM loop_events
WHERE issue_id = %(issue_id)s AND event_id < %(before)s
ORDER BY event_id DESC
LIMIT %(limit)s
"""
_NEWEST = 2**63 - 1


class History:
    """Reads of loop_events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_events(self, issue_id: str, *, limit: int, before: int | None = None) -> list[Event]:
        """At most ``limit`` events of the issue, those before an event id where one is given."""
        rows = self._database.query(
            _LIST_EVENTS, {"issue_id": issue_id, "limit": limit, "before": _NEWEST if before is None else before}
        )
        return [Event.model_validate(row) for row in rows]
