"""The fake GitHub keeps to what GitHub's REST documentation says: shapes, pages, refusals, limits, and one merge."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.github.apps import App
from tests.github.fake import FakeGithub
from tests.github.faults import CUT, LOST, rate_limit, secondary_rate_limit, server_error, slow
from tools.local.client import Answer, request

if TYPE_CHECKING:
    from collections.abc import Iterator

PULL = "/repos/acme/shop/pulls/1"


@pytest.fixture
def github() -> Iterator[FakeGithub]:
    with FakeGithub() as github:
        yield github


def call(github: FakeGithub, method: str, path: str, body: Any = None, *, token: str = "", **headers: str) -> Answer:
    given = {"authorization": f"Bearer {token or github.token}", "user-agent": "tests", **headers}
    return request(github.url, method, path, body, given, timeout=10)


def names(answer: Answer, key: str, of: str) -> list[str]:
    return [each[of] for each in answer.json()[key]]


def signed(key: str, **claims: Any) -> str:
    """A JSON web token, RS256."""
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims)]
    text = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    private = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    signature = private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def test_pull_request_is_merged_once_and_says_by_whom(github: FakeGithub) -> None:
    pull = github.pull()
    tried = call(github, "GET", PULL).json()
    assert (tried["merged"], tried["merged_by"], tried["merge_commit_sha"]) == (False, None, pull.merge_commit)
    body = {"sha": pull.head, "merge_method": "squash"}
    merged = call(github, "PUT", f"{PULL}/merge", body)
    assert (merged.status, merged.json()["sha"]) == (200, pull.merge_commit)
    assert pull.merge_commit == github.repository().branches["main"] != tried["merge_commit_sha"]
    again = call(github, "PUT", f"{PULL}/merge", body)
    assert (again.status, again.json()["message"]) == (405, "Pull Request is not mergeable")
    seen = call(github, "GET", PULL).json()
    assert (seen["state"], seen["merged"], seen["merged_by"]["login"]) == ("closed", True, "loop-runner")
    assert github.merges == {github.pull_url(pull): 1}
    assert (pull.merges[0].asked, pull.merges[0].method) == (pull.head, "squash")


def test_merge_is_refused_as_github_refuses_it(github: FakeGithub) -> None:
    pull = github.pull()
    before = pull.head
    pull.push()
    moved = call(github, "PUT", f"{PULL}/merge", {"sha": before})
    assert (moved.status, moved.json()["message"]) == (409, "Head branch was modified. Review and try the merge again.")
    assert call(github, "PUT", f"{PULL}/merge", {"merge_method": "throw"}).status == 422
    pull.mergeable = False
    assert call(github, "PUT", f"{PULL}/merge", {}).status == 405
    assert call(github, "GET", PULL).json()["mergeable_state"] == "dirty"
    pull.mergeable, pull.rule = True, "At least 1 approving review is required by reviewers with write access."
    refused = call(github, "PUT", f"{PULL}/merge", {}).json()
    assert refused == {
        "message": pull.rule,
        "documentation_url": "https://docs.github.com/rest",
        "status": "405",
    }
    pull.rule, pull.draft = "", True
    assert call(github, "PUT", f"{PULL}/merge", {}).json()["message"] == "Pull Request is still a draft"
    assert not pull.merges


def test_lists_have_thirty_a_page_and_at_most_a_hundred_with_links_to_the_others(github: FakeGithub) -> None:
    pull = github.pull()
    for number in range(101):
        pull.check(f"check-{number}", "success" if number else "failure")
    path = f"/repos/acme/shop/commits/{pull.head}/check-runs"
    first = call(github, "GET", path)
    assert (first.json()["total_count"], len(first.json()["check_runs"])) == (101, 30)
    hundred = call(github, "GET", f"{path}?per_page=1000")
    assert len(hundred.json()["check_runs"]) == 100
    following = re.search(r'<([^>]+)>; rel="next"', hundred.headers["link"])
    assert following is not None
    last = call(github, "GET", following[1].removeprefix(github.url))
    assert names(last, "check_runs", "conclusion") == ["failure"]
    assert 'rel="prev"' in last.headers["link"]
    assert 'rel="next"' not in last.headers["link"]


def test_only_the_latest_check_of_a_name_and_the_latest_status_of_a_context_count(github: FakeGithub) -> None:
    pull = github.pull()
    path = f"/repos/acme/shop/commits/{pull.head}"
    assert call(github, "GET", f"{path}/status").json()["state"] == "pending"
    for outcome in ("failure", "success"):
        pull.check("build", outcome)
        pull.status("lint", outcome)
    pull.check("build", None, app="other-ci")
    runs = call(github, "GET", f"{path}/check-runs").json()["check_runs"]
    assert [(run["status"], run["conclusion"]) for run in runs] == [("in_progress", None), ("completed", "success")]
    assert call(github, "GET", f"{path}/check-runs?filter=all").json()["total_count"] == 3
    assert call(github, "GET", f"{path}/status").json()["state"] == "success"
    assert [each["state"] for each in call(github, "GET", f"{path}/statuses").json()] == ["success", "failure"]


def test_reviews_are_in_order_and_a_dismissal_changes_one_in_place(github: FakeGithub) -> None:
    pull = github.pull()
    pull.request_changes("bob")
    pull.review("bob", "COMMENTED")
    pull.review("eve", "PENDING")
    pull.review(None, "APPROVED")
    pull.dismiss("bob")
    reviews = call(github, "GET", f"{PULL}/reviews").json()
    said = [(review["user"] and review["user"]["login"], review["state"]) for review in reviews]
    assert said == [("bob", "DISMISSED"), ("bob", "COMMENTED"), (None, "APPROVED")]
    own = call(github, "POST", f"{PULL}/reviews", {"event": "APPROVE"})
    assert (own.status, pull.reviews[-1].user) == (200, "loop-runner")
    github.tokens[github.token] = "ann"
    assert call(github, "POST", f"{PULL}/reviews", {"event": "APPROVE"}).status == 422


def test_deployment_makes_the_one_before_it_inactive(github: FakeGithub) -> None:
    pull = github.pull()
    pull.merge()
    first = pull.deploy("success")
    path = "/repos/acme/shop/deployments"
    made = call(github, "POST", path, {"ref": "main"}).json()
    call(github, "POST", f"{path}/{made['id']}/statuses", {"state": "success", "environment_url": "https://shop"})
    found = call(github, "GET", f"{path}?sha={pull.merge_commit}&environment=production").json()
    assert [each["id"] for each in found] == [made["id"], first.id]
    states = [call(github, "GET", f"{path}/{each['id']}/statuses").json() for each in found]
    assert [[status["state"] for status in each] for each in states] == [["success"], ["inactive", "success"]]
    assert call(github, "GET", f"{path}?environment=staging").json() == []


def test_who_calls_is_known_by_a_token_which_can_be_rotated(github: FakeGithub) -> None:
    github.pull()
    old = github.token
    assert call(github, "GET", PULL, authorization=f"token {old}").status == 200
    github.rotate()
    refused = call(github, "GET", PULL, token=old)
    assert (refused.status, refused.json()["message"]) == (401, "Bad credentials")
    assert call(github, "GET", PULL).status == 200
    assert call(github, "GET", "/repos/acme/hidden").status == 404


def test_app_gets_a_token_for_its_own_signature_only(github: FakeGithub) -> None:
    github.pull()
    path = f"/app/installations/{github.app.installation_id}/access_tokens"
    now = int(time.time())
    claims = {"iss": github.app.app_id, "iat": now - 60, "exp": now + 300}
    made = call(github, "POST", path, {}, token=signed(github.app.private_key, **claims))
    assert made.status == 201
    assert call(github, "GET", PULL, token=made.json()["token"]).status == 200
    github.app.expire()
    assert call(github, "GET", PULL, token=made.json()["token"]).status == 401
    foreign = App().private_key
    assert call(github, "POST", path, {}, token=signed(foreign, **claims)).status == 401
    late = {**claims, "exp": now - 1}
    assert call(github, "POST", path, {}, token=signed(github.app.private_key, **late)).status == 401


def test_what_has_not_changed_is_304_and_costs_nothing(github: FakeGithub) -> None:
    pull = github.pull()
    first = call(github, "GET", PULL)
    remaining = github.remaining
    same = call(github, "GET", PULL, **{"if-none-match": first.headers["etag"]})
    assert (same.status, same.body, github.remaining) == (304, b"", remaining)
    pull.push()
    assert call(github, "GET", PULL, **{"if-none-match": first.headers["etag"]}).status == 200


def test_limits_are_told_as_github_tells_them(github: FakeGithub) -> None:
    github.pull()
    github.remaining = 1
    assert call(github, "GET", PULL).headers["x-ratelimit-remaining"] == "0"
    spent = call(github, "GET", PULL)
    assert (spent.status, spent.headers["x-ratelimit-remaining"]) == (403, "0")
    assert int(spent.headers["x-ratelimit-reset"]) == github.resets_at > time.time()
    assert call(github, "GET", "/rate_limit").json()["rate"]["remaining"] == 0
    github.remaining = 10
    github.on("GET", rate_limit(30))
    github.on("GET", secondary_rate_limit(7, status=429))
    assert call(github, "GET", PULL).headers["x-ratelimit-remaining"] == "0"
    github.clear()
    github.on("GET", secondary_rate_limit(7, status=429))
    second = call(github, "GET", PULL)
    assert (second.status, second.headers["retry-after"]) == (429, "7")
    assert "secondary rate limit" in second.json()["message"]


def test_request_that_is_named_and_no_other_goes_wrong(github: FakeGithub) -> None:
    pull = github.pull()
    github.on("GET .*/reviews", server_error(503, retry_after=2), nth=2)
    github.on("GET .*/pulls/1$", pull.push)
    head = pull.head
    assert call(github, "GET", PULL).json()["head"]["sha"] != head, "what is done before the request shows in it"
    assert [call(github, "GET", f"{PULL}/reviews").status for _ in range(3)] == [200, 503, 200]
    assert [each.status for each in github.requests("/reviews")] == [200, 503, 200]


@pytest.mark.parametrize(("fault", "merges"), [(CUT, 0), (LOST, 1), (slow(5), 1), (slow(5, effect=False), 0)])
def test_answer_is_lost_before_or_after_the_merge(github: FakeGithub, fault: Any, merges: int) -> None:
    pull = github.pull()
    github.on("PUT .*/merge", fault)
    headers = {"authorization": f"Bearer {github.token}", "user-agent": "tests"}
    with pytest.raises((http.client.RemoteDisconnected, socket.timeout)):
        request(github.url, "PUT", f"{PULL}/merge", {}, headers, timeout=0.5)
    assert len(pull.merges) == merges
    assert call(github, "GET", f"{PULL}/merge").status == (204 if merges else 404)


def test_github_enterprise_answers_below_its_own_path_and_so_do_its_links(github: FakeGithub) -> None:
    pull = github.pull()
    for _ in range(31):
        pull.approve()
    below = f"/api/v3{PULL}"
    assert call(github, "GET", below).json()["url"] == github.url + below
    assert f"<{github.url}{below}/reviews?page=2>" in call(github, "GET", f"{below}/reviews").headers["link"]
