"""Owns a server on this machine that behaves as GitHub's REST API does, with the faults that a test asks for.

    with FakeGithub() as github:
        pull = github.repository().pull()
        github.on("PUT .*/merge", LOST)

Source: https://docs.github.com/en/rest, version 2022-11-28.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

from tests.github.apps import App
from tests.github.faults import Act, Fault, Plan
from tests.github.routes import Call, Listing, paged, route
from tests.github.shapes import Shapes
from tests.github.world import PullRequest, RefusedError, Repository

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

DOCUMENTATION: Final = "https://docs.github.com/rest"
ENTERPRISE: Final = "/api/v3"
"""What the paths of GitHub Enterprise Server begin with."""

LIMIT: Final = 5000
"""Requests an hour, of a token."""


@dataclass(frozen=True)
class Logged:
    """A request that came; ``status`` is that of the answer, None where there was none."""

    method: str
    path: str
    query: str
    token: str
    body: Any
    status: int | None

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}{'?' if self.query else ''}{self.query}"


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Any
    token: str
    shapes: Shapes


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    headers: dict[str, str]


class FakeGithub:
    """A context manager: the server answers at ``url`` (and below ``/api/v3``, as GitHub Enterprise Server does).

    ``tokens`` says who calls with which token; ``token`` is the first of them. ``log`` has all requests.
    """

    def __init__(self, port: int = 0, token: str = "") -> None:
        self.token = token or f"ghp_{uuid4().hex}"
        self.tokens = {self.token: "loop-runner"}
        self.app = App()
        self.repositories: dict[str, Repository] = {}
        self.log: list[Logged] = []
        self.remaining, self.resets_at = LIMIT, int(time.time()) + 3600
        self.lock = threading.RLock()
        self._plans: list[Plan] = []
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.github = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.web = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def repository(self, name: str = "acme/shop") -> Repository:
        """The repository of that name, made when there is none."""
        return self.repositories.setdefault(name.lower(), Repository(name))

    def pull(self, author: str = "ann") -> PullRequest:
        """A new pull request of ``acme/shop``."""
        return self.repository().pull(author)

    def pull_url(self, pull: PullRequest) -> str:
        """Where people see it: ``html_url``."""
        return f"{self.web}/{pull.repository.name}/pull/{pull.number}"

    def rotate(self) -> str:
        """A new token, the only one that is valid from now on."""
        self.token = f"ghp_{uuid4().hex}"
        self.tokens = {self.token: "loop-runner"}
        return self.token

    def on(self, pattern: str, act: Act, *, nth: int = 1, times: int = 1) -> None:
        """Let it befall the nth of the coming requests that the pattern is found in, and ``times`` - 1 after it."""
        with self.lock:
            self._plans.append(Plan(re.compile(pattern), act, nth, times))

    def clear(self) -> None:
        """Let nothing more go wrong."""
        with self.lock:
            self._plans.clear()

    def requests(self, pattern: str) -> list[Logged]:
        """Those in whose ``METHOD path?query`` the pattern is found."""
        return [each for each in self.log if re.search(pattern, each.line)]

    @property
    def merges(self) -> dict[str, int]:
        """How often each pull request was merged, by its address."""
        every = [pull for repository in self.repositories.values() for pull in repository.pulls.values()]
        return {self.pull_url(pull): len(pull.merges) for pull in every}

    def _fault(self, line: str) -> Fault | None:
        faults = []
        for plan in self._plans:
            if plan.befalls(line):
                value = plan.act if isinstance(plan.act, Fault) else plan.act()
                faults += [value] if isinstance(value, Fault) else []
        return faults[0] if faults else None

    def handle(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Answer | None:
        """The answer; None ends the connection without one."""
        parts = urlsplit(target)
        path = parts.path.removeprefix(ENTERPRISE)
        shapes = Shapes(self.url + parts.path.removesuffix(path), self.web)
        token = re.sub(r"^(bearer|token) ", "", headers.get("authorization", ""), flags=re.IGNORECASE)
        read = json.loads(body) if body else {}
        request = _Request(method, path, dict(parse_qsl(parts.query)), headers, read, token, shapes)
        with self.lock:
            fault = self._fault(f"{method} {path}{'?' if parts.query else ''}{parts.query}")
            answer = self._answer(request) if fault is None or fault.effect else None
            if fault is not None and fault.status is not None:
                answer = self._refusal(fault.status, fault.message, _headers(fault), fault.more)
            elif fault is not None:
                answer = None
            status = answer.status if answer else None
            self.log.append(Logged(method, path, parts.query, token, read, status))
        if fault is not None and fault.seconds:
            self._over.wait(fault.seconds)
        return answer

    def _answer(self, request: _Request) -> _Answer:
        try:
            return self._authorized(request)
        except RefusedError as refused:
            more = {"errors": refused.errors} if refused.errors else {}
            return self._refusal(refused.status, refused.message, {}, more)

    def _authorized(self, request: _Request) -> _Answer:
        if "user-agent" not in request.headers:
            raise RefusedError(403, "Request forbidden by administrative rules. Please set a User-Agent header.")
        if match := re.fullmatch(r"/app/installations/(\d+)/access_tokens", request.path):
            status, body = self.app.access_token(request.token, int(match[1]))
            return self._json(status, body, {})
        login = self.tokens.get(request.token) or self.app.login_of(request.token)
        if login is None:
            raise RefusedError(401, "Bad credentials" if request.token else "Requires authentication")
        if request.path == "/rate_limit":
            core = {
                "limit": LIMIT,
                "remaining": self.remaining,
                "reset": self.resets_at,
                "used": LIMIT - self.remaining,
            }
            return self._json(200, {"resources": {"core": core}, "rate": core}, {})
        if time.time() >= self.resets_at:
            self.remaining, self.resets_at = LIMIT, int(time.time()) + 3600
        if self.remaining <= 0:
            raise RefusedError(403, "API rate limit exceeded for user ID 1.")
        answer = self._of_repository(request, login)
        if answer.status != 304:
            self.remaining -= 1
        return answer

    def _of_repository(self, request: _Request, login: str) -> _Answer:
        match = re.fullmatch(r"/(?:repos/([^/]+/[^/]+)|repositories/(\d+))(/.*)?", request.path)
        repository = self._find(match[1], match[2]) if match else None
        if match is None or repository is None:
            raise RefusedError(404, "Not Found")
        if match[1] and match[1].lower() != repository.name.lower():
            return self._moved(request, f"{request.shapes.api}/repositories/{repository.id}{match[3] or ''}")
        call = Call(repository, login, request.query, request.body, request.shapes)
        status, body = route(request.method, match[3] or "")(call)
        headers: dict[str, str] = {}
        if isinstance(body, Listing):
            body, headers = paged(body, request.shapes.api + request.path, request.query)
        answer = self._json(status, body, headers)
        if request.method == "GET" and status == 200:
            tag = f'W/"{hashlib.sha256(answer.body).hexdigest()}"'
            answer.headers["etag"] = tag
            if request.headers.get("if-none-match") == tag:
                return _Answer(304, b"", answer.headers)
        return answer

    def _find(self, name: str | None, number: str | None) -> Repository | None:
        """By its name, one of before, or its id."""
        for each in self.repositories.values():
            if str(each.id) == number or each.name.lower() == (name or "").lower():
                return each
        return self.repositories.get((name or "").lower())

    def _moved(self, request: _Request, url: str) -> _Answer:
        """To where a name of before leads: for good, but that methods other than GET are to stay what they are."""
        url += f"?{urlencode(request.query)}" if request.query else ""
        status, message = (301, "Moved Permanently") if request.method == "GET" else (307, "Temporary Redirect")
        return self._refusal(status, message, {"location": url}, {"url": url})

    def _json(self, status: int, body: Any, headers: dict[str, str]) -> _Answer:
        limits = {
            "x-ratelimit-limit": str(LIMIT),
            "x-ratelimit-remaining": str(max(self.remaining - 1, 0)),
            "x-ratelimit-reset": str(self.resets_at),
            "x-ratelimit-resource": "core",
            "x-github-request-id": uuid4().hex,
        }
        content = b"" if body is None else json.dumps(body).encode()
        return _Answer(status, content, {"content-type": "application/json; charset=utf-8", **limits, **headers})

    def _refusal(self, status: int, message: str, headers: dict[str, str], more: dict[str, Any]) -> _Answer:
        body = {"message": message, **more, "documentation_url": DOCUMENTATION, "status": str(status)}
        return self._json(status, body, headers)


def _headers(fault: Fault) -> dict[str, str]:
    if fault.resets_in is None:
        return fault.headers
    reset = str(int(time.time()) + fault.resets_in)
    return {**fault.headers, "x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # who waits for a slow answer is not waited for
    github: FakeGithub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of callers that did not wait for their answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: _Server

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.github.handle(self.command, self.path, headers, body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in {204, 304}:
            self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Tests read ``log``."""
