"""Owns the token that stands for the database's password: an AWS Signature Version 4 of who connects where, for now.

Signed here with what Lambda gives the function, no call is made. boto3's generate_db_auth_token does the same, and a
test compares them; importing it would cost ten times as long as all of this.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from loop_runner.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_SECONDS: Final = 900
"""How long one may connect with a token; the connection may live on."""

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "rds-db"
_NO_BODY: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of the function's role, and the region that they are used in."""

    access_key: str
    secret_key: str
    session_token: str
    region: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Credentials:
        """As Lambda gives them. Raises ConfigurationError."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
        access_key, secret_key, session_token, region = (environment.get(name, "") for name in names)
        if not (access_key and secret_key and region):
            raise ConfigurationError(
                "DATABASE_AUTH is iam, but there are no AWS credentials to sign a token with: "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, as Lambda sets them"
            )
        return cls(access_key, secret_key, session_token, region)


def with_token(url: str, environment: Mapping[str, str] = os.environ, now: datetime | None = None) -> str:
    """The URL with a token as its password, to connect with at once.

    Raises ConfigurationError where the URL would give the token to whoever answers, or leaves out who connects.
    """
    parts = urlsplit(url)
    if parse_qs(parts.query).get("sslmode") != ["verify-full"]:
        raise ConfigurationError(
            "DATABASE_AUTH is iam: DATABASE_URL must have sslmode=verify-full, a token is a secret"
        )
    if not (parts.username and parts.hostname) or parts.password is not None:
        raise ConfigurationError("DATABASE_AUTH is iam: DATABASE_URL must have a user, a host and no password")
    host, port = parts.hostname, parts.port or 5432
    credentials = Credentials.from_environment(environment)
    token = sign_token(host, port, unquote(parts.username), credentials, now or datetime.now(UTC))
    return parts._replace(netloc=f"{parts.username}:{quote(token, safe='')}@{host}:{port}").geturl()


def sign_token(host: str, port: int, user: str, credentials: Credentials, now: datetime) -> str:
    """The token with which ``user`` may connect there from ``now`` on.

    A presigned GET without its scheme: "Create a signed AWS API request", IAM User Guide.
    """
    date = f"{now:%Y%m%d}"
    scope = f"{date}/{credentials.region}/{_SERVICE}/aws4_request"
    query = {
        "Action": "connect",
        "DBUser": user,
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
        "X-Amz-Expires": str(TOKEN_SECONDS),
        "X-Amz-SignedHeaders": "host",
    }
    if credentials.session_token:
        query["X-Amz-Security-Token"] = credentials.session_token
    encoded = {name: quote(value, safe="-._~") for name, value in query.items()}
    sorted_query = "&".join(f"{name}={value}" for name, value in sorted(encoded.items()))
    request = "\n".join(["GET", "/", sorted_query, f"host:{host}:{port}", "", "host", _NO_BODY])
    to_sign = "\n".join([_ALGORITHM, query["X-Amz-Date"], scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (date, credentials.region, _SERVICE, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    listed_query = "&".join(f"{name}={value}" for name, value in encoded.items())
    return f"{host}:{port}/?{listed_query}&X-Amz-Signature={signature}"
