"""A built function under Lambda's runtime interface emulator, with Lambda's own runtime client; no Docker.

The emulator ships with the SAM command line (.venv-sam), the client has an environment of its own (.venv-lambda), on
whose path nothing else is: what the layer lacks is missing here as it is on Lambda.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

import psutil

from tools.local import guard
from tools.local.client import request

if TYPE_CHECKING:
    from tools.local.template import Function

ROOT: Final = Path(__file__).parents[2]
HOST: Final = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "x86_64"}.get(platform.machine(), platform.machine())
"""The architecture of this machine in Lambda's words."""

RUNTIME: Final = ROOT / ".venv-lambda" / "bin" / "python"
"""The python3.13 with Lambda's runtime client, and nothing else."""

_START_SECONDS: Final = 30.0
_OPT: Final = "/opt/"
_TIMED_OUT: Final = re.compile(rb"Task timed out after [\d.]+ seconds")


class FunctionError(Exception):
    """The function failed or was lost; the text begins with Lambda's name for what went wrong."""


class Emulator:
    """One execution environment of a function: it starts with the first call and is replaced when it was lost.

    Its environment is what the template gives the function, /opt being the layer's folder, and nothing of ours.
    ``timeout`` (seconds) replaces the template's. What the function logs goes to ``output``, or where our own goes.
    """

    def __init__(self, function: Function, *, timeout: int | None = None, output: IO[bytes] | None = None) -> None:
        self._url = f"http://{_free_address()}"
        address = self._url.removeprefix("http://")
        self._guard = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", guard.__file__, "--folder", function.code, "--"),
                *(_emulator_program(), "--runtime-interface-emulator-address", address),
                *("--runtime-api-address", _free_address()),
                *(RUNTIME, "-m", "awslambdaric", f"{function.module}.{function.attribute}"),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment(function, timeout or function.timeout),
            start_new_session=True,  # Ctrl-C is for us
        )
        try:
            self._wait_for(address)
        except BaseException:
            self.close()
            raise

    def invoke(self, event: object) -> Any:
        """What the function answers to an event. Raises FunctionError."""
        answer = request(self._url, "POST", "/2015-03-31/functions/function/invocations", event)
        if _TIMED_OUT.fullmatch(answer.body):
            raise FunctionError(f"Sandbox.Timedout: {answer.body.decode()}")
        value = answer.json()
        if isinstance(value, dict) and value.keys() >= {"errorType", "errorMessage"}:
            raise FunctionError(f"{value['errorType']}: {value['errorMessage']}")
        return value

    def pid(self) -> int:
        """The function's process."""
        started = psutil.Process(self._guard.pid).children(recursive=True)
        (pid,) = (process.pid for process in started if process.cmdline()[:1] == [str(RUNTIME)])
        return int(pid)

    def close(self) -> None:
        """End the function's process and the emulator."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _wait_for(self, address: str) -> None:
        host, port = address.split(":")
        deadline = time.monotonic() + _START_SECONDS
        while self._guard.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((host, int(port))).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise AssertionError(f"the emulator does not listen on {address}; its own output says why")


def _emulator_program() -> Path:
    found = next(ROOT.glob(f".venv-sam/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{HOST}"), None)
    if sys.platform != "linux" or found is None or not RUNTIME.exists():
        raise AssertionError("the emulator needs Linux on arm64 or x86_64, and what `make e2e` installs: run that")
    return found


def environment(function: Function, timeout: int) -> dict[str, str]:
    """What its process has for an environment, and nothing else."""
    (layer,) = function.layers
    given = {
        name: f"{layer}/{value.removeprefix(_OPT)}" if value.startswith(_OPT) else value
        for name, value in function.environment.items()
    }
    return given | {
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "LANG": "en_US.UTF-8",
        "LAMBDA_TASK_ROOT": str(function.code),
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join([str(function.code), str(layer / "python")]),
        "TZ": ":UTC",
    }


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
