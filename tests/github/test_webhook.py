"""The loop github-delivery with nobody to call: what GitHub delivers brings an issue to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.stack_client import wait_until
from tests.webhook_client import deliver

if TYPE_CHECKING:
    from tests.github.delivery import Delivery
    from tests.github.world import Deployment, PullRequest


class Github:
    """What GitHub delivers of a pull request, and what becomes of its issue."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery, self.pull = delivery, delivery.pull

    def tells(self, event: str, **payload: Any) -> None:
        """Deliver, and wait until the issue goes no further."""
        pull, before = self.pull, len(self.delivery.runs())
        repository = {"id": pull.repository.id, "full_name": pull.repository.name}
        answer = deliver(self.delivery.url, event, {**payload, "repository": repository})
        assert (answer.status, answer.json()["passedOn"]) == (202, True), answer.body
        wait_until(lambda: len(self.delivery.runs()) > before)
        wait_until(self._rests)

    def reviewed(self, action: str = "submitted") -> None:
        self.tells("pull_request_review", action=action, pull_request={"number": self.pull.number})

    def checked(self, *, is_fork: bool = False) -> None:
        base = {"repo": {"id": self.pull.repository.id}}
        listed = [] if is_fork else [{"number": self.pull.number, "base": base}]
        branch = None if is_fork else self.pull.branch
        suite = {"head_sha": self.pull.head, "head_branch": branch, "pull_requests": listed}
        self.tells("check_suite", action="completed", check_suite=suite)

    def reported(self) -> None:
        self.tells("status", state="success", sha=self.pull.head, branches=[{"name": self.pull.branch}])

    def deployed(self, deployment: Deployment) -> None:
        state = deployment.statuses[-1].state
        self.tells("deployment_status", deployment_status={"state": state}, deployment={"sha": deployment.sha})

    def _rests(self) -> bool:
        last = self.delivery.runs()[-1]
        return last["status"] in {"blocked", "failed"} or last["loopStatus"] == "completed"

    @property
    def blocker(self) -> str:
        return str(self.delivery.runs()[-1]["blockerCode"])


@pytest.fixture
def told(delivery: Delivery) -> Github:
    return Github(delivery)


@pytest.fixture
def pull(delivery: Delivery) -> PullRequest:
    return delivery.pull


def test_issue_goes_from_its_pull_request_to_its_end_by_what_github_tells(
    delivery: Delivery, told: Github, pull: PullRequest
) -> None:
    pull.request_changes("bob")
    told.reviewed()
    assert (delivery.state, told.blocker) == ("CREATED", "CHANGES_REQUESTED")
    pull.approve("bob")
    pull.check("build", None)
    told.reviewed()
    assert (delivery.state, told.blocker) == ("REVIEW_READY", "CHECKS_PENDING")
    pull.check("build")
    told.checked()
    assert (delivery.state, told.blocker, len(pull.merges)) == ("DONE", "NO_DEPLOYMENT_OBSERVATIONS", 1)
    deployment = pull.deploy("in_progress", "success")
    told.deployed(deployment)
    assert (delivery.state, len(pull.merges)) == ("CLOSED", 1)
    assert {run["actor"] for run in delivery.runs()} == {"github"}


def test_status_of_a_later_head_is_of_the_pull_request_by_its_branch(
    delivery: Delivery, told: Github, pull: PullRequest
) -> None:
    """The commit that was reviewed is not the one that is reported on, and a status names no pull request."""
    pull.approve("bob")
    told.reviewed()
    assert (delivery.state, told.blocker) == ("REVIEW_READY", "NO_CHECKS_FOUND")
    pull.push()
    pull.approve("bob")
    pull.status("ci")
    told.reported()
    assert (delivery.state, [merge.head for merge in pull.merges]) == ("DONE", [pull.head])


def test_check_of_a_fork_is_of_the_pull_request_by_its_head(
    delivery: Delivery, told: Github, pull: PullRequest
) -> None:
    pull.approve("bob")
    told.reviewed()
    pull.check("build")
    told.checked(is_fork=True)
    assert (delivery.state, len(pull.merges)) == ("DONE", 1)


def test_review_that_was_dismissed_merges_nothing_whatever_else_github_tells(
    delivery: Delivery, told: Github, pull: PullRequest
) -> None:
    pull.approve("bob")
    told.reviewed()
    pull.dismiss("bob")
    pull.check("build")
    told.checked()
    assert (delivery.state, told.blocker, pull.merges) == ("REVIEW_READY", "NO_REVIEW_APPROVAL", [])
    told.reviewed("dismissed")
    assert (told.blocker, pull.merges) == ("NO_REVIEW_APPROVAL", [])


def test_merge_by_somebody_is_taken_over_when_github_tells(delivery: Delivery, told: Github, pull: PullRequest) -> None:
    pull.approve("bob")
    told.reviewed()
    pull.merge("zoe")
    told.tells("pull_request", action="closed", pull_request={"number": pull.number})
    assert (delivery.state, delivery.facts["pr"]["mergedBy"], len(pull.merges)) == ("DONE", "zoe", 1)


def test_what_is_told_of_another_pull_request_leaves_the_issue_alone(
    delivery: Delivery, told: Github, pull: PullRequest
) -> None:
    other = pull.repository.pull()
    deliver(
        delivery.url,
        "pull_request_review",
        {
            "action": "submitted",
            "pull_request": {"number": other.number},
            "repository": {"id": pull.repository.id, "full_name": pull.repository.name},
        },
    )
    told.reviewed()
    assert len(delivery.runs()) == 1, "of the second one, which came after it"
