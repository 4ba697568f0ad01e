"""Owns what is measured: every query of the API, every write, the chores of the sweeper, and the seed's own queries.

A call is prepared anew each time, about another issue or run, which does not count; what that gives is then timed. The
rows that it writes stay. Left out are routes that ask no database.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from benchmarks.scale.days import HOT
from benchmarks.scale.subject import CallError
from loop_runner.background import DUE_BATCH, MAX_SENDS, PURGE_BATCH, RESEND_AFTER_SECONDS, SWEEP_BATCH, SWEEPER
from loop_runner.claims import Claim, ClaimRequest
from loop_runner.execution import hash_of_token
from loop_runner.loops import Loop
from loop_runner.models import NextStep, RunMode

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from benchmarks.scale.subject import Subject

    Timed: TypeAlias = Callable[[], object]
    Prepare: TypeAlias = Callable[[Subject], Timed]

_ISSUES: Final = "/api/loop/issues"
_RUNS: Final = "/api/loop/runs"
_DELIVERY: Final = {"githubUrl": "https://github.com/acme/shop/issues/1"}
_MERGE: Final = {**_DELIVERY, "spec": {"status": "valid"}}


class Kind(StrEnum):
    """What a call is."""

    READ = "read"
    WRITE = "write"
    CHORE = "chore"
    SEED = "seed"


@dataclass(frozen=True, slots=True)
class Measured:
    """A call that is measured. ``grows``: why it may take longer on a larger ledger; then no goal is set for it.

    ``every``: it is measured in each so-manieth round only, since it takes long.
    """

    name: str
    kind: Kind
    prepare: Prepare
    grows: str | None = None
    every: int = 1


SELDOM: Final = 5

CALLS: list[Measured] = []


def measured(name: str, kind: Kind, *, grows: str | None = None, every: int = 1) -> Callable[[Prepare], Prepare]:
    """Add a call to those that are measured."""

    def add(prepare: Prepare) -> Prepare:
        CALLS.append(Measured(name, kind, prepare, grows, every))
        return prepare

    return add


def _read(name: str, path: str, ask: Callable[[Subject], dict[str, str]] = lambda _ledger: {}, **options: Any) -> None:
    """A GET; ``{hot}`` and ``{cold}`` in its path are issues."""

    def prepare(ledger: Subject) -> Timed:
        where, query = path.format(hot=HOT, cold=ledger.cold_issue()), ask(ledger)
        return lambda: ledger.call("GET", where, query=query)

    measured(name, Kind.READ, **options)(prepare)


# ---------------------------------------------------------------------------------------------------- reads
_read("GET issue, hot", f"{_ISSUES}/{{hot}}")
_read("GET issue", f"{_ISSUES}/{{cold}}")
_read("GET issue's runs, hot", f"{_ISSUES}/{{hot}}/runs")
_read("GET issue's runs, hot, deep", f"{_ISSUES}/{{hot}}/runs", lambda the: {"cursor": the.hot_cursor("loop_runs")})
_read("GET issue's runs", f"{_ISSUES}/{{cold}}/runs")
_read("GET issue's events, hot", f"{_ISSUES}/{{hot}}/events")
_read(
    "GET issue's events, hot, deep", f"{_ISSUES}/{{hot}}/events", lambda the: {"cursor": the.hot_cursor("loop_events")}
)
_read("GET issue's events", f"{_ISSUES}/{{cold}}/events")
_read("GET issues", _ISSUES)
_read("GET issues of a loop and state", _ISSUES, lambda _: {"loop": "issue-delivery", "state": "CREATED"})
_read("GET runs", _RUNS)
_read("GET runs, deep", _RUNS, lambda the: {"cursor": the.deep_cursor()})
_read("GET runs until then", _RUNS, lambda the: {"until": the.late().isoformat(), "limit": "100"})
_read("GET runs at work", _RUNS, lambda _: {"status": "pending,running"})
_read("GET failed runs", _RUNS, lambda _: {"status": "failed"})
_read("GET failed runs, deep", _RUNS, lambda the: {"status": "failed", "cursor": the.deep_cursor(status="failed")})
_read("GET runs of a loop", _RUNS, lambda _: {"loop": "incident-runbook"})
_read("GET runs of an actor", _RUNS, lambda the: {"actor": "eve", "until": the.late().isoformat()})
_read("GET runs of an actor who has none", _RUNS, lambda _: {"actor": "nobody"})
_read("GET health/deep", "/api/health/deep")


def _window(days: int) -> Callable[[Subject], dict[str, str]]:
    def ask(ledger: Subject) -> dict[str, str]:
        """The last days that are over, or as many as there are."""
        since = max(ledger.days.first, ledger.days.end - timedelta(days=days))
        return {"since": since.isoformat(), "until": ledger.days.end.isoformat()}

    return ask


_read("GET stats of a day", "/api/loop/stats", _window(1), every=SELDOM)
_read(
    "GET stats of a week",
    "/api/loop/stats",
    _window(7),
    grows="its window: a day of the small ledger, up to seven of the large",
    every=SELDOM,
)


@measured("GET run, hot", Kind.READ)
def _hot_run(ledger: Subject) -> Timed:
    run = ledger.run_before(ledger.early() if ledger.chance.random() < 0.5 else ledger.instant(), HOT)
    return lambda: ledger.call("GET", f"{_RUNS}/{run['id']}")


@measured("GET run", Kind.READ)
def _any_run(ledger: Subject) -> Timed:
    run = ledger.run_before(ledger.instant())
    return lambda: ledger.call("GET", f"{_RUNS}/{run['id']}")


# --------------------------------------------------------------------------------------------------- writes
def _put_back(ledger: Subject, issue_id: str) -> None:
    """An issue of issue-delivery, with its first step before it, and nothing in its way."""
    now = ledger.call("GET", f"{_ISSUES}/{issue_id}").json
    if now.get("hold"):
        ledger.call("POST", f"{_ISSUES}/{issue_id}/resume", {"reason": "measuring"})
    ledger.call("PATCH", f"{_ISSUES}/{issue_id}", {**_DELIVERY, "draft": None})
    ledger.call("POST", f"{_ISSUES}/{issue_id}/state", {"state": "CREATED", "reason": "measuring"})


def _run_next_step(ledger: Subject, issue_id: str, **parts: Any) -> dict[str, Any]:
    done = ledger.call("POST", f"{_ISSUES}/{issue_id}/run-next-step", **parts)
    answer: dict[str, Any] = done.json
    return answer


def _completes_a_step(ledger: Subject, issue_id: str) -> Timed:
    _put_back(ledger, issue_id)

    def run() -> None:
        answer = _run_next_step(ledger, issue_id)
        if answer.get("stepExecuted", {}).get("status") != "completed":
            raise CallError(f"no step was completed: {answer}")

    return run


@measured("POST run-next-step, hot", Kind.WRITE)
def _run_hot(ledger: Subject) -> Timed:
    return _completes_a_step(ledger, HOT)


@measured("POST run-next-step", Kind.WRITE)
def _run_cold(ledger: Subject) -> Timed:
    return _completes_a_step(ledger, ledger.cold_issue("issue-delivery"))


@measured("POST run-next-step, blocked, hot", Kind.WRITE)
def _run_blocked(ledger: Subject) -> Timed:
    _put_back(ledger, HOT)
    ledger.call("PATCH", f"{_ISSUES}/{HOT}", {"githubUrl": None})
    return lambda: _run_next_step(ledger, HOT)


@measured("POST run-next-step, dry run, hot", Kind.WRITE)
def _run_dry(ledger: Subject) -> Timed:
    return lambda: _run_next_step(ledger, HOT, body={"mode": "dryRun"})


@measured("POST run-next-step, replay, hot", Kind.WRITE)
def _replay(ledger: Subject) -> Timed:
    _put_back(ledger, HOT)
    headers = {"idempotency-key": str(uuid4())}
    _run_next_step(ledger, HOT, headers=headers)
    return lambda: _run_next_step(ledger, HOT, headers=headers)


@measured("POST run-next-step, queued, hot", Kind.WRITE)
def _queue(ledger: Subject) -> Timed:
    _put_back(ledger, HOT)
    queued: list[str] = []

    def run() -> None:
        queued.append(_run_next_step(ledger, HOT, headers={"prefer": "respond-async"})["runId"])

    ledger.afterwards(lambda: ledger.call("POST", f"{_RUNS}/{queued[0]}/cancel"))
    return run


@measured("POST cancel, hot", Kind.WRITE)
def _cancel(ledger: Subject) -> Timed:
    _put_back(ledger, HOT)
    run_id = _run_next_step(ledger, HOT, headers={"prefer": "respond-async"})["runId"]
    return lambda: ledger.call("POST", f"{_RUNS}/{run_id}/cancel", {"reason": "measuring"})


@measured("PUT issue", Kind.WRITE)
def _register(ledger: Subject) -> Timed:
    return lambda: ledger.call("PUT", f"{_ISSUES}/{_new_id()}", {"loop": "issue-delivery", "facts": _DELIVERY})


@measured("PATCH issue, hot", Kind.WRITE)
def _patch(ledger: Subject) -> Timed:
    facts = {"note": str(uuid4())}
    return lambda: ledger.call("PATCH", f"{_ISSUES}/{HOT}", facts)


@measured("POST hold, hot", Kind.WRITE)
def _hold(ledger: Subject) -> Timed:
    ledger.call("POST", f"{_ISSUES}/{HOT}/resume", {"reason": "measuring"})
    return lambda: ledger.call("POST", f"{_ISSUES}/{HOT}/hold", {"reason": "measuring"})


@measured("POST resume, hot", Kind.WRITE)
def _resume(ledger: Subject) -> Timed:
    ledger.call("POST", f"{_ISSUES}/{HOT}/hold", {"reason": "measuring"})
    return lambda: ledger.call("POST", f"{_ISSUES}/{HOT}/resume", {"reason": "measuring"})


@measured("POST state, hot", Kind.WRITE)
def _state(ledger: Subject) -> Timed:
    _put_back(ledger, HOT)
    return lambda: ledger.call("POST", f"{_ISSUES}/{HOT}/state", {"state": "PICKED", "reason": "measuring"})


@measured("POST approvals", Kind.WRITE)
def _approve(ledger: Subject) -> Timed:
    issue_id = _new_id()
    ledger.call("PUT", f"{_ISSUES}/{issue_id}", {"loop": "agent-merge", "facts": {**_MERGE, "risk": "high"}})
    placed = ledger.call("POST", f"{_ISSUES}/{issue_id}/state", {"state": "IN_REVIEW", "reason": "measuring"})
    headers, decision = {"if-match": placed.headers["etag"]}, {"decision": "approved"}
    return lambda: ledger.call("POST", f"{_ISSUES}/{issue_id}/approvals", decision, actor="olga", headers=headers)


# ------------------------------------------------------------------------------------ steps executed elsewhere
def _new_id() -> str:
    return f"SCALE-{uuid4()}"


def _claim(ledger: Subject, issue_id: str, lease_ms: int = 60_000) -> Claim:
    request = ClaimRequest(issue_id, "ann", uuid4(), RunMode.EXECUTE, lease_ms)
    claim = ledger.services.ledger.claim(request)
    if not isinstance(claim, Claim):
        raise CallError(f"{issue_id} was not claimed: {claim}")
    return claim


def _started(ledger: Subject) -> tuple[Timed, str, str]:
    """What starts a callback step of a new issue and lets its run wait; the run, its task token."""
    issue_id, token = _new_id(), str(uuid4())
    ledger.call("PUT", f"{_ISSUES}/{issue_id}", {"loop": "agent-merge", "facts": _MERGE})
    claim, loop = _claim(ledger, issue_id), ledger.services.loops.get("agent-merge")
    if not isinstance(loop, Loop):
        raise CallError("agent-merge is not among the loops")
    step = loop.steps[0]

    def start() -> None:
        ledger.services.ledger.start_step(
            claim, step, loop.version, retry_if_lost={"LEASE_EXPIRED": 5.0},
            token_hash=hash_of_token(token), heartbeat_seconds=600,
        )  # fmt: skip
        ledger.services.ledger.park(claim, "waits", NextStep(step_number=step.number, step_type=step.type))

    return start, str(claim.run_id), token


@measured("a callback step starts and waits", Kind.WRITE)
def _start(ledger: Subject) -> Timed:
    start, run_id, _token = _started(ledger)
    ledger.afterwards(lambda: ledger.call("POST", f"{_RUNS}/{run_id}/cancel"))
    return start


@measured("POST heartbeat", Kind.WRITE)
def _heartbeat(ledger: Subject) -> Timed:
    start, run_id, token = _started(ledger)
    start()
    ledger.afterwards(lambda: ledger.call("POST", f"{_RUNS}/{run_id}/cancel"))
    return lambda: ledger.call("POST", f"{_RUNS}/{run_id}/heartbeat", {"taskToken": token}, actor="coding-agent")


@measured("POST result", Kind.WRITE)
def _result(ledger: Subject) -> Timed:
    start, run_id, token = _started(ledger)
    start()
    told = {"taskToken": token, "status": "completed", "facts": {"pr": {"url": "https://github.com/acme/shop/pull/1"}}}
    return lambda: ledger.call("POST", f"{_RUNS}/{run_id}/result", told, actor="coding-agent")


# --------------------------------------------------------------------------------------------------- chores
@measured("sweep, nothing is lost", Kind.CHORE)
def _sweep(ledger: Subject) -> Timed:
    return lambda: ledger.services.ledger.sweep(max_runs=SWEEP_BATCH, ended_by=SWEEPER)


@measured("sweep, one run is lost", Kind.CHORE)
def _sweep_one(ledger: Subject) -> Timed:
    _put_back(ledger, HOT)
    _claim(ledger, HOT, lease_ms=0)

    def sweep() -> None:
        if len(ledger.services.ledger.sweep(max_runs=SWEEP_BATCH, ended_by=SWEEPER)) != 1:
            raise CallError("the lost run was not swept")

    return sweep


@measured("what is due", Kind.CHORE)
def _due(ledger: Subject) -> Timed:
    return lambda: ledger.services.ledger.take_due(
        max_items=DUE_BATCH, resend_after_seconds=RESEND_AFTER_SECONDS, max_sends=MAX_SENDS
    )


@measured(f"purge of the {PURGE_BATCH} oldest runs", Kind.CHORE, every=SELDOM)
def _purge(ledger: Subject) -> Timed:
    def purge() -> None:
        """Undone again, so that it has as much to do each time."""
        with ledger.looker.transaction(force_rollback=True):
            (purged,) = ledger.query(
                "SELECT loop_purge(%s, %s) AS n", ledger.days.first + timedelta(days=1), PURGE_BATCH
            )
        if purged["n"] < PURGE_BATCH / 2:
            raise CallError(f"only {purged['n']} runs were purged")

    return purge


# ------------------------------------------------------------------------------------------ the seed's own queries
def _seed(name: str, statement: str, ask: Callable[[Subject], tuple[Any, ...]] = lambda _: (), **options: Any) -> None:
    def prepare(ledger: Subject) -> Timed:
        values = ask(ledger)
        return lambda: ledger.query(statement, *values)

    measured(name, Kind.SEED, **options)(prepare)


_LAST_OF_ISSUE: Final = (
    "SELECT id, status, created_at, duration_ms FROM loop_runs WHERE issue_id = %s ORDER BY created_at DESC LIMIT 10"
)
_WHOLE: Final = "counts every run that there is"

_seed(
    "the last runs of all",
    "SELECT id, issue_id, status, created_at, started_at, completed_at, duration_ms"
    " FROM loop_runs ORDER BY created_at DESC LIMIT 5",
)
_seed("a run by its id", "SELECT * FROM loop_runs WHERE id = %s", lambda the: (the.run_before(the.instant())["id"],))
_seed("the last runs of an issue, hot", _LAST_OF_ISSUE, lambda _: (HOT,))
_seed("the last runs of an issue", _LAST_OF_ISSUE, lambda the: (the.cold_issue(),))
_seed(
    "a run by its request",
    "SELECT * FROM loop_runs WHERE request_id = %s",
    lambda the: (the.run_before(the.instant())["request_id"],),
)
_seed("runs by status", "SELECT status, COUNT(*) as count FROM loop_runs GROUP BY status", grows=_WHOLE, every=SELDOM)
_seed("how many runs", "SELECT COUNT(*) FROM loop_runs", grows=_WHOLE, every=SELDOM)
