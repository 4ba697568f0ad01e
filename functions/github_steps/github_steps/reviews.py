"""Owns the decision that reviews come to: pure, over plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

APPROVED: Final = "APPROVED"
CHANGES_REQUESTED: Final = "CHANGES_REQUESTED"
_DECISIVE: Final = frozenset({APPROVED, CHANGES_REQUESTED, "DISMISSED"})

COUNTED: Final = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
"""Of a review's author_association: who belongs to the repository. On a public one, anybody may review."""


@dataclass(frozen=True, slots=True)
class Review:
    """A review as GitHub lists it; ``reviewer`` is a login, empty where the account is gone."""

    reviewer: str
    state: str
    association: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Whose last word is an approval, and whose a request for changes; in the order of their first decisive review."""

    approved_by: tuple[str, ...] = ()
    requested_by: tuple[str, ...] = ()

    @property
    def is_approved(self) -> bool:
        """Somebody approves, and nobody wants changes."""
        return bool(self.approved_by) and not self.requested_by


def decide(reviews: Iterable[Review], author: str) -> Decision:
    """What the reviews, oldest first, come to: of each reviewer the latest that is decisive counts.

    A comment undoes nothing, a dismissal leaves no word of the reviewer's. The pull request's author does not count,
    nor does who does not belong to the repository, whichever way.
    """
    latest: dict[str, Review] = {}
    for review in reviews:
        name = review.reviewer.lower()
        if name and name != author.lower() and review.state in _DECISIVE and review.association in COUNTED:
            latest[name] = review
    return Decision(
        tuple(review.reviewer for review in latest.values() if review.state == APPROVED),
        tuple(review.reviewer for review in latest.values() if review.state == CHANGES_REQUESTED),
    )
