"""What API Gateway's HTTP API does to a request and to an answer, payload format 2.0. Pure: no input or output.

Source: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html and
http-api-develop-routes.html; where these are silent, behaviour that was observed on the real one and is noted here.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote

from tools.local.intrinsics import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tools.local.template import Route

MAX_BODY_BYTES: Final = 10 * 1024 * 1024

_PARAMETER: Final = re.compile(r"\{([^{}+]+)(\+?)\}")
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_LINE_BREAK: Final = re.compile(r"[\r\n]")
# Observed on the real one (ministackorg/ministack pull request 766): only these and text/* arrive as text; all else is
# base64, forms (what `curl -d` sends), application/*+json and bodies without a content type included.
_TEXT_TYPES: Final = frozenset({"application/json", "application/javascript", "application/xml"})


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request as it came in; header names in lower case, in their order."""

    method: str
    raw_path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    protocol: str = "HTTP/1.1"
    source_ip: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, without the headers that HTTP servers add."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def message(cls, status: int, text: str) -> Response:
        """An answer that API Gateway makes itself."""
        return cls.of_json(status, {"message": text})

    @classmethod
    def of_json(cls, status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
        """An answer with a JSON body."""
        return cls(status, (("content-type", "application/json"), *(headers or {}).items()), json.dumps(value).encode())


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request and its decoded path parameters."""

    route: Route
    parameters: Mapping[str, str] = field(default_factory=dict)


class Router:
    """Finds the most specific route: literal segments, then parameters, then ``{name+}``; ``$default`` last."""

    def __init__(self, routes: Iterable[Route]) -> None:
        listed = list(routes)
        self._default = next((route for route in listed if route.path is None), None)
        self._routes = sorted((route for route in listed if route.path is not None), key=_specificity)

    def match(self, method: str, raw_path: str) -> Match | None:
        """The route, None if there is not even a default. Segments are split before they are decoded."""
        segments = raw_path.split("/")
        for route in self._routes:
            if route.method in {method, "ANY"}:
                parameters = _match_segments((route.path or "").split("/"), segments)
                if parameters is not None:
                    return Match(route, parameters)
        return None if self._default is None else Match(self._default)


def _specificity(route: Route) -> tuple[list[int], bool]:
    return [_rank(segment) for segment in (route.path or "").split("/")], route.method == "ANY"


def _rank(segment: str) -> int:
    parameter = _PARAMETER.fullmatch(segment)
    return 0 if parameter is None else 2 if parameter[2] else 1


def _match_segments(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    parameters: dict[str, str] = {}
    for position, part in enumerate(pattern):
        parameter = _PARAMETER.fullmatch(part)
        if position >= len(segments) or (parameter and not segments[position]):
            return None
        if parameter is None:
            if unquote(segments[position]) != part:
                return None
        elif parameter[2]:
            parameters[parameter[1]] = unquote("/".join(segments[position:]))
            return parameters
        else:
            parameters[parameter[1]] = unquote(segments[position])
    return parameters if len(pattern) == len(segments) else None


def event_of(request: Request, match: Match) -> dict[str, Any]:
    """The event of payload format 2.0. What is absent (cookies, query, parameters, body) has no key, as observed."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        if name == "cookie":
            cookies += [cookie.strip() for cookie in value.split(";") if cookie.strip()]
        elif name not in _HOP_BY_HOP:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    host = headers.get("host", "localhost")
    now = time.time()
    forwarded_for = headers.get("x-forwarded-for")
    headers |= {
        "content-length": str(len(request.body)),
        "x-amzn-trace-id": headers.get("x-amzn-trace-id", f"Root=1-{int(now):08x}-{secrets.token_hex(12)}"),
        "x-forwarded-for": f"{forwarded_for}, {request.source_ip}" if forwarded_for else request.source_ip,
        "x-forwarded-port": host.rpartition(":")[2] if ":" in host else "80",
        "x-forwarded-proto": "http",
    }
    domain = host.partition(":")[0]
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": match.route.key,
        "rawPath": unquote(request.raw_path),
        "rawQueryString": request.query,
    }
    if cookies:
        event["cookies"] = cookies
    event["headers"] = headers
    query: dict[str, str] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        query[name] = f"{query[name]},{value}" if name in query else value
    if query:
        event["queryStringParameters"] = query
    event["requestContext"] = {
        "accountId": ACCOUNT,
        "apiId": "local",
        "domainName": domain,
        "domainPrefix": domain.partition(".")[0],
        "http": {
            "method": request.method,
            "path": unquote(request.raw_path),
            "protocol": request.protocol,
            "sourceIp": request.source_ip,
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": base64.b64encode(secrets.token_bytes(11)).decode(),
        "routeKey": match.route.key,
        "stage": "$default",
        "time": f"{datetime.fromtimestamp(now, UTC):%d/%b/%Y:%H:%M:%S +0000}",
        "timeEpoch": int(now * 1000),
    }
    if match.parameters:
        event["pathParameters"] = dict(match.parameters)
    text = _as_text(request.body, headers.get("content-type", ""))
    if request.body:
        event["body"] = base64.b64encode(request.body).decode() if text is None else text
    event["isBase64Encoded"] = bool(request.body) and text is None
    return event


def _as_text(body: bytes, content_type: str) -> str | None:
    kind = content_type.partition(";")[0].strip().lower()
    if not kind.startswith("text/") and kind not in _TEXT_TYPES:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def response_of(payload: bytes) -> Response | None:
    """The answer that a function's result stands for, None when it is malformed: a statusCode, but not the rest."""
    result = json.loads(payload)
    if not isinstance(result, dict) or "statusCode" not in result:
        return Response(200, (("content-type", "application/json"),), payload)
    parts: dict[str, Any] = {"body": "", "headers": {}, "cookies": []}
    parts |= {name: value for name, value in result.items() if value is not None}
    body, headers, cookies = parts["body"], parts["headers"], parts["cookies"]
    if not (isinstance(body, str) and isinstance(headers, dict) and isinstance(cookies, list)):
        return None
    pairs = [(str(name).lower(), _header_text(value)) for name, value in headers.items()]
    pairs = [(name, value) for name, value in pairs if name not in _HOP_BY_HOP and name != "content-length"]
    if not any(name == "content-type" for name, _ in pairs):
        pairs.append(("content-type", "text/plain;charset=UTF-8"))  # observed
    pairs += [("set-cookie", str(cookie)) for cookie in cookies]
    if any(_LINE_BREAK.search(text) for pair in pairs for text in pair):
        return None
    try:
        status = int(result["statusCode"])
        content = base64.b64decode(body, validate=True) if result.get("isBase64Encoded") else body.encode()
    except (TypeError, ValueError):
        return None
    return Response(status, tuple(pairs), content) if 200 <= status <= 599 else None


def _header_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
