"""Owns what the fake GitHub knows: repositories, pull requests and what people, checks and deployments say of them.

The rules are those of GitHub's REST documentation; what it leaves open is noted where it is decided.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Final

_ids: Final = count(1)


def new_sha() -> str:
    return secrets.token_hex(20)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RefusedError(Exception):
    """What GitHub does not do, with the status and the message of its answer."""

    def __init__(self, status: int, message: str, errors: list[object] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.errors = status, message, errors


@dataclass
class Review:
    """A review; ``user`` is None where the account was deleted."""

    user: str | None
    state: str
    commit_id: str
    association: str
    body: str = ""
    id: int = field(default_factory=lambda: next(_ids))
    submitted_at: str = field(default_factory=now)


@dataclass
class CheckRun:
    """A check run: ``conclusion`` is None until ``status`` is completed."""

    name: str
    status: str
    conclusion: str | None
    app: str
    id: int = field(default_factory=lambda: next(_ids))
    at: str = field(default_factory=now)


@dataclass
class Status:
    """A commit status of an older integration."""

    context: str
    state: str
    description: str
    id: int = field(default_factory=lambda: next(_ids))
    at: str = field(default_factory=now)


@dataclass
class DeploymentStatus:
    """What a deployment has come to; ``url`` is where that can be seen."""

    state: str
    url: str
    id: int = field(default_factory=lambda: next(_ids))
    at: str = field(default_factory=now)


@dataclass
class Deployment:
    """A deployment of a commit; ``statuses`` has the oldest first."""

    sha: str
    environment: str
    statuses: list[DeploymentStatus] = field(default_factory=list)
    id: int = field(default_factory=lambda: next(_ids))
    at: str = field(default_factory=now)


@dataclass(frozen=True)
class Merge:
    """What was merged: the head at that time, and the one that the caller had asked for, if any.

    ``reviews`` and ``checks`` (name and conclusion, or status) are those of that moment.
    """

    head: str
    asked: str | None
    method: str
    by: str
    reviews: tuple[Review, ...]
    checks: tuple[tuple[str, str], ...]


class Repository:
    """A repository with its pull requests, by number, and what is known of its commits, by sha."""

    def __init__(self, name: str, methods: frozenset[str] = frozenset({"merge", "squash", "rebase"})) -> None:
        self.name, self.methods = name, methods
        self.id = next(_ids)
        self.pulls: dict[int, PullRequest] = {}
        self.branches = {"main": new_sha()}
        self.commits = {self.branches["main"]}
        self.check_runs: dict[str, list[CheckRun]] = {}
        self.statuses: dict[str, list[Status]] = {}
        self.deployments: list[Deployment] = []

    def pull(self, author: str = "ann", number: int | None = None) -> PullRequest:
        """A new, open pull request without reviews and checks."""
        number = number or max(self.pulls, default=0) + 1
        self.pulls[number] = PullRequest(self, number, author)
        return self.pulls[number]

    def commit(self, branch: str) -> str:
        """A new commit, the branch's tip from now on."""
        self.branches[branch] = new_sha()
        self.commits.add(self.branches[branch])
        return self.branches[branch]

    def find(self, ref: str) -> str:
        """The sha of a branch, of a commit, or of its beginning."""
        ref = self.branches.get(ref.removeprefix("heads/"), ref)
        for sha in self.commits:
            if len(ref) >= 7 and sha.startswith(ref):
                return sha
        raise RefusedError(422, f"No commit found for SHA: {ref}")

    def check(self, sha: str, name: str, conclusion: str | None = "success", status: str = "", app: str = "ci") -> None:
        """A check run of the commit; without a conclusion it is ``in_progress``, or what the status says."""
        status = status or ("completed" if conclusion else "in_progress")
        self.check_runs.setdefault(sha, []).append(CheckRun(name, status, conclusion, app))

    def status(self, sha: str, context: str, state: str, description: str = "") -> None:
        self.statuses.setdefault(sha, []).append(Status(context, state, description))

    def latest_check_runs(self, sha: str) -> list[CheckRun]:
        """The newest one of each name of an app, newest first: ``filter=latest``."""
        latest = {(run.app, run.name): run for run in self.check_runs.get(sha, [])}
        return sorted(latest.values(), key=lambda run: -run.id)

    def latest_statuses(self, sha: str) -> list[Status]:
        """The newest one of each context, newest first: what is in the combined status."""
        latest = {status.context: status for status in self.statuses.get(sha, [])}
        return sorted(latest.values(), key=lambda status: -status.id)

    def deploy(self, sha: str, *states: str, environment: str = "production", url: str = "") -> Deployment:
        """A deployment that came to these states, one after the other."""
        self.deployments.append(Deployment(sha, environment))
        for state in states:
            self.report(self.deployments[-1], state, url)
        return self.deployments[-1]

    def report(self, deployment: Deployment, state: str, url: str = "") -> DeploymentStatus:
        """A status. Success makes the successful ones before it in the environment inactive (``auto_inactive``)."""
        for before in self.deployments if state == "success" else []:
            same = before.environment == deployment.environment and before is not deployment
            if same and before.statuses and before.statuses[-1].state == "success":
                before.statuses.append(DeploymentStatus("inactive", ""))
        deployment.statuses.append(DeploymentStatus(state, url))
        return deployment.statuses[-1]


