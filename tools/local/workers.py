"""The workers of one function: as many processes as calls may run at once, started when needed, replaced when dead.

Everything here runs on the stack's event loop, in the one thread that starts every worker: on Linux a worker dies with
the thread that started it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from tools.local.intrinsics import function_arn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.local.template import Function

DEFAULT_COUNT: Final = 4

_SCRIPT: Final = Path(__file__).with_name("worker.py")
_INIT_SECONDS: Final = 60.0  # Lambda gives an import 10 s; a busy laptop needs longer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an invocation gave: JSON, which is Lambda's error object when ``failed``."""

    payload: bytes
    failed: bool

    @classmethod
    def error(cls, error_type: str, request_id: str, message: str) -> Outcome:
        """An outcome that the function had no say in."""
        text = f"RequestId: {request_id} Error: {message}"
        return cls(json.dumps({"errorType": error_type, "errorMessage": text}).encode(), failed=True)


class Workers:
    """At most ``count`` processes of a function, each with one call at a time; further calls wait in their order.

    ``environment`` is what a process gets beside Lambda's own variables; ``timeout`` (seconds) replaces the template's.
    ``log`` receives what functions print; without it that goes where our own output goes.
    """

    def __init__(
        self,
        function: Function,
        *,
        environment: Mapping[str, str],
        count: int = DEFAULT_COUNT,
        timeout: float | None = None,
        log: IO[bytes] | None = None,
    ) -> None:
        self._function = function
        self._environment = environment
        self._timeout = function.timeout if timeout is None else timeout
        self._log = log
        # Warm workers first, as Lambda does; who waits is served in order all the same.
        self._idle: asyncio.LifoQueue[_Worker | None] = asyncio.LifoQueue()
        for _ in range(count):
            self._idle.put_nowait(None)
        self._busy: set[_Worker] = set()
        self._alive: set[_Worker] = set()

    def busy_pids(self) -> list[int]:
        """Processes that are within a call now."""
        return [worker.pid for worker in list(self._busy)]  # asked from other threads than the loop's

    def pids(self) -> list[int]:
        """Every process that was started and not found dead yet."""
        return [worker.pid for worker in self._alive]

    async def prewarm(self) -> None:
        """Start one process and wait for its import; what goes wrong is left to the first call."""
        worker = await self._idle.get()
        try:
            if worker is None or not worker.is_alive():
                worker = await self._start()
            await worker.ready(str(uuid.uuid4()))
        finally:
            self._idle.put_nowait(worker)

    async def invoke(self, payload: bytes, request_id: str | None = None) -> Outcome:
        """Call the function with an event (JSON) and wait for its outcome; never raises for what the function does."""
        request_id = request_id or str(uuid.uuid4())
        worker = await self._idle.get()
        try:
            if worker is None or not worker.is_alive():
                if worker is not None:
                    self._discard(worker)
                worker = await self._start()
            outcome = await worker.ready(request_id)
            if outcome is None:
                self._busy.add(worker)
                outcome = await worker.call(payload, request_id, self._timeout)
        except BaseException:
            if worker is not None:  # cancelled: nobody knows what the process is doing
                self._discard(worker)
                worker = None
            raise
        finally:
            if worker is not None:
                self._busy.discard(worker)
                if not worker.is_alive():
                    self._discard(worker)
                    worker = None
            self._idle.put_nowait(worker)
        return outcome

    async def close(self) -> None:
        """Kill every process, within a call or not."""
        for worker in list(self._alive):
            self._discard(worker)
        await asyncio.sleep(0)  # their transports close in the loop's next round

    async def _start(self) -> _Worker:
        worker = await _Worker.start(self._function, self._environment, self._log)
        self._alive.add(worker)
        return worker

    def _discard(self, worker: _Worker) -> None:
        worker.kill()
        self._alive.discard(worker)
        self._busy.discard(worker)


class _Worker:
    """One process. Lives until ``kill()``, a crash or a timeout; then ``is_alive()`` is False for good."""

    def __init__(
        self,
        function: Function,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._function = function
        self._process = process
        self._reader = reader
        self._writer = writer
        self._is_ready = False

    @classmethod
    async def start(cls, function: Function, environment: Mapping[str, str], log: IO[bytes] | None) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-u", _SCRIPT, str(theirs.fileno()), function.module, function.attribute],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=function.code,
                env=_lambda_environment(function, environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for us; and a timeout ends what the handler started, too
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(function, process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()  # killed: a moment
        self._writer.transport.abort()

    async def ready(self, request_id: str) -> Outcome | None:
        """Wait for the import of the handler; the outcome if it failed."""
        if self._is_ready:
            return None
        answer = await self._receive(request_id, _INIT_SECONDS)
        if isinstance(answer, Outcome):
            return answer
        head, body = answer
        self._is_ready = head["outcome"] == "ready"
        if self._is_ready:
            return None
        self.kill()
        return Outcome(json.dumps(json.loads(body) | {"requestId": request_id}).encode(), failed=True)

    async def call(self, payload: bytes, request_id: str, timeout: float) -> Outcome:
        """Send an event and wait for what becomes of it."""
        head = {
            "requestId": request_id,
            "arn": function_arn(self._function.name),
            "deadline": time.monotonic() + timeout,
            "traceId": f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Sampled=0",
        }
        encoded = json.dumps(head).encode()
        with suppress(ConnectionError):  # a process that died is noticed when its answer is read
            for frame in (encoded, payload):
                self._writer.write(struct.pack(">I", len(frame)) + frame)
        answer = await self._receive(request_id, timeout)
        if isinstance(answer, Outcome):
            return answer
        return Outcome(answer[1], failed=answer[0]["outcome"] == "error")

    async def _receive(self, request_id: str, timeout: float) -> tuple[dict[str, Any], bytes] | Outcome:
        try:
            async with asyncio.timeout(timeout):
                return json.loads(await self._frame()), await self._frame()
        except TimeoutError:
            self.kill()
            return Outcome.error("Sandbox.Timedout", request_id, f"Task timed out after {timeout:.2f} seconds")
        except (asyncio.IncompleteReadError, ConnectionError):
            with suppress(subprocess.TimeoutExpired):  # it may only have closed its files
                await asyncio.to_thread(self._process.wait, 5)
            self.kill()
            return Outcome.error("Runtime.ExitError", request_id, _manner_of_exit(self._process.wait()))

    async def _frame(self) -> bytes:
        (length,) = struct.unpack(">I", await self._reader.readexactly(4))
        return await self._reader.readexactly(length)


def _manner_of_exit(status: int) -> str:
    if status == 0:
        return "Runtime exited without providing a reason"
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    return f"Runtime exited with error: signal: {(signal.strsignal(-status) or str(-status)).lower()}"


def _lambda_environment(function: Function, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an execution environment; Lambda's own win over the function's."""
    search = [*map(str, (function.code, *function.layers)), environment.get("PYTHONPATH", "")]
    return dict(environment) | {
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{datetime.now(UTC):%Y/%m/%d}/[$LATEST]{secrets.token_hex(16)}",
        "LAMBDA_TASK_ROOT": str(function.code),
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
        "_HANDLER": f"{function.module}.{function.attribute}",
    }
