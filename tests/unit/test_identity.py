"""Who is calling (design, section 5, Identity): the authorizer's word, and the header only where it may speak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.errors import ForbiddenError, InvalidRequestError, UnauthorizedError
from loop_runner.http import headers_of
from loop_runner.identity import ACTOR_HEADER, Identity, identify
from loop_runner.sanitize import is_storable
from loop_runner.settings import Settings
from tests.unit.strategies import JSON

USER = "arn:aws:iam::123456789012:user/bot"
ROLE = "arn:aws:iam::123456789012:role/web"
SESSION = "arn:aws:sts::123456789012:assumed-role/web/i-0123"
OTHER_SESSION = "arn:aws:sts::123456789012:assumed-role/web2/i-0123"


def settings(*delegates: str, trust: bool = False) -> Settings:
    return Settings(
        database_url="postgresql://nowhere/none",
        loops_dir=Path("none"),
        migrations_dir=Path("none"),
        actor_delegates=frozenset(delegates),
        trust_actor_header=trust,
    )


def iam(arn: Any) -> dict[str, Any]:
    return {"authorizer": {"iam": {"userArn": arn, "accountId": "123456789012"}}}


def jwt(claims: Any) -> dict[str, Any]:
    return {"authorizer": {"jwt": {"claims": claims, "scopes": None}}}


def named(person: str) -> dict[str, str]:
    return {ACTOR_HEADER: person}


# --- JWT


@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("header", [{}, named("eve"), named("a,b"), named("\0"), named("x" * 9999)])
def test_with_a_token_the_actor_is_its_subject_whatever_the_header_says(header: dict[str, str], trust: bool) -> None:
    assert identify(jwt({"sub": "user-1"}), header, settings(trust=trust)) == Identity("user-1")


@pytest.mark.parametrize(
    "claims", [{}, {"sub": ""}, {"sub": "  "}, {"sub": 1}, {"sub": None}, {"sub": ["a"]}, None, "a"]
)
def test_a_token_without_a_subject_is_no_identity(claims: Any) -> None:
    with pytest.raises(UnauthorizedError):
        identify(jwt(claims), named("eve"), settings(trust=True))


@pytest.mark.parametrize("subject", ["a\0b", "\ud800", "x" * 2049])
def test_a_subject_that_cannot_be_recorded_is_no_identity(subject: str) -> None:
    with pytest.raises(UnauthorizedError):
        identify(jwt({"sub": subject}), {}, settings())


# --- IAM


@pytest.mark.parametrize("arn", [USER, ROLE, SESSION])
@pytest.mark.parametrize("header", [{}, named(""), named("  ")])
def test_with_iam_the_actor_is_the_principal(arn: str, header: dict[str, str]) -> None:
    assert identify(iam(arn), header, settings(USER, ROLE, trust=True)) == Identity(arn)


@pytest.mark.parametrize(
    ("arn", "delegates"),
    [
        (USER, ()),
        (USER, (ROLE,)),
        (SESSION, (USER,)),
        (OTHER_SESSION, (ROLE,)),
        (SESSION, (f"{ROLE}2",)),
        (SESSION, ("web", "arn:aws:iam::999999999999:role/web")),
        (SESSION, (OTHER_SESSION,)),
        (SESSION, ("arn:aws:iam::123456789012:role/web/other", "arn:aws:iam::999999999999:role/team/web")),
        ("arn:aws:sts::123456789012:assumed-role/team/web", (ROLE,)),
        (USER, ("arn:aws:iam::123456789012:user/*",)),
    ],
)
def test_who_is_no_delegate_may_not_name_a_person(arn: str, delegates: tuple[str, ...]) -> None:
    with pytest.raises(ForbiddenError, match=ACTOR_HEADER):
        identify(iam(arn), named("ann"), settings(*delegates, trust=True))


@pytest.mark.parametrize(
    ("arn", "delegate"),
    [
        (USER, USER),
        (SESSION, SESSION),
        (SESSION, ROLE),
        (
            "arn:aws-cn:sts::123456789012:assumed-role/web/s/with/slashes",
            "arn:aws-cn:iam::123456789012:role/web",
        ),
        (SESSION, "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/eu-central-1/web"),
    ],
)
def test_a_delegate_names_a_person_and_both_are_recorded(arn: str, delegate: str) -> None:
    assert identify(iam(arn), named(" ann "), settings("arn:x", delegate)) == Identity("ann", arn)


# --- no authorizer


def test_the_header_alone_is_an_identity_only_where_it_is_trusted() -> None:
    assert identify({}, named("ann"), settings(trust=True)) == Identity("ann")
    with pytest.raises(UnauthorizedError):
        identify({}, named("ann"), settings(ROLE, USER))


@pytest.mark.parametrize("header", [{}, named(""), named(" \t "), {"x-afu9-user": "ann"}])
def test_without_authorizer_and_without_a_name_there_is_no_identity(header: dict[str, str]) -> None:
    with pytest.raises(UnauthorizedError):
        identify({}, header, settings(trust=True))


@pytest.mark.parametrize(
    "authorizer",
    [{}, [], "", 0, False, "ann", ["ann"], {"iam": {}}, {"iam": None}, {"jwt": {}}, {"jwt": None}, {"jwt": []},
     {"lambda": {"sub": "ann"}}, {"iam": {"userArn": ""}}, {"iam": {"userArn": 1}}, {"iam": "ann"},
     {"iam": {"userArn": "a\0"}}, {"jwt": "ann"}],
)  # fmt: skip
def test_the_header_is_never_trusted_where_there_is_an_authorizer(authorizer: Any) -> None:
    with pytest.raises(UnauthorizedError):
        identify({"authorizer": authorizer}, named("ann"), settings(trust=True))


# --- the header


@pytest.mark.parametrize("context", [{}, iam(USER)])
@pytest.mark.parametrize("person", ["ann,bob", "ann,", ",", "ann, ann"])
def test_a_header_given_twice_is_refused(context: dict[str, Any], person: str) -> None:
    with pytest.raises(InvalidRequestError, match="once"):
        identify(context, named(person), settings(USER, trust=True))


@pytest.mark.parametrize("context", [{}, iam(USER)])
@pytest.mark.parametrize(
    "person", ["a\nb", "a\0b", "a\tb", "a\x1b[31mb", "a\u202eb", "a\ud800b", "a\x7fb", "a\u2028b", "x" * 257]
)
def test_a_name_that_does_not_print_or_is_too_long_is_refused(context: dict[str, Any], person: str) -> None:
    with pytest.raises(InvalidRequestError, match="printable"):
        identify(context, named(person), settings(USER, trust=True))


@pytest.mark.parametrize("person", ["ann", "Änne Müller", "ann@example.org", "x" * 256, "安"])
def test_any_printable_name_is_a_name(person: str) -> None:
    assert identify({}, named(person), settings(trust=True)) == Identity(person)


@pytest.mark.parametrize("name", ["x-afu9-sub", "X-Afu9-Sub", "X-AFU9-SUB"])
def test_the_header_has_its_name_in_any_case(name: str) -> None:
    headers = headers_of({"headers": {name: "ann"}})
    assert identify({}, headers, settings(trust=True)) == Identity("ann")


# --- the actors of a deployment


@pytest.mark.parametrize(
    ("context", "header", "allowed"),
    [
        (jwt({"sub": "ann"}), {}, "ann"),
        (iam(USER), {}, USER),
        (iam(SESSION), {}, SESSION),
        (iam(SESSION), {}, ROLE),
        (iam(SESSION), {}, "arn:aws:iam::123456789012:role/team/web"),
        (iam(SESSION), named("ann"), "ann"),
        ({}, named("ann"), "ann"),
    ],
)
def test_where_actors_are_listed_one_of_them_may_call_and_nobody_else(
    context: dict[str, Any], header: dict[str, str], allowed: str
) -> None:
    listed = replace(settings(ROLE, trust=True), allowed_actors=frozenset({"bob", allowed}))
    assert identify(context, header, listed) == identify(context, header, settings(ROLE, trust=True))
    with pytest.raises(ForbiddenError, match="AllowedActors"):
        identify(context, header, replace(listed, allowed_actors=frozenset({"bob", f"{allowed}2", "*"})))


def test_delegate_that_is_listed_does_not_make_everybody_an_actor() -> None:
    with pytest.raises(ForbiddenError, match=r"^eve is not"):
        identify(iam(SESSION), named("eve"), replace(settings(ROLE), allowed_actors=frozenset({ROLE, SESSION})))


# --- anything


AUTHORIZERS = JSON | st.fixed_dictionaries(
    {}, optional={"jwt": JSON, "iam": JSON | st.fixed_dictionaries({"userArn": JSON | st.just(SESSION)})}
)


@given(
    st.fixed_dictionaries({}, optional={"authorizer": AUTHORIZERS}),
    st.fixed_dictionaries({}, optional={ACTOR_HEADER: st.text()}),
    st.booleans(),
    st.sampled_from(["", ROLE, SESSION]),
)
def test_whatever_comes_in_there_is_a_storable_identity_or_one_of_three_refusals(
    context: dict[str, Any], headers: dict[str, str], trust: bool, delegate: str
) -> None:
    try:
        identity = identify(context, headers, settings(delegate, trust=trust))
    except (UnauthorizedError, ForbiddenError, InvalidRequestError):
        return
    for name in (identity.actor, identity.principal or "-"):
        assert name.strip()
        assert is_storable(name)
    if context.get("authorizer") is None:
        assert trust
        assert identity == Identity(headers[ACTOR_HEADER].strip())
