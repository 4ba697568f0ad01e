"""The loop github-delivery from its first call to its end, over HTTP, its GitHub being the fake one."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.github.delivery import Delivery
from tests.github.faults import CUT, LOST, Fault, forbidden, rate_limit, secondary_rate_limit, server_error, slow
from tests.integration.test_walks_with_steps import assert_timeline_is_whole
from tests.stack_client import error_of, wait_until

if TYPE_CHECKING:
    from tools.local.stack import Stack

FUNCTION = "GithubStepsFunction"


def seconds_until_retry(delivery: Delivery) -> float:
    """From the end of the last run until its next attempt."""
    ended, due = (
        datetime.fromisoformat(at) for at in (delivery.last_run()["completedAt"], delivery.get()["nextAttemptAt"])
    )
    return (due - ended).total_seconds()


# ------------------------------------------------------------------------------------------------- the way through


def test_issue_is_merged_by_one_call_and_closed_by_another_when_it_is_deployed(delivery: Delivery) -> None:
    delivery.make_ready()
    head = delivery.pull.head
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    delivery.pull.deploy("in_progress", "success", url="https://shop.example.org")
    assert delivery.go()["stateAfter"] == "CLOSED"

    (merge,) = delivery.pull.merges
    assert (merge.asked, merge.method, merge.by) == (head, "squash", "loop-runner")
    facts = delivery.facts
    pull = facts["pr"]
    assert pull | {"url": delivery.pull_url, "number": 1, "headSha": head, "baseRef": "main", "author": "ann"} == pull
    assert (pull["merged"], pull["mergedBy"], pull["mergeSha"]) == (True, "loop-runner", delivery.pull.merge_commit)
    assert pull["repository"] == delivery.pull.repository.name
    assert (facts["review"]["decision"], facts["review"]["approvedBy"]) == ("approved", ["bob"])
    assert (facts["checks"]["status"], facts["checks"]["sha"], facts["checks"]["count"]) == ("success", head, 2)
    deployment = facts["deployment"]
    assert (deployment["environment"], deployment["sha"]) == ("production", delivery.pull.merge_commit)
    assert (deployment["state"], deployment["url"]) == ("success", "https://shop.example.org")
    assert facts["verdict"] == "GREEN"
    executed = [step["stepType"] for run in delivery.runs() for step in delivery.run_of(run["runId"])["steps"]]
    assert [each for each in executed if each != "S6_DEPLOYMENT_OBSERVE"] == [
        "S4_REVIEW",
        "S5_MERGE",
        "S7_VERIFY_GATE",
        "S8_CLOSE",
    ]
    assert_timeline_is_whole(delivery)


def test_dry_run_asks_github_nothing(delivery: Delivery) -> None:
    answer = delivery.call("POST", f"{delivery.path}/run-next-step", {"mode": "dryRun"}).json()
    assert answer["nextStep"]["stepType"] == "S4_REVIEW"
    assert delivery.github.log == []


def test_what_github_says_is_for_steps_only_to_write(delivery: Delivery) -> None:
    for fact in ("pr", "review", "checks", "deployment", "verdict"):
        assert error_of(delivery.call("PATCH", delivery.path, {fact: {"merged": True}})) == (403, "FORBIDDEN")
    delivery.patch(prUrl=delivery.pull_url)


# ------------------------------------------------------------------------------------------------- what is in the way


def test_blocking_review_on_the_second_page_is_seen(delivery: Delivery) -> None:
    for number in range(100):
        delivery.pull.approve(f"user-{number}")
    delivery.pull.request_changes("eve")
    code, message = delivery.blocker()
    assert (code, "eve" in message) == ("CHANGES_REQUESTED", True)
    delivery.pull.approve("eve")
    delivery.pull.check()
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert len(delivery.facts["review"]["approvedBy"]) == 101


@pytest.mark.parametrize("kind", ["check run", "status"])
def test_failing_check_after_a_hundred_others_is_seen(delivery: Delivery, kind: str) -> None:
    delivery.pull.approve()
    for number in range(101):  # the newest is first: the one that fails is the last of all
        conclusion = "success" if number else "failure"
        if kind == "check run":
            delivery.pull.check(f"check-{number}", conclusion)
        else:
            delivery.pull.status(f"check-{number}", conclusion)
    code, message = delivery.blocker()
    assert (code, "check-0" in message) == ("CHECKS_FAILED", True)
    if kind == "check run":
        delivery.pull.check("check-0")
    else:
        delivery.pull.status("check-0")
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert delivery.facts["checks"]["count"] == 101


def test_page_that_does_not_come_is_not_taken_for_the_end(delivery: Delivery) -> None:
    delivery.pull.approve()
    for number in range(101):
        delivery.pull.check(f"check-{number}", "success" if number else "failure")
    delivery.github.on("GET .*/check-runs.*page=2", CUT)
    assert delivery.blocker()[0] == "CHECKS_FAILED"
    assert delivery.errors() == ["GitHub.Unreachable"]
    assert not delivery.github.requests("PUT")


def test_review_that_changes_after_the_review_step_stops_the_merge(delivery: Delivery) -> None:
    delivery.make_ready()
    delivery.github.on("GET .*/reviews", lambda: delivery.pull.request_changes("eve"), nth=2)
    code, message = delivery.blocker()
    assert (code, "eve" in message, delivery.state) == ("CHANGES_REQUESTED", True, "REVIEW_READY")
    assert not delivery.github.requests("PUT")


def test_review_that_changes_after_the_last_look_is_the_branch_rule_s_to_refuse(delivery: Delivery) -> None:
    delivery.make_ready()
    rule = "At least 1 approving review is required by reviewers with write access."

    def dismiss() -> None:
        delivery.pull.dismiss("bob")
        delivery.pull.rule = rule

    delivery.github.on("PUT .*/merge", dismiss)
    code, message = delivery.blocker()
    assert (code, rule in message) == ("PR_NOT_MERGED", True)
    delivery.pull.approve()
    delivery.pull.rule = ""
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"


def test_head_that_moves_after_the_checks_is_not_merged_until_it_is_checked(delivery: Delivery) -> None:
    delivery.make_ready()
    before = delivery.pull.head
    delivery.github.on("PUT .*/merge", delivery.pull.push)
    code, message = delivery.blocker()
    assert code == "CHECKS_PENDING"
    assert before[:7] in message
    assert delivery.pull.head[:7] in message
    assert delivery.blocker()[0] == "NO_CHECKS_FOUND", "the new head has no check yet"
    delivery.pull.check()
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert delivery.facts["checks"]["sha"] == delivery.facts["pr"]["headSha"] == delivery.pull.head != before


def test_pull_request_that_was_reviewed_is_merged_whatever_is_linked_since(delivery: Delivery) -> None:
    delivery.pull.approve()
    delivery.pull.check("build", None)
    assert delivery.blocker()[0] == "CHECKS_PENDING"
    other = delivery.pull.repository.pull("mallory")
    other.check()
    delivery.patch(prUrl=delivery.github.pull_url(other))
    delivery.pull.check("build")
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert (delivery.pull.merged, other.merged) == (True, False)


@pytest.mark.parametrize(("name", "code"), [("closed", "PR_CLOSED"), ("draft", "PR_DRAFT")])
def test_pull_request_that_changes_after_its_review_is_not_merged(delivery: Delivery, name: str, code: str) -> None:
    delivery.make_ready()
    delivery.github.on("GET .*/pulls/1$", lambda: setattr(delivery.pull, name, True), nth=2)
    assert (delivery.blocker()[0], delivery.state) == (code, "REVIEW_READY")
    assert not delivery.github.requests("PUT")


def test_deployment_that_a_later_one_has_replaced_was_a_success(delivery: Delivery) -> None:
    delivery.pull.merge()
    deployment = delivery.pull.deploy("success")
    delivery.pull.repository.deploy(delivery.pull.repository.commit("main"), "success")
    assert deployment.statuses[-1].state == "inactive"
    assert delivery.go()["stateAfter"] == "CLOSED"
    assert delivery.facts["deployment"]["id"] == deployment.id


# ------------------------------------------------------------------------------------------------- one merge


def test_merge_by_somebody_else_is_taken_for_what_it_is(delivery: Delivery) -> None:
    delivery.make_ready()
    delivery.github.on("PUT .*/merge", lambda: delivery.pull.merge("zoe"))
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    facts = delivery.facts["pr"]
    assert (facts["mergedBy"], facts["mergeSha"]) == ("zoe", delivery.pull.merge_commit)


def test_pull_request_that_was_merged_before_goes_through_without_a_second_merge(delivery: Delivery) -> None:
    delivery.pull.merge("zoe")
    delivery.pull.deploy("success")
    assert delivery.go()["stateAfter"] == "CLOSED"
    assert not delivery.github.requests("PUT")
    assert delivery.facts["pr"]["mergedBy"] == "zoe"


@pytest.mark.parametrize("fault", [LOST, server_error(502, effect=True), slow(30)], ids=["lost", "502", "too late"])
def test_merge_whose_answer_was_lost_is_found_by_the_next_attempt(delivery: Delivery, fault: Fault) -> None:
    delivery.make_ready()
    delivery.github.on("PUT .*/merge", fault)
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert delivery.errors() == ["GitHub.ServerError" if fault.status else "GitHub.Unreachable"]
    assert delivery.facts["pr"]["mergeSha"] == delivery.pull.merge_commit
    assert len(delivery.github.requests("PUT .*/merge")) == 1


def test_merge_whose_process_was_killed_before_it_could_tell_is_found(delivery: Delivery, stack: Stack) -> None:
    delivery.make_ready()

    def kill() -> Fault:
        (pid,) = stack.busy_pids(FUNCTION)
        os.kill(pid, signal.SIGKILL)
        return LOST

    delivery.github.on("PUT .*/merge", kill)
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert delivery.errors() == ["Runtime.ExitError"]
    assert len(delivery.github.requests("PUT .*/merge")) == 1


def test_merge_whose_runner_was_killed_before_it_could_record_it_is_found(delivery: Delivery, stack: Stack) -> None:
    delivery.make_ready()

    def kill() -> None:
        (pid,) = stack.busy_pids("RunWorkerFunction")  # the merge follows the review by itself
        os.kill(pid, signal.SIGKILL)

    delivery.github.on("PUT .*/merge", kill)
    delivery.run()
    wait_until(lambda: delivery.pull.merged)
    with psycopg.connect(stack.database_url) as connection:
        connection.execute(
            "UPDATE loop_runs SET lease_expires_at = now() WHERE issue_id = %s AND completed_at IS NULL", [delivery.id]
        )
    wait_until(lambda: delivery.call("POST", f"{delivery.path}/run-next-step", {}).status == 200)
    wait_until(lambda: delivery.state == "DONE")
    assert "LEASE_EXPIRED" in [run["errorCode"] for run in delivery.runs()]
    assert delivery.facts["pr"]["mergeSha"] == delivery.pull.merge_commit
    assert len(delivery.github.requests("PUT .*/merge")) == 1


def test_callers_at_once_merge_once(delivery: Delivery) -> None:
    delivery.make_ready()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: delivery.call("POST", f"{delivery.path}/run-next-step", {}), range(8)))
    assert {answer.status for answer in answers} <= {200, 409}
    wait_until(lambda: delivery.state == "DONE")
    assert len(delivery.github.requests("PUT .*/merge")) == 1


def test_two_issues_of_one_pull_request_merge_it_once(delivery: Delivery, stack: Stack) -> None:
    delivery.make_ready()
    other = Delivery(stack, delivery.github, delivery.pull)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Delivery.go, (delivery, other)))
    for each in (delivery, other):
        assert each.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert delivery.facts["pr"]["mergeSha"] == other.facts["pr"]["mergeSha"] == delivery.pull.merge_commit


# ------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (rate_limit(90), 88),
        (rate_limit(90, status=429), 88),
        (secondary_rate_limit(30), 30),
        (secondary_rate_limit(30, status=429), 30),
        (secondary_rate_limit(), 60),
    ],
    ids=["primary", "primary, 429", "secondary", "secondary, 429", "secondary without Retry-After"],
)
def test_rate_limit_is_waited_for_and_spends_no_more_calls(delivery: Delivery, fault: Fault, seconds: int) -> None:
    delivery.make_ready()
    delivery.github.on("GET .*/reviews", fault)
    run = delivery.go()
    assert (run["status"], run["errorCode"]) == ("failed", "GitHub.RateLimit")
    assert seconds <= seconds_until_retry(delivery) <= seconds + 10
    assert len(delivery.github.requests("GET .*/reviews")) == 1, "the step itself does not wait and ask again"
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"


@pytest.mark.parametrize("fault", [server_error(500), server_error(503, retry_after=1), CUT], ids=["500", "503", "cut"])
def test_fault_of_github_is_over_by_itself(delivery: Delivery, fault: Fault) -> None:
    delivery.make_ready()
    delivery.github.on("GET .*/check-runs", fault)
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert delivery.errors() == ["GitHub.Unreachable" if fault is CUT else "GitHub.ServerError"]
    assert "loop_retry_planned" in [event["eventType"] for event in delivery.events()]


def test_permission_that_is_missing_is_named_and_not_tried_again(delivery: Delivery) -> None:
    delivery.make_ready()
    delivery.github.on("GET .*/check-runs", forbidden())
    code, message = delivery.failure()
    assert code == "GitHub.Forbidden"
    assert "checks" in message.lower()
    assert "nextAttemptAt" not in delivery.get()
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
