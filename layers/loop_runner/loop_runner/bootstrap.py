"""Owns the roles of a database that the stack has made: bootstrap.sql, as its master user, whose password AWS keeps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import psycopg

from loop_runner.database import WAKING_SECONDS, NoAnswerError, connect, reason_of_loss
from loop_runner.errors import ConfigurationError, MasterUserError, MigrationError
from loop_runner.migrations import BOOTSTRAP
from loop_runner.observability import logger
from loop_runner.secret import read_secret

if TYPE_CHECKING:
    from pathlib import Path


def bootstrap(url: str, secret_arn: str, folder: Path, deadline: float) -> None:
    """Run bootstrap.sql in the database of ``url``, as the user of the secret. May be repeated.

    Raises MasterUserError: the secret cannot be read, or its user not sign in; MigrationError: the database refuses.
    """
    logger.info("making the roles", extra={"file": BOOTSTRAP})
    master_url = _as_user_of(secret_arn, url)
    try:
        connection = connect(master_url, connect_seconds=WAKING_SECONDS, deadline=deadline)
    except psycopg.OperationalError as error:
        raise MasterUserError(f"{BOOTSTRAP}: {_reason(error)}") from error
    try:
        with connection:
            connection.execute((folder / BOOTSTRAP).read_bytes())
    except psycopg.Error as error:
        raise MigrationError(f"{BOOTSTRAP}: {_reason(error)}") from error
    except NoAnswerError:
        raise MigrationError(f"{BOOTSTRAP}: the database has not answered in time: deploy again") from None


def is_let_in(url: str, deadline: float) -> bool:
    """Whether the URL's user can sign in."""
    try:
        connect(url, connect_seconds=WAKING_SECONDS, deadline=deadline).close()
    except psycopg.OperationalError:
        return False
    return True


def _reason(error: psycopg.Error) -> str:
    return reason_of_loss(error) or error.diag.message_primary or type(error).__name__


def _as_user_of(secret_arn: str, url: str) -> str:
    """The URL with user and password of a secret of RDS's."""
    try:
        secret = json.loads(read_secret(secret_arn))
    except ConfigurationError as error:
        raise MasterUserError(f"of the master user, {error}") from error
    parts = urlsplit(url)
    user, password = (quote(secret[key], safe="") for key in ("username", "password"))
    return parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port or 5432}").geturl()
