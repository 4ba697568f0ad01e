"""What the local stack's queues do with messages, and which of a batch it takes for failed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools.local.deliveries import event_of, failed_ids
from tools.local.queues import REDELIVERY_SECONDS, Queue, make_queues
from tools.local.template import QueueProperties
from tools.local.workers import Outcome


def bodies(queue: Queue, now: float, limit: int = 10) -> list[str]:
    return [message.body for message in queue.take(limit, now)]


def test_messages_are_taken_in_their_order_and_once() -> None:
    queue = Queue("Q")
    for body in ("a", "b", "c"):
        queue.send(body, now=0)
    assert bodies(queue, 0, limit=2) == ["a", "b"]
    assert bodies(queue, 0) == ["c"]
    assert bodies(queue, 1000) == []


def test_delayed_message_is_taken_after_its_delay() -> None:
    queue = Queue("Q")
    queue.send("late", now=100, delay=5)
    queue.send("now", now=100)
    assert bodies(queue, 104.9) == ["now"]
    assert queue.seconds_to_next(104) == 1
    assert bodies(queue, 105) == ["late"]
    assert queue.seconds_to_next(105) is None


def test_failed_message_comes_again_after_a_moment_and_is_counted() -> None:
    queue = Queue("Q")
    sent = queue.send("a", now=0)
    for time in (0.0, REDELIVERY_SECONDS):
        (message,) = queue.take(1, time)
        assert message is sent
        assert not queue.failed(message, time)
        assert queue.take(1, time) == []
    (message,) = queue.take(1, 2 * REDELIVERY_SECONDS)
    assert message.receives == 3
    queue.done(message)
    assert bodies(queue, 1000) == []


def test_message_that_failed_often_enough_goes_to_the_dead_letters() -> None:
    queues = make_queues({"Dead": QueueProperties("Dead", None, 0), "Q": QueueProperties("Q", "Dead", 2)})
    queue, dead = queues["Q"], queues["Dead"]
    queue.send("a", now=0)
    assert not queue.failed(queue.take(1, 0)[0], now=0)
    assert queue.failed(queue.take(1, 10)[0], now=10)
    assert bodies(queue, 1000) == []
    assert bodies(dead, 10) == ["a"]


def test_counts_tell_waiting_delayed_and_taken_messages_apart() -> None:
    queue = Queue("Q")
    for delay in (0, 0, 0, 9):
        queue.send("a", now=0, delay=delay)
    queue.take(1, 0)
    assert queue.counts(0) == {
        "ApproximateNumberOfMessages": 2,
        "ApproximateNumberOfMessagesDelayed": 1,
        "ApproximateNumberOfMessagesNotVisible": 1,
    }


def test_event_is_that_of_sqs() -> None:
    queue = Queue("RunQueue")
    queue.send("hello", now=0)
    messages = queue.take(1, 0)
    (record,) = event_of(messages, "RunQueue")["Records"]
    assert record["messageId"] == messages[0].id
    assert record["body"] == "hello"
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["attributes"]["ApproximateFirstReceiveTimestamp"] >= record["attributes"]["SentTimestamp"]
    assert record["md5OfBody"] == "5d41402abc4b2a76b9719d911017c592"
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == "arn:aws:sqs:us-east-1:123456789012:RunQueue"


def failures(*ids: object) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": each} for each in ids]}


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (None, set()),
        ({}, set()),
        (failures(), set()),
        ({"batchItemFailures": None}, set()),
        (failures("b"), {"b"}),
        (failures("a", "b"), {"a", "b"}),
        (failures("unknown"), {"a", "b"}),
        (failures(""), {"a", "b"}),
        (failures(None), {"a", "b"}),
        (failures(["a"]), {"a", "b"}),
        ({"batchItemFailures": [{"id": "a"}]}, {"a", "b"}),
        ({"failures": []}, {"a", "b"}),
        ("done", {"a", "b"}),
    ],
)
def test_answer_says_which_messages_failed(answer: Any, failed: set[str]) -> None:
    outcome = Outcome(json.dumps(answer).encode(), failed=False)
    assert failed_ids(outcome, ["a", "b"], partial=True) == failed


def test_failed_function_fails_the_whole_batch() -> None:
    for partial in (True, False):
        assert failed_ids(Outcome(b"{}", failed=True), ["a", "b"], partial=partial) == {"a", "b"}


def test_answer_counts_only_where_the_template_says_so() -> None:
    assert failed_ids(Outcome(json.dumps(failures("a")).encode(), failed=False), ["a"], partial=False) == set()
