"""The stack's one port as an ASGI application: the HTTP API, with Lambda's Invoke call, SQS and secrets beside it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from typing import TYPE_CHECKING

from tools.local.asgi import raw_path_of, read_body, request_of, send_response
from tools.local.http_api import MAX_BODY_BYTES, Response, Router, event_of, response_of
from tools.local.lambda_api import LambdaApi, is_invoke
from tools.local.secrets_api import SecretsApi, is_secrets
from tools.local.sqs_api import SqsApi, is_sqs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from tools.local.asgi import Receive, Scope, Send
    from tools.local.http_api import Match, Request
    from tools.local.queues import Queue
    from tools.local.template import Route
    from tools.local.workers import Outcome, Workers

INTEGRATION_SECONDS = 30.0  # API Gateway's limit, which cannot be raised


class Gateway:
    """Serves the routes of a template with the workers of its functions; ``on_access`` hears one line per request.

    Functions that are ``throttled`` are not invoked by Lambda's call: it answers as if they were busy.
    """

    def __init__(
        self,
        functions: Mapping[str, Workers],
        routes: Iterable[Route],
        queues: Mapping[str, Queue],
        secrets: Mapping[str, str],
        *,
        throttled: Collection[str] = (),
        on_access: Callable[[str], None] | None = None,
    ) -> None:
        self._functions = functions
        self._router = Router(routes)
        self._lambda_api = LambdaApi(functions, throttled)
        self._sqs_api = SqsApi(queues)
        self._secrets_api = SecretsApi(secrets)
        self._on_access = on_access
        self._late: set[asyncio.Task[Outcome]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong here is a 500, as API Gateway's own faults are."""
        if scope["type"] != "http":
            return
        started = time.monotonic()
        raw_path = raw_path_of(scope)
        try:
            body = await read_body(receive, MAX_BODY_BYTES)
            response = (
                Response.message(413, "Request Entity Too Large")
                if body is None
                else await self._answer(request_of(scope, body))
            )
        except Exception:
            traceback.print_exc(file=sys.stderr)
            response = Response.message(500, "Internal Server Error")
        await send_response(send, response, has_body=scope["method"] != "HEAD")
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
        if target is not None and is_secrets(target):
            return self._secrets_api.answer(request, target)
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
