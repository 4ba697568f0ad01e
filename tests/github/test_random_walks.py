"""Reviews, checks, heads, deployments and faults in any order: what is merged was approved and checked as it is, and is
merged once; what the issue says is true; and when all is well it is closed.

The runner, its database, the function and the fake GitHub are real; only Lambda's Invoke call is a call.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import boto3
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from moto import mock_aws

from loop_runner.executors import EXECUTORS
from loop_runner.observability import logger
from loop_runner.results import Completed, Failed, Result, read_result
from tests.conftest import LOOPS, Context, assert_sound
from tests.github.delivery import BEYOND_THE_MERGE, LOOP
from tests.github.fake import FakeGithub
from tests.github.faults import CUT, LOST, Fault, rate_limit, secondary_rate_limit, server_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loop_runner.results import StepCall
    from tests.conftest import Sql
    from tests.fake_steps import Steps
    from tests.github.world import Merge

FAULTS: Final[list[Fault]] = [
    CUT,
    LOST,
    server_error(500),
    server_error(502, effect=True),
    rate_limit(60),
    secondary_rate_limit(30),
]
EVENTS: Final = [*FAULTS, *["push", "lose"] * 3]
"""What may happen before or instead of a request: a fault, a new head, or the function's answer will not arrive."""

REQUESTS: Final = ["GET", "GET .*/reviews", "GET .*/check-runs", "GET .*/status", "PUT .*/merge", "GET .*/deployments"]
CHECKS: Final = ["build", "lint"]
ACTS: Final = st.one_of(
    st.tuples(
        st.just("review"),
        st.sampled_from(["ann", "bob", "eve"]),  # ann wrote it
        st.sampled_from(["APPROVED", "CHANGES_REQUESTED", "COMMENTED", "PENDING"]),
        st.sampled_from(["MEMBER", "MEMBER", "CONTRIBUTOR"]),
    ),
    st.tuples(st.just("dismiss"), st.sampled_from(["bob", "eve"])),
    st.tuples(st.just("check"), st.sampled_from(CHECKS), st.sampled_from(["success", "failure", None, "skipped"])),
    st.tuples(st.just("status"), st.sampled_from(CHECKS), st.sampled_from(["success", "failure", "pending"])),
    st.sampled_from([("make_ready",)] * 3 + [("push",), ("merge",)]),
    st.sampled_from([("make_ready",), ("approve_and_check", "success"), ("approve_and_check", "failure")]),
    st.tuples(st.just("turn"), st.sampled_from(["draft", "closed", "mergeable"])),
    st.tuples(st.just("deploy"), st.sampled_from(["success", "failure", "in_progress"])),
)


def is_approved(merge: Merge, author: str) -> bool:
    """The last opinion of each: that of somebody who may write approves, and nobody's is a request for changes."""
    last: dict[str | None, tuple[str, str]] = {}
    for review in merge.reviews:
        if review.state not in {"COMMENTED", "PENDING"} and review.user != author:
            last[review.user] = (review.state, review.association)
    wanted = any(state == "CHANGES_REQUESTED" for state, _ in last.values())
    return ("APPROVED", "MEMBER") in last.values() and not wanted


def is_green(merge: Merge) -> bool:
    return bool(merge.checks) and {result for _, result in merge.checks} <= {"success", "neutral", "skipped"}


class Journey:
    """What all walks share: the functions, GitHub, and what was met on the way."""

    def __init__(self, steps: Steps, github: FakeGithub, handler: Callable[[Any, Any], Any]) -> None:
        self.steps, self.github, self.handler = steps, github, handler
        self.is_lost = False
        """Whether the next answer of the function does not arrive."""
        self.met: dict[str, int] = {}

    def execute(self, call: StepCall, /) -> Result:
        answer = self.handler(call.event(), Context())
        if self.is_lost:
            self.is_lost = False
            return Failed("Runtime.ExitError", "the process was lost", is_unknown=True)
        result = read_result(answer)
        if not isinstance(result, Completed):
            self.meet(result.code)
        return result

    def meet(self, what: str) -> None:
        self.met[what] = self.met.get(what, 0) + 1


