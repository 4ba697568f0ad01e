"""A browser that was let in, down to the bytes, and a console to use it on."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.console.guard import Guard
from tools.console.server import make_server
from tools.console.upstream import Upstream
from tools.local.client import Answer
from tools.local.stack import listen

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = "/api/loop/runs"


@dataclass
class Browser:
    """Makes requests as a browser that was let in; what ``headers`` names takes the place of what it would send."""

    guard: Guard
    has_cookie: bool = True

    def __call__(
        self, method: str, target: str, body: bytes | None = None, /, *more: tuple[str, str], **headers: str | None
    ) -> Answer:
        sent: dict[str, str | None] = {"host": f"127.0.0.1:{self.guard.port}"}
        if self.has_cookie:
            sent["cookie"] = f"other=1; {self.guard.cookie.partition(';')[0]}"
        if method not in {"GET", "HEAD"}:
            sent["origin"] = f"http://127.0.0.1:{self.guard.port}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1", "connection: close"]
        lines += [f"{name}: {value}" for name, value in [*sent.items(), *more] if value is not None]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        with socket.create_connection(("127.0.0.1", self.guard.port), timeout=60) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            names = {name.lower(): value for name, value in response.getheaders()}
            once = [name.lower() for name, _ in response.getheaders() if name.lower() != "set-cookie"]
            assert len(set(once)) == len(once)
            assert not [name for name in names if name.startswith("access-control")]
            return Answer(response.status, names, response.read())


@contextmanager
def console_of(url: str, *, seconds: float = 60.0) -> Iterator[Browser]:
    with listen(0) as listener:
        guard = Guard(listener.getsockname()[1], "the-token-of-this-start")
        server = make_server(guard, Upstream(url, seconds=seconds), seconds=seconds)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Browser(guard)
        finally:
            server.should_exit = True
            thread.join()


def error_of(answer: Answer) -> tuple[int, str]:
    """Status and code of an answer in the contract's envelope."""
    body = answer.json()
    assert set(body) == {"schemaVersion", "requestId", "error", "timestamp"}, body
    assert body["schemaVersion"] == "loop.error.v1"
    assert body["requestId"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    return answer.status, body["error"]["code"]


def message_of(answer: Answer) -> str:
    return str(answer.json()["error"]["message"])
