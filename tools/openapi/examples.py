"""Owns the examples of the OpenAPI document: one issue's story, made of the contract's models: each is valid."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from loop_runner import answers, bodies, contract, stats
from loop_runner.errors import (
    IssueExistsError,
    IssueNotFoundError,
    LoopConflictError,
    LoopError,
    PreconditionFailedError,
    RunFinishedError,
    RunNotFoundError,
    UnavailableError,
)
from loop_runner.health import DatabaseHealth
from loop_runner.issues import IssueInList, LastRun
from loop_runner.loops import load_loop
from loop_runner.models import (
    Event,
    Issue,
    LoopStatus,
    NextStep,
    Run,
    RunMode,
    RunStatus,
    RunStep,
    RunWithSteps,
    StepStatus,
)
from loop_runner.settings import REQUIRED_SCHEMA
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from pydantic import BaseModel

    from loop_runner.contract import Answer
    from loop_runner.http import Route
    from loop_runner.models import Row

Json = dict[str, Any]

ISSUE_ID: Final = "AFU9-123"
RUN_ID: Final = UUID("01a20b7d-054d-7c54-a982-de8e7344bfb2")
STEP_ID: Final = UUID("5c0f7a52-93a3-4f0e-8c2c-1f3f5a0a9d11")
DELIVERY_ID: Final = UUID("72d3162e-cc78-11e3-81ab-4c9367dc0958")
REQUEST_ID: Final = UUID("3f0c5b1e-7a52-4b8e-9d57-0c2b8a6f1d34")
AT: Final = datetime(2026, 11, 24, 2, 57, 52, 462181, tzinfo=UTC)

_LOOP: Final = load_loop(ROOT / "loops" / "issue-delivery.toml")
_ISSUE: Final = Issue(
    id=ISSUE_ID,
    loop_name=_LOOP.name,
    state="PICKED",
    facts={"githubUrl": "https://github.com/example/shop/issues/123"},
    version=2,
    created_at=AT - timedelta(minutes=5),
    updated_at=AT,
)
_STEP: Final = RunStep(
    id=STEP_ID,
    run_id=RUN_ID,
    step_number=1,
    step_type="S1_PICK_ISSUE",
    status=StepStatus.COMPLETED,
    created_at=AT,
    started_at=AT,
    completed_at=AT + timedelta(milliseconds=1),
    duration_ms=1,
    metadata={},
)
_RUN: Final = Run(
    id=RUN_ID,
    issue_id=ISSUE_ID,
    actor="admin-user",
    request_id=str(REQUEST_ID),
    mode=RunMode.EXECUTE,
    status=RunStatus.COMPLETED,
    created_at=AT,
    started_at=AT,
    completed_at=AT + timedelta(milliseconds=1),
    duration_ms=1,
    metadata={},
    loop_name=_LOOP.name,
    loop_version=_LOOP.version,
    step=1,
    attempt=1,
    state_before="CREATED",
    state_after="PICKED",
    issue_version=2,
    loop_status=LoopStatus.ACTIVE,
    next_step=NextStep(step_number=2, step_type="S2_SPEC_READY"),
    message=f"S1_PICK_ISSUE completed, issue {ISSUE_ID} is PICKED",
    lease_expires_at=AT + timedelta(seconds=34),
)
_WITH_STEPS: Final = RunWithSteps(**dict(_RUN), steps=(_STEP,))
_EVENTS: Final = tuple(
    Event(event_id=number, issue_id=ISSUE_ID, run_id=RUN_ID, event_type=kind, event_data=data, occurred_at=AT)
    for number, kind, data in [
        (44, "loop_run_finished", {"stepNumber": 1, "stateBefore": "CREATED", "stateAfter": "PICKED"}),
        (42, "loop_run_started", {"actor": "admin-user", "attempt": 1, "state": "CREATED"}),
    ]
)
_LAST_RUN: Final = LastRun(
    id=RUN_ID,
    status=RunStatus.COMPLETED,
    actor="admin-user",
    created_at=AT,
    completed_at=AT + timedelta(milliseconds=1),
    step=1,
    attempt=1,
    loop_status=LoopStatus.ACTIVE,
)
_IN_LIST: Final = IssueInList(
    id=ISSUE_ID,
    loop_name=_LOOP.name,
    state="PICKED",
    version=2,
    created_at=_ISSUE.created_at,
    updated_at=AT,
    last_run=_LAST_RUN,
)
_DEFINITION: Final = answers.LoopDefinition.of(_LOOP)
_ISSUE_ANSWER: Final = answers.IssueAnswer.of(_ISSUE, None, _LOOP, AT)
_ASKED: Final = contract.RunNextStepResponse.of(_RUN, [_STEP], REQUEST_ID)
_QUEUED: Final = contract.RunNextStepResponse.of(
    _RUN.model_copy(update={"status": RunStatus.PENDING, "queued_at": AT}), [], REQUEST_ID
)
_BLOCKED: Final = contract.RunNextStepResponse(
    request_id=REQUEST_ID,
    issue_id=ISSUE_ID,
    run_id=RUN_ID,
    next_step=NextStep(step_number=2, step_type="S2_SPEC_READY"),
    loop_status=LoopStatus.PAUSED,
    message=_ISSUE_ANSWER.unmet_gates[0].message,
    blocker=contract.BlockerView(
        code=_ISSUE_ANSWER.unmet_gates[0].blocker, message=_ISSUE_ANSWER.unmet_gates[0].message
    ),
)
_STATUSES: Final = dict.fromkeys(RunStatus, 0) | {RunStatus.COMPLETED: 90, RunStatus.FAILED: 10}
_STATS: Final = stats.Stats.model_validate(
    {
        "since": AT - timedelta(days=1),
        "until": AT,
        "runs": {"total": 100, "byStatus": _STATUSES, "retries": 4, "durations": [3, 41, 870]},
        "steps": [
            {
                "loop": _LOOP.name,
                "stepNumber": 1,
                "stepType": "S1_PICK_ISSUE",
                "byStatus": {"completed": 90},
                "durations": [2, 9, 31],
            }
        ],
        "blocked": [{"code": "NO_DRAFT", "runs": 7, "issues": 3, "ongoing": 1, "durations": [60000, 540000, 900000]}],
        "hours": [
            {"hour": AT.replace(minute=0, second=0, microsecond=0), "byStatus": _STATUSES, "durations": [3, 41, 870]}
        ],
        "live": {"total": 0, "oldest": None},
    }
)

_ANSWERS: Final[dict[type, Answer | Row]] = {
    bodies.DeliveryAnswer: bodies.DeliveryAnswer(
        request_id=REQUEST_ID, delivery=DELIVERY_ID, event="pull_request_review", passed_on=True
    ),
    answers.HealthAnswer: answers.HealthAnswer(),
    answers.DeepHealthAnswer: answers.DeepHealthAnswer(
        database=DatabaseHealth(server_version="17.6", now=AT, migration=REQUIRED_SCHEMA)
    ),
    answers.LoopList: answers.LoopList(items=(_DEFINITION, answers.InvalidLoop(loop="b", error="b.toml: steps: …"))),
    answers.StatsAnswer: answers.StatsAnswer(**dict(_STATS)),
    answers.IssueAnswer: _ISSUE_ANSWER,
    answers.IssueInFull: answers.IssueInFull(**dict(_ISSUE_ANSWER), loop_definition=_DEFINITION),
    answers.IssueList: answers.IssueList(items=(_IN_LIST,), next_cursor=None),
    answers.RunList: answers.RunList(items=(_RUN,), next_cursor=None),
    answers.EventList: answers.EventList(items=_EVENTS, next_cursor=None),
    answers.RunAnswer: answers.RunAnswer.of(_WITH_STEPS),
    answers.RunInFullAnswer: answers.RunInFullAnswer(
        **dict(_WITH_STEPS), events=_EVENTS, retried_by=None, log_url=None
    ),
}

_BODIES: Final[dict[type, dict[str, Json]]] = {
    contract.RunNextStepRequest: {"execute": {}, "dryRun": {"mode": "dryRun"}},
    bodies.RegisterIssueRequest: {"register": {"loop": _LOOP.name, "facts": _ISSUE.facts}},
    bodies.DeliveryPayload: {
        "review": {
            "action": "submitted",
            "review": {"state": "approved"},
            "pull_request": {"number": 7},
            "repository": {"id": 1296269, "full_name": "acme/shop"},
        }
    },
    bodies.FactsPatch: {"set": {"draft": {"committed": True, "status": "valid"}}, "remove": {"draft": None}},
    bodies.ReasonRequest: {"reason": {"reason": "freeze until Monday"}},
    bodies.StateRequest: {"state": {"state": "CREATED", "reason": "begin again"}},
    bodies.DecisionRequest: {
        "approve": {"decision": "approved", "comment": "go"},
        "reject": {"decision": "rejected"},
    },
    bodies.CancelRequest: {"cancel": {"reason": "not any more"}, "withoutReason": {}},
    bodies.HeartbeatRequest: {"heartbeat": {"taskToken": "lXw…"}},
    bodies.ToldResult: {
        "completed": {"taskToken": "lXw…", "status": "completed", "facts": {"pr": {"url": "https://example.org/pr/7"}}},
        "blocked": {
            "taskToken": "lXw…",
            "status": "blocked",
            "blocker": {"code": "NO_QUOTA", "message": "Ask for quota"},
        },
        "failed": {
            "taskToken": "lXw…",
            "status": "failed",
            "error": {"name": "Agent.Busy", "message": "all agents are at work"},
        },
    },
}

_ERRORS: Final[dict[type[LoopError], LoopError]] = {
    IssueNotFoundError: IssueNotFoundError.of(ISSUE_ID),
    RunNotFoundError: RunNotFoundError.of(RUN_ID),
    RunFinishedError: RunFinishedError.of(RUN_ID, "completed"),
    PreconditionFailedError: PreconditionFailedError.of(ISSUE_ID, 3),
    IssueExistsError: IssueExistsError(details={"loop": "agent-merge"}),
    UnavailableError: UnavailableError(),
    LoopConflictError: LoopConflictError(
        f"run {RUN_ID} of ann owns issue {ISSUE_ID} until it ends, at the latest until 2026-11-24T02:57:45.721121Z; "
        "try again then",
        details={"runId": str(RUN_ID), "actor": "ann", "leaseExpiresAt": "2026-11-24T02:57:45.721121Z"},
    ),
}


def needs_body(route: Route) -> bool:
    """Whether the route refuses an empty body, which stands for {}."""
    return not any(body == {} for body in _BODIES[_body(route)].values()) and route.body is not bodies.FactsPatch


def of_body(route: Route) -> Json:
    """The examples of the route's body, by name."""
    return {name: {"value": value} for name, value in _BODIES[_body(route)].items()}


