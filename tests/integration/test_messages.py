"""Messages may come twice, late, early, in any order or never: each attempt is executed once.

The queue is the test's own: it keeps what is sent, and brings to run-worker what, when and as often as the test says.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from tests.own_stack import calls_of, let_go, own_stack
from tests.stack_client import Issue, ok, wait_until
from tools.local.deliveries import event_of
from tools.local.queues import Message
from tools.local.stack import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.local.stack import Stack


class TestQueue:
    """Answers SendMessageBatch and keeps the messages; ``is_down``: refuses them."""

    __test__ = False

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, str], int]] = []
        self.is_down = False
        queue = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                entries = json.loads(self.rfile.read(int(self.headers["content-length"])))["Entries"]
                if not queue.is_down:
                    queue.sent += [(json.loads(entry["MessageBody"]), entry["DelaySeconds"]) for entry in entries]
                answer = {"Successful": [{"Id": e["Id"], "MessageId": "m", "MD5OfMessageBody": "x"} for e in entries]}
                body = json.dumps({} if queue.is_down else answer).encode()
                self.send_response(500 if queue.is_down else 200)
                self.send_header("content-type", "application/x-amz-json-1.0")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def of(self, issue: Issue) -> list[tuple[dict[str, str], int]]:
        """The messages of an issue, with their delays."""
        return [(message, delay) for message, delay in self.sent if message["issueId"] == issue.id]


@pytest.fixture(scope="module")
def queue() -> Iterator[TestQueue]:
    queue = TestQueue()
    yield queue
    queue.server.shutdown()
    queue.server.server_close()


@pytest.fixture(scope="module")
def stack(
    server_url: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory, queue: TestQueue
) -> Iterator[Stack]:
    environment = {"AWS_ENDPOINT_URL_SQS": queue.url}
    with own_stack(server_url, migrated_template, tmp_path_factory.mktemp("own"), environment) as stack:
        yield stack


@pytest.fixture
def issue(stack: Stack) -> Issue:
    return Issue(stack.url, f"ISSUE-{uuid4().hex[:8]}")


def deliver(stack: Stack, *bodies: object) -> list[int]:
    """Bring messages to run-worker in one batch; the positions of those that failed."""
    messages = [Message(body if isinstance(body, str) else json.dumps(body)) for body in bodies]
    answer = stack.invoke("RunWorkerFunction", event_of(messages, "RunQueue"))
    failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
    return [position for position, message in enumerate(messages) if message.id in failed]


def sweep(stack: Stack) -> dict[str, int]:
    swept: dict[str, int] = stack.invoke("RunSweeperFunction", {})
    return swept


def sql(stack: Stack, statement: str, *parameters: object) -> None:
    """Let time pass: the leases, plans and messages of an issue get older."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(statement.encode(), parameters)


def retry_is_due(stack: Stack, issue: Issue) -> None:
    sql(
        stack,
        "UPDATE loop_issues SET next_attempt_at = clock_timestamp(),"
        " next_attempt_sent_at = clock_timestamp() - interval '61 seconds' WHERE id = %s",
        issue.id,
    )


def message_is_old(stack: Stack, run_id: str) -> None:
    sql(stack, "UPDATE loop_runs SET sent_at = sent_at - interval '61 seconds' WHERE id = %s", run_id)


def lease_is_over(stack: Stack, run_id: str) -> None:
    sql(stack, "UPDATE loop_runs SET lease_expires_at = clock_timestamp() WHERE id = %s", run_id)


def attempts(stack: Stack, issue: Issue) -> list[tuple[str, int]]:
    """Which runs executed the issue's step, as which attempt."""
    return [(call["runId"], call["attempt"]) for call in calls_of(stack, issue.id)]


def test_message_is_sent_after_the_run_is_there(queue: TestQueue, issue: Issue) -> None:
    issue.register("long")
    run_id = issue.queue()
    assert queue.of(issue) == [({"issueId": issue.id, "runId": run_id}, 0)]
    assert issue.run_of(run_id)["status"] == "pending"


