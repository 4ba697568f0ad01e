"""What is sent to Lambda and SQS, and what their answers mean: each fault is an error of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from loop_runner import aws
from loop_runner.executors import EXECUTORS
from loop_runner.executors.invoke import MAX_ANSWER_BYTES
from loop_runner.loops import Step
from loop_runner.messages import Messages, of_attempt, of_run
from loop_runner.results import Blocked, Completed, Failed, StepCall, Waiting
from tests.unit.strategies import issue

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP = Step.model_validate(
    {"number": 1, "type": "WORK", "from": ["A"], "to": "B", "executor": {"kind": "lambda", "function": "work"}}
)
CALL = StepCall(issue("A", {"size": 3}), STEP, UUID(int=1), 2, "ann", "r-1", UUID(int=7), "loop-step-work", 20)
Act = Callable[["Handler"], None]


@dataclass
class Aws:
    """What AWS is here: an endpoint. ``act`` answers each request; ``requests`` are their paths and bodies."""

    url: str = ""
    act: Act | None = None
    requests: list[tuple[str, Any]] = field(default_factory=list)

    def answers(
        self, body: bytes | str, status: int = 200, headers: dict[str, str] | None = None, missing: int = 0
    ) -> None:
        """Let it answer so; ``missing``: how many bytes fewer than it says."""
        content = body if isinstance(body, bytes) else body.encode()

        def act(handler: Handler) -> None:
            handler.send_response(status)
            for name, value in (headers or {}).items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(content) + missing))
            handler.end_headers()
            with suppress(OSError):  # it has read enough
                handler.wfile.write(content)

        self.act = act

    def fails(self, code: str, status: int) -> None:
        """Let it answer with an error of the service."""
        self.answers(json.dumps({"Type": "User", "Message": f"no: {code}"}), status, {"x-amzn-errortype": code})


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.aws.requests.append((self.path, json.loads(body)))
        assert self.server.aws.act
        self.server.aws.act(self)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    aws: Aws


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.aws = Aws(f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        use(monkeypatch, server.aws.url)
        yield server.aws
        server.shutdown()
    aws.client.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let clients find AWS there."""
    for service in ("LAMBDA", "SQS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    aws.client.cache_clear()


@pytest.fixture(params=["lambda", "callback"])
def execute(request: pytest.FixtureRequest) -> Callable[[StepCall], Any]:
    executor: Callable[[StepCall], Any] = EXECUTORS[request.param]
    return executor


# ---------------------------------------------------------------------------------------------- the call


def test_the_function_is_invoked_once_with_the_event(endpoint: Aws, execute: Callable[[StepCall], Any]) -> None:
    endpoint.answers('{"status": "completed"}')
    assert execute(CALL) == Completed()
    assert endpoint.requests == [("/2015-03-31/functions/loop-step-work/invocations", CALL.event())]


def test_facts_of_any_language_arrive_as_they_are(endpoint: Aws) -> None:
    endpoint.answers('{"status": "completed", "message": "für 安 😀"}')
    facts: dict[str, Any] = {"ü": ["安", "\U0001f600", '"', "\\"]}
    call = StepCall(issue("A", facts), STEP, UUID(int=1), 1, "ä", "r", UUID(int=7), "f", 20)
    assert EXECUTORS["lambda"](call) == Completed(message="für 安 😀")
    assert endpoint.requests[0][1]["facts"] == facts


# ---------------------------------------------------------------------------------------------- what it answers

RESULTS = [
    (
        {"status": "completed", "facts": {"a": None, "b": {"c": 1}}, "outcome": "x", "message": "m"},
        Completed({"a": None, "b": {"c": 1}}, "x", "m"),
    ),
    ({"status": "blocked", "blocker": {"code": "NO_QUOTA", "message": "Ask"}}, Blocked("NO_QUOTA", "Ask")),
    ({"status": "failed", "error": {"name": "Agent.Busy", "message": ""}}, Failed("Agent.Busy", "")),
]


@pytest.mark.parametrize(("answer", "result"), RESULTS)
def test_a_result_is_the_outcome(
    endpoint: Aws, execute: Callable[[StepCall], Any], answer: dict[str, Any], result: object
) -> None:
    endpoint.answers(json.dumps(answer))
    assert execute(CALL) == result


NO_RESULTS = [
    b'{"status": "running"}',
    b'{"status": "completed", "more": 1}',
    b'{"status": "completed", "facts": [1]}',
    b'{"status": "blocked"}',
    b'{"status": null}',
]
NO_STATUS = [
    b"", b"   ", b"null", b"{}", b"[]", b'"done"', b"1", b"{", b"\xff\xfe", b'{"statusCode": 200, "body": "{}"}',
    b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("answer", NO_RESULTS, ids=lambda answer: answer[:40].decode())
def test_what_should_be_a_result_and_is_none_fails_the_step(
    endpoint: Aws, execute: Callable[[StepCall], Any], answer: bytes
) -> None:
    endpoint.answers(answer)
    result = execute(CALL)
    assert isinstance(result, Failed)
    assert (result.code, result.is_unknown) == ("InvalidStepResult", False)
    assert result.message.startswith("the function's answer is no step result: ")


@pytest.mark.parametrize("answer", NO_STATUS, ids=lambda answer: repr(answer[:20]))
def test_an_answer_without_a_status_fails_a_lambda_and_lets_a_callback_wait(endpoint: Aws, answer: bytes) -> None:
    endpoint.answers(answer)
    result = EXECUTORS["lambda"](CALL)
    assert isinstance(result, Failed)
    assert result.code == "InvalidStepResult"
    assert EXECUTORS["callback"](CALL) == Waiting()


@pytest.mark.parametrize(("size", "missing"), [(MAX_ANSWER_BYTES + 1, 0), (MAX_ANSWER_BYTES + 2, 6_000_000)])
def test_an_answer_that_is_too_long_fails_the_step_and_is_not_read_to_its_end(
    endpoint: Aws, execute: Callable[[StepCall], Any], size: int, missing: int
) -> None:
    endpoint.answers(b'{"status": "completed", "message": "' + b"x" * (size - 38) + b'"}', missing=missing)
    result = execute(CALL)
    assert isinstance(result, Failed)
    assert (result.code, result.is_unknown) == ("InvalidStepResult", False)
    assert f"loop-step-work answered with more than {MAX_ANSWER_BYTES} bytes" in result.message


def test_an_answer_of_the_greatest_length_is_read(endpoint: Aws) -> None:
    endpoint.answers(b'{"status": "completed"}'.ljust(MAX_ANSWER_BYTES))
    assert EXECUTORS["lambda"](CALL) == Completed()


# ---------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ResourceNotFoundException", 404),
        ("TooManyRequestsException", 429),
        ("RequestTooLargeException", 413),
        ("ServiceException", 500),
        ("AccessDeniedException", 403),
    ],
)
def test_a_refusal_of_lambda_fails_the_step_under_its_own_name_after_one_request(
    endpoint: Aws, execute: Callable[[StepCall], Any], code: str, status: int
) -> None:
    endpoint.fails(code, status)
    result = execute(CALL)
    assert result == Failed(f"Lambda.{code}", f"loop-step-work: no: {code}", is_unknown=True)
    assert len(endpoint.requests) == 1, "whether it is tried again is for the loop to say"


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"errorType": "ValueError", "errorMessage": "no size", "stackTrace": ["x"]}, Failed("ValueError", "no size")),
        ({"errorType": "Runtime.ExitError", "errorMessage": "exited"}, Failed("Runtime.ExitError", "exited", True)),
        ({"errorType": "Sandbox.Timedout", "errorMessage": "timed out"}, Failed("Sandbox.Timedout", "timed out", True)),
        ({"errorType": "Runtime.Oh"}, Failed("Runtime.Oh", "it gave no reason", True)),
        ({}, Failed("Lambda.Unknown", "it gave no reason", True)),
        ([], Failed("Lambda.Unknown", "it gave no reason", True)),
        ({"errorType": None, "errorMessage": None}, Failed("Lambda.Unknown", "it gave no reason", True)),
        ({"errorType": "E" * 500, "errorMessage": {"a": 1}}, Failed("E" * 128, "{'a': 1}")),
    ],
)
def test_an_error_that_the_function_did_not_handle_fails_the_step_under_its_type(
    endpoint: Aws, execute: Callable[[StepCall], Any], answer: Any, result: Failed
) -> None:
    endpoint.answers(json.dumps(answer), headers={"x-amz-function-error": "Unhandled"})
    assert execute(CALL) == replace(result, message=f"loop-step-work: {result.message}")


