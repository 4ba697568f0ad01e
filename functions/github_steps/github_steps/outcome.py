"""Owns what a step answers with: the results of docs/loops/README.md, two of them raised wherever they are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from loop_runner.sanitize import clean_text

LONGEST_WAIT_SECONDS: Final = 24 * 3600
"""No rate limit of GitHub's lasts longer; what asks for more is told so much."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Completed:
    """The step found what it looked for, or did it. ``facts`` is a merge patch: null removes what is no longer true."""

    facts: Json = field(default_factory=dict)
    message: str = ""

    def answer(self) -> Json:
        """The result as the runner takes it."""
        return {"status": "completed", "facts": self.facts, "message": clean_text(self.message)}


class BlockedError(Exception):
    """The step cannot do its work yet: a code in capitals, and what there is to do, for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def answer(self) -> Json:
        """The result as the runner takes it."""
        return {"status": "blocked", "blocker": {"code": self.code, "message": clean_text(self.message)}}


class FailedError(Exception):
    """The step did not do its work: a name that retry policies match, and when another attempt makes sense at all."""

    def __init__(self, name: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.name, self.message, self.retry_after_seconds = name, message, retry_after_seconds

    def answer(self) -> Json:
        """The result as the runner takes it."""
        error: Json = {"name": self.name, "message": clean_text(self.message)}
        if self.retry_after_seconds is not None:
            error["retryAfterSeconds"] = min(max(self.retry_after_seconds, 0), LONGEST_WAIT_SECONDS)
        return {"status": "failed", "error": error}
