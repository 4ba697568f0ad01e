"""A secret is read when it is needed, kept, and read again when it may have been rotated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from loop_runner import aws
from loop_runner.errors import ConfigurationError
from loop_runner.secret import Secret, read_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKED = "canary-5c0ffee5"


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Secrets Manager."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    aws.client.cache_clear()
    with mock_aws():
        yield boto3.client("secretsmanager")
    aws.client.cache_clear()


@pytest.fixture
def arn(manager: Any) -> str:
    return str(manager.create_secret(Name="token", SecretString=MARKED)["ARN"])


def rotate(manager: Any, arn: str) -> None:
    manager.put_secret_value(SecretId=arn, SecretString="another")


def test_it_is_read_once(manager: Any, arn: str) -> None:
    secret = Secret(arn)
    assert secret.text() == MARKED
    rotate(manager, arn)
    assert secret.text() == MARKED


def test_it_is_read_again_where_it_is_older_than_is_asked_for(manager: Any, arn: str) -> None:
    secret = Secret(arn)
    secret.text()
    rotate(manager, arn)
    assert secret.text(older_than_seconds=60) == MARKED
    assert secret.text(older_than_seconds=0) == "another"
    assert secret.text() == "another"


def test_what_was_read_stays_where_it_cannot_be_read_again(manager: Any, arn: str) -> None:
    secret = Secret(arn)
    secret.text()
    manager.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    with pytest.raises(ConfigurationError):
        secret.text(older_than_seconds=0)
    assert secret.text() == MARKED


def test_one_that_is_not_there_is_told_by_its_name_with_what_to_do(manager: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"secret gone .*ResourceNotFoundException.*right to"):
        Secret("gone").text()


def test_one_without_a_text_is_told(manager: Any) -> None:
    arn = manager.create_secret(Name="binary", SecretBinary=b"x")["ARN"]
    with pytest.raises(ConfigurationError, match="has no text"):
        read_secret(arn)


def test_it_is_not_shown(arn: str) -> None:
    secret = Secret(arn)
    secret.text()
    assert MARKED not in f"{secret!r} {secret}"