def test_duplicated_message_begins_its_run_once(stack: Stack, queue: TestQueue, issue: Issue) -> None:
    issue.register("long", do="wait")
    run_id = issue.queue()
    ((message, _),) = queue.of(issue)
    with ThreadPoolExecutor(4) as pool:
        deliveries = [pool.submit(deliver, stack, message) for _ in range(3)]
        wait_until(lambda: sum(each.done() for each in deliveries) == 2)
        let_go(stack, issue.id)
        assert [each.result() for each in deliveries] == [[], [], []]
    assert deliver(stack, message) == []
    assert attempts(stack, issue) == [(run_id, 1)]
    assert issue.run_of(run_id)["status"] == "completed"


def test_duplicated_retry_is_one_attempt(stack: Stack, queue: TestQueue, issue: Issue) -> None:
    issue.register("retried", do="fail", name="Soon")
    issue.run()
    ((message, delay),) = queue.of(issue)
    assert delay == 1
    retry_is_due(stack, issue)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: deliver(stack, message), range(4))) == [[]] * 4
    assert [attempt for _, attempt in attempts(stack, issue)] == [1, 2]


def test_message_that_comes_early_is_sent_again_with_what_is_left_of_its_delay(
    stack: Stack, queue: TestQueue, issue: Issue
) -> None:
    issue.register("retried", do="fail", name="Late")
    run_id = issue.run()["runId"]
    message = {"issueId": issue.id, "after": run_id}
    assert queue.of(issue) == [], "in an hour: the sweeper's to send"
    assert deliver(stack, message) == []
    assert queue.of(issue) == [(message, 900)]
    assert len(attempts(stack, issue)) == 1


def test_messages_in_the_wrong_order_do_each_attempt_once(stack: Stack, queue: TestQueue, issue: Issue) -> None:
    issue.register("retried", do="fail twice", name="Soon")
    issue.run()
    for _ in range(2):
        retry_is_due(stack, issue)
        messages = [message for message, _ in queue.of(issue)]
        for message in [*messages, *reversed(messages)]:  # the newest is the one that counts
            deliver(stack, message)
    assert [attempt for _, attempt in attempts(stack, issue)] == [1, 2, 3]
    runs = issue.runs()
    assert [(run["attempt"], run["status"]) for run in runs] == [(1, "failed"), (2, "failed"), (3, "completed")]
    for message, _ in queue.of(issue):
        deliver(stack, message)
    assert len(issue.runs()) == 3


def test_message_of_a_retry_that_a_call_came_before_does_nothing(stack: Stack, queue: TestQueue, issue: Issue) -> None:
    issue.register("retried", do="fail", name="Soon")
    issue.run()
    ((message, _),) = queue.of(issue)
    issue.patch(do="complete")
    issue.run()
    assert deliver(stack, message) == []
    assert [attempt for _, attempt in attempts(stack, issue)] == [1, 2]
    assert len(issue.runs()) == 2


@pytest.mark.parametrize("loop", ["long", "retried"])
def test_lost_message_only_delays(stack: Stack, queue: TestQueue, issue: Issue, loop: str) -> None:
    """Of a queued run, and of a retry."""
    queue.is_down = True
    try:
        issue.register(loop, do="fail twice" if loop == "retried" else "complete", name="Soon")
        if loop == "long":
            message_is_old(stack, issue.queue())
        else:
            issue.run()
            retry_is_due(stack, issue)
    finally:
        queue.is_down = False
    assert queue.of(issue) == []
    sweep(stack)
    ((message, delay),) = queue.of(issue)
    assert delay == 0
    before = len(attempts(stack, issue))
    assert deliver(stack, message) == []
    assert len(attempts(stack, issue)) == before + 1


def test_message_is_sent_six_times_at_most_then_the_run_ends_at_its_start_by(
    stack: Stack, queue: TestQueue, issue: Issue
) -> None:
    issue.register("long")
    before = issue.get()
    run_id = issue.queue()
    for _ in range(7):
        message_is_old(stack, run_id)
        sweep(stack)
    assert queue.of(issue) == [({"issueId": issue.id, "runId": run_id}, 0)] * 6
    lease_is_over(stack, run_id)
    sweep(stack)
    run = issue.run_of(run_id)
    assert (run["status"], run["errorCode"], run.get("startedAt")) == ("failed", "NOT_STARTED", None)
    assert deliver(stack, queue.of(issue)[0][0]) == []
    assert attempts(stack, issue) == []
    assert issue.get() == before


