"""The loops that ship, walked to their ends on the local stack: over HTTP only, their functions really invoked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from loop_runner.loops import load_loop
from tests.conftest import LOOPS, create_database, drop_database
from tests.integration.test_walk import FACTS, call_that_clears
from tests.stack_client import ENDED, Issue, error_of, ok
from tools.local.stack import Stack

Register = Callable[..., Issue]

END_OF_RUN = {"loop_run_finished", "loop_run_blocked", "loop_run_failed", "loop_run_cancelled"}


@pytest.fixture(scope="module")
def stack(server_url: str, migrated_template: str) -> Iterator[Stack]:
    url = create_database(server_url, migrated_template)
    with Stack(port=0, database_url=url, environment={"PATH": os.environ["PATH"]}) as stack:
        yield stack
    drop_database(server_url, url)


@pytest.fixture
def register(stack: Stack) -> Register:
    """Registers an issue of the test's own."""

    def make(loop: str, **facts: Any) -> Issue:
        issue = Issue(stack.url, f"{loop}-{uuid4().hex[:8]}")
        issue.register(loop, **facts)
        return issue

    return make


def acknowledge(stack: Stack, issue: Issue, by: str) -> dict[str, Any]:
    """Answer the page as the person who is on call does: from another process, which knows nothing but the page."""
    script = """
import json, sys, urllib.error, urllib.request
page = json.load(open(sys.argv[1]))
body = json.dumps(page["body"]).replace("<who>", sys.argv[2]).encode()
try:
    with urllib.request.urlopen(urllib.request.Request(page["url"], body, {"x-afu9-sub": sys.argv[2]})) as answer:
        print(json.dumps({"status": answer.status, **json.load(answer)}))
except urllib.error.HTTPError as error:
    print(json.dumps({"status": error.status, **json.load(error)}))
"""
    page = stack.world / "pages" / f"{issue.id}.json"
    done = subprocess.run([sys.executable, "-c", script, page, by], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def assert_timeline_is_whole(issue: Issue) -> None:
    """Every run has ended; in the timeline it begins once and ends once, in that order."""
    runs = issue.runs()
    assert {run["status"] for run in runs} <= ENDED
    events = issue.events()
    for run in runs:
        own = [event["eventType"] for event in events if event.get("runId") == run["runId"]]
        assert own[own[0] == "loop_run_queued"] == "loop_run_started"
        assert len([each for each in own if each in END_OF_RUN]) == 1


def now() -> str:
    return datetime.now(UTC).isoformat()


def test_issue_delivery_is_closed_by_doing_what_the_answers_say(register: Register) -> None:
    issue = register("issue-delivery")
    codes, executed = [], []
    answer = issue.run()
    while answer["loopStatus"] != "completed":
        if "blocker" in answer:
            codes.append(answer["blocker"]["code"])
            ok(issue.call(*call_that_clears(answer["blocker"]["message"])))
        else:
            executed.append(answer["stepExecuted"]["stepType"])
        answer = issue.run()
    loop = load_loop(LOOPS / "issue-delivery.toml")
    assert codes == [gate.blocker for step in loop.steps for gate in step.require]
    assert [*executed, answer["stepExecuted"]["stepType"]] == [step.type for step in loop.steps]
    assert issue.get()["state"] == "CLOSED"
    assert_timeline_is_whole(issue)


def test_issue_delivery_runs_in_the_background_where_a_caller_prefers_it(register: Register) -> None:
    issue = register("issue-delivery", draft={"committed": True, "status": "valid"}, **FACTS)
    queued = issue.queue({"prefer": "respond-async"})
    run = issue.wait_for_end(queued)
    assert (run["status"], run["stateAfter"], run["actor"]) == ("completed", "SPEC_READY", issue.actor)
    assert [(step["stepType"], step["status"]) for step in run["steps"]] == [
        ("S1_PICK_ISSUE", "skipped"),
        ("S2_SPEC_READY", "completed"),
    ]
    assert_timeline_is_whole(issue)


def test_severe_incident_is_paged_rejected_approved_by_a_second_person_and_mitigated_again(
    register: Register, stack: Stack
) -> None:
    issue = register("incident-runbook", service="shop", severity="high", lastDeployment="v42")

    issue.queue()
    issue.wait_for_state("DIAGNOSED")
    waiting = issue.run()
    assert (waiting["stepExecuted"]["status"], waiting["loopStatus"]) == ("running", "paused")
    assert error_of(issue.call("POST", f"{issue.path}/run-next-step", {})) == (409, "LOOP_CONFLICT")
    assert acknowledge(stack, issue, "olga")["status"] == "completed"
    assert acknowledge(stack, issue, "olga")["error"]["code"] == "RUN_FINISHED"
    assert issue.get()["facts"]["acknowledgedBy"] == "olga"

    assert issue.run()["blocker"]["code"] == "NO_PLAN"
    issue.patch(plan={"action": "restart"})
    assert issue.run()["blocker"]["code"] == "APPROVAL_REQUIRED"
    assert error_of(issue.decide("approved", actor=issue.actor)) == (403, "FORBIDDEN")
    assert error_of(issue.decide("approved", actor="bob", headers={})) == (428, "PRECONDITION_REQUIRED")
    assert error_of(issue.decide("approved", actor="bob", headers={"if-match": '"1"'})) == (412, "PRECONDITION_FAILED")
    ok(issue.decide("rejected", actor="bob", comment="why restart?"))
    assert issue.run()["stepExecuted"]["status"] == "completed"
    assert issue.get()["state"] == "REPORTED"

    issue.queue()
    issue.wait_for_state("DIAGNOSED")
    assert "olga is at work already" in issue.run()["message"]
    assert issue.run()["blocker"]["code"] == "APPROVAL_REQUIRED"
    ok(issue.decide("approved", actor="bob"))
    for state in ("APPROVED", "MITIGATED", "PLANNING"):
        assert issue.run()["loopStatus"] == "active"
        assert issue.get()["state"] == state

    assert issue.run()["blocker"]["code"] == "APPROVAL_REQUIRED", "what was approved once is not approved for ever"
    issue.patch(plan={"action": "rollback"})
    ok(issue.decide("approved", actor="bob"))
    for state in ("APPROVED", "MITIGATED", "RECOVERED"):
        issue.run()
        assert issue.get()["state"] == state
    assert issue.run()["blocker"]["code"] == "NO_POSTMORTEM"
    issue.patch(postmortem={"url": "https://example.org/postmortems/1"})
    assert issue.run()["loopStatus"] == "completed"
    assert issue.get()["state"] == "CLOSED"

    tokens = {run["runId"] for run in issue.runs() if run["stateAfter"] == "MITIGATED"}
    done = {path.stem: json.loads(path.read_text()) for path in (stack.world / "mitigations").iterdir()}
    assert [done[token]["action"] for token in sorted(tokens)] == ["restart", "rollback"]
    decided = [each["eventData"] for each in issue.events() if each["eventType"] == "loop_approval_decided"]
    assert [(each["actor"], each["decision"], each.get("comment")) for each in decided] == [
        ("bob", "rejected", "why restart?"),
        ("bob", "approved", None),
        ("bob", "approved", None),
    ]
    assert_timeline_is_whole(issue)


def test_incident_of_low_severity_is_diagnosed_at_the_third_attempt_pages_nobody_and_is_not_reviewed(
    register: Register, stack: Stack
) -> None:
    issue = register("incident-runbook", service="shop", severity="low", plan={"action": "restart"})
    issue.queue()
    assert issue.wait_for_state("DIAGNOSED")["facts"]["diagnosis"]["suspect"] == "load"
    runs = issue.runs()
    assert [(run["attempt"], run["status"], run.get("errorCode")) for run in runs] == [
        (1, "failed", "Telemetry.Incomplete"),
        (2, "failed", "Telemetry.Incomplete"),
        (3, "completed", None),
    ]
    assert [run.get("retryOf") for run in runs] == [None, runs[0]["runId"], runs[1]["runId"]]
    assert {run["actor"] for run in runs} == {issue.actor}

    assert issue.run()["blocker"]["code"] == "APPROVAL_REQUIRED"
    ok(issue.decide("approved", actor="bob"))
    steps = issue.run_of(issue.run()["runId"])["steps"]
    assert [(step["stepType"], step["status"]) for step in steps] == [("PAGE", "skipped"), ("APPROVE", "completed")]
    for _ in ("MITIGATE", "VERIFY"):
        assert issue.run()["loopStatus"] == "active"
    last = issue.run()
    assert last["loopStatus"] == "completed"
    steps = issue.run_of(last["runId"])["steps"]
    assert [(step["stepType"], step["status"]) for step in steps] == [("REVIEW", "skipped")]
    assert issue.get()["state"] == "CLOSED"
    assert not (stack.world / "pages" / f"{issue.id}.json").exists()
    assert_timeline_is_whole(issue)


def test_page_that_is_cancelled_leaves_the_incident_and_its_answer_comes_too_late(
    register: Register, stack: Stack
) -> None:
    issue = register("incident-runbook", service="shop", severity="high")
    by_hand = {"state": "DIAGNOSED", "reason": "seen before"}
    before = ok(issue.call("POST", f"{issue.path}/state", by_hand))
    run_id = issue.run()["runId"]
    cancelled = ok(issue.cancel(run_id, "false alarm"))
    assert (cancelled["status"], cancelled["cancelRequestedBy"]) == ("cancelled", issue.actor)
    assert [step["status"] for step in cancelled["steps"]] == ["cancelled"]
    assert acknowledge(stack, issue, "olga")["error"]["code"] == "RUN_FINISHED"
    after = issue.get()
    assert [after[key] for key in ("state", "facts", "version")] == [
        before[key] for key in ("state", "facts", "version")
    ]
    issue.run()
    assert acknowledge(stack, issue, "olga")["status"] == "completed"
    assert issue.get()["state"] == "PLANNING"
    (set_by_hand,) = [each["eventData"] for each in issue.events() if each["eventType"] == "loop_state_set"]
    assert (set_by_hand["stateAfter"], set_by_hand["reason"]) == ("DIAGNOSED", "seen before")
    assert_timeline_is_whole(issue)


SPEC = {"githubUrl": "https://github.com/acme/app/issues/7", "spec": {"status": "valid"}}


def test_change_of_low_risk_is_implemented_by_an_agent_and_merged_without_review(
    register: Register, stack: Stack
) -> None:
    issue = register("agent-merge", risk="low")
    for fact, code in zip(SPEC.items(), ("NO_GITHUB_LINK", "DRAFT_INVALID"), strict=True):
        assert issue.run()["blocker"]["code"] == code
        issue.patch(**dict([fact]))
    issue.run()
    pr = issue.wait_for_state("IN_REVIEW")["facts"]["pr"]
    assert pr["url"] == "https://github.com/acme/app/pull/7"
    assert error_of(issue.call("PATCH", issue.path, {"pr": {"headSha": "mine"}})) == (403, "FORBIDDEN")
    issue.patch(checks={"sha": "another", "finishedAt": now()})
    assert issue.run()["blocker"]["code"] == "CHECKS_STALE"
    issue.patch(checks={"sha": pr["headSha"]})
    merge = issue.wait_for_end(issue.queue())
    assert merge["loopStatus"] == "completed"
    steps = merge["steps"]
    assert [(step["stepType"], step["status"]) for step in steps] == [("REVIEW", "skipped"), ("MERGE", "completed")]
    assert issue.get()["state"] == "MERGED"
    assert json.loads((stack.world / "merges" / f"{pr['headSha']}.json").read_text())["by"] == merge["runId"]
    assert_timeline_is_whole(issue)


def test_change_that_is_rejected_is_made_again_and_merged_when_somebody_else_approves(
    register: Register, stack: Stack
) -> None:
    issue = register("agent-merge", risk="high", **SPEC)
    heads = []
    for decision, state in (("rejected", "REWORK"), ("approved", "APPROVED")):
        issue.run()
        heads.append(issue.wait_for_state("IN_REVIEW")["facts"]["pr"]["headSha"])
        assert issue.run()["blocker"]["code"] == "APPROVAL_REQUIRED"
        assert error_of(issue.decide("approved", actor=issue.actor)) == (403, "FORBIDDEN")
        ok(issue.decide(decision, actor="bob"))
        issue.run()
        assert issue.get()["state"] == state
    assert heads[0] != heads[1]
    issue.patch(checks={"sha": heads[1], "finishedAt": now()})
    assert issue.wait_for_end(issue.queue())["loopStatus"] == "completed"
    assert [(stack.world / "merges" / f"{head}.json").exists() for head in heads] == [False, True]
    assert_timeline_is_whole(issue)


def test_change_that_is_too_large_for_the_agent_is_abandoned(register: Register) -> None:
    issue = register("agent-merge", githubUrl=SPEC["githubUrl"], spec={"status": "valid", "days": 30})
    issue.run()
    issue.wait_for_state("ABANDONED")
    (run,) = issue.runs()
    assert (run["status"], run["loopStatus"]) == ("completed", "failed")
    assert "too large" in run["message"]
    assert_timeline_is_whole(issue)
