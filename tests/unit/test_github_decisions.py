"""What reviews, checks and deployments come to, whatever their order and number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from github_steps.checks import CheckRun, Status, judge
from github_steps.deployments import Deployment, DeploymentStatus, latest, newest
from github_steps.reviews import COUNTED, Review, decide

STATES = ("APPROVED", "CHANGES_REQUESTED", "COMMENTED", "DISMISSED", "PENDING")
REVIEWS = some.lists(
    some.builds(
        Review,
        reviewer=some.sampled_from(["ann", "Ann", "bob", "Bob", "cy", ""]),
        state=some.sampled_from(STATES),
        association=some.sampled_from(["MEMBER", "OWNER", "COLLABORATOR", "CONTRIBUTOR", "NONE"]),
    ),
    max_size=8,
)


def said(*reviews: tuple[str, str]) -> list[Review]:
    return [Review(reviewer, state, "MEMBER") for reviewer, state in reviews]


class TestReviews:
    def test_nobody_has_approved_what_nobody_has_reviewed(self) -> None:
        assert not decide([], "ann").is_approved

    def test_last_decisive_word_of_a_reviewer_counts(self) -> None:
        wanted = said(("bob", "APPROVED"), ("bob", "CHANGES_REQUESTED"))
        assert decide(wanted, "ann").requested_by == ("bob",)
        assert decide([*wanted, *said(("bob", "APPROVED"))], "ann").approved_by == ("bob",)

    @pytest.mark.parametrize("later", ["COMMENTED", "PENDING"])
    def test_comment_undoes_nothing(self, later: str) -> None:
        assert decide(said(("bob", "CHANGES_REQUESTED"), ("bob", later)), "ann").requested_by == ("bob",)
        assert decide(said(("bob", "APPROVED"), ("bob", later)), "ann").approved_by == ("bob",)

    def test_dismissed_review_is_no_word(self) -> None:
        decision = decide(said(("bob", "APPROVED"), ("bob", "DISMISSED"), ("cy", "DISMISSED")), "ann")
        assert (decision.approved_by, decision.requested_by) == ((), ())

    def test_one_who_wants_changes_outweighs_those_who_approve(self) -> None:
        decision = decide(said(("bob", "APPROVED"), ("cy", "CHANGES_REQUESTED"), ("dee", "APPROVED")), "ann")
        assert not decision.is_approved
        assert (decision.approved_by, decision.requested_by) == (("bob", "dee"), ("cy",))

    def test_author_does_not_count_in_whatever_spelling(self) -> None:
        assert decide(said(("Ann", "APPROVED")), "ann").approved_by == ()

    @pytest.mark.parametrize("association", ["CONTRIBUTOR", "FIRST_TIME_CONTRIBUTOR", "NONE", "MANNEQUIN", ""])
    def test_who_does_not_belong_to_the_repository_blocks_and_does_not_approve(self, association: str) -> None:
        wanted = Review("ed", "CHANGES_REQUESTED", association)
        decision = decide([Review("eve", "APPROVED", association), wanted], "ann")
        assert (decision.approved_by, decision.requested_by) == ((), ("ed",))
        for later in ("APPROVED", "DISMISSED"):
            decision = decide([wanted, Review("ed", later, association)], "ann")
            assert (decision.approved_by, decision.requested_by) == ((), ())

    def test_request_of_whose_account_is_gone_stands_until_it_is_dismissed(self) -> None:
        reviews = [Review("", "CHANGES_REQUESTED", "NONE"), Review("bob", "APPROVED", "MEMBER")]
        assert decide(reviews, "ann").requested_by == ("ghost",)
        assert decide([Review("", "DISMISSED", "NONE"), reviews[1]], "ann").is_approved

    @given(REVIEWS)
    def test_nobody_counts_twice_and_nobody_counts_who_may_not(self, reviews: list[Review]) -> None:
        decision = decide(reviews, "ann")
        names = [name.lower() for name in decision.approved_by + decision.requested_by]
        may = {each.reviewer.lower() for each in reviews if each.association in COUNTED} - {"ann"}
        assert len(names) == len(set(names))
        assert {name.lower() for name in decision.approved_by} <= may
        assert "ann" not in names

    @given(REVIEWS, some.integers(0, 8))
    def test_what_is_not_decisive_changes_nothing_wherever_it_comes(self, reviews: list[Review], at: int) -> None:
        more = [*reviews[:at], Review("bob", "COMMENTED", "MEMBER"), *reviews[at:]]
        assert decide(more, "ann") == decide(reviews, "ann")

    @given(REVIEWS)
    def test_request_for_changes_at_the_end_is_never_overlooked(self, reviews: list[Review]) -> None:
        decision = decide([*reviews, Review("dee", "CHANGES_REQUESTED", "OWNER")], "ann")
        assert "dee" in decision.requested_by
        assert not decision.is_approved


BAD = ("failure", "timed_out", "cancelled", "action_required", "startup_failure", "stale", "unheard_of", None)
UNFINISHED = ("queued", "in_progress", "waiting", "requested", "pending")
RUNS = some.lists(
    some.one_of(
        some.builds(CheckRun, some.text(max_size=3), some.just("completed"), some.sampled_from([*BAD, "success"])),
        some.builds(CheckRun, some.text(max_size=3), some.sampled_from(UNFINISHED), some.none()),
    )
)


def done(name: str, conclusion: str | None = "success") -> CheckRun:
    return CheckRun(name, "completed", conclusion)


class TestChecks:
    @pytest.mark.parametrize("conclusion", ["success", "neutral", "skipped"])
    def test_good_ones_are_neither_failed_nor_pending(self, conclusion: str) -> None:
        verdict = judge([done("build", conclusion)], [Status("ci", "success")])
        assert (verdict.count, verdict.failed, verdict.pending) == (2, (), ())

    @pytest.mark.parametrize("conclusion", BAD)
    def test_whatever_is_over_and_not_known_to_be_good_has_failed(self, conclusion: str | None) -> None:
        assert judge([done("lint"), done("build", conclusion)], []).failed == ("build",)

    @pytest.mark.parametrize("status", UNFINISHED)
    def test_what_is_not_over_is_pending(self, status: str) -> None:
        assert judge([CheckRun("build", status, None)], []).pending == ("build",)

    @pytest.mark.parametrize("state", ["failure", "error", "unheard_of"])
    def test_commit_status_fails(self, state: str) -> None:
        assert judge([], [Status("ci", state)]).failed == ("ci",)

    def test_newest_status_of_a_context_counts(self) -> None:
        newest_first = [Status("ci", "success"), Status("deploy", "pending"), Status("ci", "failure")]
        verdict = judge([], newest_first)
        assert (verdict.count, verdict.failed, verdict.pending) == (2, (), ("deploy",))

    def test_two_suites_with_a_check_of_one_name_both_count(self) -> None:
        assert judge([done("build"), done("build", "failure")], []).failed == ("build",)

    @given(RUNS, some.integers(0, 200))
    def test_a_failed_one_is_found_wherever_it_is(self, runs: list[CheckRun], at: int) -> None:
        verdict = judge([*runs[:at], done("the one", "failure"), *runs[at:]], [])
        assert "the one" in verdict.failed
        assert verdict.count == len(runs) + 1

    @given(RUNS)
    def test_each_is_good_failed_or_pending(self, runs: list[CheckRun]) -> None:
        verdict = judge(runs, [])
        good = sum(run.conclusion == "success" for run in runs)
        assert verdict.count == good + len(verdict.failed) + len(verdict.pending)


class TestDeployments:
    def test_newest_is_the_one_whatever_the_order(self) -> None:
        two = [Deployment(3, "production", "a"), Deployment(7, "production", "a")]
        assert newest(two) == newest(two[::-1]) == two[1]
        assert newest([]) is None

    @given(some.permutations(["queued", "in_progress", "success", "inactive"]))
    def test_a_later_deployment_does_not_take_a_success_back(self, order: list[str]) -> None:
        ids = {"queued": 1, "in_progress": 2, "success": 5, "inactive": 9}
        found = latest(DeploymentStatus(ids[state], state, None) for state in order)
        assert found is not None
        assert found.state == "success"

    def test_there_is_no_word_of_one_that_was_only_superseded(self) -> None:
        assert latest([DeploymentStatus(1, "inactive", None)]) is None

    def test_a_failure_after_a_success_counts(self) -> None:
        found = latest([DeploymentStatus(1, "success", None), DeploymentStatus(2, "failure", None)])
        assert found is not None
        assert found.state == "failure"
