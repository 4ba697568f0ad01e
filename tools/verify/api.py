"""The endpoint against its database: refusals leave nothing, answers say what their rows say, field by field."""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, LiteralString
from uuid import UUID

import psycopg
from pydantic.alias_generators import to_camel

from tools.durations import milliseconds
from tools.local.sample import ACTOR
from tools.verify.report import Difference, Mismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg.rows import DictRow

    from tools.verify.endpoint import Endpoint, Reply
    from tools.verify.report import Report

_START: Final = "start it with make dev, or name another with URL"
_DEFECT: Final = "make sure that DATABASE_URL is the endpoint's database; if it is, this is a defect of the functions"
_IDENTITY: Final = (
    "local: start make dev without TRUST_ACTOR_HEADER=0; deployed: use credentials that may invoke the API"
)
_ENDS: Final = {"completed": "loop_run_finished"}
_INTERNAL: Final = frozenset({"lease_token", "request_hash", "task_token_hash"})
"""Columns of runs and steps that the API does not show."""


def check_endpoint(
    report: Report, endpoint: Endpoint, connection: psycopg.Connection[DictRow], loop: str, facts: Mapping[str, Any]
) -> str:
    """Make the calls and compare; what they leave behind, as a sentence."""
    api = _Api(endpoint, connection, loop, facts)
    checks = [
        ("no identity", api.call_without_identity_is_refused),
        ("unknown issue", api.unknown_issue_is_not_found),
        ("register", api.issue_is_registered),
        ("bad body", api.bad_body_is_refused),
        ("dry run", api.dry_run_writes_its_row_only),
        ("run", api.next_step_runs),
        ("answer = rows", api.answer_is_what_rows_say),
        ("rows", api.rows_fit_together),
        ("GET run", api.run_is_read_as_its_rows),
        ("GET events", api.timeline_is_read_as_its_rows),
    ]
    why = "" if report.check("health", api.health, do=_START) else "it needs health"
    for name, look in checks:
        if why:
            report.skip(name, why)
        elif not report.check(name, look, do=_START) and name in {"register", "run"}:
            why = f"it needs {name}"
    return api.left()


