"""Every route but run-next-step: issues, runs, loops, statistics, health, the run console."""

from __future__ import annotations

import hmac
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from loop_runner import metrics
from loop_runner.answers import (
    DeepHealthAnswer,
    EventList,
    HealthAnswer,
    InvalidLoop,
    IssueAnswer,
    IssueInFull,
    IssueList,
    LoopDefinition,
    LoopList,
    RunAnswer,
    RunInFullAnswer,
    RunList,
    StatsAnswer,
)
from loop_runner.bodies import (
    CancelRequest,
    DecisionRequest,
    FactsPatch,
    HeartbeatRequest,
    ReasonRequest,
    RegisterIssueRequest,
    StateRequest,
    ToldResult,
)
from loop_runner.errors import (
    ForbiddenError,
    InvalidRequestError,
    IssueExistsError,
    IssueFinishedError,
    IssueNotFoundError,
    LoopConflictError,
    LoopDefinitionError,
    NoApprovalPendingError,
    NotFoundError,
    PreconditionFailedError,
    PreconditionRequiredError,
    RunFinishedError,
    RunNotFoundError,
)
from loop_runner.execution import hash_of_token
from loop_runner.health import look_at
from loop_runner.history import RunFilter
from loop_runner.http import Api, Call, Reply, etag
from loop_runner.lifecycle import TERMINAL_RUN
from loop_runner.loops import Loop
from loop_runner.models import RunStatus, RunWithSteps
from loop_runner.pages import Page, check_names, instant_of, text_of
from loop_runner.resolver import step_to_approve
from loop_runner.results import read_result
from loop_runner.services import Services
from loop_runner.static_files import StaticFiles
from loop_runner.stats import read_stats

if TYPE_CHECKING:
    from loop_runner.claims import Recorded, TaskOf
    from loop_runner.issues import IssueNow

api = Api(Services.from_environment)
handler = api.handle
api.served_elsewhere("POST", "/api/loop/issues/{issueId}/run-next-step")
api.served_elsewhere("POST", "/api/github/webhook")

ISSUE = "/api/loop/issues/{issueId}"
RUN = "/api/loop/runs/{runId}"
console = StaticFiles(Path(__file__).parent / "console")


@api.route("GET", "/api/health", answers=HealthAnswer, is_open=True)
def health(_call: Call) -> Reply:
    """The function runs; the database is not asked."""
    return Reply(HealthAnswer())


@api.route("GET", "/api/health/deep", answers=DeepHealthAnswer)
def deep_health(call: Call) -> Reply:
    """The database answers, and its schema is one that this code works with."""
    return Reply(DeepHealthAnswer(database=look_at(call.services.database)))


@api.route("GET", "/api/openapi.json")
def openapi(call: Call) -> Reply:
    """This document."""
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    return Reply(_text_of(call.services.settings.openapi_file), headers=headers)


@api.route("GET", "/console", answers="text/html", is_open=True)
def console_page(call: Call) -> Reply:
    """The run console: files only, what they show comes from the API."""
    return console.reply("index.html", call.headers.get("if-none-match", ""))


@api.route("GET", "/console/{file}", answers="text/*", raises=(NotFoundError,), is_open=True)
def console_file(call: Call) -> Reply:
    """A file of the run console."""
    return console.reply(call.path["file"], call.headers.get("if-none-match", ""))


@api.route("GET", "/api/loop/loops", answers=LoopList)
def list_loops(call: Call) -> Reply:
    """The loops that are deployed, by name."""
    check_names(call.query, [])
    loops = {name: call.services.loops.get(name) for name in call.services.loops.names()}
    items = [
        InvalidLoop(loop=name, error=loop.message) if isinstance(loop, LoopDefinitionError) else LoopDefinition.of(loop)
        for name, loop in loops.items()
        if loop is not None
    ]
    return Reply(LoopList(items=tuple(items)))


@api.route("GET", "/api/loop/stats", takes=("since", "until"), answers=StatsAnswer)
def get_stats(call: Call) -> Reply:
    """What runs did in a window of time, the last day by default, and what is at work now."""
    check_names(call.query, ["since", "until"])
    stats = read_stats(call.services.database, instant_of(call.query, "since"), instant_of(call.query, "until"))
    return Reply(StatsAnswer(**dict(stats)))


