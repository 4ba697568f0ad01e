"""Owns the GitHub App of the fake: its key, and the tokens of its installation."""

from __future__ import annotations

import base64
import json
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from tests.github.world import RefusedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

HOUR_SECONDS: Final = 3600


class App:
    """An App that is installed once. Its tokens are for an hour; who calls with one is ``loop-runner[bot]``."""

    app_id: Final = 4711
    installation_id: Final = 815

    def __init__(self) -> None:
        self._tokens: dict[str, float] = {}

    @cached_property
    def _key(self) -> RSAPrivateKey:
        from cryptography.hazmat.primitives.asymmetric import rsa

        return rsa.generate_private_key(65537, 2048)

    @property
    def private_key(self) -> str:
        """PEM, as GitHub gives it to who makes the App."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ).decode()

    def login_of(self, token: str) -> str | None:
        return "loop-runner[bot]" if self._tokens.get(token, 0) > time.time() else None

    def expire(self) -> None:
        """Let the hour of all tokens be over."""
        self._tokens.clear()

    def access_token(self, jwt: str, installation: int) -> tuple[int, dict[str, Any]]:
        """A new token for who signs with the App's key."""
        claims = self._claims(jwt)
        if str(claims["iss"]) != str(self.app_id):
            raise RefusedError(404, "Integration not found")
        if not claims["iat"] <= time.time() + 1 or claims["exp"] > time.time() + 600:
            raise RefusedError(401, "'Expiration time' claim ('exp') is too far in the future")
        if claims["exp"] <= time.time():
            raise RefusedError(401, "'Expiration time' claim ('exp') must be a numeric value in the future")
        if installation != self.installation_id:
            raise RefusedError(404, "Not Found")
        token, until = f"ghs_{uuid4().hex}", time.time() + HOUR_SECONDS
        self._tokens[token] = until
        expires_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
        permissions = {"checks": "read", "contents": "write", "deployments": "read", "pull_requests": "write"}
        return 201, {"token": token, "expires_at": expires_at, "permissions": permissions}

    def _claims(self, jwt: str) -> dict[str, Any]:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        refused = RefusedError(401, "A JSON web token could not be decoded")
        try:
            signed, _, signature = jwt.rpartition(".")
            self._key.public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            claims: dict[str, Any] = json.loads(_decoded(signed.split(".")[1]))
        except (ValueError, IndexError, InvalidSignature):
            raise refused from None
        return claims


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
