"""The stack's one port as an ASGI application: API Gateway's HTTP API, with Lambda's Invoke call and SQS beside it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

from tools.local.http_api import MAX_BODY_BYTES, Request, Response, Router, event_of, response_of
from tools.local.lambda_api import LambdaApi, is_invoke
from tools.local.sqs_api import SqsApi, is_sqs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping

    from tools.local.http_api import Match
    from tools.local.queues import Queue
    from tools.local.template import Route
    from tools.local.workers import Outcome, Workers

    Message = MutableMapping[str, Any]

INTEGRATION_SECONDS = 30.0  # API Gateway's limit, which cannot be raised

_DISCARDED_BYTES: Final = 100 * 1024 * 1024


class Gateway:
    """Serves the routes of a template with the workers of its functions; ``on_access`` hears one line per request.

    Functions that are ``throttled`` are not invoked by Lambda's call: it answers as if they were busy.
    """

    def __init__(
        self,
        functions: Mapping[str, Workers],
        routes: Iterable[Route],
        queues: Mapping[str, Queue],
        *,
        throttled: Collection[str] = (),
        on_access: Callable[[str], None] | None = None,
    ) -> None:
        self._functions = functions
        self._router = Router(routes)
        self._lambda_api = LambdaApi(functions, throttled)
        self._sqs_api = SqsApi(queues)
        self._on_access = on_access
        self._late: set[asyncio.Task[Outcome]] = set()

    async def __call__(
        self, scope: Mapping[str, Any], receive: Callable[[], Any], send: Callable[[Message], Any]
    ) -> None:
        """Answer one request; whatever goes wrong here is a 500, as API Gateway's own faults are."""
        if scope["type"] != "http":
            return
        started = time.monotonic()
        raw_path = scope["raw_path"].decode("ascii", "replace")
        try:
            body = await _read_body(receive)
            response = (
                Response.message(413, "Request Entity Too Large")
                if body is None
                else await self._answer(_request_of(scope, raw_path, body))
            )
        except Exception:
            traceback.print_exc(file=sys.stderr)
            response = Response.message(500, "Internal Server Error")
        await _send(send, response, has_body=scope["method"] != "HEAD")
        if self._on_access is not None:
            milliseconds = (time.monotonic() - started) * 1000
            target = dict(scope["headers"]).get(b"x-amz-target", b"").decode("latin-1")
            self._on_access(f"{scope['method']} {target or raw_path} {response.status} {milliseconds:.0f} ms")

    async def _answer(self, request: Request) -> Response:
        if is_invoke(request):
            return await self._lambda_api.answer(request)
        target = dict(request.headers).get("x-amz-target")
        if target is not None and is_sqs(target):
            return self._sqs_api.answer(request, target)
        if target is not None:  # another AWS service's call; not for the API's default route
            kind = "com.amazonaws.local#UnknownOperationException"
            return Response.of_json(400, {"__type": kind, "message": f"the local stack does not know {target}"})
        match = self._router.match(request.method, request.raw_path)
        return Response.message(404, "Not Found") if match is None else await self._integrate(request, match)

    async def _integrate(self, request: Request, match: Match) -> Response:
        """Call the route's function. One that takes too long goes on, though nobody hears its answer."""
        event = event_of(request, match)
        payload = json.dumps(event, ensure_ascii=False).encode()
        call = asyncio.create_task(self._functions[match.route.function].invoke(payload))
        self._late.add(call)  # the loop itself keeps weak references only
        call.add_done_callback(self._late.discard)
        done, _ = await asyncio.wait({call}, timeout=INTEGRATION_SECONDS)
        if not done:
            return Response.message(503, "Service Unavailable")
        outcome = call.result()
        response = None if outcome.failed else response_of(outcome.payload)
        if response is None:
            return Response.message(500, "Internal Server Error")
        request_id = event["requestContext"]["requestId"]
        return Response(response.status, (*response.headers, ("apigw-requestid", request_id)), response.body)


def _request_of(scope: Mapping[str, Any], raw_path: str, body: bytes) -> Request:
    client = scope.get("client")
    return Request(
        method=scope["method"],
        raw_path=raw_path,
        query=scope["query_string"].decode("latin-1"),
        headers=tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]),
        body=body,
        protocol=f"HTTP/{scope['http_version']}",
        source_ip=client[0] if client else "127.0.0.1",
    )


async def _read_body(receive: Callable[[], Any]) -> bytes | None:
    """The body, or None when it is too long; the rest of such a one is read all the same, for the client to see why."""
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        length += len(part)
        if length <= MAX_BODY_BYTES:
            parts.append(part)
        if message["type"] == "http.disconnect" or not message.get("more_body") or length > _DISCARDED_BYTES:
            return b"".join(parts) if length <= MAX_BODY_BYTES else None


async def _send(send: Callable[[Message], Any], response: Response, *, has_body: bool) -> None:
    is_empty = response.status in {204, 304}
    headers = [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in response.headers
    ]
    if not is_empty:
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if has_body and not is_empty else b""})
