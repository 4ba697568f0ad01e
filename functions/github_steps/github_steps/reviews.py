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
"""Of a review's author_association: who belongs to the repository. On a public one, anybody may approve."""

_GONE: Final = "ghost"
"""What GitHub calls whoever's account is gone."""


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

    A comment undoes nothing, a dismissal leaves no word of the reviewer's. The pull request's author does not count.
    Anybody's request for changes does, but only who belongs to the repository approves: a token may not see that
    somebody is a member, and then too little is merged rather than too much.
    """
    latest: dict[str, Review] = {}
    for review in reviews:
        name = review.reviewer or _GONE
        if name.lower() != author.lower() and review.state in _DECISIVE:
            latest[name.lower()] = review
    return Decision(
        tuple(each.reviewer for each in latest.values() if each.state == APPROVED and each.association in COUNTED),
        tuple(each.reviewer or _GONE for each in latest.values() if each.state == CHANGES_REQUESTED),
    )