@api.route(
    "GET", "/api/loop/runs", takes=("status", "loop", "actor", "since", "until", "limit", "cursor"), answers=RunList
)
def list_runs(call: Call) -> Reply:
    """Runs of all issues, newest first; a page may have fewer than the limit, and a next one all the same."""
    page = Page.of(call.query, "status", "loop", "actor", "since", "until")
    wanted = RunFilter(
        statuses=_statuses(page.filters.get("status")),
        loop=text_of(page.filters, "loop"),
        actor=text_of(page.filters, "actor"),
        since=instant_of(page.filters, "since"),
        until=instant_of(page.filters, "until"),
    )
    found = call.services.history.list_runs(wanted, limit=page.limit, before=page.before_run())
    cursor = page.cursor_after(found.last.created_at, found.last.id) if found.last else None
    return Reply(RunList(items=tuple(found.runs), next_cursor=cursor))


@api.route("GET", "/api/loop/issues", takes=("state", "loop", "limit", "cursor"), answers=IssueList)
def list_issues(call: Call) -> Reply:
    """Issues, newest first."""
    page = Page.of(call.query, "state", "loop")
    issues = call.services.issues.list_issues(
        loop=text_of(page.filters, "loop"),
        state=text_of(page.filters, "state"),
        limit=page.limit + 1,
        before=page.before_issue(),
    )
    items, cursor = page.cut(issues, lambda issue: (issue.created_at, issue.id))
    return Reply(IssueList(items=items, next_cursor=cursor))


@api.route(
    "PUT",
    ISSUE,
    body=RegisterIssueRequest,
    answers=IssueAnswer,
    statuses=(200, 201),
    raises=(IssueExistsError,),
)
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


@api.route(
    "PATCH",
    ISSUE,
    body=FactsPatch,
    takes=("If-Match",),
    answers=IssueAnswer,
    raises=(IssueNotFoundError, PreconditionFailedError),
)
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


@api.route(
    "POST",
    f"{ISSUE}/hold",
    body=ReasonRequest,
    takes=("If-Match",),
    answers=IssueAnswer,
    raises=(IssueNotFoundError, IssueFinishedError, PreconditionFailedError),
)
def hold_issue(call: Call) -> Reply:
    """Stop the issue until somebody resumes it; a live run goes on to its end."""
    reason = call.body(ReasonRequest).reason
    now = call.services.issues.get(call.issue_id)
    loop = call.services.loops.get(now.issue.loop_name)
    if isinstance(loop, Loop) and now.issue.state in loop.final_states:
        raise IssueFinishedError(f"issue {now.issue.id} is {now.issue.state}: there is nothing to hold")
    return _issue_reply(
        call,
        call.services.issues.set_hold(
            call.issue_id, hold=True, reason=reason, by=call.identity, if_match=call.if_match
        ),
    )


@api.route(
    "POST",
    f"{ISSUE}/resume",
    body=ReasonRequest,
    takes=("If-Match",),
    answers=IssueAnswer,
    raises=(IssueNotFoundError, PreconditionFailedError),
)
def resume_issue(call: Call) -> Reply:
    """Let the issue go on."""
    reason = call.body(ReasonRequest).reason
    return _issue_reply(
        call,
        call.services.issues.set_hold(
            call.issue_id, hold=False, reason=reason, by=call.identity, if_match=call.if_match
        ),
    )


@api.route(
    "POST",
    f"{ISSUE}/state",
    body=StateRequest,
    takes=("If-Match",),
    answers=IssueAnswer,
    raises=(IssueNotFoundError, LoopConflictError, PreconditionFailedError),
)
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
            call.issue_id, body.state, reason=body.reason, by=call.identity, if_match=call.if_match
        ),
    )


@api.route(
    "POST",
    f"{ISSUE}/approvals",
    body=DecisionRequest,
    takes=("If-Match",),
    answers=IssueAnswer,
    raises=(IssueNotFoundError, NoApprovalPendingError, PreconditionFailedError, PreconditionRequiredError),
)
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
        now, step, decision=body.decision, comment=body.comment, by=call.identity, if_match=call.if_match
    )
    return _issue_reply(call, decided)


@api.route(
    "POST",
    f"{RUN}/cancel",
    body=CancelRequest,
    answers=RunAnswer,
    raises=(RunNotFoundError, RunFinishedError),
)
def cancel_run(call: Call) -> Reply:
    """Cancel a run: at once, at its next safe point, or the waiting retry of a failed one."""
    reason = call.body(CancelRequest).reason
    recorded = call.services.ledger.cancel(
        call.run_id, actor=call.identity.actor, principal=call.identity.principal, reason=reason
    )
    if recorded.by_this_call:
        metrics.ended(recorded.run, recorded.steps)
    return _run_reply(recorded)


