"""Owns what goes wrong between the fake GitHub and a caller, and which request it befalls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import re


@dataclass(frozen=True)
class Fault:
    """What comes instead of the answer. ``effect``: the call is carried out all the same, before.

    ``status`` None drops the connection without an answer. ``seconds`` pass before either. ``resets_in``: nothing
    remains of the primary rate limit for so many seconds.
    """

    status: int | None = None
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    effect: bool = False
    seconds: float = 0.0
    resets_in: int | None = None
    more: dict[str, Any] = field(default_factory=dict)


CUT = Fault()
"""The connection ends before anything was done."""

LOST = Fault(effect=True)
"""It was done, and the connection ended before the answer."""


def slow(seconds: float, *, effect: bool = True) -> Fault:
    """No answer for that long, then the connection ends; done at once unless said otherwise."""
    return Fault(seconds=seconds, effect=effect)


def server_error(
    status: int = 502, message: str = "Server Error", *, effect: bool = False, retry_after: int = 0
) -> Fault:
    """5xx; with ``effect`` after it was done."""
    headers = {"retry-after": str(retry_after)} if retry_after else {}
    return Fault(status, message, headers, effect)


def rate_limit(resets_in: int, status: int = 403) -> Fault:
    """The primary rate limit: nothing remains until the window is over."""
    return Fault(status, "API rate limit exceeded for user ID 1.", resets_in=resets_in)


def secondary_rate_limit(retry_after: int | None = None, status: int = 403) -> Fault:
    """The secondary one; without Retry-After only the message tells."""
    message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    return Fault(status, message, {} if retry_after is None else {"retry-after": str(retry_after)})


def forbidden(needs: str = "checks=read") -> Fault:
    """What the token's permissions do not allow; GitHub says which would."""
    return Fault(403, "Resource not accessible by integration", {"x-accepted-github-permissions": needs})


Act = Fault | Callable[[], Any]
"""A fault, or what is done before the request is: its value, where it is a fault, comes instead of the answer."""


@dataclass
class Plan:
    """What befalls requests whose ``METHOD path?query`` the pattern is found in: ``times`` of them, from the nth on."""

    pattern: re.Pattern[str]
    act: Act
    nth: int
    times: int
    seen: int = 0

    def befalls(self, line: str) -> bool:
        """Whether it is this request's turn; counts it."""
        if not self.pattern.search(line):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times
