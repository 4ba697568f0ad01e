"""Every route but run-next-step: issues, runs, events, health."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from loop_runner.contract import (
    CancelRequest,
    DecisionRequest,
    EventList,
    HealthAnswer,
    HeartbeatRequest,
    IssueAnswer,
    ReasonRequest,
    RegisterIssueRequest,
    RunAnswer,
    RunList,
    StateRequest,
)
from loop_runner.errors import (
    ForbiddenError,
    InvalidRequestError,
    IssueFinishedError,
    LoopDefinitionError,
    PreconditionFailedError,
    PreconditionRequiredError,
    RunFinishedError,
)
from loop_runner.execution import hash_of_token
from loop_runner.http import Api, Call, Reply, etag
from loop_runner.lifecycle import TERMINAL_RUN
from loop_runner.loops import Loop
from loop_runner.models import RunWithSteps
from loop_runner.pages import Page
from loop_runner.resolver import step_to_approve
from loop_runner.results import read_result
from loop_runner.services import Services

if TYPE_CHECKING:
    from loop_runner.claims import Recorded, TaskOf
    from loop_runner.issues import IssueNow

api = Api(Services.from_environment)
handler = api.handle
api.served_elsewhere("POST", "/api/loop/issues/{issueId}/run-next-step")


@api.route("GET", "/api/health", is_open=True)
def health(_call: Call) -> Reply:
    """The function runs; the database is not asked."""
    return Reply(HealthAnswer())


@api.route("PUT", "/api/loop/issues/{issueId}")
def register_issue(call: Call) -> Reply:
    """Register an issue; one that is there stays as it is."""
    body = call.body(RegisterIssueRequest)
    loops = call.services.loops
    loop = loops.get(body.loop)
    if loop is None:
        raise InvalidRequestError(f"there is no loop {body.loop!r}; there are: {', '.join(loops.names())}")
    if isinstance(loop, LoopDefinitionError):
        raise loop
    identity = call.identity
    now, is_new = call.services.issues.register(
        call.issue_id, loop, body.facts, actor=identity.actor, principal=identity.principal
    )
    return _issue_reply(call, now, status=201 if is_new else 200)


@api.route("PATCH", "/api/loop/issues/{issueId}")
def patch_facts(call: Call) -> Reply:
    """Merge the body into the issue's facts (RFC 7396)."""
    now = call.services.issues.patch_facts(
        call.issue_id,
        call.json_object(),
        actor=call.identity.actor,
        principal=call.identity.principal,
        if_match=call.if_match,
        protected=call.services.loops.protected_facts,
    )
    return _issue_reply(call, now)


@api.route("POST", "/api/loop/issues/{issueId}/hold")
def hold_issue(call: Call) -> Reply:
    """Stop the issue until somebody resumes it; a live run goes on to its end."""
    reason = call.body(ReasonRequest).reason
    now = call.services.issues.get(call.issue_id)
    loop = call.services.loops.get(now.issue.loop_name)
    if isinstance(loop, Loop) and now.issue.state in loop.final_states:
        raise IssueFinishedError(f"issue {now.issue.id} is {now.issue.state}: there is nothing to hold")
    return _issue_reply(
        call, call.services.issues.set_hold(call.issue_id, hold=True, reason=reason, by=call.by, if_match=call.if_match)
    )


@api.route("POST", "/api/loop/issues/{issueId}/resume")
def resume_issue(call: Call) -> Reply:
    """Let the issue go on."""
    reason = call.body(ReasonRequest).reason
    return _issue_reply(
        call,
        call.services.issues.set_hold(call.issue_id, hold=False, reason=reason, by=call.by, if_match=call.if_match),
    )


@api.route("POST", "/api/loop/issues/{issueId}/state")
def set_state(call: Call) -> Reply:
    """Put the issue into a state by hand: the way out of one that its loop does not know."""
    body = call.body(StateRequest)
    now = call.services.issues.get(call.issue_id)
    loop = call.services.loops.get(now.issue.loop_name)
    if not isinstance(loop, Loop):
        raise InvalidRequestError(f"the loop {now.issue.loop_name} is not deployed, or not valid: deploy it first")
    if body.state not in loop.states:
        known = ", ".join(sorted(loop.states))
        raise InvalidRequestError(f"the loop {loop.name} has no state {body.state!r}; it has: {known}")
    return _issue_reply(
        call,
        call.services.issues.set_state(
            call.issue_id, body.state, reason=body.reason, by=call.by, if_match=call.if_match
        ),
    )