class _Api:
    """The calls in their order, on one issue with an id of its own."""

    def __init__(
        self, endpoint: Endpoint, connection: psycopg.Connection[DictRow], loop: str, facts: Mapping[str, Any]
    ) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._loop = loop
        self._facts = facts
        self._issue_id = f"VERIFY-{secrets.token_hex(4)}"
        self._path = f"/api/loop/issues/{self._issue_id}"
        self._reply: Reply | None = None

    def left(self) -> str:
        runs = 0
        with suppress(psycopg.Error):
            runs = len(self._rows("SELECT FROM loop_runs WHERE issue_id = %s", self._issue_id))
        return f"Issue {self._issue_id} and its runs stay in the ledger: {runs}." if runs else ""

    # ------------------------------------------------------------------------------------------------ refusals

    def health(self) -> str:
        reply = self._endpoint.call("GET", "/api/health", has_identity=False)
        reply.expect_status(200, "see the log of the function loop-api")
        _compare(reply.call, {"schemaVersion": "loop.health.v1", "status": "ok"}, reply.body)
        return "the function runs"

    def call_without_identity_is_refused(self) -> str:
        reply = self._endpoint.call("POST", f"{self._path}/run-next-step", {}, has_identity=False)
        if self._endpoint.is_deployed:  # the authorizer's own answer: 403 of AWS_IAM, 401 of a JWT authorizer
            if reply.status not in {401, 403}:
                reply.expect_status(403, "give the route an authorizer, in template.yaml")
        else:
            self._expect_error(reply, 401, "UNAUTHORIZED", "the stack must not serve calls without x-afu9-sub")
        self._expect_no_run(reply)
        return f"{reply.status}, no row"

    def unknown_issue_is_not_found(self) -> str:
        reply = self._endpoint.call("POST", f"{self._path}/run-next-step", {})
        self._expect_error(reply, 404, "ISSUE_NOT_FOUND", _IDENTITY if reply.status in {401, 403} else _DEFECT)
        self._expect_no_run(reply)
        return "404 ISSUE_NOT_FOUND, no row"

    def bad_body_is_refused(self) -> str:
        reply = self._endpoint.call("POST", f"{self._path}/run-next-step", {"mode": "x"})
        self._expect_error(reply, 400, "INVALID_REQUEST", _DEFECT)
        self._expect_no_run(reply)
        return "400 INVALID_REQUEST, no row"

    # ------------------------------------------------------------------------------------------------ runs

    def issue_is_registered(self) -> str:
        reply = self._endpoint.call("PUT", self._path, {"loop": self._loop, "facts": self._facts})
        reply.expect_status(
            201, "name a loop that is deployed: make verify LOOP=<name>" if reply.status == 400 else _IDENTITY
        )
        issue = self._issue()
        sent = {"loop_name": self._loop, "facts": self._facts}
        _compare("the row of the issue", sent, issue, only=sent)
        expected = {
            "issueId": issue["id"],
            "loop": issue["loop_name"],
            "state": issue["state"],
            "version": issue["version"],
            "facts": issue["facts"],
            "etag": f'"{issue["version"]}"',
        }
        _compare(reply.call, expected, reply.body | {"etag": reply.headers.get("etag")}, only=expected)
        return f"{self._issue_id} in loop {self._loop}, as its row: {issue['state']}, version {issue['version']}"

    def dry_run_writes_its_row_only(self) -> str:
        before = self._issue()
        reply = self._endpoint.call("POST", f"{self._path}/run-next-step", {"mode": "dryRun"})
        reply.expect_status(200, _DEFECT)
        run = self._run(reply)
        count = _compare(reply.call, _answer(reply, run, []), _flat(reply))
        events = self._rows("SELECT FROM loop_events WHERE run_id = %s", run["id"])
        found = {"mode": run["mode"], "steps": len(self._steps(run)), "events": len(events), "issue": self._issue()}
        _compare(f"the rows of run {run['id']}", {"mode": "dryRun", "steps": 0, "events": 0, "issue": before}, found)
        return f"{run['status']}, {count} fields as in its row; no step, no event, the issue as before"

    def next_step_runs(self) -> str:
        reply = self._endpoint.call("POST", f"{self._path}/run-next-step", {"mode": "execute"})
        reply.expect_status(200, _DEFECT)
        self._reply = reply
        return str(reply.body.get("message"))

    def answer_is_what_rows_say(self) -> str:
        reply = self._last()
        run = self._run(reply)
        count = _compare(reply.call, _answer(reply, run, self._steps(run)), _flat(reply))
        return f"{count} fields as in loop_runs and loop_run_steps"

    def rows_fit_together(self) -> str:
        """The run's row against its times, its issue, its steps and its events."""
        run = self._run(self._last())
        issue, steps = self._issue(), self._steps(run)
        events = self._rows("SELECT event_type FROM loop_events WHERE run_id = %s ORDER BY event_id", run["id"])
        found = {
            "mode": run["mode"],
            "actor": run["actor"],
            "duration_ms": run["duration_ms"],
            "state_after": run["state_after"],
            "issue_version": run["issue_version"],
            "first event": events[0]["event_type"] if events else None,
            "last event": events[-1]["event_type"] if events else None,
            "step": next((step["step_number"] for step in steps if step["status"] != "skipped"), run["step"]),
        }
        expected = {
            "mode": "execute",
            "actor": run["actor"] if self._endpoint.is_deployed else ACTOR,
            "duration_ms": milliseconds(run["started_at"], run["completed_at"]),
            "state_after": issue["state"],
            "issue_version": issue["version"],
            "first event": "loop_run_started",
            "last event": _ENDS.get(run["status"], f"loop_run_{run['status']}"),
            "step": run["step"],
        }
        _compare(f"the rows of run {run['id']}", expected, found)
        return f"run {run['status']}, issue {issue['state']} at version {issue['version']}, {len(events)} events"

    def run_is_read_as_its_rows(self) -> str:
        run = self._run(self._last())
        reply = self._endpoint.call("GET", f"/api/loop/runs/{run['id']}")
        reply.expect_status(200, _DEFECT)
        rows = self._rows("SELECT * FROM loop_events WHERE run_id = %s ORDER BY event_id DESC", run["id"])
        expected = {
            "schemaVersion": "loop.run.v1",
            **_resource(run, "runId"),
            "steps": [_resource(step, "stepId") for step in self._steps(run)],
            "events": [_resource(row) for row in rows],
            "retriedBy": None,
            "logUrl": reply.body.get("logUrl"),  # the deployment's own
        }
        count = _compare(reply.call, expected, reply.body)
        return f"{count} fields as in loop_runs, loop_run_steps and loop_events"

    def timeline_is_read_as_its_rows(self) -> str:
        reply = self._endpoint.call("GET", f"{self._path}/events")
        reply.expect_status(200, _DEFECT)
        rows = self._rows("SELECT * FROM loop_events WHERE issue_id = %s ORDER BY event_id DESC", self._issue_id)
        expected = {"schemaVersion": "loop.events.v1", "items": [_resource(row) for row in rows], "nextCursor": None}
        _compare(reply.call, expected, reply.body)
        return f"{len(rows)} events as in loop_events"

    # ------------------------------------------------------------------------------------------------ means

    def _expect_error(self, reply: Reply, status: int, code: str, do: str) -> None:
        """The error, in the contract's envelope."""
        reply.expect_status(status, do)
        error = reply.body.get("error")
        expected = {"schemaVersion": "loop.error.v1", "requestId": reply.request_id, "code": code}
        found = reply.body | {"code": error.get("code") if isinstance(error, dict) else None}
        _compare(reply.call, expected, found, only=expected)

    def _expect_no_run(self, reply: Reply) -> None:
        if runs := self._rows("SELECT id FROM loop_runs WHERE issue_id = %s", self._issue_id):
            raise Mismatch("leaves a run", Difference(reply.call, "no run", str(runs[0]["id"]), _DEFECT))

    def _last(self) -> Reply:
        if self._reply is None:
            raise AssertionError("no run was made")
        return self._reply

    def _run(self, reply: Reply) -> DictRow:
        """The row of an answer. Mismatch where there is none."""
        run_id = reply.body.get("runId")
        rows = self._rows("SELECT * FROM loop_runs WHERE id::text = %s", run_id)
        if not rows:
            raise Mismatch(
                "has no row", Difference(reply.call, f"a row of loop_runs with id {run_id}", "none", _DEFECT)
            )
        return rows[0]

    def _steps(self, run: DictRow) -> list[DictRow]:
        return self._rows("SELECT * FROM loop_run_steps WHERE run_id = %s ORDER BY step_number", run["id"])

    def _issue(self) -> DictRow:
        rows = self._rows("SELECT * FROM loop_issues WHERE id = %s", self._issue_id)
        if not rows:
            what = Difference("", f"a row of loop_issues with id {self._issue_id}", "none", _DEFECT)
            raise Mismatch("has no row", what)
        return rows[0]

    def _rows(self, statement: LiteralString, *parameters: object) -> list[DictRow]:
        return self._connection.execute(statement, parameters).fetchall()


