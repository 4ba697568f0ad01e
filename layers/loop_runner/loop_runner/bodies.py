"""Owns the shapes of what the routes beside run-next-step take: docs/contracts/loop-api.v1.md as models, strict."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, RootModel, StringConstraints

from loop_runner.contract import Answer, RequestBody
from loop_runner.models import Json
from loop_runner.results import BlockedResult, CompletedResult, FailedResult


class RegisterIssueRequest(RequestBody):
    """Body of PUT issue."""

    loop: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    facts: Json = {}  # noqa: RUF012  pydantic copies it


Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
TaskToken = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class FactsPatch(RootModel[Json]):
    """Body of PATCH issue: a merge patch of its facts (RFC 7396)."""


class ToldCompleted(CompletedResult):
    """The step did its work."""

    task_token: Annotated[TaskToken, Field(alias="taskToken")]


class ToldBlocked(BlockedResult):
    """The step cannot do its work yet."""

    task_token: Annotated[TaskToken, Field(alias="taskToken")]


class ToldFailed(FailedResult):
    """The step did not do its work."""

    task_token: Annotated[TaskToken, Field(alias="taskToken")]


class ToldResult(RootModel[Annotated[ToldCompleted | ToldBlocked | ToldFailed, Field(discriminator="status")]]):
    """Body of POST result: what a step function returns, and the token of who tells it."""


class CancelRequest(RequestBody):
    """Body of POST cancel."""

    reason: Reason | None = None


class HeartbeatRequest(RequestBody):
    """Body of POST heartbeat."""

    task_token: TaskToken


class DecisionRequest(RequestBody):
    """Body of POST approvals."""

    decision: Literal["approved", "rejected"]
    comment: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)] | None = None


class ReasonRequest(RequestBody):
    """Body of POST hold and resume."""

    reason: Reason


class StateRequest(RequestBody):
    """Body of POST state."""

    state: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    reason: Reason


class DeliveryPayload(RootModel[Json]):
    """What GitHub says has happened: https://docs.github.com/en/webhooks/webhook-events-and-payloads."""


class DeliveryAnswer(Answer):
    """What became of a delivery of GitHub's webhook; ``passedOn``: to the issues that wait for its pull requests."""

    schema_version: Literal["loop.githubWebhook.v1"] = "loop.githubWebhook.v1"
    request_id: UUID
    delivery: UUID
    event: str
    passed_on: bool
