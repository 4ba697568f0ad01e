"""Owns HTTP: API Gateway events (payload 2.0) in, answers and the error envelope out. One mapping of errors, here.

Routes are matched here rather than by Powertools' resolver: its import costs as much as the rest of the handler, and it
knows no 405, no error before its handlers for undecodable bodies and no path with a '#' (docs/adr/0002).
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, ValidationError

from loop_runner import metrics, preconditions
from loop_runner.contract import ISSUE_ID, Answer, ErrorAnswer, ErrorBody, RequestBody
from loop_runner.errors import (
    InvalidRequestError,
    LoopConflictError,
    LoopError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
)
from loop_runner.identity import Identity, identify
from loop_runner.observability import logger
from loop_runner.settings import ANSWER_RESERVE_SECONDS, MAX_BODY_BYTES
from loop_runner.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_lambda_powertools.utilities.typing import LambdaContext

    from loop_runner.models import Json, Row
    from loop_runner.services import Services

Body = TypeVar("Body", bound=RequestBody)
Handler = TypeVar("Handler", bound="Callable[[Call], Reply]")

_DEFAULT_ROUTE: Final = "$default"
_JSON_HEADERS: Final = {"content-type": "application/json", "cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route answers with: a model of the contract as JSON, or a text of the type that the headers name."""

    body: Answer | Row | str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call of a route: its parts are read, and refused, when the route asks for them."""

    event: Mapping[str, Any]
    context: LambdaContext
    services: Services
    identity: Identity
    request_id: UUID
    path: Mapping[str, str]

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers, names in lower case."""
        return headers_of(self.event)

    @property
    def query(self) -> Mapping[str, str]:
        """The query parameters, decoded."""
        return {str(name): str(value) for name, value in _mapping(self.event.get("queryStringParameters")).items()}

    @property
    def issue_id(self) -> str:
        """The issue's id in the path. Raises InvalidRequestError."""
        issue_id = self.path["issueId"]
        if not ISSUE_ID.fullmatch(issue_id):
            raise InvalidRequestError(
                "an issue id has 1 to 128 letters, digits and . _ : -, and begins with a letter or a digit"
            )
        logger.append_keys(issueId=issue_id)
        return issue_id

    @property
    def run_id(self) -> UUID:
        """The run's id in the path. Raises InvalidRequestError."""
        try:
            run_id = UUID(self.path["runId"])
        except ValueError:
            raise InvalidRequestError("a run id is a UUID") from None
        logger.append_keys(runId=str(run_id))
        return run_id

    def json(self) -> Any:
        """The body as strict JSON; an empty or blank one is {}. Raises InvalidRequestError, PayloadTooLargeError."""
        return parse_json(body_of(self.event))

    def json_object(self) -> Json:
        """The body as a JSON object. Raises InvalidRequestError, PayloadTooLargeError."""
        value = self.json()
        if not isinstance(value, dict):
            raise InvalidRequestError("the body must be a JSON object")
        return value

    def body(self, model: type[Body]) -> Body:
        """The body as a model of the contract. Raises InvalidRequestError, PayloadTooLargeError."""
        value = self.json_object()
        try:
            return model.model_validate(value)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
            raise InvalidRequestError(f"the body is not of the contract's form: {'; '.join(problems)[:1000]}") from None

    @cached_property
    def if_match(self) -> frozenset[int] | None:
        """The issue versions that If-Match accepts; None for any. Raises InvalidRequestError."""
        return preconditions.if_match(self.headers)

    def idempotency(self, body: RequestBody) -> tuple[str, str] | None:
        """The Idempotency-Key and the hash of what it stands for; None without one. Raises InvalidRequestError."""
        key = preconditions.idempotency_key(self.headers)
        if key is None:
            return None
        content = body.model_dump(mode="json")
        return key, preconditions.request_hash(self.identity, content, self.if_match, is_async=self.prefers_async)

    @property
    def prefers_async(self) -> bool:
        """Whether the caller does not want to wait."""
        return preconditions.prefers_async(self.headers)

    def remaining_ms(self) -> int:
        """Milliseconds until Lambda would end this invocation."""
        return int(self.context.get_remaining_time_in_millis())


@dataclass(frozen=True)
class Route:
    """A route, and what the OpenAPI document says of it beside its handler's docstring.

    ``takes``: names of its query parameters and headers. ``answers``: the model of its answer, or the media
    type of a text. ``raises``: errors that are not every route's. ``handler``: None where another function
    serves it.
    """

    method: str
    path: str
    handler: Callable[[Call], Reply] | None = None
    body: type[BaseModel] | None = None
    takes: tuple[str, ...] = ()
    answers: type[Answer | Row] | str = "application/json"
    statuses: tuple[int, ...] = (200,)
    raises: tuple[type[LoopError], ...] = ()
    is_open: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """``{name}`` in the path matches one segment, ``{name+}`` what is left of it."""
        pattern = re.sub(r"\{(\w+)\+\}", r"(?P<\1>.+)", self.path)
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))


