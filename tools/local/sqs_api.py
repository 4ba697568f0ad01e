"""What boto3 says to SQS of its calls: SendMessage, SendMessageBatch and GetQueueAttributes, in its JSON protocol.

Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from tools.local.http_api import Request, Response
from tools.local.intrinsics import queue_arn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tools.local.queues import Queue

LONGEST_DELAY_SECONDS: Final = 900
MAX_ENTRIES: Final = 10
MAX_BODY_BYTES: Final = 1024 * 1024

_PREFIX: Final = "AmazonSQS."


class _RefusedError(Exception):
    """SQS would refuse this call, or this entry of it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def is_sqs(target: str) -> bool:
    """Whether the header ``x-amz-target`` names a call of SQS."""
    return target.startswith(_PREFIX)


class SqsApi:
    """Puts messages into queues, which are known by the last part of their URL."""

    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._queues = queues
        self._calls: Mapping[str, Callable[[Queue, Mapping[str, Any]], dict[str, Any]]] = {
            "SendMessage": self._send_message,
            "SendMessageBatch": self._send_message_batch,
            "GetQueueAttributes": self._get_queue_attributes,
        }

    def answer(self, request: Request, target: str) -> Response:
        """Answer one call."""
        try:
            answer = self._answer(target.removeprefix(_PREFIX), request.body)
        except _RefusedError as error:
            return _response(400, {"__type": f"com.amazonaws.sqs#{error.code}", "message": str(error)})
        return _response(200, answer)

    def _answer(self, name: str, body: bytes) -> dict[str, Any]:
        call = self._calls.get(name)
        if call is None:
            raise _RefusedError("UnsupportedOperation", f"the local stack does not know the call {name} of SQS")
        try:
            parameters = json.loads(body)
            url = str(parameters["QueueUrl"])
        except (KeyError, TypeError, ValueError):
            raise _RefusedError("MissingParameter", "The request must contain the parameter QueueUrl.") from None
        queue = self._queues.get(url.rpartition("/")[2])
        if queue is None:
            raise _RefusedError("QueueDoesNotExist", f"The specified queue does not exist: {url}")
        return call(queue, parameters)

    def _send_message(self, queue: Queue, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return _send(queue, parameters)

    def _send_message_batch(self, queue: Queue, parameters: Mapping[str, Any]) -> dict[str, Any]:
        entries = parameters.get("Entries") or []
        if not 1 <= len(entries) <= MAX_ENTRIES:
            code = "TooManyEntriesInBatchRequest" if entries else "EmptyBatchRequest"
            raise _RefusedError(code, f"a batch has 1 to {MAX_ENTRIES} entries, this one has {len(entries)}")
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise _RefusedError("BatchEntryIdsNotDistinct", "two entries of the batch have the same Id")
        sent, refused = [], []
        for entry in entries:
            try:
                sent.append({"Id": entry["Id"], **_send(queue, entry)})
            except _RefusedError as error:
                refused.append({"Id": entry["Id"], "Code": error.code, "Message": str(error), "SenderFault": True})
        return {"Successful": sent} | ({"Failed": refused} if refused else {})

    def _get_queue_attributes(self, queue: Queue, parameters: Mapping[str, Any]) -> dict[str, Any]:
        known = {name: str(count) for name, count in queue.counts(time.monotonic()).items()}
        known["QueueArn"] = queue_arn(queue.name)
        asked = parameters.get("AttributeNames") or []
        return {"Attributes": known if "All" in asked else {name: known[name] for name in asked if name in known}}


def _send(queue: Queue, parameters: Mapping[str, Any]) -> dict[str, Any]:
    body, delay = parameters.get("MessageBody"), parameters.get("DelaySeconds", 0)
    if not isinstance(body, str) or not 1 <= len(body.encode()) <= MAX_BODY_BYTES:
        raise _RefusedError("InvalidParameterValue", f"MessageBody must have 1 to {MAX_BODY_BYTES} bytes")
    if not isinstance(delay, int) or not 0 <= delay <= LONGEST_DELAY_SECONDS:
        raise _RefusedError(
            "InvalidParameterValue", f"DelaySeconds is {delay}: it must be 0 to {LONGEST_DELAY_SECONDS}"
        )
    message = queue.send(body, time.monotonic(), delay)
    return {"MessageId": message.id, "MD5OfMessageBody": md5_of(body)}


def md5_of(body: str) -> str:
    """How SQS names a message's content."""
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def _response(status: int, value: dict[str, Any]) -> Response:
    headers = (("content-type", "application/x-amz-json-1.0"), ("x-amzn-requestid", str(uuid.uuid4())))
    return Response(status, headers, json.dumps(value).encode())
