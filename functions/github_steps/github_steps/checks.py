"""Owns the verdict that check runs and commit statuses of one commit come to: pure, over plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_GOOD: Final = frozenset({"success", "neutral", "skipped"})


@dataclass(frozen=True, slots=True)
class CheckRun:
    """A check run, the latest of its name and suite; ``conclusion`` is None until ``status`` is completed."""

    name: str
    status: str
    conclusion: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """A commit status, as older integrations report: ``state`` is success, pending, failure or error."""

    context: str
    state: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many checks there are, and which of them failed or are not over yet."""

    count: int
    failed: tuple[str, ...]
    pending: tuple[str, ...]


def judge(runs: Iterable[CheckRun], statuses: Iterable[Status]) -> Verdict:
    """The verdict. ``statuses``: newest first, with those of before: the newest of a context counts.

    What is over and not known to be good has failed.
    """
    results = [(run.name, _of_run(run)) for run in runs]
    newest: dict[str, Status] = {}
    for status in statuses:
        newest.setdefault(status.context, status)
    results += [(context, each.state) for context, each in newest.items()]
    return Verdict(
        count=len(results),
        failed=tuple(name for name, result in results if result not in _GOOD | {"pending"}),
        pending=tuple(name for name, result in results if result == "pending"),
    )


def _of_run(run: CheckRun) -> str:
    return "pending" if run.status != "completed" else run.conclusion or "none"
