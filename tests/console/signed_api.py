"""An API that answers with what the test says and recomputes the signature of what it was asked."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterator

KEY, SECRET, SESSION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token"
REGION = "eu-central-1"


@dataclass
class Received:
    """A request as it came, and whether its signature is right."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.headers}

    def get(self, name: str) -> str | None:
        values = [value for each, value in self.headers if each == name]
        assert len(values) <= 1
        return values[0] if values else None

    @property
    def is_signed(self) -> bool:
        """docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, once more."""
        found = re.fullmatch(
            rf"AWS4-HMAC-SHA256 Credential={KEY}/(\d{{8}})/{REGION}/execute-api/aws4_request, "
            r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
            self.get("authorization") or "",
        )
        assert found, self.headers
        date, names, signature = found.groups()
        assert self.names - {"authorization", "content-length"} == set(names.split(";")), "all that matters is signed"
        method, target, _ = self.line.split(" ")
        path, _, query = target.partition("?")
        pairs = sorted(tuple(map(aws_encoded, part.partition("=")[::2])) for part in query.split("&") if part)
        canonical = "\n".join([
            method,
            quote(path, safe="/-_.~"),  # once more: only S3 does not
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{' '.join((self.get(name) or '').split())}" for name in names.split(";")),
            "",
            names,
            hashlib.sha256(self.body).hexdigest(),
        ])  # fmt: skip
        scope = f"{date}/{REGION}/execute-api/aws4_request"
        key = f"AWS4{SECRET}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", self.get("x-amz-date") or "", scope, digest])
        return hmac.digest(key, text.encode(), "sha256").hex() == signature


def aws_encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.replace("+", " ")), safe="-_.~")


@dataclass
class Api:
    """Answers with what the test says, and keeps what it was asked."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("content-type", "application/json")])
    body: bytes = b'{"ok": true}'
    before: Callable[[socket.socket], bool] = lambda _connection: True
    """What is done with the connection before the answer; whether there is one."""


@contextmanager
def api_on(tls: ssl.SSLContext | None = None) -> Iterator[Api]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = [(name.lower(), value) for name, value in self.headers.items()]
            api.received.append(Received(self.requestline, headers, body))
            if not api.before(self.connection):
                self.close_connection = True
                return
            self.send_response_only(api.status)
            for name, value in api.headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(api.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(api.body)

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def log_message(self, *_parts: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_parts: object) -> None:  # clients that give up are what is tested
            ...

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    api.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
