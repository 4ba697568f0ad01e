"""Which pull request is meant and may be touched, how the function signs in, and what a deployment decides."""

from __future__ import annotations

import json
import traceback

import pytest

from github_steps.credentials import HIDDEN, Credentials
from github_steps.links import Link, linked, reviewed
from github_steps.outcome import BlockedError, FailedError
from github_steps.settings import GithubSettings
from loop_runner.errors import ConfigurationError
from tests.github.apps import App

GIVEN = {"GITHUB_SECRET_ARN": "arn", "GITHUB_REPOSITORIES": "acme/shop, Tools/*"}
ENTERPRISE = {"GITHUB_API_URL": "https://code.example/api/v3/"}
MARKED = "ghp_canary5c0ffee5"


def settings(**more: str) -> GithubSettings:
    return GithubSettings.from_environment({**GIVEN, **more})


class TestSettings:
    def test_defaults_are_github_squash_and_production(self) -> None:
        made = settings()
        assert (made.api_url, made.web_url) == ("https://api.github.com", "https://github.com")
        assert (made.merge_method, made.environment) == ("squash", "production")

    @pytest.mark.parametrize(
        ("api", "web"),
        [
            ("https://code.example/api/v3/", "https://code.example"),
            ("https://api.acme.ghe.com", "https://acme.ghe.com"),
            ("http://127.0.0.1:3100", "http://127.0.0.1:3100"),
        ],
    )
    def test_pull_requests_are_where_the_api_is(self, api: str, web: str) -> None:
        assert settings(GITHUB_API_URL=api).web_url == web

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("GITHUB_SECRET_ARN", ""),
            ("GITHUB_API_URL", "ftp://x"),
            ("GITHUB_API_URL", "https://user:password@x"),
            ("GITHUB_REPOSITORIES", "acme"),
            ("GITHUB_REPOSITORIES", "*/*"),
            ("GITHUB_REPOSITORIES", "acme/shop/x"),
            ("GITHUB_MERGE_METHOD", "throw"),
        ],
    )
    def test_what_cannot_be_used_is_told_by_its_variable(self, variable: str, value: str) -> None:
        with pytest.raises(ConfigurationError, match=variable):
            settings(**{variable: value})

    @pytest.mark.parametrize("repository", ["acme/shop", "ACME/Shop", "tools/any", "TOOLS/x"])
    def test_listed_repositories_may_be_touched_in_any_spelling(self, repository: str) -> None:
        assert settings().allows(repository)

    @pytest.mark.parametrize("repository", ["acme/shop2", "acme/sho", "tools2/any", "eve/shop", "", "acme/*"])
    def test_others_may_not(self, repository: str) -> None:
        assert not settings().allows(repository)

    def test_none_may_be_touched_where_none_is_listed(self) -> None:
        assert not settings(GITHUB_REPOSITORIES="").allows("acme/shop")


