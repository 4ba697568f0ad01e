"""Owns paging: ``limit`` and opaque keyset cursors. A cursor that is not ours is refused, a limit never changed."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self
from uuid import UUID

from loop_runner.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loop_runner.models import Event, Run

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list a call asks for."""

    limit: int
    cursor: str | None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """The page that the query parameters name. Raises InvalidRequestError."""
        if unknown := sorted(query.keys() - {"limit", "cursor"}):
            raise InvalidRequestError(f"unknown query parameter {unknown[0]!r}; there are limit and cursor")
        limit = query.get("limit", str(DEFAULT_LIMIT))
        if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= MAX_LIMIT):
            raise InvalidRequestError(f"limit must be a number from 1 to {MAX_LIMIT}")
        return cls(int(limit), query.get("cursor"))

    def before_run(self) -> tuple[datetime, UUID] | None:
        """Where the page of runs begins."""
        if self.cursor is None:
            return None
        try:
            created_at, run_id = map(str, _decoded(self.cursor))
            before = datetime.fromisoformat(created_at), UUID(run_id)
        except ValueError:
            raise _not_ours() from None
        if before[0].tzinfo is None:
            raise _not_ours()
        return before

    def before_event(self) -> int | None:
        """Where the page of events begins."""
        if self.cursor is None:
            return None
        try:
            (event_id,) = _decoded(self.cursor)
        except ValueError:
            raise _not_ours() from None
        if type(event_id) is not int or not 0 < event_id < 2**63:
            raise _not_ours()
        return event_id

    def after_runs(self, runs: Sequence[Run]) -> str | None:
        """The cursor of the next page, given one run more than the limit where there are more."""
        if len(runs) <= self.limit:
            return None
        last = runs[self.limit - 1]
        return _encoded([last.created_at.isoformat(), str(last.id)])

    def after_events(self, events: Sequence[Event]) -> str | None:
        """The cursor of the next page, given one event more than the limit where there are more."""
        return _encoded([events[self.limit - 1].event_id]) if len(events) > self.limit else None


def _encoded(key: list[str] | list[int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def _decoded(cursor: str) -> list[object]:
    try:
        key = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, RecursionError):
        raise ValueError("not a cursor") from None
    if not isinstance(key, list) or _encoded(key) != cursor:
        raise ValueError("not a cursor")
    return key


def _not_ours() -> InvalidRequestError:
    return InvalidRequestError("cursor must be the nextCursor of the page before")
