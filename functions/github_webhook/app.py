"""POST /api/github/webhook: takes what GitHub delivers, if GitHub signed it, and passes on what lets a step go on.

In no VPC and with no database: what it knows of a delivery it sends to run-worker, which finds the issues.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Final
from uuid import UUID

from loop_runner.bodies import DeliveryAnswer, DeliveryPayload
from loop_runner.errors import (
    ConfigurationError,
    InvalidRequestError,
    LoopError,
    UnauthorizedError,
    UnavailableError,
)
from loop_runner.github_events import delivery_of, is_signed, read_payload
from loop_runner.http import Api, Call, Reply, body_of
from loop_runner.observability import logger
from loop_runner.secret import Secret
from loop_runner.services import Services
from loop_runner.settings import Settings

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""Two texts of 64 K characters, that of the pull request and that of the review, are within a payload."""

ROTATION_SECONDS: Final = 60
"""A signature that does not fit is reason to read the secret again, once in this time."""

SETTLE_SECONDS: Final = 1
"""For GitHub's answers to be what its delivery says."""

_EVENT: Final = re.compile(r"[a-z_]{1,64}")


@cache
def secret() -> Secret:
    """What GitHub signs with. Raises ConfigurationError."""
    arn = os.environ.get("GITHUB_WEBHOOK_SECRET_ARN")
    if not arn:
        raise ConfigurationError("GITHUB_WEBHOOK_SECRET_ARN is not set: give the function the webhook's secret")
    return Secret(arn)


def services() -> Services:
    """What sends messages; nothing of it asks a database."""
    nowhere = Path()
    return Services(Settings("", nowhere, nowhere, run_queue_url=os.environ.get("RUN_QUEUE_URL", "")))


api = Api(services)
handler = api.handle


@api.route(
    "POST",
    "/api/github/webhook",
    body=DeliveryPayload,
    takes=("X-GitHub-Event", "X-GitHub-Delivery", "X-Hub-Signature-256"),
    answers=DeliveryAnswer,
    statuses=(200, 202),
    raises=(InvalidRequestError, UnauthorizedError, UnavailableError),
    is_open=True,
)
def take_delivery(call: Call) -> Reply:
    """Take a delivery of GitHub's webhook, and pass it on where it can let a step go on; 200 is for GitHub's `ping`."""
    body = body_of(call.event, MAX_PAYLOAD_BYTES)
    _check_signature(body, call.headers.get("x-hub-signature-256", ""))
    event, delivery_id = call.headers.get("x-github-event", ""), _id(call.headers.get("x-github-delivery", ""))
    if not _EVENT.fullmatch(event):
        raise InvalidRequestError("the header X-GitHub-Event is missing, or no event's name")
    logger.append_keys(delivery=str(delivery_id), event=event)
    payload = read_payload(body)
    delivery = delivery_of(event, delivery_id, payload)
    if delivery and not call.services.messages.send([delivery.message()], SETTLE_SECONDS):
        raise UnavailableError("the queue is out of reach and nothing was changed: let GitHub deliver it again")
    answer = DeliveryAnswer(
        request_id=call.request_id, delivery=delivery_id, event=event, passed_on=delivery is not None
    )
    return Reply(answer, 200 if event == "ping" else 202)


def _check_signature(body: bytes, signature: str) -> None:
    """Raises UnauthorizedError, or LoopError where nobody can say; whoever guesses learns nothing from either."""
    try:
        for older_than in (None, ROTATION_SECONDS):
            if is_signed(body, signature, _key(secret().text(older_than_seconds=older_than))):
                return
    except ConfigurationError as error:
        raise LoopError("the webhook's secret cannot be read: the log lines of this requestId say why") from error
    raise UnauthorizedError("X-Hub-Signature-256 is not that of the body with the webhook's secret")


def _key(text: str) -> str:
    """The key of a secret: its text, or of a JSON object (as the console of AWS makes them) what ``secret`` says."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    key = value.get("secret") if isinstance(value, dict) else text.strip()
    if not isinstance(key, str) or not key:
        raise ConfigurationError('the webhook\'s secret must be a text, or {"secret": "<text>"}')
    return key


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequestError("the header X-GitHub-Delivery is missing, or no delivery's id") from None
