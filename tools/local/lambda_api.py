"""Lambda's Invoke call, so that ``boto3.client("lambda", endpoint_url=...)`` reaches the functions of the stack.

Source: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html. Asynchronous invocations are not retried.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import unquote

from tools.local.http_api import Request, Response
from tools.local.intrinsics import function_arn

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tools.local.workers import Workers

MAX_PAYLOAD_BYTES: Final = 6 * 1024 * 1024

_PATH: Final = re.compile(r"/2015-03-31/functions/([^/]+)/invocations/?")


def is_invoke(request: Request) -> bool:
    """Whether the request is for Lambda rather than for the HTTP API."""
    return request.raw_path.startswith("/2015-03-31/")


class LambdaApi:
    """Invokes functions by name, or by an ARN that ends in it, with or without a qualifier.

    A function of the template has its logical id as name. Those ``throttled`` are refused, as without free concurrency.
    """

    def __init__(self, functions: Mapping[str, Workers], throttled: Collection[str] = ()) -> None:
        self._functions = functions
        self._throttled = throttled
        self._in_background: set[asyncio.Task[object]] = set()

    async def answer(self, request: Request) -> Response:
        """Answer one call; the functions' failures are part of the answer."""
        found = _PATH.fullmatch(request.raw_path)
        if found is None or request.method != "POST":
            return _refusal(404, "UnknownOperationException", "the local stack knows no Lambda call but Invoke")
        name = unquote(found[1]).rpartition(":function:")[2].partition(":")[0]
        workers = self._functions.get(name)
        if workers is None:
            return _refusal(404, "ResourceNotFoundException", f"Function not found: {function_arn(name)}")
        if name in self._throttled:
            return _refusal(429, "TooManyRequestsException", "Rate Exceeded.")
        payload = request.body.strip() or b"{}"
        if len(payload) > MAX_PAYLOAD_BYTES:
            message = f"Request must be smaller than {MAX_PAYLOAD_BYTES} bytes for the InvokeFunction operation"
            return _refusal(413, "RequestTooLargeException", message)
        try:
            json.loads(payload, parse_constant=_refuse_constant)
        except ValueError as error:
            message = f"Could not parse request body into json: {error}"
            return _refusal(400, "InvalidRequestContentException", message)
        return await self._invoke(
            workers, payload, dict(request.headers).get("x-amz-invocation-type", "RequestResponse")
        )

    async def _invoke(self, workers: Workers, payload: bytes, invocation_type: str) -> Response:
        request_id = str(uuid.uuid4())
        headers = {"x-amzn-requestid": request_id}
        if invocation_type == "DryRun":
            return Response(204, tuple(headers.items()), b"")
        if invocation_type == "Event":
            task = asyncio.create_task(workers.invoke(payload, request_id))
            self._in_background.add(task)  # the loop itself keeps weak references only
            task.add_done_callback(self._in_background.discard)
            return Response(202, tuple(headers.items()), b"")
        if invocation_type != "RequestResponse":
            message = f"{invocation_type} is not an invocation type: RequestResponse, Event or DryRun"
            return _refusal(400, "InvalidParameterValueException", message)
        outcome = await workers.invoke(payload, request_id)
        headers |= {"content-type": "application/json", "x-amz-executed-version": "$LATEST"}
        if outcome.failed:
            headers["x-amz-function-error"] = "Unhandled"
        return Response(200, tuple(headers.items()), outcome.payload)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refusal(status: int, error_type: str, message: str) -> Response:
    headers = {"x-amzn-errortype": error_type, "x-amzn-requestid": str(uuid.uuid4())}
    return Response.of_json(status, {"Type": "User", "Message": message}, headers)
