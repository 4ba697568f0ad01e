"""Owns the console's server: its files, and the API's paths, which are signed and forwarded. There is nothing else."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import uvicorn

from loop_runner.errors import NotFoundError
from loop_runner.settings import MAX_BODY_BYTES
from loop_runner.static_files import StaticFiles
from tools.console.answers import SAFE, not_allowed, refusal
from tools.local.asgi import read_body, request_of, send_response
from tools.local.http_api import Response
from tools.local.settings import ROOT

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tools.console.guard import Guard
    from tools.console.upstream import Upstream
    from tools.local.asgi import Receive, Scope, Send
    from tools.local.http_api import Request

UPSTREAM_SECONDS: Final = 35.0
"""API Gateway gives up after 30."""

_LEAVE_SECONDS: Final = 3
_LIMIT: Final = MAX_BODY_BYTES + 1024
"""A body that is a little too long is the API's to refuse."""

_READS: Final = ("GET", "HEAD")
_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_PAGE: Final = re.compile(r"/console(?:/([^/]+))?")
_SEPARATORS: Final = re.compile(r"[/\\]")


class ConsoleServer:
    """An ASGI application; ``forward`` calls the API and waits for its answer, at most ``seconds``."""

    def __init__(
        self, files: StaticFiles, guard: Guard, forward: Callable[[Request], Response], seconds: float
    ) -> None:
        self._files, self._guard, self._forward, self._seconds = files, guard, forward, seconds
        self._waiting: dict[asyncio.Future[Response], Request] = {}

    def end(self) -> None:
        """Wait for no answer any more."""
        for answer, request in self._waiting.items():
            _settle(answer, refusal(request, 502, "make console has ended: look whether the call was done"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = request_of(scope)
        response = self._page(request)
        if response is None:
            body = await read_body(receive, _LIMIT)
            if body is None:
                response = refusal(request, 413, f"the body is larger than {MAX_BODY_BYTES} bytes")
            else:
                response = await self._api(request_of(scope, body))
        await send_response(send, response, has_body=request.method != "HEAD")

    def _page(self, request: Request) -> Response | None:
        """The answer to everything but a call of the API that may be made."""
        page = _PAGE.fullmatch(request.raw_path)
        refused = self._guard.refuses_address(request)
        if refused is None and request.raw_path == "/console" and self._guard.opens(request):
            cookies = (("set-cookie", self._guard.mark), ("set-cookie", self._guard.cookie))
            headers = (("location", "/console"), ("cache-control", "no-store"))
            return Response(303, (*headers, *cookies, *SAFE), b"")
        refused = refused or self._guard.refuses_caller(request)
        if refused is not None:
            return refusal(request, refused.status, refused.message)
        if page is not None:
            return self._file(request, page[1] or "index.html")
        if not request.raw_path.startswith("/api/") or _leads_elsewhere(request.raw_path):
            return refusal(request, 404, "there is nothing here: the console is at /console, the API below /api")
        if request.method not in _METHODS:
            return not_allowed(request, _METHODS)
        return None

    def _file(self, request: Request, name: str) -> Response:
        if request.method not in _READS:
            return not_allowed(request, _READS)
        try:
            reply = self._files.reply(name, dict(request.headers).get("if-none-match", ""))
        except NotFoundError:
            return refusal(request, 404, "there is no such file of the console: it begins at /console")
        return Response(reply.status, tuple(reply.headers.items()), str(reply.body).encode())

    async def _api(self, request: Request) -> Response:
        """Forward a call. One that takes too long goes on, though nobody hears its answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Response] = loop.create_future()

        def forward() -> None:
            try:
                response = self._forward(request)
            except Exception:
                traceback.print_exc(file=sys.stderr)
                response = refusal(request, 502, "the call could not be forwarded: make console has printed why")
            with suppress(RuntimeError):  # it was too late: the server has ended
                loop.call_soon_threadsafe(_settle, answer, response)

        threading.Thread(target=forward, name="forward", daemon=True).start()
        self._waiting[answer] = request
        try:
            return await asyncio.wait_for(answer, self._seconds)
        except TimeoutError:
            return refusal(request, 504, "the API has not answered in time: look whether the call was done")
        finally:
            del self._waiting[answer]


class _Server(uvicorn.Server):
    """Ends at once, whatever it waits for."""

    def __init__(self, console: ConsoleServer, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._console = console

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.end()
        await super().shutdown(sockets)


def _settle(answer: asyncio.Future[Response], response: Response) -> None:
    if not answer.done():
        answer.set_result(response)


def _leads_elsewhere(raw_path: str) -> bool:
    """Whether somebody who decodes the path, and resolves its dots, may come out of /api."""
    return "#" in raw_path or any(part in {".", ".."} for part in _SEPARATORS.split(unquote(raw_path)))


def make_server(guard: Guard, upstream: Upstream, *, seconds: float) -> uvicorn.Server:
    """The server of the console's files and of the API behind ``upstream``, to be run on the guard's port."""
    files = StaticFiles(ROOT / "functions" / "loop_api" / "console")
    console = ConsoleServer(files, guard, upstream.call, seconds)
    config = uvicorn.Config(
        console,
        access_log=False,
        date_header=False,  # the API's is forwarded: the console takes it for the API's clock
        http="h11",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=_LEAVE_SECONDS,
        ws="none",
    )
    return _Server(console, config)
