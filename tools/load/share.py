"""Owns an issue's share of a load: how many runs it has from when to when, what is left of both, and chance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random


class Ending(Enum):
    """How a load leaves an issue: wherever it is then, in a final state, or with a live run."""

    ANYWHERE = auto()
    FINAL = auto()
    LIVE = auto()


@dataclass(slots=True)
class Share:
    """``runs`` are left for the time from ``at``, which moves on, to ``end``.

    Where no more of them are left than the ``needed`` ones, nothing happens that need not.
    """

    chance: Random
    at: datetime
    end: datetime
    runs: int
    needed: int = -1

    @property
    def is_straight(self) -> bool:
        """Whether each run that is left is needed."""
        return self.runs <= self.needed

    def happens(self, of_a_hundred: float) -> bool:
        """Whether what happens so often, of a hundred times, happens now."""
        return not self.is_straight and self.chance.random() * 100 < of_a_hundred

    @property
    def room(self) -> timedelta:
        """The time for each run that is left, and after the last."""
        return (self.end - self.at) / (self.runs + 1)

    def has_room(self, until: datetime, longest: timedelta) -> bool:
        """Whether such a ``wait`` fits in, and a run after it."""
        return self.runs > 0 and max(self.at, until) + longest + self.room < self.end

    def pause(self) -> None:
        """Let the time between two turns pass."""
        self.at += self.room * self.chance.uniform(0.1, 1.9)

    def spend(self, seconds: float) -> None:
        """Let so much time pass, less where runs are dense."""
        self.at += min(timedelta(seconds=seconds), self.room / 8)

    def compute(self) -> None:
        """Let the milliseconds pass that a call takes of whose step nothing is executed elsewhere."""
        self.spend(self.chance.lognormvariate(-6, 0.6))

    def wait(self, until: datetime, longest: timedelta) -> None:
        """Let time pass until then, where it has not, and up to so much more."""
        self.at = max(self.at, until) + longest * self.chance.random()
