"""Owns the three steps: what each finds out, in which order, and when it merges."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from github_steps.checks import judge
from github_steps.deployments import GREEN, RED, latest, newest
from github_steps.faults import FORBIDDEN, RefusedError
from github_steps.links import linked, not_allowed, reviewed
from github_steps.outcome import BlockedError, Completed, FailedError
from github_steps.reviews import Decision, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from github_steps.code_host import CodeHost, PullRequest
    from github_steps.links import Link
    from github_steps.outcome import Json
    from github_steps.settings import GithubSettings

_STALE: Final = {"checks": None, "deployment": None, "verdict": None}
"""What another pull request, or another head, may have left in the facts."""


def review(facts: Mapping[str, Any], host: CodeHost, settings: GithubSettings) -> Completed:
    """S4: the pull request is open, no draft, and approved; or somebody has merged it already."""
    pull = _read(host, linked(facts, settings), settings)
    if not pull.is_merged:
        _check_open(pull)
    decision = decide(_reviews(host, pull.link), pull.author)
    if not pull.is_merged:
        _check_approved(decision)
    reviews = {
        "decision": "approved" if decision.is_approved else "merged",
        "approvedBy": list(decision.approved_by),
        "observedAt": _now(),
    }
    facts = {"pr": _facts(pull), "review": reviews, **_STALE}
    if pull.is_merged:
        return Completed(facts, f"{pull.link} was merged already{_by(pull)}")
    return Completed(facts, f"{pull.link} is approved by {_names(decision.approved_by)}")


def merge(facts: Mapping[str, Any], host: CodeHost, settings: GithubSettings) -> Completed:
    """S5: merged once, at the head whose reviews and checks were good a moment before.

    It looks first: the attempt before may have merged, and its answer have been lost.
    """
    pull = _read(host, reviewed(facts, settings), settings)
    link = pull.link
    if pull.is_merged:
        return _was_merged(pull)
    _check_open(pull)
    _check_approved(decide(_reviews(host, link), pull.author))
    count = _check_checks(host, link, pull.head_sha)
    checks = {"status": "success", "sha": pull.head_sha, "count": count, "observedAt": _now()}
    try:
        merge_sha = host.merge(link, pull.head_sha, settings.merge_method)
    except RefusedError as refused:
        return _refused(refused, host, settings, pull)
    return Completed(
        {"pr": {**_facts(pull), "merged": True, "mergeSha": merge_sha, "mergedBy": _who(host, link)}, "checks": checks},
        f"{link} is merged as {merge_sha}",
    )


def observe(facts: Mapping[str, Any], host: CodeHost, settings: GithubSettings) -> Completed:
    """S6: the newest deployment of the merge commit is a success."""
    pull = _read(host, reviewed(facts, settings), settings)
    link = pull.link
    sha = facts["pr"].get("mergeSha") or pull.merge_sha  # just after the merge, GitHub may show it as open yet
    if not sha:
        raise BlockedError("PR_NOT_MERGED", f"{link} is not merged: merge it")
    where = f"to {settings.environment}" if settings.environment else "to any environment"
    try:
        deployment = newest(host.deployments(link, sha, settings.environment))
        status = latest(host.deployment_statuses(link, deployment)) if deployment else None
    except RefusedError as refused:
        raise _not_observed(f"GitHub tells no deployments of {link}: {refused.reason}") from None
    if deployment is None:
        raise _not_observed(f"there is no deployment of {sha} {where}")
    if status is None:
        raise _not_observed(f"deployment {deployment.id} of {sha} has no status")
    if status.state in RED:
        raise BlockedError("NO_GREEN_VERDICT", f"Deployment {deployment.id} is {status.state}: deploy again")
    if status.state != GREEN:
        raise _not_observed(f"deployment {deployment.id} is {status.state}")
    observed = {
        "id": deployment.id,
        "environment": deployment.environment,
        "sha": deployment.sha,
        "state": status.state,
        "url": status.url,
        "observedAt": _now(),
    }
    return Completed({"deployment": observed, "verdict": "GREEN"}, f"{sha} is deployed to {deployment.environment}")


STEPS: Final[Mapping[str, Callable[[Mapping[str, Any], CodeHost, GithubSettings], Completed]]] = {
    "S4_REVIEW": review,
    "S5_MERGE": merge,
    "S6_DEPLOYMENT_OBSERVE": observe,
}
"""By the type of the loop's step."""


# ------------------------------------------------------------------------------------------------ what must hold


def _read(host: CodeHost, link: Link, settings: GithubSettings) -> PullRequest:
    """The pull request as it is. Where its repository has moved to must be allowed as well: GitHub leads there."""
    try:
        pull = host.pull_request(link)
    except RefusedError as refused:
        raise _not_found(link, refused) from None
    if not settings.allows(pull.repository):
        raise not_allowed(pull.repository)
    return pull