class TestLinks:
    @pytest.mark.parametrize(
        "address",
        [
            "https://github.com/acme/shop/pull/7",
            "https://github.com/acme/shop/pull/7/",
            "https://GitHub.com/acme/shop/pull/7?diff=split#discussion_r1",
        ],
    )
    def test_address_of_a_pull_request_is_read(self, address: str) -> None:
        assert linked({"prUrl": address}, settings()) == Link("acme/shop", 7)

    def test_address_on_github_enterprise_is_read(self) -> None:
        assert linked({"prUrl": "https://code.example/acme/shop/pull/7"}, settings(**ENTERPRISE)).number == 7

    @pytest.mark.parametrize(
        "given",
        [
            None, "", 7, ["https://github.com/acme/shop/pull/7"], "x",
            "https://github.com/acme/shop/issues/7",
            "https://github.com/acme/shop/pull/0",
            "https://github.com/acme/shop/pull/7/../../../secret/pull/1",
            "https://github.com/acme/../pull/7",
            "https://github.com/acme/shop%2f..%2fx/pull/7",
            "https://github.com/acme/shop/pull/7\n",
            "https://github.com/acme/shop/pull/" + "9" * 30,
            "https://github.com.evil.example/acme/shop/pull/7",
            "https://evil.example/?https://github.com/acme/shop/pull/7",
            "https://user@github.com/acme/shop/pull/7",
            "https://api.github.com/acme/shop/pull/7",
            "http://github.com/acme/shop/pull/7",
        ],
    )  # fmt: skip
    def test_anything_else_is_no_link_and_the_message_says_what_one_is(self, given: object) -> None:
        with pytest.raises(BlockedError, match=r"https://github\.com/OWNER/REPOSITORY/pull/NUMBER") as blocked:
            linked({"prUrl": given}, settings())
        assert blocked.value.code == "NO_PR_LINKED"

    def test_repository_that_is_not_listed_is_not_touched(self) -> None:
        with pytest.raises(BlockedError, match="GithubRepositories") as blocked:
            linked({"prUrl": "https://github.com/eve/shop/pull/7"}, settings())
        assert blocked.value.code == "REPOSITORY_NOT_ALLOWED"

    def test_later_steps_go_by_what_was_reviewed_and_not_by_what_a_caller_has_linked_since(self) -> None:
        facts = {
            "prUrl": "https://github.com/acme/shop/pull/8",
            "pr": {"url": "x", "repository": "acme/shop", "number": 7},
        }
        assert reviewed(facts, settings()) == Link("acme/shop", 7)
        with pytest.raises(BlockedError, match="eve/shop"):
            reviewed({"pr": {"repository": "eve/shop", "number": 7}}, settings())
        with pytest.raises(BlockedError, match="CREATED"):
            reviewed({"prUrl": "https://github.com/acme/shop/pull/8"}, settings())


class TestCredentials:
    @pytest.mark.parametrize("text", [MARKED, f" {MARKED}\n", json.dumps({"token": MARKED})])
    def test_token_is_taken_alone_or_in_an_object(self, text: str) -> None:
        assert Credentials(text).auth.token == MARKED

    @pytest.mark.parametrize("installation", [815, "815"])
    def test_app_signs_with_its_key(self, installation: object) -> None:
        app = App()
        secret = {"appId": app.app_id, "installationId": installation, "privateKey": app.private_key}
        assert Credentials(json.dumps(secret)).auth.token_type == "token"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            f"two words {MARKED}",
            f'{{"token": "{MARKED}"',
            json.dumps({"tokens": MARKED}),
            json.dumps({"token": 7, "other": MARKED}),
            json.dumps({"token": f"{MARKED}\nX-Other: 1"}),
            json.dumps({"appId": 1, "installationId": 2, "privateKey": f"-----BEGIN RSA PRIVATE KEY-----\n{MARKED}\n"}),
            json.dumps({"appId": 1, "installationId": MARKED, "privateKey": "x"}),
        ],
    )
    def test_secret_of_another_shape_is_told_without_a_word_of_it(self, text: str) -> None:
        with pytest.raises(FailedError, match="GithubSecretArn") as failed:
            Credentials(text)
        assert failed.value.name == "GitHub.Unauthorized"
        told = "".join(traceback.format_exception(failed.value, chain=False))
        assert "canary" not in f"{told} {failed.value!r} {failed.value.answer()}"

    def test_what_looks_like_a_credential_is_hidden(self) -> None:
        credentials = Credentials("an-older-token-without-a-prefix")
        jwt = "eyJhbGciOi.eyJpc3Mi.c2ln-bg_x"
        for text in ("an-older-token-without-a-prefix", "ghs_1Ab", f"ghs_4711_{jwt}", "github_pat_11A_x", jwt):
            assert credentials.hide(f"token {text}, please") == f"token {HIDDEN}, please"
        assert credentials.hide("merge commits are not allowed") == "merge commits are not allowed"
        assert "older" not in repr(credentials)
