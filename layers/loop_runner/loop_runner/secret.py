"""Owns secrets of Secrets Manager: read when first needed, kept by the process, read again when they may be others."""

from __future__ import annotations

import time
from typing import Final

from loop_runner.aws import client, exceptions
from loop_runner.errors import ConfigurationError

_CONNECT_SECONDS: Final = 2
_READ_SECONDS: Final = 5


class Secret:
    """The text of a secret. An execution environment keeps one of these for each secret that its function needs."""

    def __init__(self, arn: str) -> None:
        """``arn`` may be the secret's name as well. Nothing is read yet."""
        self._arn = arn
        self._text: str | None = None
        self._read_at = 0.0

    def text(self, *, older_than_seconds: float | None = None) -> str:
        """The secret; read again where it was read longer ago than that, since somebody may have rotated it.

        Raises ConfigurationError, whose message says what to do and has nothing of the secret.
        """
        age = time.monotonic() - self._read_at
        if self._text is None or (older_than_seconds is not None and age >= older_than_seconds):
            self._text, self._read_at = read_secret(self._arn), time.monotonic()
        return self._text

    def __repr__(self) -> str:
        return f"Secret({self._arn!r})"


def read_secret(arn: str) -> str:
    """The current text of a secret. Raises ConfigurationError."""
    boto = exceptions()
    try:
        asked = client("secretsmanager", read_seconds=_READ_SECONDS, connect_seconds=_CONNECT_SECONDS)
        answer = asked.get_secret_value(SecretId=arn)
    except (boto.BotoCoreError, boto.ClientError) as error:
        raise ConfigurationError(
            f"the secret {arn} cannot be read: {error}; the function needs a way to Secrets Manager (in a VPC: "
            "SecretsManagerEndpoint, or a NAT gateway) and the right to read it"
        ) from error
    text = answer.get("SecretString")
    if not text:
        raise ConfigurationError(f"the secret {arn} has no text: write it with put-secret-value --secret-string")
    return str(text)
