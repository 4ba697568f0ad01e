"""One line a check, ✓ or ✗; below a ✗ what was expected, what was found, and what to do."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg

from loop_runner.errors import LoopError
from tools.local.printer import Printer

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME_WIDTH: Final = 16
_SHOWN: Final = 5
_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """Something is not as it should be. ``do`` is the remedy, a statement or a call where one will do."""

    what: str
    expected: str
    found: str
    do: str


class Mismatch(Exception):  # noqa: N818
    """What a check raises when it does not hold; ``summary`` is for its line."""

    def __init__(self, summary: str, *differences: Difference) -> None:
        self.summary = summary
        self.differences = differences
        super().__init__(summary)


class Report(Printer):
    """Prints checks as they are made, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def check(self, name: str, look: Callable[[], str], *, do: str) -> bool:
        """Make a check: ``look`` says what it saw, or raises Mismatch.

        Where it cannot be made, because an endpoint or a database fails, it does not hold either, and ``do`` helps.
        """
        try:
            seen = look()
        except Mismatch as mismatch:
            self._fail(name, mismatch)
        except (psycopg.Error, LoopError, OSError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self._fail(name, Mismatch("cannot be looked at", Difference("", "an answer", reason, do)))
        else:
            self.passed.append(name)
            self._line("✓", "32", name, seen)
            return True
        return False

    def skip(self, name: str, why: str) -> None:
        """Say that a check was not made."""
        self.skipped.append(name)
        self._line("-", "2", name, f"not looked at: {why}")

    def summary(self, left: str) -> None:
        """The last line: how many checks hold, and what was ``left`` behind."""
        total = len(self.passed) + len(self.failed)
        counts = f"{total} checks, all hold" if not self.failed else f"{len(self.failed)} of {total} checks do not hold"
        skipped = f", {len(self.skipped)} not made" if self.skipped else ""
        self.title(f"{counts}{skipped}.{left and ' '}{left}")

    def _fail(self, name: str, mismatch: Mismatch) -> None:
        self.failed.append(name)
        self._line("✗", "31", name, mismatch.summary)
        for difference in mismatch.differences[:_SHOWN]:
            if difference.what:
                self.line(f"    {difference.what}")
            for word, text in (("expected", difference.expected), ("found", difference.found)):
                self.line(f"      {self._coloured(word.ljust(9), '2')}{_cut(text)}")
            self.line(f"      {self._coloured('do'.ljust(9), '2')}{difference.do}")
        if len(mismatch.differences) > _SHOWN:
            self.line(f"    and {len(mismatch.differences) - _SHOWN} more")

    def _line(self, mark: str, colour: str, name: str, text: str) -> None:
        self.line(f"{self._coloured(mark, colour)} {name.ljust(_NAME_WIDTH)} {text}")


def _cut(text: str) -> str:
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]} …"
