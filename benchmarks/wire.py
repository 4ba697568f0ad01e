"""Owns the wire between a client and the server: counts round trips and transactions, or delays the server.

    python -m benchmarks.wire URL [--delay-ms N]

It is a process of its own, so that no client waits for its turn in the same interpreter. Says its port, then answers
each line on standard input with the counts since the last one, as JSON.
"""

from __future__ import annotations

import argparse
import json
import queue
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tests.wire import Messages

if TYPE_CHECKING:
    from collections.abc import Callable

_ASKS: Final = frozenset(["S", "Q", ""])
"""Sync, Query and startup: answered until ReadyForQuery."""

_TERMINATE: Final = "X"


class Counts:
    """Counts, on one connection, how often the client waited and what the server committed.

    A round trip begins when the client sends something after everything that it had asked for was answered. What it
    sends before that, in a pipeline, belongs to the same one. A transaction is what ends in an idle ReadyForQuery and
    was not rolled back, one that only read included.
    """

    def __init__(self) -> None:
        self.round_trips = 0
        self.transactions = 0
        self._asked = 0
        self._waits = False
        self._is_done = False

    def from_client(self, kind: str) -> None:
        """Note a message of the client; "" is startup's."""
        if kind == _TERMINATE:
            return
        if not self._waits:
            self._waits = True
            self.round_trips += 1
        self._asked += kind in _ASKS

    def from_server(self, kind: str, body: bytes) -> None:
        """Note a message of the server."""
        if kind == "C":
            self._is_done = not body.startswith(b"ROLLBACK")
        elif kind == "Z":
            self._asked -= 1
            if body == b"I":
                self.transactions += self._is_done
                self._is_done = False
        if self._asked <= 0:  # or what was asked for with Flush alone
            self._waits = False


class Wire:
    """The proxy. Without a delay it counts. ``delay`` (seconds) is added to whatever the server says, as a longer way
    would add it: what was said before holds nothing up.
    """

    def __init__(self, url: str, delay: float) -> None:
        parts = urlsplit(url)
        self._server = str(parts.hostname), parts.port or 5432
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[Counts] = []
        self._told = {"round_trips": 0, "transactions": 0}
        threading.Thread(target=self._accept, daemon=True).start()

    def counts(self) -> dict[str, int]:
        """What was counted since the last time."""
        sums = {name: sum(getattr(counts, name) for counts in self._connections) for name in self._told}
        since = {name: sums[name] - self._told[name] for name in sums}
        self._told = sums
        return since

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._server)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._delay:
                _start(_pass_on, client, server)
                _start(_pass_on_later, server, client, self._delay)
            else:
                counts, lock = Counts(), threading.Lock()
                self._connections.append(counts)
                _start(_count_client, client, server, counts, lock)
                _start(_count_server, server, client, counts, lock)


def _start(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _pass_on_later(source: socket.socket, target: socket.socket, delay: float) -> None:
    said: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def deliver() -> None:
        with suppress(OSError):
            while True:
                due, data = said.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)

    _start(deliver)
    data = b"-"
    while data:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        said.put((time.monotonic() + delay, data))


def _count_client(source: socket.socket, target: socket.socket, counts: Counts, lock: threading.Lock) -> None:
    messages, is_startup = Messages(starts_up=True), True
    with suppress(OSError):
        while data := source.recv(65536):
            with lock:
                for message in messages.of(data):
                    counts.from_client("" if is_startup else chr(message[0]))
                    is_startup = False
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _count_server(source: socket.socket, target: socket.socket, counts: Counts, lock: threading.Lock) -> None:
    messages = Messages(starts_up=False)
    with suppress(OSError):
        while data := source.recv(65536):
            with lock:
                for message in messages.of(data):
                    counts.from_server(chr(message[0]), message[5:])
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def main() -> None:
    """Be the wire until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire")
    parser.add_argument("url")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    options = parser.parse_args()
    wire = Wire(options.url, options.delay_ms / 1000)
    print(wire.port, flush=True)
    for _line in sys.stdin:
        print(json.dumps(wire.counts()), flush=True)


if __name__ == "__main__":
    main()
