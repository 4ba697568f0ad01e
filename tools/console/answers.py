"""Owns what the console's server says itself: the error envelope for the API's paths, plain text for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from loop_runner.contract import ErrorAnswer, ErrorBody
from loop_runner.static_files import HEADERS
from tools.local.http_api import Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tools.local.http_api import Request

SAFE: Final = tuple((name, value) for name, value in HEADERS.items() if name != "cache-control")
"""With each answer, the API's included: nobody may embed or guess at it, and shown as a page it does nothing."""

_CODES: Final = {
    401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE",
    400: "INVALID_REQUEST", 421: "FORBIDDEN", 502: "UNAVAILABLE", 504: "UNAVAILABLE",
}  # fmt: skip


def not_allowed(request: Request, methods: Iterable[str]) -> Response:
    """Another method is possible here."""
    allowed = ", ".join(methods)
    response = refusal(request, 405, f"{request.method} is not possible here, {allowed} is")
    return Response(405, (*response.headers, ("allow", allowed)), response.body)


def refusal(request: Request, status: int, message: str, code: str | None = None) -> Response:
    """Why there is no other answer: in the contract's envelope where a client of the API asks, else as text."""
    if not request.raw_path.startswith("/api/"):
        return _of(status, "text/plain; charset=utf-8", f"{message}\n")
    request_id = _request_id(request)
    answer = ErrorAnswer(
        request_id=request_id,
        error=ErrorBody(code=code or _CODES[status], message=message),
        timestamp=datetime.now(UTC),
    )
    response = _of(status, "application/json", answer.model_dump_json(exclude_none=True))
    return Response(status, (*response.headers, ("x-request-id", str(request_id))), response.body)


def _of(status: int, content_type: str, text: str) -> Response:
    return Response(status, (("content-type", content_type), ("cache-control", "no-store"), *SAFE), text.encode())


def _request_id(request: Request) -> UUID:
    try:
        return UUID(dict(request.headers).get("x-request-id", "").strip())
    except ValueError:
        return uuid4()
