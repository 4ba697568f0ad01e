"""Owns the messages to run-worker: sent after the commit that they speak of, never before.

What a message says stands in the ledger, too: one that is lost is sent again by the sweeper, one too many is ignored.
So a failure to send is logged and nothing else.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from loop_runner.aws import client
from loop_runner.observability import logger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

LONGEST_DELAY_SECONDS: Final = 900
"""What SQS can delay a message; what is due later is the sweeper's to send."""

_BATCH: Final = 10


def of_run(issue_id: str, run_id: UUID | str) -> dict[str, str]:
    """Begin this queued run."""
    return {"issueId": issue_id, "runId": str(run_id)}


def of_attempt(issue_id: str, after: UUID | str) -> dict[str, str]:
    """Go on with the issue, as this run planned."""
    return {"issueId": issue_id, "after": str(after)}


class Messages:
    """Sends to the queue; without a queue nothing is sent, and everything waits for a sweeper that has one."""

    def __init__(self, queue_url: str) -> None:
        self._queue_url = queue_url

    def send(self, messages: Iterable[dict[str, Any]], delay_seconds: float = 0.0) -> int:
        """Send them, to be delivered after the delay; how many were sent. boto3 is imported when the first is."""
        waiting = list(messages)
        if not self._queue_url or not waiting or delay_seconds > LONGEST_DELAY_SECONDS:
            return 0
        sent = 0
        for start in range(0, len(waiting), _BATCH):
            entries = [
                {"Id": str(number), "MessageBody": json.dumps(message), "DelaySeconds": math.ceil(delay_seconds)}
                for number, message in enumerate(waiting[start : start + _BATCH])
            ]
            try:
                sqs = client("sqs", read_seconds=2, connect_seconds=1)  # within what is left of a call
                answer = sqs.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
            except Exception:
                logger.exception("messages could not be sent: the sweeper sends them again")
                break
            sent += len(answer.get("Successful", []))
            for failed in answer.get("Failed", []):
                logger.error("a message could not be sent: the sweeper sends it again", extra={"code": failed["Code"]})
        return sent
