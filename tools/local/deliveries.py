"""Brings messages from queues to the functions that the template names: Lambda's event source mapping for SQS.

Source: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html and services-sqs-errorhandling.html.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tools.local.intrinsics import REGION, queue_arn
from tools.local.sqs_api import md5_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tools.local.queues import Message, Queue
    from tools.local.template import Function, Source
    from tools.local.workers import Outcome, Workers


async def deliver_all(
    functions: Mapping[str, Function],
    workers: Mapping[str, Workers],
    queues: Mapping[str, Queue],
    *,
    at_once: int,
    report: Callable[[str], None],
) -> None:
    """Deliver until cancelled, ``at_once`` batches to each function; ``report`` hears of each message that failed."""
    await asyncio.gather(
        *(
            _deliver(source, queues[source.queue], workers[name], report)
            for name, function in functions.items()
            for source in function.sources
            for _ in range(at_once)
        )
    )


async def _deliver(source: Source, queue: Queue, target: Workers, report: Callable[[str], None]) -> None:
    while True:
        messages = await _next_batch(queue, source.batch_size)
        outcome = await target.invoke(json.dumps(event_of(messages, queue.name)).encode())
        failed = failed_ids(outcome, [message.id for message in messages], partial=source.partial)
        for message in messages:
            if message.id not in failed:
                queue.done(message)
                continue
            is_dead = queue.failed(message, time.monotonic())
            what_now = f"goes to {queue.dead_letters.name}" if is_dead and queue.dead_letters else "comes again"
            report(f"{queue.name}: a message failed for the {message.receives}. time and {what_now}: {message.body}")


async def _next_batch(queue: Queue, size: int) -> list[Message]:
    while not (messages := queue.take(size, time.monotonic())):
        queue.changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(queue.seconds_to_next(time.monotonic())):
                await queue.changed.wait()
    return messages


def event_of(messages: Sequence[Message], queue: str) -> dict[str, Any]:
    """The event with which Lambda brings messages."""
    return {"Records": [_record(message, queue) for message in messages]}


def _record(message: Message, queue: str) -> dict[str, Any]:
    return {
        "messageId": message.id,
        "receiptHandle": f"{message.id}#{message.receives}",
        "body": message.body,
        "attributes": {
            "ApproximateReceiveCount": str(message.receives),
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "SenderId": "local",
            "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
        },
        "messageAttributes": {},
        "md5OfBody": md5_of(message.body),
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn(queue),
        "awsRegion": REGION,
    }


def failed_ids(outcome: Outcome, ids: Sequence[str], *, partial: bool) -> set[str]:
    """Which of the messages were not dealt with: all where the function failed, or its answer is not understood."""
    if outcome.failed:
        return set(ids)
    answer = json.loads(outcome.payload) if partial else None
    if not answer:
        return set()
    try:
        failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"] or []}
    except (KeyError, TypeError):
        return set(ids)
    return failed if failed <= set(ids) else set(ids)
