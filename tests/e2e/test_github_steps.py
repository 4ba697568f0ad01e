"""The built step function github on Lambda's runtime, with its own packages, against the fake GitHub."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.emulator import Emulator
from tests.github.fake import FakeGithub
from tests.sample_events import GIVEN, read
from tools.local.http_api import Request
from tools.local.secrets_api import SecretsApi
from tools.local.template import load_functions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tools.build.sam import Artifact


@contextmanager
def secrets_manager(secrets: Mapping[str, str]) -> Iterator[str]:
    """The local stack's, at the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = Request("POST", "/", "", (), body)
            answer = SecretsApi(secrets).answer(request, self.headers["x-amz-target"])
            self.send_response(answer.status)
            for name, value in (*answer.headers, ("content-length", str(len(answer.body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def github() -> Iterator[FakeGithub]:
    with FakeGithub() as github:
        yield github


@pytest.fixture
def secrets(github: FakeGithub) -> dict[str, str]:
    return {"github": github.token}


@pytest.fixture
def function(artifact: Artifact, github: FakeGithub, secrets: dict[str, str]) -> Iterator[Emulator]:
    given = GIVEN | {"Architecture": artifact.architecture, "GithubApiUrl": github.url}
    function = load_functions(artifact.template, given)["GithubStepsFunction"]
    with secrets_manager(secrets) as url:
        aws = {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": url,
        }
        with Emulator(replace(function, environment={**function.environment, **aws})) as emulator:
            yield emulator


def executed(function: Emulator, kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The answer to the sample event of a step, on these facts, to which it adds its own."""
    answer: dict[str, Any] = function.invoke({**read(f"github-steps-{kind}.json"), "facts": facts})
    facts.update(answer.get("facts", {}))
    return answer


def test_pull_request_is_reviewed_merged_once_and_observed(function: Emulator, github: FakeGithub) -> None:
    pull = github.pull()
    facts: dict[str, Any] = {"prUrl": github.pull_url(pull)}
    assert executed(function, "review", facts)["blocker"]["code"] == "NO_REVIEW_APPROVAL"
    pull.approve()
    assert executed(function, "review", facts)["status"] == "completed"
    pull.check()
    for _ in range(2):
        assert executed(function, "merge", facts)["status"] == "completed"
    assert [merge.asked for merge in pull.merges] == [pull.head]
    pull.deploy("success")
    assert executed(function, "observe", facts)["status"] == "completed"
    assert (facts["pr"]["mergeSha"], facts["verdict"]) == (pull.merge_commit, "GREEN")


def test_app_signs_in_with_what_the_function_was_built_with(
    function: Emulator, github: FakeGithub, secrets: dict[str, str]
) -> None:
    app, pull = github.app, github.pull()
    key = app.private_key.replace("\n", "\\n")
    secrets["github"] = f'{{"appId": {app.app_id}, "installationId": {app.installation_id}, "privateKey": "{key}"}}'
    pull.approve()
    assert executed(function, "review", {"prUrl": github.pull_url(pull)})["status"] == "completed"
    assert {each.status for each in github.log} == {200, 201}
