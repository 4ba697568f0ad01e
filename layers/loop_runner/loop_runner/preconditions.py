"""Owns the headers that decide whether and how a call acts: If-Match, Idempotency-Key, Prefer."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Final

from loop_runner.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop_runner.identity import Identity
    from loop_runner.models import Json

_ETAG: Final = re.compile(r'"(\d{1,18})"')
_KEY: Final = re.compile(
    r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"|([\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]{1,255})'
)


def if_match(headers: Mapping[str, str]) -> frozenset[int] | None:
    """The issue versions that If-Match accepts (RFC 9110, section 13.1.1); None for none given, or any."""
    header = headers.get("if-match", "").strip()
    if header in {"", "*"}:
        return None
    tags = [tag.strip() for tag in header.split(",")]
    versions = [_ETAG.fullmatch(tag) for tag in tags]
    if any(version is None and not tag.startswith('W/"') for version, tag in zip(versions, tags, strict=True)):
        raise InvalidRequestError('If-Match must be the ETag of the issue, for example "3"')
    return frozenset(int(version[1]) for version in versions if version)


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The key of the header Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07, section 2.1).

    A quoted string as the draft has it, or the bare text that most clients send; None where there is no header.
    """
    if (header := headers.get("idempotency-key")) is None:
        return None
    match = _KEY.fullmatch(header.strip())
    if match is None:
        raise InvalidRequestError(
            'Idempotency-Key must be given once, 1 to 255 printable ASCII characters, for example "'
            '8e03978e-40d5-43dd-bc93-6894a57f9324"'
        )
    return re.sub(r'\\(["\\])', r"\1", match[1]) if match[1] else match[2]


def prefers_async(headers: Mapping[str, str]) -> bool:
    """Whether Prefer has respond-async (RFC 7240, section 4.1)."""
    preferences = headers.get("prefer", "").lower().split(",")
    return any(preference.split(";")[0].strip() == "respond-async" for preference in preferences)


def request_hash(identity: Identity, body: Json, versions: frozenset[int] | None, *, is_async: bool) -> str:
    """What an Idempotency-Key stands for: who asks, for what, under which preconditions, in which manner."""
    parts = [identity.actor, identity.principal, body, None if versions is None else sorted(versions), is_async]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
