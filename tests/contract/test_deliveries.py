"""What GitHub's deliveries set going: a run of each issue that waits for the pull request, however often they come."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from loop_runner import deliveries
from loop_runner.deliveries import RESEND_SECONDS
from loop_runner.errors import InvalidRequestError, UnavailableError
from loop_runner.github_events import Delivery
from loop_runner.results import Blocked, Completed, Failed, StepCall
from tests.fake_steps import HEAD, STEP, Steps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loop_runner.models import Json
    from loop_runner.settings import Settings
    from tests.conftest import Lines, Sql

SHA, MERGED = "a" * 40, "b" * 40
LOOP = f"""
name = "pull"
protected_facts = ["pr"]
{HEAD}
{STEP.replace('"DONE"', '"READY"')}
executor = {{ kind = "lambda", function = "github" }}
[[steps.retry]]
ErrorEquals = ["Busy"]
IntervalSeconds = 30
[[steps]]
number = 2
type = "MERGE"
from = ["READY"]
to = "MERGED"
executor = {{ kind = "lambda", function = "github" }}
[[steps]]
number = 3
type = "CLOSE"
from = ["MERGED"]
to = "DONE"
executor = {{ kind = "transition" }}
"""
URL = "https://github.com/Octo/hello/pull/7"
NOT_YET = Blocked("NO_REVIEW_APPROVAL", "nobody has approved")


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.fixture
def steps(settings: Settings, tmp_path: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Any:
    steps = Steps(settings, tmp_path, sql, monkeypatch)
    (tmp_path / "pull.toml").write_text(LOOP)
    yield steps
    steps.services.database.close()


def of(number: int = 7, repository: str = "octo/hello", **parts: Any) -> Delivery:
    return Delivery(uuid4(), repository, (number,), **parts)


def of_commit(sha: str = SHA, **parts: Any) -> Delivery:
    return Delivery(uuid4(), "octo/hello", sha=sha, **parts)


def queued(steps: Steps) -> list[str]:
    """The issues of the runs that were queued by deliveries, in order."""
    return [str(run["issue_id"]) for run in steps.runs() if run["actor"] == "github"]


def settle(steps: Steps) -> None:
    """Bring each message that was sent for a run to run-worker."""
    for message, _ in steps.sent.all:
        if "runId" in message:
            steps.work(message)


def test_a_delivery_queues_a_run_of_the_issue_that_waits_for_the_pull_request(steps: Steps) -> None:
    steps.register("pull", prUrl=URL)
    delivery = of()
    steps.work(delivery.message())
    (run,) = steps.runs()
    assert (run["status"], run["actor"], run["principal"]) == ("pending", "github", None)
    assert (run["request_id"], run["idempotency_key"]) == (str(delivery.id), f"github:{delivery.id}")
    assert steps.sent.all == [({"issueId": "A-1", "runId": str(run["id"])}, 0.0)]
    settle(steps)
    assert [(call.actor, call.issue.id) for call in steps.calls] == [("github", "A-1")]
    assert (steps.issue()["state"], steps.runs()[0]["status"]) == ("READY", "completed")


def test_a_delivery_acts_once_however_often_it_comes(steps: Steps) -> None:
    steps.register("pull", prUrl=URL)
    delivery = of()
    steps.will(NOT_YET)
    for _ in range(3):
        steps.work(delivery.message())
        settle(steps)
    assert (queued(steps), len(steps.calls)) == (["A-1"], 1)
    steps.work(of().message())
    assert queued(steps) == ["A-1", "A-1"], "another delivery, another run"


def test_what_a_delivery_queued_is_sent_by_the_sweeper_where_the_worker_was_lost_in_between(steps: Steps) -> None:
    steps.register("pull", prUrl=URL)
    delivery = of()
    steps.work(delivery.message())
    steps.sent.all.clear()  # the process died before it sent
    steps.work(delivery.message())
    assert steps.sent.all == [], "its run is there"
    steps.sql("UPDATE loop_runs SET sent_at = now() - interval '5 minutes'")
    steps.sweep()
    settle(steps)
    assert (queued(steps), steps.issue()["state"]) == (["A-1"], "READY")


def test_a_delivery_that_says_something_else_under_the_same_id_runs_nothing(
    steps: Steps, written: Callable[[], Lines]
) -> None:
    steps.register("pull", prUrl=URL)
    first = of()
    steps.work(first.message())
    settle(steps)
    steps.work(replace(first, sha=SHA).message())
    assert queued(steps) == ["A-1"]
    assert any("said something else" in line.get("message", "") for line in written())


def test_deliveries_that_come_while_a_run_has_not_begun_are_seen_by_that_run(steps: Steps) -> None:
    steps.register("pull", prUrl=URL)
    for _ in range(20):
        steps.work(of().message())
    assert len(steps.runs()) == 1
    assert len(steps.sent.all) == 1, "nothing comes again"


def test_a_delivery_that_meets_a_live_run_comes_again_and_runs_after_it(steps: Steps) -> None:
    steps.register("pull", prUrl=URL)
    delivery = of()

    def looks_too_early(_: StepCall) -> Blocked:
        steps.work(delivery.message())
        return NOT_YET

    steps.will(looks_too_early)
    assert steps.run().json["loopStatus"] == "paused"
    assert queued(steps) == []
    ((again, seconds),) = steps.sent.all
    assert (again, seconds) == (delivery.again().message(), RESEND_SECONDS[0])
    steps.work(again)
    settle(steps)
    assert (queued(steps), steps.issue()["state"]) == (["A-1"], "READY")


def test_a_delivery_does_not_come_again_for_ever(steps: Steps, written: Callable[[], Lines]) -> None:
    steps.register("pull", prUrl=URL)

    def works_long(_: StepCall) -> Blocked:
        message, delays = of().message(), []
        while message:
            steps.sent.all.clear()
            steps.work(message)
            message = steps.sent.all[0][0] if steps.sent.all else {}
            delays += [delay for _, delay in steps.sent.all]
        assert delays == list(RESEND_SECONDS)
        return NOT_YET

    steps.will(works_long)
    steps.run()
    assert any(line.get("message", "").startswith("given up") for line in written())


def test_a_delivery_that_cannot_be_sent_again_fails_so_that_its_message_comes_again(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.register("pull", prUrl=URL)

    def queue_is_down(_: StepCall) -> Blocked:
        with monkeypatch.context() as patch:
            patch.setattr(steps.sent, "send", lambda *_: 0)
            with pytest.raises(UnavailableError):
                steps.work(of().message())
        return NOT_YET

    steps.will(queue_is_down)
    steps.run()


def test_an_issue_that_goes_on_by_itself_on_hold_or_at_its_end_is_left_alone(steps: Steps) -> None:
    for name in ("A-hold", "A-planned", "A-closing", "A-done"):
        steps.register("pull", name, prUrl=URL)
    steps.client("POST", "/api/loop/issues/A-hold/hold", {"reason": "stop"})
    steps.will(Failed("Busy", "later"))
    steps.run("A-planned")
    for name, state in (("A-closing", "MERGED"), ("A-done", "DONE")):
        steps.client("POST", f"/api/loop/issues/{name}/state", {"state": state, "reason": "test"})
    before = len(steps.runs())
    steps.work(of().message())
    assert len(steps.runs()) == before


@pytest.mark.parametrize(
    ("url", "is_it"),
    [
        (URL, True),
        ("https://github.com/OCTO/Hello/pull/7/", True),
        ("https://github.com/octo/hello/pull/7?diff=split#discussion_r1", True),
        ("https://github.example.com/octo/hello/pull/7", True),
        ("https://github.com/octo/hello/pull/77", False),
        ("https://github.com/octo/hello2/pull/7", False),
        ("https://github.com/2octo/hello/pull/7", False),
        ("https://github.com/octo/hello/issues/7", False),
        ("", False),
        (None, False),
        ({"octo/hello/pull": 7}, False),
    ],
)
def test_the_pull_request_is_the_one_of_the_link(steps: Steps, url: Any, is_it: bool) -> None:
    steps.register("pull", **({} if url is None else {"prUrl": url}))
    steps.work(of(repository="Octo/hello").message())
    assert bool(queued(steps)) is is_it


@pytest.mark.parametrize(
    ("delivery", "is_it"),
    [
        (of(), True),
        (of(8), False),
        (of(repository="octo/other"), False),
        (of_commit(), True),
        (of_commit(MERGED), True),
        (of_commit("c" * 40), False),
        (of_commit("c" * 40, branches=("feature",)), True),
        (of_commit("c" * 40, branches=("main",)), False),
        (replace(of_commit(), repository="octo/other"), False),
    ],
)
def test_the_pull_request_is_the_one_that_a_step_has_found(steps: Steps, delivery: Delivery, is_it: bool) -> None:
    """Whatever the link says by now. Checks of forks, statuses, deployments name a commit; a later head, its branch."""
    steps.register("pull", prUrl=URL)
    pr: Json = {"repository": "Octo/Hello", "number": 7, "headSha": SHA, "headRef": "feature", "mergeSha": MERGED}
    steps.will(Completed({"pr": pr}))
    steps.run()
    steps.client("PATCH", "/api/loop/issues/A-1", {"prUrl": "https://github.com/octo/hello/pull/9"})
    steps.work(delivery.message())
    assert bool(queued(steps)) is is_it


def test_a_delivery_of_no_issue_does_nothing_and_one_of_several_runs_each(steps: Steps) -> None:
    steps.work(of().message())
    assert steps.sent.all == []
    for name in ("A-1", "A-2", "A-3"):
        steps.register("pull", name, prUrl=URL)
    steps.register("pull", "A-4", prUrl=URL.replace("7", "8"))
    steps.register("work", "A-5", prUrl=URL)
    steps.work(of().message())
    assert sorted(queued(steps)) == ["A-1", "A-2", "A-3"]
    settle(steps)
    assert {steps.issue(name)["state"] for name in ("A-1", "A-2", "A-3")} == {"READY"}


def test_deliveries_in_whatever_order_leave_what_the_last_look_found(steps: Steps) -> None:
    """A run looks itself: what a delivery says is only that there is something to see."""
    steps.register("pull", prUrl=URL)
    approved, dismissed = of(), of()
    for delivery, said in ((dismissed, NOT_YET), (approved, Completed()), (dismissed, None)):
        if said:
            steps.will(said)
        steps.work(delivery.message())
        settle(steps)
    assert (len(queued(steps)), steps.issue()["state"]) == (2, "READY")


def test_no_more_is_looked_at_and_queued_than_there_is_a_limit_for(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, written: Callable[[], Lines]
) -> None:
    for number in range(4):
        steps.register("pull", f"A-{number}", prUrl=URL)
    monkeypatch.setattr(deliveries, "MAX_RUNS", 3)
    steps.work(of().message())
    assert sorted(queued(steps)) == ["A-1", "A-2", "A-3"], "the newest"
    monkeypatch.setattr(deliveries, "MAX_LOOKED", 2)
    steps.register("pull", "B-1")
    steps.register("pull", "B-2")
    assert [line.get("message") for line in written()].count("not every issue was looked at or queued") == 1
    steps.work(of().message())
    assert len(queued(steps)) == 3
    assert [line.get("message") for line in written()].count("not every issue was looked at or queued") == 1


@pytest.mark.parametrize(
    "message",
    [
        {"delivery": "x", "repository": "a/b", "pullRequests": [7], "branches": [], "resends": 0},
        {"delivery": str(UUID(int=1)), "repository": "a/b", "pullRequests": 7, "branches": [], "resends": 0},
        {"delivery": str(UUID(int=1)), "repository": "a/b", "pullRequests": [7], "branches": []},
        {"delivery": None},
    ],
)
def test_what_is_no_delivery_fails_so_that_it_comes_to_the_dead_letters(steps: Steps, message: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="none of ours"):
        steps.work(message)


def test_four_eyes_are_those_of_people_when_github_let_the_issue_go_on(steps: Steps) -> None:
    """Who approved on GitHub is nobody here: the run is GitHub's; who registered the issue is still who did."""
    steps.folder.joinpath("pull.toml").write_text(
        LOOP.replace("protected_facts", "auto_advance = true\nprotected_facts").replace(
            'from = ["READY"]\nto = "MERGED"\nexecutor = { kind = "lambda", function = "github" }',
            'from = ["READY"]\nto = "MERGED"\nexecutor = { kind = "approval", four_eyes = true }',
        )
    )
    steps.register("pull", prUrl=URL)
    steps.work(of().message())
    settle(steps)
    steps.let_be_due()
    steps.work(steps.sent.all[-1][0])
    assert [(run["actor"], run["blocker_code"]) for run in steps.runs()] == [
        ("github", None),
        ("github", "APPROVAL_REQUIRED"),
    ]
    version = steps.issue()["version"]
    for actor, status in (("ann", 403), ("bob", 200)):
        path, headers = "/api/loop/issues/A-1/approvals", {"if-match": f'"{version}"'}
        answer = steps.client("POST", path, {"decision": "approved"}, actor, headers=headers)
        assert answer.status == status, answer.text
