"""Owns which call of GitHub's REST API does what in the fake's world: routes, lists and their pages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.github.world import PullRequest, RefusedError, Repository, Review

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.github.shapes import Json, Shapes
    from tests.github.world import Deployment

NOT_FOUND: Final = RefusedError(404, "Not Found")
REVIEWS: Final = {"APPROVE": "APPROVED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "COMMENT": "COMMENTED"}


@dataclass(frozen=True)
class Call:
    """A call of somebody who may make it; ``login`` is who."""

    repository: Repository
    login: str
    query: Mapping[str, str]
    body: Mapping[str, Any]
    shapes: Shapes


@dataclass(frozen=True)
class Listing:
    """A list, of which the page that was asked for is answered; ``wrap`` makes the body of it and of their number."""

    items: list[Json]
    wrap: Callable[[list[Json], int], Any] = field(default=lambda page, total: page)


Result = tuple[int, Any]
"""Status and body."""


def _pull(call: Call, number: str) -> PullRequest:
    pull = call.repository.pulls.get(int(number))
    if pull is None:
        raise NOT_FOUND
    return pull


def _deployment(call: Call, number: str) -> Deployment:
    for deployment in call.repository.deployments:
        if deployment.id == int(number):
            return deployment
    raise NOT_FOUND


def get_repository(call: Call) -> Result:
    return 200, call.shapes.repository(call.repository)


def get_branch(call: Call, name: str) -> Result:
    if name not in call.repository.branches:
        raise RefusedError(404, "Branch not found")
    return 200, call.shapes.branch(call.repository, name)


def get_commit(call: Call, ref: str) -> Result:
    return 200, call.shapes.commit(call.repository, call.repository.find(ref))


def get_pull(call: Call, number: str) -> Result:
    return 200, call.shapes.pull(_pull(call, number))


def list_reviews(call: Call, number: str) -> Result:
    """Oldest first; one that is pending only its author sees."""
    pull = _pull(call, number)
    seen = [review for review in pull.reviews if review.state != "PENDING" or review.user == call.login]
    return 200, Listing([call.shapes.review(pull, review) for review in seen])


def post_review(call: Call, number: str) -> Result:
    pull = _pull(call, number)
    state = REVIEWS.get(str(call.body.get("event")), "PENDING")
    if call.login == pull.author and state in {"APPROVED", "CHANGES_REQUESTED"}:
        verb = "approve" if state == "APPROVED" else "request changes on"
        raise RefusedError(422, "Unprocessable Entity", [f"Can not {verb} your own pull request"])
    review: Review = pull.review(call.login, state, body=str(call.body.get("body", "")))
    return 200, call.shapes.review(pull, review)


def get_merge(call: Call, number: str) -> Result:
    if not _pull(call, number).merged:
        raise NOT_FOUND
    return 204, None


def put_merge(call: Call, number: str) -> Result:
    pull = _pull(call, number)
    pull.merge(call.login, call.body.get("sha"), str(call.body.get("merge_method", "merge")))
    return 200, {"sha": pull.merge_commit, "merged": True, "message": "Pull Request successfully merged"}


def list_check_runs(call: Call, ref: str) -> Result:
    """Newest first; ``filter=all`` has those that ran again as well."""
    sha = call.repository.find(ref)
    every = list(reversed(call.repository.check_runs.get(sha, [])))
    runs = every if call.query.get("filter") == "all" else call.repository.latest_check_runs(sha)
    for key, value in (("name", call.query.get("check_name")), ("status", call.query.get("status"))):
        runs = [run for run in runs if value is None or getattr(run, key) == value]
    shapes = [call.shapes.check_run(call.repository, sha, run) for run in runs]
    return 200, Listing(shapes, lambda page, total: {"total_count": total, "check_runs": page})


def get_combined_status(call: Call, ref: str) -> Result:
    sha = call.repository.find(ref)
    shapes = [call.shapes.status(call.repository, sha, each) for each in call.repository.latest_statuses(sha)]
    return 200, Listing(shapes, lambda page, total: call.shapes.combined_status(call.repository, sha, page, total))


def list_statuses(call: Call, ref: str) -> Result:
    """Newest first, those of before as well."""
    sha = call.repository.find(ref)
    statuses = reversed(call.repository.statuses.get(sha, []))
    return 200, Listing([call.shapes.status(call.repository, sha, status) for status in statuses])


def post_status(call: Call, sha: str) -> Result:
    sha = call.repository.find(sha)
    call.repository.status(sha, str(call.body.get("context", "default")), str(call.body["state"]))
    return 201, call.shapes.status(call.repository, sha, call.repository.statuses[sha][-1])


def list_deployments(call: Call) -> Result:
    """Newest first."""
    found = list(reversed(call.repository.deployments))
    for key in ("sha", "environment"):
        found = [each for each in found if call.query.get(key) in {None, getattr(each, key)}]
    return 200, Listing([call.shapes.deployment(call.repository, each) for each in found])


def post_deployment(call: Call) -> Result:
    sha = call.repository.find(str(call.body["ref"]))
    deployment = call.repository.deploy(sha, environment=str(call.body.get("environment", "production")))
    return 201, call.shapes.deployment(call.repository, deployment)


def list_deployment_statuses(call: Call, number: str) -> Result:
    """Newest first."""
    deployment = _deployment(call, number)
    newest_first = list(reversed(deployment.statuses))
    return 200, Listing([call.shapes.deployment_status(call.repository, deployment, each) for each in newest_first])


def post_deployment_status(call: Call, number: str) -> Result:
    deployment = _deployment(call, number)
    url = str(call.body.get("environment_url", ""))
    status = call.repository.report(deployment, str(call.body["state"]), url)
    return 201, call.shapes.deployment_status(call.repository, deployment, status)


ROUTES: Final[list[tuple[str, str, Callable[..., Result]]]] = [
    ("GET", "", get_repository),
    ("GET", "/branches/(.+)", get_branch),
    ("GET", r"/commits/([^/]+)", get_commit),
    ("GET", r"/commits/([^/]+)/check-runs", list_check_runs),
    ("GET", r"/commits/([^/]+)/status", get_combined_status),
    ("GET", r"/commits/([^/]+)/statuses", list_statuses),
    ("GET", r"/statuses/([^/]+)", list_statuses),
    ("POST", r"/statuses/([0-9a-f]{40})", post_status),
    ("GET", r"/pulls/(\d+)", get_pull),
    ("GET", r"/pulls/(\d+)/reviews", list_reviews),
    ("POST", r"/pulls/(\d+)/reviews", post_review),
    ("GET", r"/pulls/(\d+)/merge", get_merge),
    ("PUT", r"/pulls/(\d+)/merge", put_merge),
    ("GET", "/deployments", list_deployments),
    ("POST", "/deployments", post_deployment),
    ("GET", r"/deployments/(\d+)/statuses", list_deployment_statuses),
    ("POST", r"/deployments/(\d+)/statuses", post_deployment_status),
]


def route(method: str, path: str) -> Callable[[Call], Result]:
    """What is done for a call below ``/repos/{owner}/{repo}``."""
    for wanted, pattern, function in ROUTES:
        match = re.fullmatch(pattern, path)
        if match and method == wanted:
            return lambda call: function(call, *match.groups())
    raise NOT_FOUND


def paged(listing: Listing, url: str, query: Mapping[str, str]) -> tuple[Any, dict[str, str]]:
    """The body of the page that was asked for, and its Link header: 30 a page unless told, at most 100."""
    size = min(max(int(query.get("per_page", "30")), 1), 100)
    page, last = max(int(query.get("page", "1")), 1), max(-(-len(listing.items) // size), 1)
    body = listing.wrap(listing.items[(page - 1) * size : page * size], len(listing.items))
    to = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
    if page <= 1:
        del to["prev"], to["first"]
    if page >= last:
        del to["next"], to["last"]
    others = [f"{key}={value}" for key, value in query.items() if key != "page"]
    links = [f'<{url}?{"&".join([*others, f"page={number}"])}>; rel="{name}"' for name, number in to.items()]
    return body, {"link": ", ".join(links)} if links else {}
