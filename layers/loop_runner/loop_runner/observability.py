"""Owns the logger: JSON lines with the ids of the call on each, never a payload, never a secret."""

from __future__ import annotations

from aws_lambda_powertools import Logger

logger = Logger(serialize_stacktrace=False)