def _answer(reply: Reply, run: DictRow, steps: list[DictRow]) -> dict[str, Any]:
    """What the contract says that run-next-step answers for these rows, its headers included."""
    executed = next((step for step in steps if step["status"] != "skipped"), None)
    message = run["message"]
    answer = {
        "schemaVersion": "loop.runNextStep.v1",
        "requestId": run["request_id"],
        "x-request-id": reply.request_id,
        "etag": f'"{run["issue_version"]}"',
        "issueId": run["issue_id"],
        "runId": run["id"],
        "loopStatus": run["loop_status"],
        "message": message,
        "nextStep": run["next_step"],
        "stepExecuted": executed
        and {
            to_camel(name): executed[name]
            for name in ("step_number", "step_type", "status", "started_at", "completed_at", "duration_ms")
        },
        "blocker": run["blocker_code"] and {"code": run["blocker_code"], "message": message},
        "error": run["error_code"] and {"code": run["error_code"], "message": run["error_message"]},
    }
    return {name: value for name, value in answer.items() if value is not None}


def _flat(reply: Reply) -> dict[str, Any]:
    """An answer of run-next-step with the headers that say something of the run."""
    return reply.body | {name: reply.headers.get(name) for name in ("etag", "x-request-id")}


def _resource(row: DictRow, id_name: str = "") -> dict[str, Any]:
    """A row as the API shows it: columns in camelCase, ``id`` under the name of what it is."""
    return {id_name if name == "id" else to_camel(name): row[name] for name in row if name not in _INTERNAL}


def _compare(
    what: str, expected: Mapping[str, Any], found: Mapping[str, Any], *, only: Mapping[str, Any] | None = None
) -> int:
    """How many fields are the same, all of them; Mismatch names those that are not. ``only`` leaves others out."""
    wanted, there = _fields(expected), _fields(found if only is None else {name: found.get(name) for name in only})
    names = [*wanted, *(name for name in there if name not in wanted)]
    differing = [name for name in names if (name in wanted, wanted.get(name)) != (name in there, there.get(name))]
    if differing:
        raise Mismatch(
            f"{len(differing)} of {len(names)} fields differ in {what}",
            *(Difference(name, repr(wanted.get(name)), repr(there.get(name)), _DEFECT) for name in differing),
        )
    return len(names)


def _fields(value: object, name: str = "") -> dict[str, Any]:
    """The leaves of a JSON value by their dotted names, as JSON has them."""
    if isinstance(value, dict) and value:
        parts = value.items()
    elif isinstance(value, list) and value:
        parts = {str(position): part for position, part in enumerate(value)}.items()
    else:
        return {name: _plain(value)}
    return {
        leaf: plain for key, part in parts for leaf, plain in _fields(part, f"{name}.{key}" if name else key).items()
    }


def _plain(value: object) -> object:
    """A column as the API writes it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else value
