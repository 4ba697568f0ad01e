"""Owns the way from ASGI to requests and answers, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tools.local.http_api import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from tools.local.http_api import Response

    Scope = Mapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DISCARDED_BYTES: Final = 100 * 1024 * 1024


def raw_path_of(scope: Scope) -> str:
    """The path as it was sent."""
    return str(scope["raw_path"].decode("ascii", "replace"))


def request_of(scope: Scope, body: bytes = b"") -> Request:
    """The request."""
    client = scope.get("client")
    return Request(
        method=scope["method"],
        raw_path=raw_path_of(scope),
        query=scope["query_string"].decode("latin-1"),
        headers=tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]),
        body=body,
        protocol=f"HTTP/{scope['http_version']}",
        source_ip=client[0] if client else "127.0.0.1",
    )


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """The body, or None when it is longer; the rest of such a one is read all the same, for the client to see why."""
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        length += len(part)
        if length <= limit:
            parts.append(part)
        if message["type"] == "http.disconnect" or not message.get("more_body") or length > _DISCARDED_BYTES:
            return b"".join(parts) if length <= limit else None


async def send_response(send: Send, response: Response, *, has_body: bool) -> None:
    """Send the answer; ``has_body``: unless it must not have one, as that of HEAD."""
    is_empty = response.status in {204, 304}
    headers = [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in response.headers
    ]
    if not is_empty:
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if has_body and not is_empty else b""})
