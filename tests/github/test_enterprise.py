"""GitHub Enterprise Server has its API below a path of its own, on the host of its pull requests."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from github_steps.code_host import CodeHost
from github_steps.credentials import Credentials
from github_steps.links import linked
from github_steps.settings import GithubSettings

if TYPE_CHECKING:
    from tests.github.fake import FakeGithub


def test_pull_request_is_found_and_all_pages_of_its_reviews_are_followed_below_the_path(github: FakeGithub) -> None:
    pull = github.repository("acme/enterprise").pull()
    for number in range(101):
        pull.approve(f"user-{number}")
    settings = GithubSettings("", f"{github.url}/api/v3", frozenset({"acme/enterprise"}), "squash", "")
    link = linked({"prUrl": github.pull_url(pull)}, settings)
    host = CodeHost(settings.api_url, Credentials(github.token))
    host.deadline = monotonic() + 60
    assert host.pull_request(link).head_sha == pull.head
    assert host.reviews(link)[-1].reviewer == "user-100"
