"""Owns the clients of AWS services. boto3 is imported by the first call that needs one: a transition never does."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=8)
def client(service: str, *, read_seconds: int, connect_seconds: int = 5) -> Any:
    """A client of the service that asks once and waits so long for an answer."""
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        retries={"total_max_attempts": 1},
        tcp_keepalive=True,
    )
    return boto3.client(service, config=config)


def exceptions() -> Any:
    """botocore.exceptions."""
    from botocore import exceptions  # noqa: PLC0415

    return exceptions