class PullRequest:
    """A pull request. ``merges`` are all that ever happened: GitHub and this fake allow one."""

    def __init__(self, repository: Repository, number: int, author: str) -> None:
        self.repository, self.number, self.author = repository, number, author
        self.branch, self.base = f"topic-{number}", "main"
        self.draft = self.closed = False
        self.mergeable: bool | None = True  # None: GitHub has not found out yet
        self.rule = ""
        """Why the branch's rules do not let it be merged, in GitHub's words."""
        self.reviews: list[Review] = []
        self.merges: list[Merge] = []
        self.merge_commit = new_sha()  # before the merge that of a merge which GitHub tries for itself
        self.merged_at: str | None = None
        self.head = repository.commit(self.branch)

    @property
    def merged(self) -> bool:
        return bool(self.merges)

    @property
    def mergeable_state(self) -> str:
        if self.merged or self.mergeable is None:
            return "unknown"
        if not self.mergeable:
            return "dirty"
        return "draft" if self.draft else "blocked" if self.rule else "clean"

    def push(self) -> str:
        """A new commit, the head from now on; reviews stay, as they do without a rule that dismisses stale ones."""
        self.head = self.repository.commit(self.branch)
        return self.head

    def review(self, user: str | None, state: str, association: str = "MEMBER", body: str = "") -> Review:
        """A review of the head: APPROVED, CHANGES_REQUESTED, COMMENTED or PENDING."""
        self.reviews.append(Review(user, state, self.head, association, body))
        return self.reviews[-1]

    def approve(self, user: str = "bob", association: str = "MEMBER") -> Review:
        return self.review(user, "APPROVED", association)

    def request_changes(self, user: str = "bob", association: str = "MEMBER") -> Review:
        return self.review(user, "CHANGES_REQUESTED", association)

    def dismiss(self, user: str) -> None:
        """Dismiss the user's last decisive review: its state changes in place, no review is added."""
        decisive = [r for r in self.reviews if r.user == user and r.state in {"APPROVED", "CHANGES_REQUESTED"}]
        decisive[-1].state = "DISMISSED"

    def check(self, name: str = "build", conclusion: str | None = "success", status: str = "", app: str = "ci") -> None:
        """A check run of the head."""
        self.repository.check(self.head, name, conclusion, status, app)

    def status(self, context: str, state: str = "success", description: str = "") -> None:
        """A commit status of the head."""
        self.repository.status(self.head, context, state, description)

    def deploy(self, *states: str, environment: str = "production", url: str = "") -> Deployment:
        """A deployment of the merge commit."""
        return self.repository.deploy(self.merge_commit, *states, environment=environment, url=url)

    def close(self) -> None:
        self.closed = True

    def reopen(self) -> None:
        self.closed = False

    def merge(self, by: str = "zoe", sha: str | None = None, method: str = "merge") -> Merge:
        """Merge it, or say why not. That the head is another one comes before what else is against it: our choice."""
        if method not in {"merge", "squash", "rebase"}:
            raise RefusedError(422, "Validation Failed", [{"resource": "PullRequest", "field": "merge_method"}])
        if self.merged or self.closed:
            raise RefusedError(405, "Pull Request is not mergeable")
        if sha is not None and len(sha) != 40:
            raise RefusedError(422, "Validation Failed", [{"resource": "PullRequest", "field": "sha"}])
        if sha is not None and sha != self.head:
            raise RefusedError(409, "Head branch was modified. Review and try the merge again.")
        if self.draft:
            raise RefusedError(405, "Pull Request is still a draft")
        if self.mergeable is False:
            raise RefusedError(405, "Pull Request is not mergeable")
        if self.rule:
            raise RefusedError(405, self.rule)
        if method not in self.repository.methods:
            plural = {"merge": "Merge commits", "squash": "Squash merges", "rebase": "Rebase merges"}[method]
            raise RefusedError(405, f"{plural} are not allowed on this repository.")
        self.merge_commit = self.repository.commit(self.base)
        self.merged_at = now()
        checks = [(run.name, run.conclusion or run.status) for run in self.repository.latest_check_runs(self.head)]
        checks += [(status.context, status.state) for status in self.repository.latest_statuses(self.head)]
        reviews = tuple(replace(review) for review in self.reviews)
        self.merges.append(Merge(self.head, sha, method, by, reviews, tuple(checks)))
        return self.merges[-1]
