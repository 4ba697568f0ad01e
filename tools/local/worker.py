"""One execution environment: imports a handler once and calls it for one event at a time, as Lambda's runtime does.

A script of its own (standard library only), started by workers.py with the function's environment. It talks over a
private socket, as standard output belongs to the function's log. Each message is two frames, a JSON head and raw JSON,
each after its length in four bytes. When the other end closes, the process ends at once, even within a handler.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RESPONSE_BYTES = 6 * 1024 * 1024 + 100  # what Lambda's own message says


class LambdaContext:
    """The context object that handlers get, as documented for Python functions."""

    def __init__(self, head: dict[str, Any]) -> None:
        self.aws_request_id: str = head["requestId"]
        self.invoked_function_arn: str = head["arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.identity = None
        self.client_context = None
        self._deadline: float = head["deadline"]

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function's timeout; 0 after it. The monotonic clock is the same in every process."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


class Channel:
    """The socket to the stack. Requests are read by a thread, which notices the other end's death at any time."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # noqa: FBT003  processes that the handler starts must not keep it open
        self._socket = socket.socket(fileno=fd)
        self._requests: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Wait for the next request."""
        return self._requests.get()

    def send(self, head: dict[str, Any], body: bytes) -> None:
        """Send an answer, or word that the handler is ready."""
        encoded = json.dumps(head).encode()
        self._socket.sendall(struct.pack(">I", len(encoded)) + encoded + struct.pack(">I", len(body)) + body)

    def _read(self) -> None:
        while True:
            head = json.loads(self._frame())
            self._requests.put((head, self._frame()))

    def _frame(self) -> bytes:
        (length,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            try:
                part = self._socket.recv(length - len(parts))
            except OSError:
                part = b""
            if not part:
                os._exit(0)  # the stack is gone
            parts += part
        return bytes(parts)


class RuntimeFault(Exception):  # noqa: N818
    """An error of the runtime rather than the function's."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


def load_handler(module: str, attribute: str) -> Callable[[Any, LambdaContext], object]:
    """Import the handler; an exception with Lambda's name for what is wrong."""
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise RuntimeFault("Runtime.ImportModuleError", f"Unable to import module '{module}': {error}") from error
    except SyntaxError as error:
        raise RuntimeFault("Runtime.UserCodeSyntaxError", f"Syntax error in module '{module}': {error}") from error
    if not hasattr(loaded, attribute):
        raise RuntimeFault("Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module}'")
    handler: Callable[[Any, LambdaContext], object] = getattr(loaded, attribute)
    return handler


def error_body(error: Exception, request_id: str) -> bytes:
    """Lambda's error object, which is also written to the function's log."""
    is_fault = isinstance(error, RuntimeFault)
    name = error.error_type if isinstance(error, RuntimeFault) else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    trace = [] if is_fault else traceback.format_list(frames)
    print(f"[ERROR] {name}: {error} RequestId: {request_id}", *trace, sep="\n", file=sys.stderr, flush=True)
    body = {"errorMessage": str(error), "errorType": name, "requestId": request_id, "stackTrace": trace}
    return json.dumps(body).encode()


def call(handler: Callable[[Any, LambdaContext], object], head: dict[str, Any], event: bytes) -> tuple[str, bytes]:
    """Call the handler; the outcome and its JSON."""
    try:
        return "result", encode_result(handler(json.loads(event), LambdaContext(head)))
    except Exception as error:  # whatever the function raises is its outcome
        return "error", error_body(error, head["requestId"])


def encode_result(result: object) -> bytes:
    """The result as JSON; an exception with Lambda's name for what is wrong with it."""
    try:
        body = json.dumps(result, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise RuntimeFault("Runtime.MarshalError", f"Unable to marshal response: {error}") from error
    if len(body) > MAX_RESPONSE_BYTES:
        message = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
        raise RuntimeFault("Function.ResponseSizeTooLarge", message)
    return body


def main() -> NoReturn:
    """Serve until the stack closes the socket."""
    if sys.platform == "linux":  # also when a handler holds the interpreter's lock
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    channel = Channel(int(sys.argv[1]))
    module, attribute = sys.argv[2:4]
    try:
        handler = load_handler(module, attribute)
    except Exception as error:  # whatever the module raises is the outcome of the first call
        channel.send({"outcome": "error"}, error_body(error, ""))
        sys.exit(1)
    channel.send({"outcome": "ready"}, b"")
    while True:
        head, event = channel.receive()
        os.environ["_X_AMZN_TRACE_ID"] = head["traceId"]
        outcome, body = call(handler, head, event)
        sys.stdout.flush()
        channel.send({"outcome": outcome}, body)


if __name__ == "__main__":
    main()
