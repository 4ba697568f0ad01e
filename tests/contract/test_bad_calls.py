"""Whatever path, method or caller: the right refusal in the one envelope, and no trace of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from loop_runner.services import Services
from loop_runner.settings import Settings
from tests.conftest import LOOPS, Client, event
from tests.contract.conftest import Unchanged, assert_error

ISSUE = "/api/loop/issues/AFU9-123"
RUN = "/api/loop/runs/01234567-89ab-7def-8123-456789abcdef"
ROUTES = [
    pytest.param("POST", f"{ISSUE}/run-next-step", id="run"),
    pytest.param("PUT", ISSUE, id="put"),
    pytest.param("PATCH", ISSUE, id="patch"),
    pytest.param("GET", ISSUE, id="get"),
    pytest.param("GET", f"{ISSUE}/runs", id="runs"),
    pytest.param("GET", f"{ISSUE}/events", id="events"),
    pytest.param("GET", RUN, id="get-run"),
]
"""The routes that need an identity."""


@pytest.fixture(scope="module")
def database_url(shared_database_url: str) -> str:
    """One database for all of these tests: they write nothing, or to an issue of their own."""
    return shared_database_url


@pytest.fixture(autouse=True)
def registered(client: Client) -> None:
    client.register(githubUrl="https://github.com/acme/app/issues/1")


# --- the path


ISSUE_ROUTES = [
    pytest.param("POST", "{}/run-next-step", "{}", id="run"),
    pytest.param("POST", "{}/run-next-step", '{"mode":"dryRun"}', id="dry-run"),
    pytest.param("PATCH", "{}", '{"a":1}', id="patch"),
    pytest.param("GET", "{}", None, id="get"),
    pytest.param("GET", "{}/runs", None, id="runs"),
    pytest.param("GET", "{}/events", None, id="events"),
]
"""The routes of an issue that is registered; {} stands for its path."""

BAD_IDS = [".", "..", "-a", "_a", "a#b", "#", "a b", " ", "a%20b", "x" * 129, "ä", "安", "a\n", "a;b", "'", "a\0"]


@pytest.mark.parametrize("issue_id", BAD_IDS)
def test_an_issue_id_of_another_form_is_400(client: Client, unchanged: Unchanged, issue_id: str) -> None:
    path = f"/api/loop/issues/{issue_id}"
    with unchanged():
        for answer in (
            client("PUT", path, {"loop": "issue-delivery"}),
            client("PATCH", path, {"a": 1}),
            client("GET", path),
            client("GET", f"{path}/runs"),
            client("GET", f"{path}/events"),
            client.run(issue_id),
            client.run(issue_id, {"mode": "dryRun"}),
        ):
            assert "issue id" in assert_error(answer, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize("run_id", ["1", "AFU9-123", "x" * 300, "01234567-89ab-7def-8123-456789abcdeg", "ä", " "])
def test_a_run_id_that_is_no_uuid_is_400(client: Client, unchanged: Unchanged, run_id: str) -> None:
    with unchanged():
        assert_error(client("GET", f"/api/loop/runs/{run_id}"), 400, "INVALID_REQUEST")


def test_an_unknown_run_is_404(client: Client, unchanged: Unchanged) -> None:
    with unchanged():
        assert_error(client("GET", RUN), 404, "RUN_NOT_FOUND")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/api",
        "/api/",
        "/api/loop",
        "/api/loop/loops/issue-delivery",
        "/api/openapi.yaml",
        "/console/",
        "/api/loop/issues/",
        "/api/loop/issues//runs",
        "/api/loop/issues//run-next-step",
        "/api/loop/runs/",
        f"{ISSUE}/",
        f"{ISSUE}/runs/",
        f"{ISSUE}/Runs",
        f"{ISSUE}/runs/1",
        f"/v1{ISSUE}",
        "/API/loop/issues/AFU9-123",
        "/api/health/",
        "/../etc/passwd",
        "/ä",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_an_unknown_path_is_404(client: Client, unchanged: Unchanged, method: str, path: str) -> None:
    with unchanged():
        assert_error(client(method, path), 404, "NOT_FOUND")


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/api/health"), ("GET", "/console")])
def test_what_api_gateway_took_for_no_route_is_served_by_none(
    client: Client, unchanged: Unchanged, method: str, path: str
) -> None:
    """It asked for the scope of no route: %61pprovals, say, is approvals to us only."""
    with unchanged():
        sent = {**event(method, path, headers={"x-afu9-sub": "ann"}), "routeKey": "$default"}
        assert_error(client.send(sent), 404, "NOT_FOUND")
        assert_error(client.send({**sent, "headers": {}}), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (ISSUE, {"GET", "PATCH", "PUT"}),
        (f"{ISSUE}/runs", {"GET"}),
        (f"{ISSUE}/events", {"GET"}),
        (f"{ISSUE}/run-next-step", {"POST"}),
        ("/api/github/webhook", {"POST"}),
        (RUN, {"GET"}),
        ("/api/health", {"GET"}),
    ],
)
def test_another_method_is_405_with_those_that_are_allowed(
    client: Client, unchanged: Unchanged, path: str, allowed: set[str]
) -> None:
    for method in {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "get", "TRACE"} - allowed:
        with unchanged():
            answer = client(method, path, "{}")
            assert_error(answer, 405, "METHOD_NOT_ALLOWED")
            assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(("method", "path", "body"), ISSUE_ROUTES)
def test_an_unknown_issue_is_404_with_the_put_that_works_as_it_stands(
    client: Client, unchanged: Unchanged, method: str, path: str, body: str | None
) -> None:
    issue = f"/api/loop/issues/NEW-{uuid4()}"
    with unchanged():
        message = assert_error(client(method, path.format(issue), body), 404, "ISSUE_NOT_FOUND")["message"]
    put, put_path, put_body = message[message.index("PUT ") :].split(" ", 2)
    assert (put, put_path) == ("PUT", issue)
    assert client(put, put_path, put_body).status == 201
    assert client(method, path.format(issue), body).status == 200


# --- the caller


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/nowhere"), ("DELETE", ISSUE), ("POST", "/api/health")])
@pytest.mark.parametrize("actor", [None, "", "  "])
def test_without_identity_everything_but_health_is_401(
    client: Client, unchanged: Unchanged, method: str, path: str, actor: str | None
) -> None:
    with unchanged():
        assert_error(client(method, path, "{", actor=actor), 401, "UNAUTHORIZED")


def test_identity_is_asked_before_the_database() -> None:
    client = Client(Services(Settings("postgresql://nobody@127.0.0.1:1/none", LOOPS, Path("none"))))
    assert_error(client.run(actor=None), 401, "UNAUTHORIZED")
    assert_error(client.run(actor="ann"), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_an_authorizer_that_says_nothing_is_401_though_the_header_is_trusted(
    client: Client, unchanged: Unchanged, method: str, path: str
) -> None:
    silent: list[dict[str, Any]] = [{}, {"iam": {}}, {"jwt": {"claims": {}}}]
    for authorizer in silent:
        with unchanged():
            assert_error(client(method, path, authorizer=authorizer), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_principal_that_is_no_delegate_naming_a_person_is_403(
    client: Client, unchanged: Unchanged, method: str, path: str
) -> None:
    bot = {"iam": {"userArn": "arn:aws:iam::123456789012:user/bot"}}
    with unchanged():
        assert_error(client(method, path, authorizer=bot), 403, "FORBIDDEN")


@pytest.mark.parametrize("actor", ["ann,bob", "ann, ann", "a\nb", "a\0b", "a\u202eb", "\ud800", "x" * 257])
def test_an_identity_header_given_twice_or_no_name_is_400(client: Client, unchanged: Unchanged, actor: str) -> None:
    with unchanged():
        assert_error(client.run(actor=actor), 400, "INVALID_REQUEST")