@api.route("POST", "/api/loop/issues/{issueId}/approvals")
def decide(call: Call) -> Reply:
    """Approve or reject what is next, of the version that the caller has seen."""
    body = call.body(DecisionRequest)
    if call.if_match is None:
        raise PreconditionRequiredError
    now = call.services.issues.get(call.issue_id)
    if now.issue.version not in call.if_match:
        raise PreconditionFailedError.of(now.issue.id, now.issue.version)
    loop = call.services.loops.get(now.issue.loop_name)
    step = step_to_approve(loop, now.issue, now.now)
    decided = call.services.issues.decide(
        now, step, decision=body.decision, comment=body.comment, by=call.by, if_match=call.if_match
    )
    return _issue_reply(call, decided)


@api.route("POST", "/api/loop/runs/{runId}/cancel")
def cancel_run(call: Call) -> Reply:
    """Cancel a run: at once, at its next safe point, or the waiting retry of a failed one."""
    reason = call.body(CancelRequest).reason
    recorded = call.services.ledger.cancel(
        call.run_id, actor=call.identity.actor, principal=call.identity.principal, reason=reason
    )
    return _run_reply(recorded)


@api.route("POST", "/api/loop/runs/{runId}/result")
def tell_result(call: Call) -> Reply:
    """Tell the outcome of a step, as the holder of its task token."""
    body = call.json_object()
    task = task_of(call, body.pop("taskToken", None))
    try:
        result = read_result(body)
    except ValueError as error:
        raise InvalidRequestError(f"the body is no step result: {error}") from None
    if task.run.status in TERMINAL_RUN:
        raise RunFinishedError.of(task.run.id, task.run.status)
    return _run_reply(call.services.runner.tell(task, result, call.identity.actor))


@api.route("POST", "/api/loop/runs/{runId}/heartbeat")
def heartbeat(call: Call) -> Reply:
    """Say that the step is still at work: its run may go on waiting."""
    task = task_of(call, call.body(HeartbeatRequest).task_token)
    return _run_reply(call.services.ledger.heartbeat(task))


@api.route("GET", "/api/loop/issues/{issueId}")
def get_issue(call: Call) -> Reply:
    """The issue: where it stands, what is next, what is missing."""
    return _issue_reply(call, call.services.issues.get(call.issue_id))


@api.route("GET", "/api/loop/issues/{issueId}/runs")
def list_runs_of_issue(call: Call) -> Reply:
    """The issue's runs, newest first."""
    page = Page.of(call.query)
    runs = call.services.runs.list_runs_by_issue(call.issue_id, limit=page.limit + 1, before=page.before_run())
    if not runs:
        call.services.issues.get(call.issue_id)
    return Reply(RunList(items=tuple(runs[: page.limit]), next_cursor=page.after_runs(runs)))


@api.route("GET", "/api/loop/issues/{issueId}/events")
def list_events_of_issue(call: Call) -> Reply:
    """The issue's timeline, newest first."""
    page = Page.of(call.query)
    events = call.services.history.list_events(call.issue_id, limit=page.limit + 1, before=page.before_event())
    if not events:
        call.services.issues.get(call.issue_id)
    return Reply(EventList(items=tuple(events[: page.limit]), next_cursor=page.after_events(events)))


@api.route("GET", "/api/loop/runs/{runId}")
def get_run(call: Call) -> Reply:
    """A run with its steps."""
    return Reply(RunAnswer.of(call.services.runs.get_run_with_steps(call.run_id)))


def task_of(call: Call, token: object) -> TaskOf:
    """The waiting step whose token this is. Raises RunNotFoundError, InvalidRequestError, ForbiddenError."""
    if not isinstance(token, str) or not token:
        raise InvalidRequestError("taskToken is missing: it was handed to the step function")
    task = call.services.ledger.task_of(call.run_id)
    if task is None or not hmac.compare_digest(task.token_hash, hash_of_token(token)):
        raise ForbiddenError(f"the task token is not that of run {call.run_id}")
    return task


def _run_reply(recorded: Recorded) -> Reply:
    return Reply(RunAnswer.of(RunWithSteps(**dict(recorded.run), steps=recorded.steps)))


def _issue_reply(call: Call, now: IssueNow, status: int = 200) -> Reply:
    answer = IssueAnswer.of(now.issue, now.run, call.services.loops.get(now.issue.loop_name), now.now)
    return Reply(answer, status, etag(now.issue.version))
