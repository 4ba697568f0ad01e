"""Owns the making of the OpenAPI document (3.1): an operation a route, a schema a model, an example of each."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from functions.github_webhook import app as github_webhook
from functions.loop_api import app as loop_api
from functions.run_next_step import app as run_next_step
from loop_runner.contract import ISSUE_ID, ErrorAnswer, RunNextStepResponse
from loop_runner.errors import (
    ForbiddenError,
    InvalidRequestError,
    LoopError,
    PayloadTooLargeError,
    PreconditionRequiredError,
    UnauthorizedError,
    UnavailableError,
)
from loop_runner.models import RunStatus
from loop_runner.pages import DEFAULT_LIMIT, MAX_LIMIT
from tools.local.settings import ROOT
from tools.openapi import examples

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

    from loop_runner.http import Route

Json = dict[str, Any]

_DESCRIPTION: Final = """\
Moves issues through loops of steps and gates, and keeps the record. For people: docs/contracts/loop-api.v1.md.

Every error that the functions make is an `ErrorAnswer`. API Gateway answers some calls itself, before any function,
with `{"message": "…"}`: 401 and 403 of an authorizer, 413 over 10 MB, 429 throttled, 500 when a function was lost, 503
after 30 s. Unknown paths are 404 NOT_FOUND, other methods of a known path 405 METHOD_NOT_ALLOWED with `Allow`.
"""

_IF_MATCH: Final = r'^(\*|"[0-9]{1,18}"(, *"[0-9]{1,18}")*)?$'
_PARAMETERS: Final[Mapping[str, Json]] = {
    "issueId": {
        "in": "path",
        "description": "Chosen by whoever registers the issue",
        "schema": {"type": "string", "pattern": f"^{ISSUE_ID.pattern}$"},
        "example": examples.ISSUE_ID,
    },
    "runId": {"in": "path", "schema": {"type": "string", "format": "uuid"}, "example": str(examples.RUN_ID)},
    "file": {"in": "path", "schema": {"type": "string"}, "example": "console.css"},
    "include": {
        "in": "query",
        "description": "`loop`: with the definition of its loop",
        "schema": {"type": "string", "enum": ["loop"]},
    },
    "limit": {
        "in": "query",
        "description": "How many items at most",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    },
    "cursor": {
        "in": "query",
        "description": "`nextCursor` of the page before, with the same filters",
        "schema": {"type": "string", "minLength": 1},
    },
    "loop": {"in": "query", "description": "Of this loop", "schema": {"type": "string", "minLength": 1}},
    "state": {"in": "query", "description": "In this state", "schema": {"type": "string", "minLength": 1}},
    "actor": {"in": "query", "description": "On behalf of this actor", "schema": {"type": "string", "minLength": 1}},
    "status": {
        "in": "query",
        "description": "Of one of these statuses",
        "style": "form",
        "explode": False,
        "schema": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": list(RunStatus)}},
    },
    "since": {
        "in": "query",
        "description": "Recorded at this time or after it",
        "schema": {"type": "string", "format": "date-time"},
    },
    "until": {
        "in": "query",
        "description": "Recorded before this time",
        "schema": {"type": "string", "format": "date-time"},
    },
    "If-Match": {
        "in": "header",
        "description": "The version that the issue must have: its ETag, several, or `*` (RFC 9110, section 13.1.1)",
        "schema": {"type": "string", "pattern": _IF_MATCH},
        "example": '"3"',
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "The call acts once for 24 hours, however often it is sent",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
    },
    "Prefer": {
        "in": "header",
        "description": "`respond-async`: the run is queued (RFC 7240)",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
    "X-GitHub-Event": {
        "in": "header",
        "required": True,
        "description": "What has happened: the event's name",
        "schema": {"type": "string", "pattern": "^[a-z_]{1,64}$"},
        "example": "pull_request_review",
    },
    "X-GitHub-Delivery": {
        "in": "header",
        "required": True,
        "description": "The delivery's id, the same when GitHub sends it again",
        "schema": {"type": "string", "format": "uuid"},
        "example": str(examples.DELIVERY_ID),
    },
    "X-Hub-Signature-256": {
        "in": "header",
        "required": True,
        "description": "`sha256=` and the HMAC of the body as it is with the webhook's secret, in hex",
        "schema": {"type": "string"},
        "example": f"sha256={'0' * 64}",
    },
    "x-request-id": {
        "in": "header",
        "description": "Kept as the request's id if it is a UUID, else replaced",
        "schema": {"type": "string"},
        "example": str(examples.REQUEST_ID),
    },
}

_HEADERS: Final[Mapping[str, Json]] = {
    "x-request-id": {"description": "The request's id", "schema": {"type": "string", "format": "uuid"}},
    "ETag": {"description": "The issue's version", "schema": {"type": "string"}},
    "Location": {"description": "The run", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "The answer was given before",
        "schema": {"type": "string", "const": "true"},
    },
    "Retry-After": {
        "description": "In how many seconds to try again",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
}

_SECURITY: Final[Mapping[str, Json]] = {
    "awsSigv4": {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "description": "AWS Signature Version 4 for service execute-api",
        "x-amazon-apigateway-authtype": "awsSigv4",
    },
    "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "localActor": {
        "type": "apiKey",
        "name": "x-afu9-sub",
        "in": "header",
        "description": "Locally only: who calls, without proof. Deployed: the person that a delegate names",
    },
}

_EVERY_ROUTES: Final = (InvalidRequestError, UnauthorizedError, ForbiddenError, LoopError, UnavailableError)
_TAGS: Final = {
    "issues": "What is driven through loops",
    "runs": "The record of what was executed",
    "loops": "Definitions and statistics",
    "github": "What GitHub tells",
    "system": "Health, this document, the run console",
}


def document() -> Json:
    """The whole document."""
    routes = sorted(_routes(), key=lambda route: (route.path, route.method))
    bodies = {route.body for route in routes if route.body}
    answers = {route.answers for route in routes if not isinstance(route.answers, str)} | {ErrorAnswer}
    refs, schemas = models_json_schema(
        [(model, "validation") for model in sorted(bodies, key=_name)]
        + [(model, "serialization") for model in sorted(answers, key=_name)],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Json] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Loop API",
            "version": f"v1 ({_release()})",
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "security": [{name: []} for name in _SECURITY],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": _SECURITY,
            "headers": _HEADERS,
            "examples": {error.code: {"value": examples.of_error(error)} for error in _raised(routes)},
            "parameters": {
                name: {"name": name, **({"required": True} if each["in"] == "path" else {}), **each}
                for name, each in _PARAMETERS.items()
            },
        },
    }


def _routes() -> Iterator[Route]:
    """The routes of all functions."""
    for api in (run_next_step.api, loop_api.api, github_webhook.api):
        yield from (route for route in api.routes if route.handler)


def _raised(routes: list[Route]) -> list[type[LoopError]]:
    """Every error that a route may answer with, by code."""
    raised = {*_EVERY_ROUTES, PayloadTooLargeError, *(error for route in routes for error in route.raises)}
    return sorted(raised, key=lambda error: error.code)


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _release() -> str:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _operation(route: Route, refs: Mapping[Any, Json]) -> Json:
    assert route.handler  # noqa: S101  see _routes
    text = " ".join((route.handler.__doc__ or "").split())
    summary, more = [*re.split(r"[.:;] ", text, maxsplit=1), ""][:2]
    operation: Json = {
        "operationId": re.sub(r"_(\w)", lambda match: match[1].upper(), route.handler.__name__),
        "summary": summary.rstrip("."),
        "tags": [_tag(route.path)],
    }
    if more:
        operation["description"] = f"{more[0].upper()}{more[1:]}"
    if route.is_open:
        operation["security"] = []
    names = [*re.findall(r"\{(\w+)\}", route.path), *route.takes, *([] if route.is_open else ["x-request-id"])]
    if names:
        operation["parameters"] = [_parameter(name, route) for name in names]
    if route.body:
        schema = refs[route.body, "validation"]
        operation["requestBody"] = {
            "required": examples.needs_body(route),
            "content": {"application/json": {"schema": schema, "examples": examples.of_body(route)}},
        }
    operation["responses"] = {str(status): _answer(route, status, refs) for status in route.statuses}
    operation["responses"] |= _errors(route)
    return operation


def _parameter(name: str, route: Route) -> Json:
    if name == "If-Match" and PreconditionRequiredError in route.raises:
        return {"name": name, "required": True, **_PARAMETERS[name]}
    return {"$ref": f"#/components/parameters/{name}"}


def _tag(path: str) -> str:
    part = path.removeprefix("/api/").removeprefix("loop/").split("/")[0]
    return part if part in _TAGS else "loops" if part == "stats" else "system"


def _answer(route: Route, status: int, refs: Mapping[Any, Json]) -> Json:
    if isinstance(route.answers, str):
        schema = {"type": "object"} if route.answers == "application/json" else {"type": "string"}
        return {"description": "The text", "content": {route.answers: {"schema": schema}}}
    headers = ["x-request-id", *examples.headers_of(route, status)]
    answer = {
        "description": " ".join((route.answers.__doc__ or "").split()).rstrip("."),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {
            "application/json": {
                "schema": refs[route.answers, "serialization"],
                "examples": examples.of_answer(route, status),
            }
        },
    }
    if route.answers is RunNextStepResponse:
        run_id = {"runId": "$response.body#/runId"}
        answer["links"] = {name: {"operationId": name, "parameters": run_id} for name in ("getRun", "cancelRun")}
    return answer


def _errors(route: Route) -> Json:
    """The errors by status; several of one status are examples of one answer."""
    raised = [
        *(() if route.is_open else _EVERY_ROUTES),
        *((PayloadTooLargeError,) if route.body else ()),
        *route.raises,
    ]
    by_status: dict[int, list[type[LoopError]]] = defaultdict(list)
    for error in sorted(raised, key=lambda each: (each.status, each.code)):
        by_status[error.status].append(error)
    if route.is_open:
        by_status[500].append(LoopError)
    return {
        str(status): {
            "description": " · ".join(error.code for error in errors),
            "headers": {
                name: {"$ref": f"#/components/headers/{name}"}
                for name in ["x-request-id", *(["Retry-After"] if status == 503 else [])]
            },
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ErrorAnswer"},
                    "examples": {error.code: {"$ref": f"#/components/examples/{error.code}"} for error in errors},
                }
            },
        }
        for status, errors in sorted(by_status.items())
    }
