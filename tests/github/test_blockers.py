"""Every blocker of the loop github-delivery: what leads to it, who or what is named, and what clears it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from loop_runner.loops import load_loop
from tests.conftest import LOOPS, ROOT
from tests.stack_client import ok

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.github.delivery import Delivery

    Act = Callable[[Delivery], Any]
    Case = tuple[str, str, str, Act, Act]

MERGED = "NO_DEPLOYMENT_OBSERVATIONS"
"""What stops an issue that was merged and is not deployed yet."""


def link(change: Callable[[str], str | None]) -> Act:
    return lambda delivery: delivery.patch(prUrl=change(delivery.pull_url))


def no_link(delivery: Delivery) -> None:
    delivery.patch(prUrl=None)


def link_again(delivery: Delivery) -> None:
    delivery.patch(prUrl=delivery.pull_url)


def review(*said: tuple[str, str, str]) -> Act:
    """No reviews but these: by whom, what, and what they are to the repository."""

    def act(delivery: Delivery) -> None:
        delivery.pull.reviews.clear()
        for user, state, association in said:
            delivery.pull.review(user, state, association)

    return act


def approve(delivery: Delivery) -> None:
    delivery.pull.approve("eve")


def check(name: str, conclusion: str | None = "success", status: str = "") -> Act:
    return lambda delivery: delivery.pull.check(name, conclusion, status)


def status(name: str, state: str = "success") -> Act:
    return lambda delivery: delivery.pull.status(name, state)


def failed_and_running(delivery: Delivery) -> None:
    delivery.pull.check("e2e", "failure")
    delivery.pull.check("unit", None)


def skipped_and_neutral(delivery: Delivery) -> None:
    delivery.pull.check("e2e", "skipped")
    delivery.pull.check("unit", "neutral")


def put(**attributes: Any) -> Act:
    """Give the pull request these attributes."""
    return lambda delivery: delivery.pull.__dict__.update(attributes)


def deploy(*states: str, environment: str = "production") -> Act:
    return lambda delivery: delivery.pull.deploy(*states, environment=environment)


def deploy_twice(delivery: Delivery) -> None:
    delivery.pull.deploy("success")
    delivery.pull.deploy("failure")


BEFORE_THE_MERGE: list[Case] = [
    ("no address", "NO_PR_LINKED", "prUrl", no_link, link_again),
    ("of an issue", "NO_PR_LINKED", "prUrl", link(lambda url: url.replace("/pull/", "/issues/")), link_again),
    ("of a host", "NO_PR_LINKED", "127.0.0.1", link(lambda url: url.replace("127.0.0.1", "127.0.0.2")), link_again),
    ("beside the list", "REPOSITORY_NOT_ALLOWED", "evil/", link(lambda url: url.replace("acme/", "evil/")), link_again),
    ("of none", "PR_NOT_FOUND", "100", link(lambda url: f"{url}00"), link_again),
    (
        "of a hidden repository",
        "PR_NOT_FOUND",
        "acme/no",
        link(lambda url: url.replace("acme/", "acme/no")),
        link_again,
    ),
    ("closed", "PR_CLOSED", "", put(closed=True), put(closed=False)),
    ("draft", "PR_DRAFT", "", put(draft=True), put(draft=False)),
    ("no review", "NO_REVIEW_APPROVAL", "", review(), approve),
    ("approved by its author", "NO_REVIEW_APPROVAL", "", review(("ann", "APPROVED", "OWNER")), approve),
    ("approved from outside", "NO_REVIEW_APPROVAL", "", review(("bob", "APPROVED", "CONTRIBUTOR")), approve),
    (
        "changes requested from outside",
        "CHANGES_REQUESTED",
        "eve",
        review(("bob", "APPROVED", "MEMBER"), ("eve", "CHANGES_REQUESTED", "CONTRIBUTOR")),
        approve,
    ),
    ("dismissed", "NO_REVIEW_APPROVAL", "", lambda delivery: delivery.pull.dismiss("bob"), approve),
    (
        "approved, then a request that was dismissed",
        "NO_REVIEW_APPROVAL",
        "",
        review(("eve", "APPROVED", "MEMBER"), ("eve", "DISMISSED", "MEMBER")),
        approve,
    ),
    ("commented", "NO_REVIEW_APPROVAL", "", review(("bob", "COMMENTED", "MEMBER")), approve),
    (
        "changes requested, then commented",
        "CHANGES_REQUESTED",
        "eve",
        review(("eve", "CHANGES_REQUESTED", "MEMBER"), ("eve", "COMMENTED", "MEMBER"), ("bob", "APPROVED", "MEMBER")),
        approve,
    ),
    (
        "approved, then changes requested",
        "CHANGES_REQUESTED",
        "eve",
        review(("bob", "APPROVED", "OWNER"), ("eve", "APPROVED", "MEMBER"), ("eve", "CHANGES_REQUESTED", "MEMBER")),
        lambda delivery: delivery.pull.dismiss("eve"),
    ),
    ("no checks", "NO_CHECKS_FOUND", "", lambda delivery: delivery.pull.push(), check("build")),
    ("status pending", "CHECKS_PENDING", "slow", status("slow", "pending"), status("slow")),
    ("status failure", "CHECKS_FAILED", "e2e", status("e2e", "failure"), status("e2e")),
    ("status error", "CHECKS_FAILED", "e2e", status("e2e", "error"), status("e2e")),
    ("one failed, one runs", "CHECKS_FAILED", "e2e", failed_and_running, skipped_and_neutral),
    *(
        (f"check {state}", "CHECKS_PENDING", "e2e", check("e2e", None, state), check("e2e"))
        for state in ("queued", "in_progress", "waiting", "requested", "pending")
    ),
    *(
        (f"check {conclusion}", "CHECKS_FAILED", "e2e", check("e2e", conclusion), check("e2e"))
        for conclusion in ("failure", "timed_out", "cancelled", "action_required", "startup_failure", "stale")
    ),
    ("conflict", "MERGE_CONFLICT", "", put(mergeable=False), put(mergeable=True)),
    ("rule", "PR_NOT_MERGED", "merge queue", put(rule="Use the merge queue"), put(rule="")),
]

AFTER_THE_MERGE: list[Case] = [
    ("not deployed", MERGED, "production", lambda _: None, deploy("success")),
    ("elsewhere", MERGED, "production", deploy("success", environment="staging"), deploy("success")),
    ("in progress", MERGED, "in_progress", deploy("queued", "in_progress"), deploy("success")),
    ("failed", "NO_GREEN_VERDICT", "failure", deploy("in_progress", "failure"), deploy("success")),
    ("error", "NO_GREEN_VERDICT", "error", deploy("error"), deploy("success")),
    ("failed after a success", "NO_GREEN_VERDICT", "failure", deploy_twice, deploy("success")),
]


def parameters(cases: list[Case]) -> list[Any]:
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


@pytest.mark.parametrize(("code", "names", "act", "clear"), parameters(BEFORE_THE_MERGE))
def test_what_is_in_the_way_of_the_merge_is_named_and_once_it_is_gone_the_issue_is_merged(
    delivery: Delivery, code: str, names: str, act: Act, clear: Act
) -> None:
    delivery.make_ready()
    act(delivery)
    said, message = delivery.blocker()
    assert (said, names in message) == (code, True), message
    assert not delivery.pull.merged
    clear(delivery)
    assert delivery.blocker()[0] == MERGED


@pytest.mark.parametrize(("code", "names", "act", "clear"), parameters(AFTER_THE_MERGE))
def test_what_is_in_the_way_of_the_verdict_is_named_and_once_it_is_gone_the_issue_is_closed(
    delivery: Delivery, code: str, names: str, act: Act, clear: Act
) -> None:
    delivery.pull.merge()
    act(delivery)
    said, message = delivery.blocker()
    assert (said, names in message) == (code, True), message
    clear(delivery)
    assert delivery.go()["stateAfter"] == "CLOSED"


def test_observation_of_yesterday_is_no_evidence(delivery: Delivery) -> None:
    delivery.pull.merge()
    assert delivery.blocker()[0] == MERGED
    with psycopg.connect(delivery.stack.database_url) as connection:
        facts = '{"deployment": {"observedAt": "2026-01-01T00:00:00Z"}, "verdict": "GREEN"}'
        connection.execute("UPDATE loop_issues SET facts = facts || %s::jsonb WHERE id = %s", [facts, delivery.id])
    ok(delivery.call("POST", f"{delivery.path}/state", {"state": "OBSERVED", "reason": "it was observed, once"}))
    assert delivery.blocker()[0] == "STALE_EVIDENCE"


def test_repository_beside_the_list_is_asked_nothing(delivery: Delivery) -> None:
    delivery.patch(prUrl=delivery.pull_url.replace("acme/", "evil/"))
    assert delivery.blocker()[0] == "REPOSITORY_NOT_ALLOWED"
    assert delivery.github.log == []


def test_every_blocker_of_the_loop_and_its_function_is_among_these_cases() -> None:
    gates = {gate.blocker for step in load_loop(LOOPS / "github-delivery.toml").steps for gate in step.require}
    code = "".join(path.read_text() for path in (ROOT / "functions/github_steps").rglob("*.py"))
    blockers = gates | set(re.findall(r'BlockedError\(\s*"(\w+)"', code))
    assert {case[1] for case in BEFORE_THE_MERGE + AFTER_THE_MERGE} | {"STALE_EVIDENCE"} == blockers
