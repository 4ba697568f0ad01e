"""Owns what GitHub's webhook delivers: whether GitHub signed it, whether it can let a step go on, what of it is read.

Of a payload only what names the pull request is read: repository, numbers, commit, branches. Nothing else is kept.
Source: https://docs.github.com/en/webhooks, "Webhook events and payloads", "Validating webhook deliveries"
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

from loop_runner.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
_SHA: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_MOST: Final = 100
"""So many pull requests and branches of one payload are read; GitHub itself lists 10 branches of a commit."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What happened to pull requests of ``repository`` (owner/name): by number, head or merge commit, or branch.

    ``id`` is GitHub's own (X-GitHub-Delivery), the same when it is sent again. ``resends``: how often we sent it again.
    """

    id: UUID
    repository: str
    pull_requests: tuple[int, ...] = ()
    sha: str | None = None
    branches: tuple[str, ...] = ()
    resends: int = 0

    def message(self) -> dict[str, Any]:
        """The message to run-worker."""
        message: dict[str, Any] = {"delivery": str(self.id), **self.content(), "resends": self.resends}
        return {key: value for key, value in message.items() if value is not None}

    def content(self) -> dict[str, Any]:
        """What it says, however often it is sent."""
        return {
            "repository": self.repository,
            "pullRequests": list(self.pull_requests),
            "sha": self.sha,
            "branches": list(self.branches),
        }

    def again(self) -> Delivery:
        """The same, to be sent once more."""
        return replace(self, resends=self.resends + 1)

    @classmethod
    def of_message(cls, message: Mapping[str, Any]) -> Self:
        """What ``message`` gave. KeyError, TypeError or ValueError where it is none of ours."""
        return cls(
            UUID(message["delivery"]),
            str(message["repository"]),
            tuple(int(number) for number in message["pullRequests"]),
            message.get("sha"),
            tuple(str(name) for name in message["branches"]),
            int(message["resends"]),
        )


def is_signed(body: bytes, signature: str, secret: str) -> bool:
    """Whether ``signature`` (X-Hub-Signature-256: sha256=<hex>) is that of the body as it came, in constant time."""
    expected = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    return hmac.compare_digest(expected.encode(), signature.strip().encode(errors="replace"))


def read_payload(body: bytes) -> Mapping[str, Any]:
    """The payload. Raises InvalidRequestError."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            "the payload is not JSON: in the webhook's settings at GitHub, set the content type to application/json"
        ) from None
    if not isinstance(payload, dict):
        raise InvalidRequestError("the payload must be a JSON object")
    return payload


def delivery_of(event: str, delivery_id: UUID, payload: Mapping[str, Any]) -> Delivery | None:
    """What an event (X-GitHub-Event) says; None for one that cannot let a step go on, or names no pull request.

    Raises InvalidRequestError where the payload is not of the event's form.
    """
    read = _EVENTS.get(event)
    if read is None:
        return None
    try:
        said = read(payload)
        if said is None:
            return None
        delivery = Delivery(delivery_id, _matching(_REPOSITORY, payload["repository"]["full_name"]), **said)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidRequestError(f"the payload is not that of the event {event}") from None
    return delivery if delivery.pull_requests or delivery.sha else None


def _of_pull_request(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    if payload["action"] not in {"closed", "edited", "opened", "ready_for_review", "reopened", "synchronize"}:
        return None
    return {"pull_requests": (_number(payload["pull_request"]["number"]),)}


def _of_review(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    if payload["action"] not in {"dismissed", "edited", "submitted"}:
        return None
    return {"pull_requests": (_number(payload["pull_request"]["number"]),)}


def _of_check(key: str, payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a check run or suite. It may name pull requests of a fork's own, and names none that come from a fork."""
    if payload["action"] != "completed":
        return None
    check = payload[key]
    branch = check.get("head_branch") or (check.get("check_suite") or {}).get("head_branch")
    ours = payload["repository"]["id"]
    return {
        "pull_requests": tuple(
            _number(each["number"])
            for each in (check.get("pull_requests") or [])[:_MOST]
            if each["base"]["repo"]["id"] == ours
        ),
        "sha": _matching(_SHA, check["head_sha"]),
        "branches": (str(branch),) if branch else (),
    }


def _of_status(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    if payload["state"] == "pending":
        return None
    return {
        "sha": _matching(_SHA, payload["sha"]),
        "branches": tuple(str(each["name"]) for each in (payload.get("branches") or [])[:_MOST]),
    }


def _of_deployment_status(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    if payload["deployment_status"]["state"] not in {"error", "failure", "success"}:
        return None
    return {"sha": _matching(_SHA, payload["deployment"]["sha"])}


_EVENTS: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]]] = {
    "pull_request": _of_pull_request,
    "pull_request_review": _of_review,
    "check_run": lambda payload: _of_check("check_run", payload),
    "check_suite": lambda payload: _of_check("check_suite", payload),
    "status": _of_status,
    "deployment_status": _of_deployment_status,
}
"""What can turn a step's answer from blocked to completed, or say why it will not; what only delays it is left out."""


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(value)
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError(value)
    return value
