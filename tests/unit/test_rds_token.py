"""The token that stands for the database's password is the one that boto3 makes, and goes to nobody unverified."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import boto3
import botocore.credentials
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from loop_runner.errors import ConfigurationError
from loop_runner.rds_token import Credentials, sign_token, with_token

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST = "loop.cluster-c9akciq32.eu-central-1.rds.amazonaws.com"
NOW = datetime(2026, 11, 24, 23, 59, 58, tzinfo=UTC)
LAMBDA = {
    "AWS_ACCESS_KEY_ID": "ASIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjE+//8=",
    "AWS_REGION": "eu-central-1",
}
URL = f"postgresql://loop_app@{HOST}:5432/loop?sslmode=verify-full&sslrootcert=/opt/certs/rds.pem"


@cache
def rds(region: str) -> Any:
    """A client, which takes a while to make; whose credentials it signs with is up to its user."""
    return boto3.Session("none", "none").client("rds", region)


def token_of_boto3(host: str, port: int, user: str, given: Credentials, now: datetime) -> str:
    """What boto3 makes at that time."""
    credentials = botocore.credentials.Credentials(given.access_key, given.secret_key, given.session_token or None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None))
        patch.setattr(rds(given.region)._request_signer, "_credentials", credentials)
        token = rds(given.region).generate_db_auth_token(host, port, user)
    assert f"{now:%Y%m%dT%H%M%SZ}" in token, "the clock of botocore does not stand still"
    return str(token)


@pytest.mark.parametrize("session_token", ["", LAMBDA["AWS_SESSION_TOKEN"]])
@pytest.mark.parametrize("region", ["eu-central-1", "us-gov-west-1"])
@pytest.mark.parametrize("port", [5432, 6543])
def test_token_is_the_one_that_boto3_makes(session_token: str, region: str, port: int) -> None:
    credentials = Credentials("AKID", "secret", session_token, region)
    made = sign_token(HOST, port, "loop_app", credentials, NOW)
    assert made == token_of_boto3(HOST, port, "loop_app", credentials, NOW)


TEXT = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20)


@given(user=TEXT, secret=TEXT, session_token=TEXT)
@example(user="o'hara+x/~ &=%25ä", secret="/+=", session_token="a+b/c==&%")
def test_token_is_the_same_for_odd_characters(user: str, secret: str, session_token: str) -> None:
    credentials = Credentials("AKID", secret, session_token, "eu-central-1")
    assert sign_token(HOST, 5432, user, credentials, NOW) == token_of_boto3(HOST, 5432, user, credentials, NOW)


@pytest.mark.parametrize("user", ["loop_app", "o%27hara%2Bx%40y"])
def test_url_gets_the_token_of_its_user_and_host_as_password_and_stays_what_it_was(user: str) -> None:
    url = URL.replace("loop_app", user)
    made = conninfo_to_dict(with_token(url, LAMBDA, NOW))
    token = made.pop("password")
    assert made == conninfo_to_dict(url)
    credentials = Credentials.from_environment(LAMBDA)
    assert token == token_of_boto3(HOST, 5432, unquote(user), credentials, NOW)


def test_port_of_postgres_is_signed_where_the_url_has_none() -> None:
    password = urlsplit(with_token(URL.replace(":5432", ""), LAMBDA, NOW)).password
    assert unquote(str(password)).startswith(f"{HOST}:5432/?Action=connect")


def test_each_call_signs_for_its_own_time() -> None:
    now = datetime.now(UTC)
    password = unquote(str(urlsplit(with_token(URL, LAMBDA)).password))
    signed = datetime.strptime(password.partition("X-Amz-Date=")[2][:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs((signed - now).total_seconds()) < 60


@pytest.mark.parametrize(
    ("url", "environment", "message"),
    [
        (URL.replace("verify-full", "verify-ca"), LAMBDA, "sslmode=verify-full"),
        (URL.replace("verify-full", "require"), LAMBDA, "sslmode=verify-full"),
        (URL.replace("sslmode=verify-full&", ""), LAMBDA, "sslmode=verify-full"),
        (f"{URL}&sslmode=disable", LAMBDA, "sslmode=verify-full"),
        (URL.replace("loop_app@", "loop_app:secret@"), LAMBDA, "no password"),
        (URL.replace("loop_app@", ""), LAMBDA, "a user, a host"),
        (URL.replace(f"@{HOST}:5432", "@"), LAMBDA, "a user, a host"),
        (URL, {}, "AWS_ACCESS_KEY_ID"),
        (URL, LAMBDA | {"AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY"),
        (URL, LAMBDA | {"AWS_REGION": ""}, "AWS_REGION"),
    ],
)
def test_what_cannot_be_signed_or_would_be_told_to_anybody_is_refused(
    url: str, environment: Mapping[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        with_token(url, environment, NOW)
    assert "secret@" not in refused.value.message
