"""Owns what it means when GitHub refuses, fails or does not answer: which name, and when to come back."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from github_steps.outcome import FailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from github import GithubException

RATE_LIMIT: Final = "GitHub.RateLimit"
SERVER_ERROR: Final = "GitHub.ServerError"
UNREACHABLE: Final = "GitHub.Unreachable"
FORBIDDEN: Final = "GitHub.Forbidden"
UNEXPECTED: Final = "GitHub.UnexpectedAnswer"

_SECONDARY_SECONDS: Final = 60.0
"""At least, where no header says how long ("Rate limits for the REST API")."""

_TEXT_LIMIT: Final = 500


class NotSignedInError(Exception):
    """GitHub does not take the credentials (401): they may have been rotated."""


class RefusedError(Exception):
    """GitHub does not do this (404, 405, 409, 422): what that means, its caller knows. ``reason`` is GitHub's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


def fault_of(error: GithubException, doing: str, hide: Callable[[str], str]) -> Exception:
    """What an answer of 400 and above means. ``doing`` says what was asked, for people."""
    headers = {name.lower(): str(value) for name, value in (error.headers or {}).items()}
    reason = hide(_reason(error))[:_TEXT_LIMIT]
    match error.status:
        case 401:
            return NotSignedInError(reason)
        case 403 | 429:
            seconds = _seconds_of_limit(error.status, headers, reason)
            if seconds is not None:
                return FailedError(
                    RATE_LIMIT, f"GitHub's rate limit does not let the token {doing} yet: {reason}", seconds
                )
            return FailedError(FORBIDDEN, f"GitHub does not let the token {doing}: {reason}{hide(_missing(headers))}")
        case 404 | 405 | 409 | 410 | 422 | 451:
            return RefusedError(error.status, reason)
        case status if status >= 500:
            return FailedError(SERVER_ERROR, f"GitHub answered {status} when asked to {doing}", _retry_after(headers))
        case status:
            return FailedError(UNEXPECTED, f"GitHub answered {status} when asked to {doing}: {reason}")


def _reason(error: GithubException) -> str:
    """GitHub's own words: the message, and what is wrong with which field."""
    data = error.data if isinstance(error.data, dict) else {}
    errors = data.get("errors")
    texts = (
        [each.get("message") if isinstance(each, dict) else each for each in errors] if isinstance(errors, list) else []
    )
    return "; ".join(str(each) for each in [data.get("message"), *texts] if each) or "it gave no reason"


def _missing(headers: Mapping[str, str]) -> str:
    """What the token would need, where GitHub says so."""
    needed = headers.get("x-accepted-github-permissions") or headers.get("x-accepted-oauth-scopes")
    return f". It needs {needed}" if needed else ""


def _seconds_of_limit(status: int, headers: Mapping[str, str], reason: str) -> float | None:
    """How long a rate limit lasts; None where the refusal is of another kind."""
    asked = _retry_after(headers)
    if asked is not None:
        return asked
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isascii() and reset.isdigit():
        return max(int(reset) - time.time(), 0.0) + 1  # the second in which it resets may not be over
    return _SECONDARY_SECONDS if status == 429 or "rate limit" in reason.lower() else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of Retry-After (RFC 9110, 10.2.3): a number of them, or a date."""
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