def _reviews(host: CodeHost, link: Link) -> list[Any]:
    try:
        return host.reviews(link)
    except RefusedError as refused:
        raise _not_found(link, refused) from None


def _not_found(link: Link, refused: RefusedError) -> BlockedError:
    return BlockedError(
        "PR_NOT_FOUND", f"GitHub shows the token no {link} ({refused.reason}): mend the link, or let the token see it"
    )


def _check_open(pull: PullRequest) -> None:
    if not pull.is_open:
        raise BlockedError("PR_CLOSED", f"{pull.url} was closed and not merged: open it again")
    if pull.is_draft:
        raise BlockedError("PR_DRAFT", f"{pull.url} is a draft: mark it as ready for review")


def _check_approved(decision: Decision) -> None:
    if decision.requested_by:
        who = _names(decision.requested_by)
        raise BlockedError("CHANGES_REQUESTED", f"{who} requested changes: make them and have them approved")
    if not decision.approved_by:
        raise BlockedError("NO_REVIEW_APPROVAL", "Nobody of the repository approves it: have it reviewed")


def _check_checks(host: CodeHost, link: Link, sha: str) -> int:
    """How many checks there are of a commit, all of which are good."""
    try:
        verdict = judge(host.check_runs(link, sha), host.statuses(link, sha))
    except RefusedError as refused:
        raise BlockedError("NO_CHECKS_FOUND", f"GitHub tells no checks of {sha}: {refused.reason}") from None
    if verdict.failed:
        raise BlockedError("CHECKS_FAILED", f"Mend what failed on {sha}: {_names(verdict.failed)}")
    if verdict.pending:
        raise BlockedError("CHECKS_PENDING", f"Wait for what is not over on {sha}: {_names(verdict.pending)}")
    if not verdict.count:
        raise BlockedError("NO_CHECKS_FOUND", f"Nothing has checked {sha}: have a check report on it")
    return verdict.count


# ------------------------------------------------------------------------------------------------ after the merge


def _was_merged(pull: PullRequest) -> Completed:
    """By somebody else, or by an attempt whose answer was lost: what it had checked, nobody knows any more."""
    message = f"{pull.link} was merged already{_by(pull)} as {pull.merge_sha}"
    return Completed({"pr": _facts(pull), "checks": None}, message)


def _refused(refused: RefusedError, host: CodeHost, settings: GithubSettings, before: PullRequest) -> Completed:
    """What a merge that GitHub refused means: looked up, for it says little itself."""
    link = before.link
    if refused.status in {404, 410, 451}:
        raise FailedError(FORBIDDEN, f"GitHub does not let the token merge {link}: {refused.reason}")
    pull = _read(host, link, settings)
    if pull.is_merged:
        return _was_merged(pull)
    _check_open(pull)
    if pull.head_sha != before.head_sha:
        moved = f"The head has moved from {before.head_sha} to {pull.head_sha}"
        raise BlockedError("CHECKS_PENDING", f"{moved}: wait for its checks")
    if refused.status == 409:
        raise BlockedError("CHECKS_PENDING", f"GitHub says of {before.head_sha}: {refused.reason}")
    if pull.is_mergeable is False:
        raise BlockedError("MERGE_CONFLICT", f"{link} conflicts with {pull.base_ref}: bring it up to date")
    raise BlockedError("PR_NOT_MERGED", f"GitHub does not merge {link}: {refused.reason}")


def _who(host: CodeHost, link: Link) -> str | None:
    """Who merged it, where GitHub tells: what is done is done, whatever becomes of this question."""
    try:
        return host.pull_request(link).merged_by
    except Exception:
        return None


# ------------------------------------------------------------------------------------------------ in words


def _facts(pull: PullRequest) -> Json:
    """The fact ``pr``. Null removes what another pull request has left."""
    return {
        "url": pull.url,
        "repository": pull.repository,
        "number": pull.number,
        "headSha": pull.head_sha,
        "headRef": pull.head_ref,
        "baseRef": pull.base_ref,
        "author": pull.author,
        "merged": pull.is_merged,
        "mergeSha": pull.merge_sha,
        "mergedBy": pull.merged_by,
    }


def _by(pull: PullRequest) -> str:
    return f" by {pull.merged_by}" if pull.merged_by else ""


def _names(names: tuple[str, ...], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _not_observed(what: str) -> BlockedError:
    return BlockedError("NO_DEPLOYMENT_OBSERVATIONS", f"{what[0].upper()}{what[1:]}: wait for it")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
