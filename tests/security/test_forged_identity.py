"""Nobody is recorded as somebody else: what a call says of itself, and what the authorizer says of it.

Which identity ``identify`` makes of what, tests/unit/test_identity.py shows; that it is asked before anything else,
tests/contract/test_bad_calls.py. Here is what whole calls leave in the ledger. That a token is of the right issuer, for
the right audience and of the route's scope is for API Gateway to find (tests/template/test_api.py).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.conftest import Client, Context, event
from tests.security.conftest import rows

if TYPE_CHECKING:
    from loop_runner.services import Services
    from loop_runner.settings import Settings
    from tests.conftest import Answer, Sql

ISSUE = "/api/loop/issues/A-1"
FORGED = "admin"
HEADER = "x-afu9-sub"
BOT = "arn:aws:iam::123456789012:user/bot"
WEB = "arn:aws:sts::123456789012:assumed-role/web/i-0123"
IAM_BOT: dict[str, Any] = {"iam": {"userArn": BOT, "accountId": "123456789012"}}
IAM_WEB: dict[str, Any] = {"iam": {"userArn": WEB}}
TOKEN: dict[str, Any] = {"jwt": {"claims": {"sub": "user-1"}, "scopes": None}}
SPELLINGS = [HEADER, HEADER.upper(), "X-Afu9-Sub", "x-AFU9-sub"]


class Who(NamedTuple):
    """Whom the ledger names."""

    actor: str
    principal: str | None = None


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A deployment: the header is not trusted, the front end ``web`` may name persons."""
    delegates = frozenset({"arn:aws:iam::123456789012:role/web"})
    return replace(settings, trust_actor_header=False, actor_delegates=delegates)


def register_and_run(client: Client, headers: dict[str, str], authorizer: dict[str, Any] | None) -> list[Answer]:
    """Two calls of the two functions that know who calls."""
    parts: dict[str, Any] = {"actor": None, "headers": headers, "authorizer": authorizer}
    registered = client("PUT", ISSUE, {"loop": "issue-delivery"}, **parts)
    return [registered, client.run("A-1", **parts)]


def recorded(sql: Sql) -> set[Who]:
    """Everybody whom a row names."""
    return {
        Who(row["actor"], row["principal"])
        for row in sql(
            "SELECT actor, principal FROM loop_runs UNION SELECT registered_by, registered_principal FROM loop_issues"
        )
    }


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize(
    ("authorizer", "status"),
    [
        (None, 401),
        ({}, 401),
        ({"iam": {}}, 401),
        ({"jwt": {"claims": {}}}, 401),
        ({"lambda": {"sub": FORGED}}, 401),
        (IAM_BOT, 403),
    ],
)
def test_header_of_who_may_not_name_anybody_is_refused_and_leaves_nothing(
    client: Client, sql: Sql, name: str, authorizer: dict[str, Any] | None, status: int
) -> None:
    assert [answer.status for answer in register_and_run(client, {name: FORGED}, authorizer)] == [status, status]
    assert recorded(sql) == set()


@pytest.mark.parametrize(
    ("authorizer", "headers", "who"),
    [
        (TOKEN, {HEADER: FORGED}, Who("user-1")),
        (TOKEN, {HEADER: "a", HEADER.upper(): FORGED}, Who("user-1")),
        ({**TOKEN, **IAM_WEB}, {HEADER: FORGED}, Who("user-1")),
        (IAM_BOT, {}, Who(BOT)),
        (IAM_WEB, {}, Who(WEB)),
        (IAM_WEB, {HEADER: "ann"}, Who("ann", WEB)),
        (IAM_WEB, {HEADER: BOT}, Who(BOT, WEB)),
    ],
)
def test_ledger_names_whom_the_authorizer_names_and_the_delegate_beside_its_person(
    client: Client, sql: Sql, authorizer: dict[str, Any], headers: dict[str, str], who: Who
) -> None:
    assert [answer.status for answer in register_and_run(client, headers, authorizer)] == [201, 200]
    assert recorded(sql) == {who}
    assert f"{FORGED}" not in rows(sql)


