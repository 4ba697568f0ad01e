"""However a step function fails: its run ends failed with a code of its own, the issue stays, the reason is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.own_stack import calls_of, own_stack
from tests.stack_client import Issue, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.local.stack import Stack


@pytest.fixture(scope="module")
def stack(server_url: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with own_stack(server_url, migrated_template, tmp_path_factory.mktemp("own")) as stack:
        yield stack


@pytest.fixture
def issue(stack: Stack) -> Issue:
    return Issue(stack.url, f"ISSUE-{uuid4().hex[:8]}")


def assert_failed(issue: Issue, before: dict[str, Any], answer: dict[str, Any], code: str, reason: str) -> None:
    """The answer, GET run and the issue say so."""
    assert answer["error"]["code"] == code
    assert reason in answer["error"]["message"]
    assert (answer["loopStatus"], answer["stepExecuted"]["status"]) == ("failed", "failed")
    run = issue.run_of(answer["runId"])
    assert (run["status"], run["errorCode"], run["stateBefore"], run["stateAfter"]) == ("failed", code, "OPEN", "OPEN")
    assert reason in run["errorMessage"]
    (step,) = run["steps"]
    assert (step["stepType"], step["status"]) == ("WORK", "failed")
    assert reason in step["errorMessage"]
    assert issue.get() == before
    assert "liveRun" not in before
    (failed,) = [each["eventData"] for each in issue.events() if each["eventType"] == "loop_run_failed"]
    assert failed["errorCode"] == code


FAILURES = [
    ("plain", {"do": "crash"}, "Runtime.ExitError", "exit status 1"),
    ("plain", {"do": "raise"}, "LookupError", "there is no such pull request"),
    ("plain", {"do": "fail", "name": "Agent.Busy"}, "Agent.Busy", "not now"),
    ("plain", {"do": "not json"}, "Runtime.MarshalError", "Unable to marshal response"),
    ("plain", {"do": "answer", "answer": "done"}, "InvalidStepResult", "no step result"),
    ("plain", {"do": "answer", "answer": 5}, "InvalidStepResult", "no step result"),
    ("plain", {"do": "answer", "answer": {"status": "done"}}, "InvalidStepResult", "'completed', 'blocked', 'failed'"),
    ("plain", {"do": "answer", "answer": {"status": "completed", "more": 1}}, "InvalidStepResult", "completed.more"),
    (
        "plain",
        {"do": "answer", "answer": {"status": "completed", "outcome": "no"}},
        "InvalidStepResult",
        "outcome 'no'",
    ),
    ("plain", {"do": "6 MB"}, "InvalidStepResult", "more than 524288 bytes"),
    ("plain", {"do": "over 6 MB"}, "Function.ResponseSizeTooLarge", "exceeded maximum allowed payload size"),
    ("plain", {"do": "many facts"}, "InvalidStepResult", "262144 is the most"),
    ("short", {"do": "sleep"}, "States.Timeout", "had not ended when its time was over"),
    ("slow", {"do": "sleep"}, "Sandbox.Timedout", "timed out after 1.00 seconds"),
    ("busy", {}, "Lambda.TooManyRequestsException", "Rate Exceeded"),
    ("no-such-function", {}, "Lambda.ResourceNotFoundException", "Function not found"),
    ("broken", {}, "Runtime.ImportModuleError", "no_such_module"),
    ("handed", {"do": "crash"}, "Runtime.ExitError", "exit status 1"),
    ("handed", {"do": "raise"}, "LookupError", "there is no such pull request"),
    ("handed", {"do": "answer", "answer": {"status": "done"}}, "InvalidStepResult", "no step result"),
    ("handed", {"do": "over 6 MB"}, "Function.ResponseSizeTooLarge", "exceeded maximum allowed payload size"),
]


@pytest.mark.parametrize(("loop", "facts", "code", "reason"), FAILURES, ids=[f"{f[0]} {f[1]}" for f in FAILURES])
def test_step_that_fails_has_its_own_code_and_its_issue_stays(
    issue: Issue, loop: str, facts: dict[str, Any], code: str, reason: str
) -> None:
    issue.register(loop, **facts)
    before = issue.get()
    assert_failed(issue, before, issue.run(), code, reason)


@pytest.mark.parametrize(("loop", "code"), [("unanswered", "States.Timeout"), ("silent", "States.HeartbeatTimeout")])
def test_callback_that_nobody_tells_of_is_ended_by_the_sweeper(
    stack: Stack, issue: Issue, loop: str, code: str
) -> None:
    issue.register(loop, do="answer", answer={})
    run_id = issue.run()["runId"]

    def is_ended() -> bool:
        stack.invoke("RunSweeperFunction", {})
        return bool(issue.run_of(run_id)["status"] == "failed")

    wait_until(is_ended)
    run = issue.run_of(run_id)
    assert (run["errorCode"], run["steps"][0]["status"]) == (code, "failed")
    assert "in time" in run["errorMessage"]
    assert issue.get()["state"] == "OPEN"


def test_step_that_is_blocked_says_by_what(issue: Issue) -> None:
    issue.register("plain", do="block")
    answer = issue.run()
    assert answer["loopStatus"] == "paused"
    assert answer["blocker"]["code"] == "NO_WINDOW"
    assert answer["blocker"]["message"].startswith("Wait for the window. To go on: POST ")
    (step,) = issue.run_of(answer["runId"])["steps"]
    assert (step["status"], step["errorMessage"]) == ("blocked", "Wait for the window")
    assert issue.get()["state"] == "OPEN"


def test_next_call_goes_on_after_a_failure_and_its_outcome_is_recorded_once(stack: Stack, issue: Issue) -> None:
    issue.register("plain", do="crash")
    issue.run()
    issue.patch(do="complete")
    answer = issue.run()
    assert answer["loopStatus"] == "completed"
    assert issue.get()["facts"]["doneBy"] == answer["runId"]
    first, second = calls_of(stack, issue.id)
    assert [first["attempt"], second["attempt"]] == [1, 2]
    assert first["idempotencyToken"] == second["idempotencyToken"] == first["runId"], (
        "what came of the crash is unknown"
    )


def test_step_after_a_known_failure_has_a_new_idempotency_token(stack: Stack, issue: Issue) -> None:
    issue.register("plain", do="fail", name="Agent.Busy")
    runs = [issue.run()["runId"] for _ in range(2)]
    assert [call["idempotencyToken"] for call in calls_of(stack, issue.id)] == runs


def test_function_sees_the_issue_its_step_and_who_called(stack: Stack, issue: Issue) -> None:
    issue.register("plain", a=1)
    answer = issue.run(actor="bob")
    (call,) = calls_of(stack, issue.id)
    assert call == {
        "issueId": issue.id,
        "loop": "plain",
        "state": "OPEN",
        "facts": {"a": 1},
        "step": {"number": 1, "type": "WORK"},
        "runId": answer["runId"],
        "attempt": 1,
        "idempotencyToken": answer["runId"],
        "actor": "bob",
        "requestId": answer["requestId"],
    }
