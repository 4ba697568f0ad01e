"""Owns a list's query: its filters, ``limit`` and opaque keyset cursors. What is not ours is refused, never changed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self, TypeAlias, TypeVar
from uuid import UUID

from loop_runner.errors import InvalidRequestError
from loop_runner.sanitize import is_storable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Key = TypeVar("Key")
Item = TypeVar("Item")
Cut: TypeAlias = "tuple[tuple[Item, ...], str | None]"

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
_CHECK_BYTES: Final = 8
_ID: Final = range(2**63)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list a call asks for. ``filters``: those given, as they were given."""

    limit: int = DEFAULT_LIMIT
    cursor: str | None = None
    filters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, query: Mapping[str, str], *filters: str) -> Self:
        """The page that the query names; ``filters``: the names that the list knows. Raises InvalidRequestError."""
        check_names(query, [*filters, "limit", "cursor"])
        limit = query.get("limit", str(DEFAULT_LIMIT))
        if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= MAX_LIMIT):
            raise InvalidRequestError(f"limit must be a number from 1 to {MAX_LIMIT}")
        return cls(int(limit), query.get("cursor"), {name: query[name] for name in filters if name in query})

    def before_run(self) -> tuple[datetime, UUID] | None:
        """created_at and id of the run behind which the page begins."""
        return self._before(lambda run_id: UUID(_typed(run_id, str)))

    def before_issue(self) -> tuple[datetime, str] | None:
        """created_at and id of the issue behind which the page begins."""
        return self._before(lambda issue_id: _typed(issue_id, str))

    def before_event(self) -> tuple[datetime, int] | None:
        """Time and id of the event behind which the page begins."""
        return self._before(lambda event_id: _ID[_typed(event_id, int)])

    def cut(self, items: Sequence[Item], key: Callable[[Item], tuple[datetime, UUID | str | int]]) -> Cut[Item]:
        """The page's items and the next page's cursor; of one item more than the limit where there are more."""
        shown = tuple(items[: self.limit])
        return shown, self.cursor_after(*key(shown[-1])) if len(items) > self.limit else None

    def cursor_after(self, at: datetime, key: UUID | str | int) -> str:
        """The cursor of the page that begins behind the item of this time and id."""
        content = json.dumps(
            [at.isoformat(), key if isinstance(key, int) else str(key)], separators=(",", ":")
        ).encode()
        return _as_text(self._check(content) + content)

    def _before(self, read: Callable[[object], Key]) -> tuple[datetime, Key] | None:
        if self.cursor is None:
            return None
        try:
            decoded = base64.b64decode(self.cursor + "=" * (-len(self.cursor) % 4), altchars=b"-_", validate=True)
            check, content = decoded[:_CHECK_BYTES], decoded[_CHECK_BYTES:]
            if check == self._check(content) and _as_text(decoded) == self.cursor:
                at, key = json.loads(content)
                return _aware(_typed(at, str)), read(key)
        except (binascii.Error, ValueError, TypeError, IndexError, RecursionError):
            pass
        raise InvalidRequestError("cursor must be the nextCursor of the page before, of the same list and filters")

    def _check(self, content: bytes) -> bytes:
        """What tells a cursor of a list with these filters from any other text: no secret, it guards nothing."""
        return hashlib.sha256(json.dumps(dict(self.filters), sort_keys=True).encode() + content).digest()[:_CHECK_BYTES]


def _aware(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError
    return instant


def _typed(value: object, kind: type[Key]) -> Key:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _as_text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def check_names(query: Mapping[str, str], known: list[str]) -> None:
    """InvalidRequestError for a parameter that the route does not know."""
    if unknown := sorted(query.keys() - set(known)):
        there_are = f"there are {', '.join(known)}" if known else "there are none"
        raise InvalidRequestError(f"unknown query parameter {unknown[0]!r}; {there_are}")


def text_of(query: Mapping[str, str], name: str) -> str | None:
    """The text that a parameter gives; None where it is not given. Raises InvalidRequestError."""
    text = query.get(name)
    if text is not None and not (text and is_storable(text)):
        raise InvalidRequestError(f"{name} must be a text without NUL characters")
    return text


def instant_of(query: Mapping[str, str], name: str) -> datetime | None:
    """The time that a parameter gives, aware; None where it is not given. Raises InvalidRequestError."""
    if name not in query:
        return None
    try:
        return _aware(query[name]).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            f"{name} must be a time with a zone (ISO 8601), as 2026-11-24T12:00:00Z or 2026-11-24T12:00:00%2B01:00"
        ) from None