@pytest.mark.parametrize("answer", [b"", b"{", b"\xff", b"[" * 100_000, b'"' + b"x" * 700_000 + b'"', b"1" * 9999])
def test_an_error_in_no_form_at_all_fails_the_step(endpoint: Aws, answer: bytes) -> None:
    endpoint.answers(answer, headers={"x-amz-function-error": "Unhandled"})
    reason = "loop-step-work: it gave no reason"
    assert EXECUTORS["lambda"](CALL) == Failed("Lambda.Unknown", reason, is_unknown=True)


def test_lambda_out_of_reach_fails_the_step(monkeypatch: pytest.MonkeyPatch, execute: Callable[..., Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{probe.getsockname()[1]}")  # nobody listens there
        result = execute(CALL)
    assert isinstance(result, Failed)
    assert (result.code, result.is_unknown) == ("Lambda.SdkClientException", True)
    assert "loop-step-work cannot be reached" in result.message


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_breaks_leaves_the_outcome_unknown(endpoint: Aws, execute: Callable[..., Any]) -> None:
    endpoint.act = hang_up
    result = execute(CALL)
    assert isinstance(result, Failed)
    assert (result.code, result.is_unknown) == ("Lambda.SdkClientException", True)
    assert len(endpoint.requests) == 1


def test_an_answer_that_breaks_off_leaves_the_outcome_unknown(endpoint: Aws, execute: Callable[..., Any]) -> None:
    endpoint.answers('{"status": "completed"}', missing=7)
    result = execute(CALL)
    assert isinstance(result, Failed)
    assert (result.code, result.is_unknown) == ("Lambda.SdkClientException", True)


@pytest.mark.parametrize("begun", [False, True], ids=["no answer", "half an answer"])
def test_a_function_that_does_not_answer_in_time_leaves_the_outcome_unknown(
    endpoint: Aws, execute: Callable[..., Any], begun: bool
) -> None:
    is_over = Event()

    def wait(handler: Handler) -> None:
        if begun:
            handler.send_response(200)
            handler.send_header("content-length", "30")
            handler.end_headers()
            handler.wfile.write(b'{"status": ')
        is_over.wait(30)

    endpoint.act = wait
    call = StepCall(issue("A"), STEP, UUID(int=1), 1, "ann", "r", UUID(int=7), "loop-step-work", seconds=-4)
    try:
        result = execute(call)  # it waits 5 s longer than the step may take, that is 1 s
    finally:
        is_over.set()
    assert result == Failed("States.Timeout", "loop-step-work did not answer in time", is_unknown=True)
    assert len(endpoint.requests) == 1


# ---------------------------------------------------------------------------------------------- messages


def queue(endpoint: Aws) -> Messages:
    return Messages(f"{endpoint.url}/000000000000/runs")


def takes(endpoint: Aws, *refused: int) -> None:
    """Let SQS take every message of a batch but those at these places."""

    def act(handler: Handler) -> None:
        ids = [entry["Id"] for entry in endpoint.requests[-1][1]["Entries"]]
        failed = [{"Id": each, "Code": "InternalError", "SenderFault": False} for each in ids if int(each) in refused]
        taken = [{"Id": each, "MessageId": each, "MD5OfMessageBody": ""} for each in ids if int(each) not in refused]
        endpoint.answers(json.dumps({"Successful": taken, "Failed": failed}))
        assert endpoint.act
        answer, endpoint.act = endpoint.act, act
        answer(handler)

    endpoint.act = act


def test_messages_are_sent_in_batches_with_their_delay(endpoint: Aws) -> None:
    takes(endpoint)
    messages = [of_run(f"A-{number}", UUID(int=number)) for number in range(23)]
    assert queue(endpoint).send(messages, 2.1) == 23
    batches = [body["Entries"] for _, body in endpoint.requests]
    assert [len(entries) for entries in batches] == [10, 10, 3]
    sent = [entry for entries in batches for entry in entries]
    assert [json.loads(entry["MessageBody"]) for entry in sent] == messages
    assert {entry["DelaySeconds"] for entry in sent} == {3}, "never earlier than it is due"
    assert endpoint.requests[0][1]["QueueUrl"].endswith("/000000000000/runs")


def test_messages_that_were_refused_are_not_counted_and_no_error(endpoint: Aws) -> None:
    takes(endpoint, 0, 2)
    assert queue(endpoint).send([of_attempt("A-1", UUID(int=1))] * 4) == 2


def test_a_queue_that_fails_is_no_error(endpoint: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.fails("com.amazonaws.sqs#QueueDoesNotExist", 400)
    assert queue(endpoint).send([of_run("A-1", UUID(int=1))] * 11) == 0
    assert len(endpoint.requests) == 1, "the next batch would fail, too"


def test_nothing_is_sent_without_a_queue_without_messages_and_for_what_sqs_cannot_delay(endpoint: Aws) -> None:
    message = of_run("A-1", UUID(int=1))
    assert Messages("").send([message]) == 0
    assert queue(endpoint).send([]) == 0
    assert queue(endpoint).send([message], 900.5) == 0
    assert endpoint.requests == []
    takes(endpoint)
    assert queue(endpoint).send([message], 900) == 1
