"""Delivers to the webhook of a stack as GitHub does: signed, under an id of its own."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.sample_events import SECRET
from tools.local.client import request

if TYPE_CHECKING:
    from tools.local.client import Answer

PATH = "/api/github/webhook"


def signature(body: bytes, secret: str = SECRET) -> str:
    """X-Hub-Signature-256 of a body."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def deliver(url: str, event: str, payload: Any, *, delivery: str | None = None, secret: str = SECRET) -> Answer:
    """Deliver an event; ``delivery`` is its id, a new one where none is given."""
    body = json.dumps(payload).encode()
    headers = {
        "x-github-event": event,
        "x-github-delivery": delivery or str(uuid4()),
        "x-hub-signature-256": signature(body, secret),
    }
    return request(url, "POST", PATH, body, headers)
