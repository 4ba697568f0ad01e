"""Owns the processes of a measurement: clients, wires between them and the server, and pgbench."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from benchmarks import floor
from tools.local.binaries import wheel_bin
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.engines import Engine


class BenchmarkError(RuntimeError):
    """Nothing was measured; the message says why."""


def prepare(engine: Engine, url: str) -> None:
    """Make the engine's schema in an empty database."""
    _checked([sys.executable, "-m", "benchmarks.client", engine.name, url])


@contextmanager
def wire(url: str, delay_ms: float = 0.0) -> Iterator[Wire]:
    """A way to the server of ``url`` by a proxy, which counts, or delays what the server says."""
    arguments = [sys.executable, "-m", "benchmarks.wire", url, "--delay-ms", str(delay_ms)]
    with _Process(arguments) as process:
        yield Wire(process)


class Wire:
    """A proxy that runs."""

    def __init__(self, process: _Process) -> None:
        self._process, self._port = process, process.line()

    def to(self, url: str) -> str:
        """The URL of any database of the server, by this way.

        Whoever connects to it sends nothing but the protocol: no question for TLS or GSSAPI comes first.
        """
        parts = urlsplit(url)
        netloc = f"{parts.username}:{parts.password}@127.0.0.1:{self._port}"
        return parts._replace(netloc=netloc, query="sslmode=disable&gssencmode=disable").geturl()

    def counts(self) -> dict[str, int]:
        """Round trips and transactions since the last time."""
        return self._process.ask()


@contextmanager
def clients(engine: Engine, urls: Sequence[str]) -> Iterator[Clients]:
    """A client on each URL, connected."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                _Process([sys.executable, "-m", "benchmarks.client", engine.name, url, f"client-{number}"])
            )
            for number, url in enumerate(urls)
        ]
        for process in started:
            process.line()
        yield Clients(started)


class Clients:
    """Clients that are connected."""

    def __init__(self, processes: Sequence[_Process]) -> None:
        self._processes = processes

    def operate(
        self, prefix: str, number: int = 1, *, when_warm: Callable[[], None] = lambda: None, **extent: float
    ) -> list[dict[str, Any]]:
        """Let so many of them operate at the same time, for ``seconds`` or ``operations``; what each measured."""
        operating = self._processes[:number]
        for client, process in enumerate(operating):
            process.say(json.dumps({"prefix": f"{prefix}-{client}", **extent}))
        for process in operating:
            process.line()
        when_warm()
        for process in operating:
            process.say()
        return [json.loads(process.line()) for process in operating]


def pgbench(url: str, clients: int, *extent: str) -> dict[str, Any]:
    """What a client measures, of all clients of pgbench together. ``extent``: ``-T seconds`` or ``-t transactions``."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "floor.sql"
        script.write_text(floor.SCRIPT)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        arguments = [
            *(str(wheel_bin() / "pgbench"), "--no-vacuum", "--protocol", "prepared", "--file", str(script)),
            *("--client", str(clients), "--jobs", str(clients), *extent),
            *("--log", "--log-prefix", f"{folder}/log", url),
        ]
        output = _checked(arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        latencies = [
            int(line.split()[2]) / 1e6 for log in Path(folder).glob("log*") for line in log.read_text().splitlines()
        ]
    tps = float(output.partition("tps = ")[2].split()[0])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"latencies": latencies, "seconds": len(latencies) / tps, "cpu_seconds": cpu}


def _checked(arguments: list[str]) -> str:
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{_command(arguments)} failed with exit status {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def _command(arguments: list[str]) -> str:
    """Without URLs: they hold passwords."""
    return " ".join(argument for argument in arguments if "://" not in argument)


_END_SECONDS: Final = 30.0


class _Process:
    """A process that is talked to by lines."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._process = subprocess.Popen(
            arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def line(self) -> str:
        """Wait for a line. Raises BenchmarkError where the process ended instead."""
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(_END_SECONDS)
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace")
            raise BenchmarkError(f"{_command(self._arguments)} has ended:\n{said[-3000:]}")
        return line.strip()

    def say(self, line: str = "") -> None:
        """Send a line."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def ask(self) -> dict[str, Any]:
        """Send a line; the JSON that is answered."""
        self.say()
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_exception: object) -> None:
        """End it: it ends when its standard input does."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