@api.route(
    "POST",
    f"{RUN}/result",
    body=ToldResult,
    answers=RunAnswer,
    raises=(RunNotFoundError, RunFinishedError),
)
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


@api.route(
    "POST",
    f"{RUN}/heartbeat",
    body=HeartbeatRequest,
    answers=RunAnswer,
    raises=(RunNotFoundError, RunFinishedError),
)
def heartbeat(call: Call) -> Reply:
    """Say that the step is still at work: its run may go on waiting."""
    task = task_of(call, call.body(HeartbeatRequest).task_token)
    return _run_reply(call.services.ledger.heartbeat(task))


@api.route("GET", ISSUE, takes=("include",), answers=IssueInFull, raises=(IssueNotFoundError,))
def get_issue(call: Call) -> Reply:
    """Where the issue stands: what is next, what is missing, who is at work on it, which call lets it go on."""
    check_names(call.query, ["include"])
    included = call.query.get("include")
    if included not in {None, "loop"}:
        raise InvalidRequestError("include must be loop: the loop's definition comes along")
    now = call.services.issues.get(call.issue_id)
    loop = call.services.loops.get(now.issue.loop_name)
    answer = IssueAnswer.of(now.issue, now.run, loop, now.now)
    definition = LoopDefinition.of(loop) if included and isinstance(loop, Loop) else None
    return Reply(IssueInFull(**dict(answer), loop_definition=definition), headers=etag(now.issue.version))


@api.route("GET", f"{ISSUE}/runs", takes=("limit", "cursor"), answers=RunList, raises=(IssueNotFoundError,))
def list_runs_of_issue(call: Call) -> Reply:
    """The issue's runs, newest first."""
    page = Page.of(call.query)
    runs = call.services.runs.list_runs_by_issue(call.issue_id, limit=page.limit + 1, before=page.before_run())
    if not runs:
        call.services.issues.get(call.issue_id)
    items, cursor = page.cut(runs, lambda run: (run.created_at, run.id))
    return Reply(RunList(items=items, next_cursor=cursor))


@api.route("GET", f"{ISSUE}/events", takes=("limit", "cursor"), answers=EventList, raises=(IssueNotFoundError,))
def list_events_of_issue(call: Call) -> Reply:
    """The issue's timeline, newest first."""
    page = Page.of(call.query)
    events = call.services.history.list_events(call.issue_id, limit=page.limit + 1, before=page.before_event())
    if not events:
        call.services.issues.get(call.issue_id)
    items, cursor = page.cut(events, lambda event: (event.occurred_at, event.event_id))
    return Reply(EventList(items=items, next_cursor=cursor))


@api.route("GET", RUN, answers=RunInFullAnswer, raises=(RunNotFoundError,))
def get_run(call: Call) -> Reply:
    """A run with its steps and events, the run that retried it, and where its log lines are."""
    run = call.services.history.get_run(call.run_id)
    return Reply(RunInFullAnswer(**dict(run), log_url=call.services.settings.log_url(run.log_stream)))


def task_of(call: Call, token: object) -> TaskOf:
    """The waiting step whose token this is. Raises RunNotFoundError, InvalidRequestError, ForbiddenError."""
    if not isinstance(token, str) or not token:
        raise InvalidRequestError("taskToken is missing: it was handed to the step function")
    task = call.services.ledger.task_of(call.run_id)
    if task is None or not hmac.compare_digest(task.token_hash, hash_of_token(token)):
        raise ForbiddenError(f"the task token is not that of run {call.run_id}")
    return task


def _statuses(text: str | None) -> tuple[RunStatus, ...]:
    """The statuses that a query names, with commas between them. Raises InvalidRequestError."""
    if text is None:
        return ()
    try:
        return tuple(dict.fromkeys(map(RunStatus, text.split(","))))
    except ValueError:
        raise InvalidRequestError(f"status must be one of {', '.join(RunStatus)}, or several with commas") from None


_text_of = cache(Path.read_text)


def _run_reply(recorded: Recorded) -> Reply:
    return Reply(RunAnswer.of(RunWithSteps(**dict(recorded.run), steps=recorded.steps)))


def _issue_reply(call: Call, now: IssueNow, status: int = 200) -> Reply:
    answer = IssueAnswer.of(now.issue, now.run, call.services.loops.get(now.issue.loop_name), now.now)
    return Reply(answer, status, etag(now.issue.version))
