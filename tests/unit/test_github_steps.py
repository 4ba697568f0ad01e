"""The step function github against GitHub's REST API as the fake speaks it: what each step asks, answers and does."""

from __future__ import annotations

import json
import time
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from functions.github_steps import app
from github_steps import code_host
from github_steps.execution import Access, execute
from github_steps.settings import GithubSettings
from loop_runner import secret
from loop_runner.results import Blocked, Completed, Failed, read_result
from loop_runner.secret import Secret
from tests.conftest import Context, Lines
from tests.github import fake, routes
from tests.github.fake import FakeGithub
from tests.github.faults import CUT, LOST, Fault, forbidden, secondary_rate_limit, server_error, slow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loop_runner.results import Result
    from tests.github.world import PullRequest

MARKED = "ghp_canary5c0ffee5"
SECONDS = 20.0


class Issue:
    """An issue of the loop, its function and GitHub. Asks for a step as the runner does, and keeps the facts."""

    def __init__(self, github: FakeGithub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.github = github
        self.secret = ""
        self.reads = 0
        monkeypatch.setattr(secret, "read_secret", self._read)
        self.access = self.with_settings()
        self.pull: PullRequest = github.pull()
        self.facts: dict[str, Any] = {"prUrl": github.pull_url(self.pull)}

    def _read(self, _arn: str) -> str:
        self.reads += 1
        return self.secret or self.github.token

    def with_settings(self, **more: str) -> Access:
        given = {"GITHUB_SECRET_ARN": "arn", "GITHUB_API_URL": self.github.url, "GITHUB_REPOSITORIES": "acme/shop"}
        self.access = Access(GithubSettings.from_environment({**given, **more}), Secret("arn"))
        return self.access

    def answer(self, step: str, seconds: float = SECONDS) -> dict[str, Any]:
        return execute({"step": {"type": step}, "facts": self.facts}, self.access, seconds)

    def run(self, step: str, seconds: float = SECONDS) -> Result:
        result = read_result(self.answer(step, seconds))
        if isinstance(result, Completed):
            self.facts = merged(self.facts, result.facts)
        return result

    def code(self, step: str) -> str:
        """Of what keeps the step from its work."""
        result = self.run(step)
        assert isinstance(result, Blocked | Failed), result
        return result.code

    def review(self) -> Result:
        return self.run("S4_REVIEW")

    def merge(self) -> Result:
        return self.run("S5_MERGE")

    def observe(self) -> Result:
        return self.run("S6_DEPLOYMENT_OBSERVE")

    def reviewed(self) -> PullRequest:
        """Brought to where it may be merged."""
        self.pull.approve()
        self.pull.check()
        assert isinstance(self.review(), Completed)
        self.github.log.clear()
        return self.pull

    def merged(self) -> PullRequest:
        """Brought to where its deployment is observed."""
        self.reviewed()
        assert isinstance(self.merge(), Completed)
        self.github.log.clear()
        return self.pull


def merged(facts: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    base = dict(facts) if isinstance(facts, dict) else {}
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = merged(base.get(key), value)
    return base


@pytest.fixture
def github() -> Iterator[FakeGithub]:
    with FakeGithub(token=MARKED) as github:
        yield github
    assert all(times <= 1 for times in github.merges.values())


@pytest.fixture
def issue(github: FakeGithub, monkeypatch: pytest.MonkeyPatch) -> Issue:
    return Issue(github, monkeypatch)


class TestReview:
    def test_approved_pull_request_completes_with_what_was_found(self, issue: Issue) -> None:
        issue.pull.approve("bob")
        result = issue.review()
        assert isinstance(result, Completed)
        assert issue.facts["pr"] == {
            "url": issue.github.pull_url(issue.pull),
            "repository": "acme/shop",
            "number": issue.pull.number,
            "headSha": issue.pull.head,
            "headRef": issue.pull.branch,
            "baseRef": "main",
            "author": "ann",
            "merged": False,
        }
        review = issue.facts["review"]
        assert (review.pop("observedAt")[-1], review) == ("Z", {"decision": "approved", "approvedBy": ["bob"]})

    def test_two_calls_are_enough(self, issue: Issue) -> None:
        issue.review()
        path = f"/repos/acme/shop/pulls/{issue.pull.number}"
        assert [each.line for each in issue.github.log] == [f"GET {path}", f"GET {path}/reviews?per_page=100"]

    def test_evidence_of_another_pull_request_is_removed(self, issue: Issue) -> None:
        issue.facts |= {"checks": {"sha": "x"}, "deployment": {"id": 1}, "verdict": "GREEN", "pr": {"mergeSha": "x"}}
        issue.pull.approve()
        issue.review()
        assert issue.facts.keys() == {"prUrl", "pr", "review"}
        assert "mergeSha" not in issue.facts["pr"]

    def test_what_is_missing_is_told_by_its_code(self, issue: Issue) -> None:
        assert issue.code("S4_REVIEW") == "NO_REVIEW_APPROVAL"
        issue.pull.request_changes("cy")
        blocked = issue.review()
        assert isinstance(blocked, Blocked)
        assert (blocked.code, blocked.message[:21]) == ("CHANGES_REQUESTED", "cy requested changes:")
        issue.pull.draft = True
        assert issue.code("S4_REVIEW") == "PR_DRAFT"
        issue.pull.close()
        assert issue.code("S4_REVIEW") == "PR_CLOSED"
        issue.facts["prUrl"] = f"{issue.github.web}/acme/shop/pull/999"
        assert issue.code("S4_REVIEW") == "PR_NOT_FOUND"
        issue.facts["prUrl"] = f"{issue.github.web}/eve/shop/pull/1"
        assert issue.code("S4_REVIEW") == "REPOSITORY_NOT_ALLOWED"
        issue.facts["prUrl"] = "https://elsewhere.example/acme/shop/pull/1"
        assert issue.code("S4_REVIEW") == "NO_PR_LINKED"

    def test_repository_that_is_not_allowed_is_not_asked_for(self, issue: Issue) -> None:
        issue.facts["prUrl"] = f"{issue.github.web}/eve/shop/pull/1"
        issue.review()
        assert issue.github.log == []

    def test_repository_that_has_moved_to_where_the_token_may_not_be_used_is_left_alone(self, issue: Issue) -> None:
        repository = issue.github.repository()
        repository.name = "eve/shop"  # GitHub leads from the old name to the new one
        issue.pull.approve()
        assert issue.code("S4_REVIEW") == "REPOSITORY_NOT_ALLOWED"

    def test_repository_that_has_moved_is_gone_on_with_where_it_is(self, issue: Issue) -> None:
        issue.github.repository().name = "acme/store"
        issue.with_settings(GITHUB_REPOSITORIES="acme/*")
        issue.pull.approve()
        issue.review()
        assert issue.facts["pr"]["repository"] == "acme/store"
        assert issue.github.requests("acme/store.*/reviews")

    def test_blocking_review_of_a_later_page_blocks(self, issue: Issue) -> None:
        for number in range(100):
            issue.pull.review(f"reader-{number}", "COMMENTED")
        issue.pull.approve("bob")
        issue.pull.request_changes("cy")
        assert issue.code("S4_REVIEW") == "CHANGES_REQUESTED"

    def test_merged_one_completes_and_does_not_pass_for_approved(self, issue: Issue) -> None:
        issue.pull.merge("zoe")
        assert isinstance(issue.review(), Completed)
        assert issue.facts["review"]["decision"] == "merged"
        assert issue.facts["pr"]["mergedBy"] == "zoe"
        assert isinstance(issue.merge(), Completed)


class TestMerge:
    def test_merges_the_checked_head_with_the_method_and_says_who_and_what(self, issue: Issue) -> None:
        pull = issue.reviewed()
        issue.with_settings(GITHUB_MERGE_METHOD="rebase")
        assert isinstance(issue.merge(), Completed)
        (merge,) = pull.merges
        assert (merge.asked, merge.method) == (pull.head, "rebase")
        facts = issue.facts["pr"]
        assert (facts["merged"], facts["mergeSha"], facts["mergedBy"]) == (True, pull.merge_commit, "loop-runner")
        checks = issue.facts["checks"]
        assert (checks["status"], checks["sha"], checks["count"]) == ("success", pull.head, 1)

    def test_merged_by_somebody_else_is_not_merged_again(self, issue: Issue) -> None:
        pull = issue.reviewed()
        pull.merge("zoe")
        result = issue.merge()
        assert isinstance(result, Completed)
        assert result.message == f"acme/shop#{pull.number} was merged already by zoe as {pull.merge_commit}"
        assert issue.github.requests("^PUT") == []

    def test_merged_by_somebody_else_in_that_moment_completes(self, issue: Issue) -> None:
        pull = issue.reviewed()
        issue.github.on("^PUT", lambda: pull.merge("zoe"))
        assert isinstance(issue.merge(), Completed)
        assert issue.facts["pr"]["mergedBy"] == "zoe"

    @pytest.mark.parametrize("fault", [LOST, server_error(502, effect=True)])
    def test_merge_whose_answer_was_lost_is_found_by_the_next_attempt(self, issue: Issue, fault: Fault) -> None:
        pull = issue.reviewed()
        issue.github.on("^PUT", fault)
        assert issue.code("S5_MERGE") in {"GitHub.Unreachable", "GitHub.ServerError"}
        assert isinstance(issue.merge(), Completed)
        assert len(issue.github.requests("^PUT")) == 1
        assert issue.facts["pr"]["mergeSha"] == pull.merge_commit

    def test_merge_that_waited_too_long_is_found_by_the_next_attempt(
        self, issue: Issue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(code_host, "ANSWER_SECONDS", 1)
        issue.reviewed()
        issue.github.on("^PUT", slow(5))
        assert issue.code("S5_MERGE") == "GitHub.Unreachable"
        assert isinstance(issue.merge(), Completed)

    def test_question_after_the_merge_may_fail(self, issue: Issue) -> None:
        pull = issue.reviewed()
        issue.github.on(f"GET /repos/acme/shop/pulls/{pull.number}$", CUT, nth=2)
        assert isinstance(issue.merge(), Completed)
        assert "mergedBy" not in issue.facts["pr"]

    def test_repository_that_moves_after_the_review_is_merged_where_it_is(self, issue: Issue) -> None:
        pull = issue.reviewed()
        issue.github.repository().name = "acme/store"
        issue.with_settings(GITHUB_REPOSITORIES="acme/*")
        assert isinstance(issue.merge(), Completed)  # GitHub leads PUT with 307, which PyGithub does not follow
        assert (issue.facts["pr"]["repository"], len(pull.merges)) == ("acme/store", 1)

    def test_review_is_asked_for_again(self, issue: Issue) -> None:
        issue.reviewed().request_changes("cy")
        assert issue.code("S5_MERGE") == "CHANGES_REQUESTED"

    def test_checks_are_told_by_their_code(self, issue: Issue) -> None:
        issue.pull.approve()
        issue.review()
        assert issue.code("S5_MERGE") == "NO_CHECKS_FOUND"
        issue.pull.check("slow", None)
        assert issue.code("S5_MERGE") == "CHECKS_PENDING"
        issue.pull.status("old", "error")
        blocked = issue.merge()
        assert isinstance(blocked, Blocked)
        assert (blocked.code, blocked.message.rpartition(" ")[2]) == ("CHECKS_FAILED", "old")
        issue.pull.status("old", "success")
        issue.pull.check("slow", "neutral")
        assert isinstance(issue.merge(), Completed)

    def test_failing_check_of_a_later_page_is_found(self, issue: Issue) -> None:
        issue.pull.approve()
        issue.review()
        issue.pull.check("the one", "failure")  # newest first: it is the last of the second page
        for number in range(100):
            issue.pull.check(f"check-{number}")
        assert issue.code("S5_MERGE") == "CHECKS_FAILED"

    def test_failing_status_of_a_later_page_is_found(self, issue: Issue) -> None:
        issue.pull.approve()
        issue.review()
        issue.pull.status("the one", "failure")
        for number in range(100):
            issue.pull.status(f"status-{number}")
        assert issue.code("S5_MERGE") == "CHECKS_FAILED"

    @pytest.mark.parametrize(
        ("asked", "answer"),
        [
            *product(["/reviews", "/check-runs", "/statuses"], [None, {}, {"url": ""}]),
            *product(["/check-runs"], [[], {"check_runs": None}, {"check_runs": {}}]),
        ],
    )
    def test_answer_that_is_no_list_is_not_taken_for_an_empty_one(
        self, issue: Issue, monkeypatch: pytest.MonkeyPatch, asked: str, answer: Any
    ) -> None:
        issue.reviewed().status("lint")

        def paged(listing: Any, url: str, query: Any) -> Any:
            return (answer, {}) if url.endswith(asked) else routes.paged(listing, url, query)

        monkeypatch.setattr(fake, "paged", paged)
        assert issue.code("S5_MERGE") == "GitHub.UnexpectedAnswer"

    def test_head_that_moves_after_its_checks_is_not_merged(self, issue: Issue) -> None:
        pull = issue.reviewed()
        before = pull.head
        issue.github.on("^PUT", pull.push)
        blocked = issue.merge()
        assert isinstance(blocked, Blocked)
        assert blocked.code == "CHECKS_PENDING"
        assert f"from {before} to {pull.head}" in blocked.message

    def test_refusal_is_told_with_its_reason(self, issue: Issue) -> None:
        pull = issue.reviewed()
        pull.rule = "At least 2 approving reviews are required."
        blocked = issue.merge()
        assert isinstance(blocked, Blocked)
        assert (blocked.code, pull.rule in blocked.message) == ("PR_NOT_MERGED", True)
        pull.mergeable = False
        assert issue.code("S5_MERGE") == "MERGE_CONFLICT"
        issue.github.repository().methods = frozenset({"merge"})
        pull.mergeable, pull.rule = True, ""
        assert issue.code("S5_MERGE") == "PR_NOT_MERGED"
        issue.github.on("^PUT", Fault(422, "Validation Failed"))
        assert issue.code("S5_MERGE") == "PR_NOT_MERGED"
        issue.github.on("^PUT", Fault(404, "Not Found"))
        assert issue.code("S5_MERGE") == "GitHub.Forbidden"

    def test_not_begun_where_time_is_short(self, issue: Issue) -> None:
        issue.reviewed()
        result = issue.run("S5_MERGE", seconds=5)
        assert isinstance(result, Failed)
        assert (result.code, issue.github.requests("^PUT")) == ("GitHub.Unreachable", [])

    def test_merges_what_was_reviewed_and_not_what_a_caller_has_linked_since(self, issue: Issue) -> None:
        pull, other = issue.reviewed(), issue.github.pull()
        issue.facts["prUrl"] = issue.github.pull_url(other)
        assert isinstance(issue.merge(), Completed)
        assert (len(pull.merges), other.merges) == (1, [])

    def test_not_merged_any_more_where_looking_took_the_time(self, issue: Issue) -> None:
        """Who is killed while it merges leaves more to find out than who says so before."""
        issue.reviewed()
        issue.github.on("/statuses", lambda: setattr(issue.access.host(), "deadline", 0.0))
        assert issue.code("S5_MERGE") == "GitHub.Unreachable"
        assert issue.github.requests("^PUT") == []


class TestObservation:
    def test_deployment_of_the_merge_commit_makes_the_verdict(self, issue: Issue) -> None:
        pull = issue.merged()
        deployment = pull.deploy("queued", "success", url="https://shop.example")
        pull.deploy("failure", environment="staging")
        assert isinstance(issue.observe(), Completed)
        observed = issue.facts["deployment"]
        assert observed.pop("observedAt")
        assert observed == {
            "id": deployment.id,
            "environment": "production",
            "sha": pull.merge_commit,
            "state": "success",
            "url": "https://shop.example",
        }
        assert issue.facts["verdict"] == "GREEN"

    def test_what_keeps_it_is_told_by_its_code(self, issue: Issue) -> None:
        pull = issue.merged()
        issue.github.repository().deploy(pull.head, "success")  # of another commit
        assert issue.code("S6_DEPLOYMENT_OBSERVE") == "NO_DEPLOYMENT_OBSERVATIONS"
        pull.deploy()
        assert issue.code("S6_DEPLOYMENT_OBSERVE") == "NO_DEPLOYMENT_OBSERVATIONS"
        pull.deploy("in_progress")
        assert issue.code("S6_DEPLOYMENT_OBSERVE") == "NO_DEPLOYMENT_OBSERVATIONS"
        pull.deploy("success")
        pull.deploy("failure")
        assert issue.code("S6_DEPLOYMENT_OBSERVE") == "NO_GREEN_VERDICT"

    def test_success_that_a_later_deployment_took_the_place_of_is_one(self, issue: Issue) -> None:
        issue.merged().deploy("success")
        issue.github.repository().deploy(issue.github.repository().commit("main"), "success")
        assert isinstance(issue.observe(), Completed)

    @pytest.mark.parametrize("allowed", ["acme/*", "acme/shop"])
    def test_deployment_of_another_commit_is_none_where_the_repository_has_moved(
        self, issue: Issue, allowed: str
    ) -> None:
        pull = issue.merged()
        repository = issue.github.repository()
        repository.name = "acme/store"
        issue.with_settings(GITHUB_REPOSITORIES=allowed)
        pull.deploy("failure")
        repository.deploy(repository.commit("main"), "success")
        kept = {"acme/*": "NO_GREEN_VERDICT", "acme/shop": "REPOSITORY_NOT_ALLOWED"}
        assert issue.code("S6_DEPLOYMENT_OBSERVE") == kept[allowed]

    def test_answer_to_a_question_whose_query_was_lost_is_read_for_what_was_asked(self, issue: Issue) -> None:
        pull = issue.merged()
        pull.deploy("success", environment="Production")
        repository = issue.github.repository()
        pull.deploy("failure", environment="staging")
        repository.deploy(repository.commit("main"), "failure")
        location = f"{issue.github.url}/repositories/{repository.id}/deployments?sha={pull.merge_commit}"
        issue.github.on("GET .*/deployments", Fault(301, "Moved Permanently", {"location": location}))
        assert isinstance(issue.observe(), Completed)

    def test_any_environment_does_where_none_is_named(self, issue: Issue) -> None:
        issue.merged().deploy("success", environment="staging")
        assert issue.code("S6_DEPLOYMENT_OBSERVE") == "NO_DEPLOYMENT_OBSERVATIONS"
        issue.with_settings(GITHUB_ENVIRONMENT="")
        assert isinstance(issue.observe(), Completed)

    def test_issue_that_a_person_put_there_is_looked_up(self, issue: Issue) -> None:
        pull = issue.reviewed()
        assert issue.code("S6_DEPLOYMENT_OBSERVE") == "PR_NOT_MERGED"
        pull.merge("zoe")
        pull.deploy("success")
        assert isinstance(issue.observe(), Completed)


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "code", "seconds"),
        [
            (secondary_rate_limit(33), "GitHub.RateLimit", 33),
            (secondary_rate_limit(), "GitHub.RateLimit", 60),
            (Fault(429, "slow down"), "GitHub.RateLimit", 60),
            (secondary_rate_limit(10**9), "GitHub.RateLimit", 86400),
            (server_error(503, retry_after=7), "GitHub.ServerError", 7),
            (server_error(500), "GitHub.ServerError", 0),
            (CUT, "GitHub.Unreachable", 0),
            (forbidden(), "GitHub.Forbidden", 0),
            (Fault(418, "I am a teapot"), "GitHub.UnexpectedAnswer", 0),
        ],
    )
    @pytest.mark.parametrize("request_number", [1, 2])
    def test_fault_is_failed_with_its_name_and_when_to_come_back(
        self, issue: Issue, fault: Fault, code: str, seconds: float, request_number: int
    ) -> None:
        issue.github.on("^GET", fault, nth=request_number)
        result = issue.review()
        assert isinstance(result, Failed)
        assert (result.code, result.retry_after_seconds) == (code, seconds)
        assert len(issue.github.log) == request_number, "tried again by the loop, not here"

    @pytest.fixture
    def noon(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """The time that the function takes it for."""
        monkeypatch.setattr(time, "time", lambda: 1_795_953_600.0)  # 2026-11-29, 12:00:00
        return 1_795_953_600

    @pytest.mark.parametrize("status", [403, 429])
    @pytest.mark.parametrize(("ahead", "seconds"), [(120, 121), (-5, 1)])
    def test_rate_limit_is_waited_for_until_it_is_reset(
        self, issue: Issue, noon: int, status: int, ahead: int, seconds: float
    ) -> None:
        headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(noon + ahead)}
        issue.github.on("^GET", Fault(status, "API rate limit exceeded", headers))
        result = issue.review()
        assert isinstance(result, Failed)
        assert (result.code, result.retry_after_seconds) == ("GitHub.RateLimit", seconds)

    def test_retry_after_may_be_a_date(self, issue: Issue, noon: int) -> None:
        issue.github.on("^GET", Fault(503, headers={"retry-after": "Sun, 29 Nov 2026 12:01:40 GMT"}))
        result = issue.review()
        assert isinstance(result, Failed)
        assert result.retry_after_seconds == 100

    def test_missing_permission_is_told(self, issue: Issue) -> None:
        issue.github.on("^GET", Fault(403, "Resource not accessible", {"x-accepted-github-permissions": "checks=read"}))
        result = issue.review()
        assert isinstance(result, Failed)
        assert result.message.endswith("Resource not accessible. It needs checks=read")

    def test_token_that_was_rotated_is_read_again(self, issue: Issue) -> None:
        issue.pull.approve()
        issue.review()
        issue.github.rotate()
        assert isinstance(issue.review(), Completed)
        assert issue.reads == 2

    def test_token_that_is_refused_twice_fails(self, issue: Issue) -> None:
        issue.secret = "ghp_wrong"
        result = issue.review()
        assert isinstance(result, Failed)
        assert result.code == "GitHub.Unauthorized"
        assert (issue.reads, len(issue.github.log)) == (2, 2)

    def test_unknown_step_is_told(self, issue: Issue) -> None:
        result = issue.run("S9")
        assert isinstance(result, Failed)
        assert result.message == "there is no S9, but S4_REVIEW, S5_MERGE, S6_DEPLOYMENT_OBSERVE"


class TestApp:
    @pytest.fixture
    def app(self, issue: Issue) -> Issue:
        app = issue.github.app
        keys = {"appId": app.app_id, "installationId": app.installation_id, "privateKey": app.private_key}
        issue.secret = json.dumps(keys)
        return issue

    def test_signs_in_once_and_merges(self, app: Issue) -> None:
        app.reviewed()
        assert isinstance(app.merge(), Completed)
        assert app.facts["pr"]["mergedBy"] == "loop-runner[bot]"
        assert app.github.requests("access_tokens") == []

    def test_token_that_is_no_longer_taken_is_made_anew(self, app: Issue) -> None:
        app.reviewed()
        app.github.app.expire()
        assert isinstance(app.merge(), Completed)

    def test_installation_that_is_gone_is_no_missing_pull_request(self, app: Issue) -> None:
        app.secret = app.secret.replace("815", "816")
        result = app.review()
        assert isinstance(result, Failed)
        assert result.code == "GitHub.Unauthorized"


class TestSecrecy:
    @pytest.fixture
    def handle(
        self, issue: Issue, monkeypatch: pytest.MonkeyPatch, written: Callable[[], Lines]
    ) -> Callable[[str], tuple[dict[str, Any], Lines]]:
        """The function's answer, and what it has logged."""
        monkeypatch.setattr(app, "access", lambda: issue.access)

        def handle(step: str) -> tuple[dict[str, Any], Lines]:
            ids = {"issueId": "G-1", "runId": "run", "requestId": "request"}
            event = {**ids, "step": {"number": 4, "type": step}, "facts": issue.facts}
            return app.handler(event, Context(20_000)), written()  # type: ignore[arg-type]

        return handle

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500])
    def test_token_that_github_echoes_is_in_no_answer_and_no_line(
        self, issue: Issue, handle: Callable[[str], tuple[dict[str, Any], Lines]], status: int
    ) -> None:
        echo = Fault(
            status, f"no {MARKED}", {"x-accepted-github-permissions": MARKED}, more={"errors": [{"message": MARKED}]}
        )
        issue.github.on("^GET", echo, times=9)
        answer, lines = handle("S4_REVIEW")
        assert answer["status"] in {"blocked", "failed"}
        assert "canary" not in json.dumps([answer, lines])

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_token_is_sent_nowhere_else_whatever_an_answer_leads_to(
        self, issue: Issue, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        with FakeGithub() as other:
            url = f"http://{host}:{other.port}/repos/acme/shop/pulls/{issue.pull.number}"
            issue.github.on("^GET", Fault(301, "Moved Permanently", {"location": url}))
            assert issue.code("S4_REVIEW") == "GitHub.UnexpectedAnswer"

            def paged(listing: Any, here: str, query: Any) -> Any:
                links = {} if "page" in query else {"link": f'<{url}/reviews?page=2>; rel="next"'}
                return routes.paged(listing, here, query)[0], links

            monkeypatch.setattr(fake, "paged", paged)
            issue.pull.approve()
            assert isinstance(issue.review(), Completed)
            assert other.log == []

    def test_line_has_the_ids_and_the_code(
        self, issue: Issue, handle: Callable[[str], tuple[dict[str, Any], Lines]]
    ) -> None:
        answer, (line,) = handle("S4_REVIEW")
        assert answer["status"] == "blocked"
        keys = ("issueId", "runId", "requestId", "step", "status", "code")
        assert [line[key] for key in keys] == ["G-1", "run", "request", "S4_REVIEW", "blocked", "NO_REVIEW_APPROVAL"]
