"""Owns what the deployments of a commit come to: pure, over plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

GREEN: Final = "success"
RED: Final = frozenset({"failure", "error"})
_SUPERSEDED: Final = "inactive"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment. GitHub's ids grow."""

    id: int
    environment: str
    sha: str


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """What a deployment was reported to be; ``url`` is where what was deployed can be seen, None where nobody said."""

    id: int
    state: str
    url: str | None


def newest(deployments: Iterable[Deployment]) -> Deployment | None:
    """The newest one, whatever their order; None where there is none."""
    return max(deployments, key=lambda each: each.id, default=None)


def latest(statuses: Iterable[DeploymentStatus]) -> DeploymentStatus | None:
    """What the deployment has come to: its newest status but for ``inactive``, which later deployments leave behind."""
    return max((each for each in statuses if each.state != _SUPERSEDED), key=lambda each: each.id, default=None)