@pytest.mark.parametrize("authorizer", [IAM_WEB, None])
@pytest.mark.parametrize("other", SPELLINGS[1:])
def test_header_that_is_given_twice_in_two_spellings_is_refused(
    services: Services, sql: Sql, authorizer: dict[str, Any] | None, other: str
) -> None:
    services.settings = replace(services.settings, trust_actor_header=authorizer is None)
    answers = register_and_run(Client(services), {HEADER: "ann", other: FORGED}, authorizer)
    assert [answer.error for answer in answers] == ["INVALID_REQUEST", "INVALID_REQUEST"]
    assert recorded(sql) == set()


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example", "aud": "other", "azp": FORGED, "client_id": FORGED},
        {"scope": "loop/read", "scp": f"[loop/operate {FORGED}]", "cognito:groups": f"[{FORGED}]"},
        {"Sub": FORGED, "SUB": FORGED, "sub ": FORGED, "preferred_username": FORGED, "cognito:username": FORGED},
        {HEADER: FORGED, "userArn": FORGED, "act": {"sub": FORGED}, "actor": FORGED},
    ],
)
def test_nothing_but_the_subject_of_a_token_counts(client: Client, sql: Sql, claims: dict[str, Any]) -> None:
    authorizer = {"jwt": {"claims": {"sub": "user-1", **claims}, "scopes": [f"loop/{FORGED}"]}}
    assert [answer.status for answer in register_and_run(client, {}, authorizer)] == [201, 200]
    assert recorded(sql) == {Who("user-1")}
    assert FORGED not in rows(sql)


@pytest.mark.parametrize(
    "claims",
    [{"Sub": FORGED}, {"sub": [FORGED]}, {"sub": {"sub": FORGED}}, {"username": FORGED}, {"sub": f"{FORGED}\0"}],
)
def test_token_without_a_subject_names_nobody(client: Client, sql: Sql, claims: dict[str, Any]) -> None:
    answers = register_and_run(client, {HEADER: FORGED}, {"jwt": {"claims": claims}})
    assert [answer.status for answer in answers] == [401, 401]
    assert recorded(sql) == set()


@pytest.mark.parametrize(
    "parts",
    [
        {"query": {"actor": FORGED}},
        {"headers": {"x-amzn-oidc-identity": FORGED, "x-forwarded-user": FORGED, "remote-user": FORGED}},
        {"headers": {"x_afu9_sub": FORGED, "x-afu9-sub ": FORGED, "x-afu9-user": FORGED}},
    ],
)
def test_nothing_else_of_a_call_names_its_caller(client: Client, sql: Sql, parts: dict[str, Any]) -> None:
    call = {"actor": None, "authorizer": IAM_BOT, **parts}
    client("PUT", ISSUE, {"loop": "issue-delivery"}, **call)
    client.run("A-1", **call)
    assert recorded(sql) == {Who(BOT)}
    assert FORGED not in rows(sql)


def test_event_may_name_its_authorizer_in_its_context_only(client: Client, sql: Sql) -> None:
    """What API Gateway copies from a call into the event lies beside the context, never in it."""
    for place in ("", "headers", "queryStringParameters", "pathParameters", "stageVariables"):
        made = event("PUT", ISSUE, {"loop": "issue-delivery"})
        forged = {"authorizer": {"iam": {"userArn": FORGED}}, "requestContext": {"authorizer": IAM_BOT}}
        made |= {place: {**made.get(place, {}), **forged}} if place else {"authorizer": forged["authorizer"]}
        answer = client._loop_api.handle(made, Context())  # type: ignore[arg-type]
        assert (answer["statusCode"], json.loads(answer["body"])["error"]["code"]) == (401, "UNAUTHORIZED"), place
    assert recorded(sql) == set()
