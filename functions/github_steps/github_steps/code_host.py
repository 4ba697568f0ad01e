"""Owns the calls of GitHub's REST API: PyGithub, in values of ours, with an end to every wait."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from github import BadAttributeException, Github, GithubException
from requests import RequestException

from github_steps.checks import CheckRun, Status
from github_steps.credentials import UNAUTHORIZED, Credentials, token_of
from github_steps.deployments import Deployment, DeploymentStatus
from github_steps.faults import UNEXPECTED, UNREACHABLE, RefusedError, fault_of
from github_steps.links import Link
from github_steps.outcome import FailedError
from github_steps.reviews import Review

if TYPE_CHECKING:
    from collections.abc import Iterator

    from github.Repository import Repository

ANSWER_SECONDS: Final = 8
"""For a connection, and for each part of an answer; GitHub itself gives up after ten."""

_PAGE: Final = 100
_ODD: Final = (AssertionError, AttributeError, BadAttributeException, LookupError, RuntimeError, TypeError, ValueError)
"""What PyGithub and this module raise over an answer that is none of GitHub's."""

_USER_AGENT: Final = "loop-runner"


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A pull request as it is now. ``merge_sha``, ``merged_by``: if it is merged. ``is_mergeable`` None: unknown."""

    url: str
    repository: str
    number: int
    head_sha: str
    head_ref: str
    base_ref: str
    author: str
    is_open: bool
    is_draft: bool
    is_mergeable: bool | None
    merge_sha: str | None
    merged_by: str | None

    @property
    def link(self) -> Link:
        """Where it is now: below the name of before GitHub leads GET, without its query, and no other method."""
        return Link(self.repository, self.number)

    @property
    def is_merged(self) -> bool:
        """Whether it was merged, by whomever."""
        return self.merge_sha is not None


class CodeHost:
    """GitHub, as whoever the credentials are of. Lists are complete: all pages.

    Every call raises FailedError, NotSignedInError, or RefusedError.
    """

    def __init__(self, api_url: str, credentials: Credentials) -> None:
        self._credentials = credentials
        self._github = Github(
            auth=credentials.auth,
            base_url=api_url,
            timeout=ANSWER_SECONDS,
            user_agent=_USER_AGENT,
            per_page=_PAGE,
            retry=None,  # the loop's policies do that, and the ledger shows it
            seconds_between_requests=None,
            seconds_between_writes=None,
            lazy=True,  # no request that nobody asked for
        )
        self.deadline = 0.0
        """When nothing may be asked any more, of ``time.monotonic()``; each invocation sets it."""

    def sign_in(self) -> None:
        """See to it that there is a token."""
        try:
            with self._asking("sign in as the App"):
                token_of(self._credentials.auth)
        except RefusedError as refused:
            raise FailedError(UNAUTHORIZED, f"GitHub knows no such installation of the App: {refused.reason}") from None

    def pull_request(self, link: Link) -> PullRequest:
        """The pull request."""
        with self._asking("read the pull request"):
            return _pull_request(self._repository(link).get_pull(link.number).raw_data)

    def reviews(self, link: Link) -> list[Review]:
        """Its reviews, oldest first."""
        with self._asking("read reviews"):
            return [
                Review(str((each["user"] or {}).get("login", "")), str(each["state"]), str(each["author_association"]))
                for each in self._all(link, f"/pulls/{link.number}/reviews")
            ]

    def check_runs(self, link: Link, sha: str) -> list[CheckRun]:
        """The check runs of a commit, the latest of each name and suite."""
        with self._asking("read check runs"):
            found = self._all(link, f"/commits/{sha}/check-runs", "check_runs", filter="latest")
            return [CheckRun(str(each["name"]), str(each["status"]), _text(each["conclusion"])) for each in found]

    def statuses(self, link: Link, sha: str) -> list[Status]:
        """The commit statuses of a commit, newest first, those of before as well."""
        with self._asking("read commit statuses"):
            found = self._all(link, f"/commits/{sha}/statuses")
            return [Status(str(each["context"]), str(each["state"])) for each in found]

    def merge(self, link: Link, sha: str, method: str) -> str:
        """Merge it if this is still its head; the sha of what that made."""
        with self._asking("merge the pull request"):
            merged = self._repository(link).get_pull(link.number).merge(merge_method=method, sha=sha)
            if merged.merged is not True:
                raise FailedError(UNEXPECTED, "GitHub did not say that it merged the pull request")
            return str(merged.sha)

    def deployments(self, link: Link, sha: str, environment: str) -> list[Deployment]:
        """The deployments of a commit to an environment; to any where it is empty."""
        to = {"environment": environment} if environment else {}
        with self._asking("read deployments"):
            found = self._all(link, "/deployments", sha=sha, **to)
            every = [Deployment(int(each["id"]), str(each["environment"]), str(each["sha"])) for each in found]
            where = environment.lower()  # and once more: PyGithub follows a redirect without the query
            return [one for one in every if one.sha == sha and where in {"", one.environment.lower()}]

    def deployment_statuses(self, link: Link, deployment: Deployment) -> list[DeploymentStatus]:
        """What a deployment was reported to be."""
        with self._asking("read the deployment's statuses"):
            found = self._all(link, f"/deployments/{deployment.id}/statuses")
            return [
                DeploymentStatus(int(each["id"]), str(each["state"]), _text(each.get("environment_url") or None))
                for each in found
            ]

    def _repository(self, link: Link) -> Repository:
        return self._github.get_repo(link.repository)

    def _all(self, link: Link, path: str, key: str = "", **parameters: str) -> Iterator[dict[str, Any]]:
        """Every item of every page; the next page is asked for only while there is time.

        Not PyGithub's PaginatedList: it takes an answer without a list for an empty one, and a failed check would
        not be seen. TypeError, KeyError: what came is no list, or has none at ``key``.
        """
        repository = self._repository(link)
        page = 1
        while page:
            asked = {"per_page": _PAGE, **parameters} | ({"page": page} if page > 1 else {})
            headers, data = repository.requester.requestJsonAndCheck("GET", f"{repository.url}{path}", asked)
            items = data[key] if key else data
            if not isinstance(items, list):
                raise TypeError(path)
            yield from items
            self._check_time()
            page = page + 1 if 'rel="next"' in str(headers.get("link")) else 0

    def _check_time(self) -> None:
        if time.monotonic() >= self.deadline:
            raise FailedError(UNREACHABLE, "GitHub took so long that the time of the step is over")

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Around a call: what goes wrong with it as what it means, without a word of the credentials."""
        self._check_time()
        try:
            yield
        except GithubException as error:
            raise fault_of(error, doing, self._credentials.hide) from None
        except RequestException as error:
            raise FailedError(
                UNREACHABLE, f"GitHub did not answer when asked to {doing}: {type(error).__name__}"
            ) from None
        except _ODD as error:  # its text may quote the answer
            raise FailedError(
                UNEXPECTED, f"GitHub gave no proper answer when asked to {doing}: {type(error).__name__}"
            ) from None


def _pull_request(data: dict[str, Any]) -> PullRequest:
    """Of what GitHub says. Before a merge its ``merge_commit_sha`` is that of one that GitHub tries for itself."""
    is_merged = data["merged"] is True
    return PullRequest(
        url=str(data["html_url"]),
        repository=str(data["base"]["repo"]["full_name"]),
        number=int(data["number"]),
        head_sha=str(data["head"]["sha"]),
        head_ref=str(data["head"]["ref"]),
        base_ref=str(data["base"]["ref"]),
        author=str((data["user"] or {}).get("login", "")),
        is_open=data["state"] == "open",
        is_draft=data.get("draft") is True,
        is_mergeable=False if data.get("mergeable_state") == "dirty" else data.get("mergeable"),
        merge_sha=str(data["merge_commit_sha"]) if is_merged else None,
        merged_by=str((data.get("merged_by") or {}).get("login") or "") or None if is_merged else None,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
