"""Every route but run-next-step: issues, runs, events, health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loop_runner.contract import EventList, HealthAnswer, IssueAnswer, RegisterIssueRequest, RunAnswer, RunList
from loop_runner.errors import InvalidRequestError, LoopDefinitionError
from loop_runner.http import Api, Call, Reply, etag
from loop_runner.pages import Page
from loop_runner.services import Services

if TYPE_CHECKING:
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
    identity = call.identity
    now = call.services.issues.patch_facts(
        call.issue_id, call.json_object(), actor=identity.actor, principal=identity.principal, if_match=call.if_match
    )
    return _issue_reply(call, now)


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


def _issue_reply(call: Call, now: IssueNow, status: int = 200) -> Reply:
    answer = IssueAnswer.of(now.issue, now.run, call.services.loops.get(now.issue.loop_name), now.now)
    return Reply(answer, status, etag(now.issue.version))
