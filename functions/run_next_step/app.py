"""POST /api/loop/issues/{issueId}/run-next-step: runs exactly one step of an issue."""

from __future__ import annotations

from loop_runner.claims import ClaimRequest
from loop_runner.contract import RunNextStepRequest, RunNextStepResponse, StepExecuted
from loop_runner.errors import (
    IdempotencyKeyReusedError,
    IssueNotFoundError,
    LoopConflictError,
    PreconditionFailedError,
)
from loop_runner.http import Api, Call, Reply, etag
from loop_runner.models import RunMode, build
from loop_runner.services import Services
from loop_runner.settings import LEASE_GRACE_MS

api = Api(Services.from_environment)
handler = api.handle
build(RunNextStepRequest, StepExecuted, RunNextStepResponse)


@api.route(
    "POST",
    "/api/loop/issues/{issueId}/run-next-step",
    body=RunNextStepRequest,
    takes=("Idempotency-Key", "If-Match", "Prefer"),
    answers=RunNextStepResponse,
    statuses=(200, 202),
    raises=(IssueNotFoundError, LoopConflictError, PreconditionFailedError, IdempotencyKeyReusedError),
)
def run_next_step_of_issue(call: Call) -> Reply:
    """Run the next step and answer from its record; 202 where it runs in the background."""
    body = call.body(RunNextStepRequest)
    key, request_hash = call.idempotency(body) or (None, None)
    recorded = call.services.runner.run_next_step(
        ClaimRequest(
            issue_id=call.issue_id,
            actor=call.identity.actor,
            principal=call.identity.principal,
            request_id=call.request_id,
            mode=body.mode,
            lease_ms=call.remaining_ms() + LEASE_GRACE_MS,
            if_match=call.if_match,
            idempotency_key=key,
            request_hash=request_hash,
            in_background=call.prefers_async and body.mode is RunMode.EXECUTE,
            lambda_request_id=call.context.aws_request_id,
            log_stream=call.context.log_stream_name,
        ),
        deadline=call.services.database.deadline,
    )
    run = recorded.run
    headers = {"idempotency-replayed": "true"} if recorded.is_replay else {}
    if run.queued_at is not None:
        status, headers["location"] = 202, f"/api/loop/runs/{run.id}"
    else:
        status = 200
        headers |= etag(run.issue_version) if run.issue_version else {}
    return Reply(RunNextStepResponse.of(run, recorded.steps, call.request_id), status, headers)
