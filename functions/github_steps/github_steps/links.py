"""Owns which pull request an issue is about: its address, as a caller has written it, or as a step has recorded it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from github_steps.outcome import BlockedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from github_steps.settings import GithubSettings

# An owner has letters, digits and hyphens (managed users _ as well), a repository also dots.
_PATH: Final = re.compile(r"/([A-Za-z0-9_-]{1,100})/((?!\.{1,2}/)[A-Za-z0-9._-]{1,100})/pull/([1-9][0-9]{0,9})/?")


@dataclass(frozen=True, slots=True)
class Link:
    """A pull request that the token may be used on. ``repository`` is ``owner/name``."""

    repository: str
    number: int

    def __str__(self) -> str:
        return f"{self.repository}#{self.number}"


def linked(facts: Mapping[str, Any], settings: GithubSettings) -> Link:
    """The pull request of the fact ``prUrl``. BlockedError: NO_PR_LINKED, REPOSITORY_NOT_ALLOWED."""
    given = facts.get("prUrl")
    shape = f"{settings.web_url}/OWNER/REPOSITORY/pull/NUMBER"
    if not given:
        raise BlockedError("NO_PR_LINKED", f"Link the pull request: PATCH the fact prUrl with {shape}")
    address = re.split("[?#]", given, maxsplit=1)[0] if isinstance(given, str) else ""
    host = settings.web_url.lower()
    path = address[len(host) :] if address.lower().startswith(f"{host}/") else ""
    match = _PATH.fullmatch(path)
    if match is None:
        raise BlockedError("NO_PR_LINKED", f"The fact prUrl is no pull request's address: PATCH it with {shape}")
    return _allowed(Link(f"{match[1]}/{match[2]}", int(match[3])), settings)


def reviewed(facts: Mapping[str, Any], settings: GithubSettings) -> Link:
    """The pull request that was reviewed, of the protected fact ``pr``: ``prUrl`` may be another one since.

    BlockedError: NO_PR_LINKED, REPOSITORY_NOT_ALLOWED.
    """
    match facts.get("pr"):
        case {"repository": str(repository), "number": int(number)}:
            return _allowed(Link(repository, number), settings)
        case _:
            raise BlockedError("NO_PR_LINKED", "No pull request was reviewed: set the state back to CREATED")


def _allowed(link: Link, settings: GithubSettings) -> Link:
    if not settings.allows(link.repository):
        raise not_allowed(link.repository)
    return link


def not_allowed(repository: str) -> BlockedError:
    """Of a repository that is not one of those that may be touched."""
    return BlockedError(
        "REPOSITORY_NOT_ALLOWED",
        f"{repository} is not among the repositories that this deployment may touch: link another pull request, or "
        "have the repository added to the parameter GithubRepositories",
    )
