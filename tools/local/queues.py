"""Queues in memory: what is sent waits for its time, is taken, and is then done with or comes again.

Whoever calls says what time it is, in seconds of one clock. What is in a queue when the stack ends is lost.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.local.template import QueueProperties

REDELIVERY_SECONDS: Final = 1.0
"""After how long a message comes again that was not dealt with: not the queue's VisibilityTimeout, nobody waits so long
at a laptop, and here it is known that its function has ended."""


@dataclass(slots=True)
class Message:
    """A message; times of the wall clock, in seconds."""

    body: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sent_at: float = field(default_factory=time.time)
    receives: int = 0
    first_received_at: float = 0.0


class Queue:
    """Messages that wait and those that were taken. ``changed`` is set whenever one is put."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.changed = asyncio.Event()
        self.dead_letters: Queue | None = None
        self.max_receives = 0
        self._waiting: list[tuple[float, int, Message]] = []
        self._taken: dict[str, Message] = {}
        self._numbers = itertools.count()

    def send(self, body: str, now: float, delay: float = 0.0) -> Message:
        """Put a message that can be taken after the delay."""
        message = Message(body)
        self._put(message, now + delay)
        return message

    def take(self, limit: int, now: float) -> list[Message]:
        """Take what can be taken, in its order; each is to be given to ``done`` or ``failed``."""
        messages: list[Message] = []
        while len(messages) < limit and self._waiting and self._waiting[0][0] <= now:
            message = heapq.heappop(self._waiting)[2]
            message.receives += 1
            message.first_received_at = message.first_received_at or time.time()
            self._taken[message.id] = message
            messages.append(message)
        return messages

    def done(self, message: Message) -> None:
        """Forget a message that was dealt with."""
        del self._taken[message.id]

    def failed(self, message: Message, now: float) -> bool:
        """Let a message come again, or go to the dead letters; whether it went there."""
        del self._taken[message.id]
        if self.dead_letters is None or message.receives < self.max_receives:
            self._put(message, now + REDELIVERY_SECONDS)
            return False
        self.dead_letters._put(message, now)
        return True

    def seconds_to_next(self, now: float) -> float | None:
        """How long nothing can be taken; None when nothing waits."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None

    def counts(self, now: float) -> dict[str, int]:
        """How many messages there are, under the names of GetQueueAttributes."""
        delayed = sum(at > now for at, _, _ in self._waiting)
        return {
            "ApproximateNumberOfMessages": len(self._waiting) - delayed,
            "ApproximateNumberOfMessagesDelayed": delayed,
            "ApproximateNumberOfMessagesNotVisible": len(self._taken),
        }

    def _put(self, message: Message, at: float) -> None:
        heapq.heappush(self._waiting, (at, next(self._numbers), message))
        self.changed.set()


def make_queues(properties: Mapping[str, QueueProperties]) -> dict[str, Queue]:
    """The queues of a template by name, each with its dead letters."""
    queues = {name: Queue(name) for name in properties}
    for name, each in properties.items():
        if each.dead_letters is not None:
            queues[name].dead_letters = queues[each.dead_letters]
            queues[name].max_receives = each.max_receives
    return queues