def test_sweeper_does_not_repeat_a_message_that_was_just_sent(stack: Stack, queue: TestQueue, issue: Issue) -> None:
    issue.register("long")
    issue.queue()
    sweep(stack)
    assert len(queue.of(issue)) == 1


def test_message_comes_again_after_its_worker_was_killed_and_the_attempt_is_not_repeated(
    stack: Stack, queue: TestQueue, issue: Issue
) -> None:
    issue.register("long", do="wait")
    run_id = issue.queue()
    ((message, _),) = queue.of(issue)
    with ThreadPoolExecutor(1) as pool:
        delivery = pool.submit(deliver, stack, message)
        wait_until(lambda: calls_of(stack, issue.id))
        (pid,) = stack.busy_pids("RunWorkerFunction")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StackError, match=r"Runtime\.ExitError"):
            delivery.result()
    let_go(stack, issue.id)
    assert deliver(stack, message) == [], "the run is under its lease: nothing to do"
    assert issue.run_of(run_id)["status"] == "running"
    lease_is_over(stack, run_id)
    sweep(stack)
    lost = issue.run_of(run_id)
    assert (lost["status"], lost["errorCode"]) == ("failed", "LEASE_EXPIRED")
    retry_is_due(stack, issue)
    sweep(stack)
    assert deliver(stack, message, queue.of(issue)[-1][0]) == []
    assert [attempt for _, attempt in attempts(stack, issue)] == [1, 2]
    assert {call["idempotencyToken"] for call in calls_of(stack, issue.id)} == {run_id}, "the function can tell"
    assert issue.get()["state"] == "DONE"


def test_run_that_is_cancelled_before_it_began_is_not_begun(stack: Stack, queue: TestQueue, issue: Issue) -> None:
    issue.register("long")
    run_id = issue.queue()
    cancelled = ok(issue.cancel(run_id))
    assert (cancelled["status"], cancelled["steps"]) == ("cancelled", [])
    assert deliver(stack, queue.of(issue)[0][0]) == []
    assert attempts(stack, issue) == []
    assert [event["eventType"] for event in issue.events()][-2:] == ["loop_run_queued", "loop_run_cancelled"]
    assert issue.get()["state"] == "OPEN"


def test_retry_of_a_held_issue_waits_for_its_resume(stack: Stack, queue: TestQueue, issue: Issue) -> None:
    issue.register("retried", do="fail", name="Soon")
    issue.run()
    ((message, _),) = queue.of(issue)
    ok(issue.call("POST", f"{issue.path}/hold", {"reason": "freeze"}))
    retry_is_due(stack, issue)
    assert deliver(stack, message) == []
    sweep(stack)
    assert len(queue.of(issue)) == len(attempts(stack, issue)) == 1
    ok(issue.call("POST", f"{issue.path}/resume", {"reason": "thawed"}))
    sweep(stack)
    assert deliver(stack, queue.of(issue)[-1][0]) == []
    assert len(attempts(stack, issue)) == 2


def test_issue_that_goes_on_by_itself_does_each_step_once_however_its_messages_come(
    stack: Stack, queue: TestQueue, issue: Issue
) -> None:
    issue.register("auto", ready=True)
    issue.run()
    for _ in range(3):
        messages = [message for message, _ in queue.of(issue)]
        for message in [*reversed(messages), *messages]:
            deliver(stack, message)
    assert issue.get()["state"] == "DONE"
    assert [call["step"]["type"] for call in calls_of(stack, issue.id)] == ["PREPARE", "WORK"]
    assert [run["status"] for run in issue.runs()] == ["completed"] * 3


def test_what_is_no_message_fails_alone_and_holds_nothing_up(stack: Stack, queue: TestQueue, issue: Issue) -> None:
    issue.register("long")
    issue.queue()
    ((message, _),) = queue.of(issue)
    bad = ["", "[]", "{}", {"issueId": issue.id}, {"issueId": issue.id, "runId": "x"}, {"issueId": 5, "after": "x"}]
    unknown = {"issueId": "UNKNOWN-1", "runId": str(uuid4())}
    assert deliver(stack, *bad, message, unknown, {"issueId": "UNKNOWN-1", "after": str(uuid4())}) == list(range(6))
    assert issue.get()["state"] == "DONE"