def of_answer(route: Route, status: int) -> Json:
    """The examples of the route's answer, by name."""
    if route.answers is contract.RunNextStepResponse:
        named: dict[str, Answer | Row] = (
            {"queued": _QUEUED} if status == 202 else {"active": _ASKED, "blocked": _BLOCKED}
        )
    else:
        assert not isinstance(route.answers, str)  # noqa: S101  a text has no example
        named = {"example": _ANSWERS[route.answers]}
    return {
        name: {"value": json.loads(model.model_dump_json(exclude_none=model.omits_null))}
        for name, model in named.items()
    }


def headers_of(route: Route, status: int) -> list[str]:
    """The headers of the route's answer beside the request's id."""
    if route.answers is contract.RunNextStepResponse:
        return ["Location", "Idempotency-Replayed"] if status == 202 else ["ETag", "Idempotency-Replayed"]
    return ["ETag"] if route.answers in {answers.IssueAnswer, answers.IssueInFull} else []


def of_error(kind: type[LoopError]) -> Json:
    """The answer of an error."""
    error = _ERRORS.get(kind) or kind()
    answer = contract.ErrorAnswer(
        request_id=REQUEST_ID,
        error=contract.ErrorBody(code=error.code, message=error.message, details=error.details or None),
        timestamp=AT,
    )
    value: Json = json.loads(answer.model_dump_json(exclude_none=True))
    return value


def _body(route: Route) -> type[BaseModel]:
    assert route.body  # noqa: S101  asked of routes with a body only
    return route.body