class Walk(RuleBasedStateMachine):
    """One issue and its pull request."""

    def __init__(self, journey: Journey) -> None:
        super().__init__()
        self.steps, self.github, self.journey = journey.steps, journey.github, journey
        self.id = f"W-{uuid4().hex[:8]}"
        self.pull = self.github.repository(f"acme/{self.id.lower()}").pull("ann")
        self.steps.register(LOOP, self.id, prUrl=self.github.pull_url(self.pull))
        self.sent = len(self.steps.sent.all)

    @initialize(is_ready=st.booleans())
    def begin(self, is_ready: bool) -> None:
        if is_ready:
            self.make_ready()

    @rule(act=ACTS)
    def act(self, act: tuple[Any, ...]) -> None:
        """Something happens on GitHub, if it can."""
        name, *arguments = act
        getattr(self, name)(*arguments)

    def review(self, user: str, state: str, association: str) -> None:
        self.pull.review(user, state, association)

    def dismiss(self, user: str) -> None:
        if any(
            review.user == user and review.state in {"APPROVED", "CHANGES_REQUESTED"} for review in self.pull.reviews
        ):
            self.pull.dismiss(user)

    def check(self, name: str, conclusion: str | None) -> None:
        self.pull.check(name, conclusion)

    def status(self, name: str, state: str) -> None:
        self.pull.status(name, state)

    def make_ready(self) -> None:
        self.pull.approve("bob")
        for name in CHECKS:
            self.pull.check(name)

    def approve_and_check(self, conclusion: str) -> None:
        self.pull.approve("eve")
        self.pull.check(CHECKS[0], conclusion)

    def push(self) -> None:
        if not self.pull.merged:
            self.pull.push()

    def turn(self, name: str) -> None:
        """A call meanwhile; then it is turned back."""
        if not self.pull.merged:
            setattr(self.pull, name, not getattr(self.pull, name))
            self.call([])
            setattr(self.pull, name, not getattr(self.pull, name))

    def merge(self) -> None:
        if not self.pull.merged:
            self.pull.merge("zoe")

    def deploy(self, state: str) -> None:
        if self.pull.merged:
            self.pull.deploy("in_progress", state)

    def lose(self) -> None:
        self.journey.is_lost = True

    # --------------------------------------------------------------------------------------------- the caller

    @rule(
        meanwhile=st.lists(st.tuples(st.sampled_from(REQUESTS), st.sampled_from(EVENTS), st.integers(1, 2)), max_size=2)
    )
    def call(self, meanwhile: list[tuple[str, Fault | str, int]]) -> None:
        """The next step, and what follows by itself; what would follow later a call takes the place of."""
        for pattern, event, nth in meanwhile:
            self.github.on(pattern, event if isinstance(event, Fault) else getattr(self, event), nth=nth)
        self.steps.client.context = Context()  # the time of an invocation is its own
        answer = self.steps.run(self.id)
        assert answer.status == 200, answer.text
        while self.sent < len(self.steps.sent.all):
            message, delay = self.steps.sent.all[self.sent]
            self.sent += 1
            if not delay:
                self.steps.work(message)
        self.github.clear()
        self.journey.is_lost = False

    @invariant()
    def merged_is_only_what_was_approved_and_checked_and_once(self) -> None:
        assert len(self.pull.merges) <= 1
        for merge in self.pull.merges:
            if merge.by == "loop-runner":
                assert merge.asked == merge.head
                assert is_approved(merge, "ann"), merge
                assert is_green(merge), merge

    @invariant()
    def what_the_issue_says_is_true(self) -> None:
        issue = self.steps.issue(self.id)
        if issue["state"] in BEYOND_THE_MERGE:
            (merge,) = self.pull.merges
            facts = issue["facts"]["pr"]
            assert (facts["merged"], facts["mergeSha"]) == (True, self.pull.merge_commit)
            assert facts.get("mergedBy", merge.by) == merge.by
            if merge.by == "loop-runner":
                assert issue["facts"].get("checks", {"sha": merge.head})["sha"] == merge.head
        if issue["facts"].get("verdict") == "GREEN":
            (deployment,) = [
                each for each in self.pull.repository.deployments if each.id == issue["facts"]["deployment"]["id"]
            ]
            assert "success" in [status.state for status in deployment.statuses]
            assert deployment.sha == self.pull.merge_commit

    def teardown(self) -> None:
        """Once all is well, the issue is closed in a few calls, whatever was before."""
        if self.pull.merged:
            self.journey.meet(f"merged by {self.pull.merges[0].by} in the midst of it")
        else:
            for user in ("bob", "eve"):
                self.pull.approve(user)
            for name in CHECKS:
                self.pull.check(name)
                self.pull.status(name)
        for _ in range(3):
            self.call([])
        assert len(self.pull.merges) == 1
        self.pull.deploy("success")
        self.call([])
        self.call([])
        self.merged_is_only_what_was_approved_and_checked_and_once()
        self.what_the_issue_says_is_true()
        assert self.steps.issue(self.id)["state"] == "CLOSED"


@pytest.fixture
def journey(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journey]:
    shutil.copy(LOOPS / f"{LOOP}.toml", steps.folder)
    for variable, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(variable, value)
    logger.setLevel("CRITICAL")
    with mock_aws(), FakeGithub() as github:
        arn = boto3.client("secretsmanager", "us-east-1").create_secret(Name="github", SecretString=github.token)["ARN"]
        monkeypatch.setenv("GITHUB_SECRET_ARN", arn)
        monkeypatch.setenv("GITHUB_API_URL", github.url)
        monkeypatch.setenv("GITHUB_REPOSITORIES", "acme/*")
        from functions.github_steps.app import handler

        journey = Journey(steps, github, handler)
        monkeypatch.setitem(EXECUTORS, "lambda", journey.execute)
        yield journey
    logger.setLevel("INFO")


def test_whatever_happens_only_what_was_approved_and_checked_is_merged_and_once(
    journey: Journey, sql: Sql, database_url: str, count: Callable[[str, int], None]
) -> None:
    bounded = settings(
        max_examples=100,
        stateful_step_count=15,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(lambda: Walk(journey), settings=bounded)  # type: ignore[arg-type]
    assert_sound(database_url)
    for what, times in journey.met.items():
        count(f"random walks: {what}", times)
    assert {"merged by loop-runner in the midst of it", "CHECKS_FAILED", "GitHub.Unreachable"} <= journey.met.keys()