class Api:
    """The routes of one function, and what is the same for all of them."""

    def __init__(self, services: Callable[[], Services]) -> None:
        """``services`` is called once, by the first call."""
        self._make_services = services
        self.routes: list[Route] = []

    @cached_property
    def services(self) -> Services:
        """What the routes work with, made once per process."""
        return self._make_services()

    def route(self, method: str, path: str, **description: Any) -> Callable[[Handler], Handler]:
        """Register who serves a route; ``description``: the fields of Route. Open ones need no identity."""

        def register(handler: Handler) -> Handler:
            self.routes.append(Route(method, path, handler, **description))
            return handler

        return register

    def served_elsewhere(self, method: str, path: str) -> None:
        """Know a route of another function: the other methods of its path come here, by way of ``$default``."""
        self.routes.append(Route(method, path))

    def handle(self, event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        """Answer an API Gateway event (payload 2.0). Never raises."""
        started = time.perf_counter()
        request_id = _request_id(event)
        logger.structure_logs(append=False)
        logger.append_keys(requestId=str(request_id), lambdaRequestId=getattr(context, "aws_request_id", None))
        try:
            answer = self._answer(event, context, request_id)
        except LoopError as error:
            if isinstance(error, LoopConflictError):
                metrics.count(metrics.Metric.CONFLICTS)
            if error.status >= 500:
                logger.exception("the call failed", extra={"code": error.code})
            answer = _error_answer(error, request_id)
        except Exception:
            logger.exception("the call failed unexpectedly")
            answer = _error_answer(
                LoopError("something went wrong on our side: the log lines of this requestId say what"), request_id
            )
        answer["headers"]["x-request-id"] = str(request_id)
        logger.info(
            "answered",
            extra={
                "routeKey": event.get("routeKey"),
                "statusCode": answer["statusCode"],
                "elapsedMs": round((time.perf_counter() - started) * 1000, 1),
            },
        )
        return answer

    def _answer(self, event: Mapping[str, Any], context: LambdaContext, request_id: UUID) -> dict[str, Any]:
        request = _mapping(event.get("requestContext"))
        method, path = str(_mapping(request.get("http")).get("method")), str(event.get("rawPath"))
        matches = [(route, match) for route in self.routes if (match := route.pattern.fullmatch(path))]
        route, match = next(((r, m) for r, m in matches if r.method == method), (None, None))
        is_default = event.get("routeKey") == _DEFAULT_ROUTE
        if route and route.is_open and not is_default:
            identity = Identity("anonymous")
        else:
            identity = identify(request, headers_of(event), self.services.settings)
        if route is None or match is None or route.handler is None:
            _raise_no_route(method, sorted({route.method for route, _ in matches} - {method}))
        if is_default:  # API Gateway has read the path otherwise, and asked for the rights of no route
            raise NotFoundError("there is nothing at this path as it is spelled: write it without percent-encoding")
        call = Call(event, context, self.services, identity, request_id, match.groupdict())
        self.services.database.deadline = time.monotonic() + call.remaining_ms() / 1000 - ANSWER_RESERVE_SECONDS
        reply = route.handler(call)
        if isinstance(reply.body, str):
            return {"statusCode": reply.status, "headers": dict(reply.headers), "body": reply.body}
        return {
            "statusCode": reply.status,
            "headers": {**_JSON_HEADERS, **reply.headers},
            "body": reply.body.model_dump_json(exclude_none=reply.body.omits_null),
        }


def etag(version: int) -> dict[str, str]:
    """The header that names an issue's version."""
    return {"etag": f'"{version}"'}


def headers_of(event: Mapping[str, Any]) -> dict[str, str]:
    """The headers of an event, names in lower case; of one given twice the values joined, as API Gateway does it."""
    headers: dict[str, str] = {}
    for given, value in _mapping(event.get("headers")).items():
        name = str(given).lower()
        headers[name] = f"{headers[name]},{value}" if name in headers else str(value)
    return headers


def _mapping(value: object) -> Mapping[Any, Any]:
    """What should be an object in the event, though somebody else may have made it."""
    return value if isinstance(value, Mapping) else {}


def body_of(event: Mapping[str, Any], max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The body's bytes. InvalidRequestError for invalid base64, PayloadTooLargeError over so many, 64 KiB mostly."""
    body = event.get("body") or ""
    if not isinstance(body, str):
        raise InvalidRequestError("the event's body must be text")
    if len(body) > max_bytes * 2:
        raise _too_large(max_bytes)
    if event.get("isBase64Encoded"):
        try:
            content = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequestError("the body is not valid base64") from None
    else:
        try:
            content = body.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError("the body is not valid UTF-8") from None
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return content


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the body is larger than {max_bytes} bytes")


def _request_id(event: Mapping[str, Any]) -> UUID:
    try:
        return UUID(headers_of(event).get("x-request-id", "").strip())
    except ValueError:
        return uuid4()


def _raise_no_route(method: str, methods: list[str]) -> NoReturn:
    if methods:
        allowed = ", ".join(methods)
        raise MethodNotAllowedError(f"{method} is not possible here, {allowed} is", headers={"allow": allowed})
    raise NotFoundError


def _error_answer(error: LoopError, request_id: UUID) -> dict[str, Any]:
    body = ErrorAnswer(
        request_id=request_id,
        error=ErrorBody(code=error.code, message=error.message, details=error.details or None),
        timestamp=datetime.now(UTC),
    )
    return {
        "statusCode": error.status,
        "headers": {**_JSON_HEADERS, **error.headers},
        "body": body.model_dump_json(exclude_none=True),
    }
