"""Owns this project as an engine: the ledger's two calls, run_next_step around them, the handler around that."""

from __future__ import annotations

import copy
import json
import os
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from loop_runner import migrations, outcomes
from loop_runner.claims import Claim, ClaimRequest
from loop_runner.loops import Loop
from loop_runner.models import RunMode, RunStatus
from loop_runner.outcomes import Visit
from loop_runner.resolver import Ready, resolve_next_step
from loop_runner.results import Completed
from loop_runner.services import Services
from loop_runner.settings import Settings
from tools.local.roles import app_url
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.engines import Operation

LOOP: Final = "issue-delivery"
FACTS: Final = {"githubUrl": "https://github.com/acme/app/issues/1"}
_TIMEOUT_SECONDS: Final = 29


@dataclass(frozen=True)
class Context:
    """What Lambda gives a handler beside the event, as far as ours asks."""

    aws_request_id: str = "8f7c9f5e-0000-4000-8000-00000000c0de"
    function_name: str = "run-next-step"
    log_stream_name: str = "2026/11/24/[$LATEST]0123"

    def get_remaining_time_in_millis(self) -> int:
        """An invocation that has just begun."""
        return _TIMEOUT_SECONDS * 1000


class _Own:
    """``name``: which part of the project, or which way through the handler, is measured."""

    def __init__(self, name: str) -> None:
        self._name = name

    def prepare(self, url: str) -> None:
        migrations.apply(url, ROOT / "migrations")
        app_url(url)

    def register(self, url: str, prefix: str, count: int) -> None:
        """Issues whose next step is a transition; those of the blocked path lack what its gate asks for."""
        if self._name == "registered":
            return
        facts = {} if self._name == "blocked" else FACTS
        with psycopg.connect(url) as connection:
            connection.execute(
                """
                INSERT INTO loop_issues (id, loop_name, state, facts)
                SELECT %s || '-' || n, %s, 'CREATED', %s
                FROM generate_series(0, %s) AS n
                """,
                [prefix, LOOP, Jsonb(facts), count],
            )

    @contextmanager
    def connected(self, url: str, name: str) -> Iterator[Callable[[str], Operation]]:
        os.environ |= {
            "DATABASE_URL": app_url_of(url),
            "LOOPS_DIR": str(ROOT / "loops"),
            "MIGRATIONS_DIR": str(ROOT / "migrations"),
            "POWERTOOLS_METRICS_NAMESPACE": "LoopRunner/bench",
            "POWERTOOLS_SERVICE_NAME": "run-next-step",
        }
        if self._name == "ledger":
            services = Services(Settings.from_environment())
            make: Callable[[Services, str], Operation] = _ledger
        elif self._name == "run_next_step":
            services = Services(Settings.from_environment())
            make = _run_next_step
        else:
            from functions.run_next_step import app  # noqa: PLC0415  it reads the environment

            services, make = app.api.services, _WAYS[self._name]
        with closing(services.database):
            yield lambda prefix: make(services, prefix)


def app_url_of(url: str) -> str:
    """The URL of the functions' role, which has been prepared with the superuser's password."""
    return url.replace("//postgres:", "//loop_app:", 1)


def parts(name: str) -> _Own:
    """The parts of one of this project's engines."""
    return _Own(name)


def _request(issue_id: str) -> ClaimRequest:
    return ClaimRequest(
        issue_id=issue_id,
        actor="ann",
        request_id=uuid4(),
        mode=RunMode.EXECUTE,
        lease_ms=34_000,
        lambda_request_id=Context.aws_request_id,
        log_stream=Context.log_stream_name,
    )


def _ledger(services: Services, prefix: str) -> Operation:
    loop = services.loops.get(LOOP)
    assert isinstance(loop, Loop)  # noqa: S101
    found: list[outcomes.Outcome] = []

    def operate(number: int) -> None:
        claim = services.ledger.claim(_request(f"{prefix}-{number}"), long_states=services.loops.long_states)
        assert isinstance(claim, Claim)  # noqa: S101
        if not found:  # the same one for every issue: what it takes to find it is not the ledger's
            ready = resolve_next_step(loop, claim.issue, claim.now)
            assert isinstance(ready, Ready)  # noqa: S101
            visit = Visit(loop, ready.step, claim.issue, claim.now, claim.attempt)
            found.append(outcomes.of_result(Completed(), visit))
        _completed(services.ledger.finish(claim, found[0]).run.status)

    return operate


def _run_next_step(services: Services, prefix: str) -> Operation:
    def operate(number: int) -> None:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        _completed(services.runner.run_next_step(_request(f"{prefix}-{number}"), deadline=deadline).run.status)

    return operate


def _completed(status: RunStatus) -> None:
    if status is not RunStatus.COMPLETED:
        raise RuntimeError(f"the run is {status}")


# ------------------------------------------------------------------------------------------------ the whole handler


class _Calls:
    """Calls of the handlers with events as API Gateway makes them: those of events/, of other issues."""

    def __init__(self) -> None:
        from functions.loop_api import app as loop_api  # noqa: PLC0415
        from functions.run_next_step import app as run_next_step  # noqa: PLC0415

        self._run_next_step, self._loop_api = run_next_step.handler, loop_api.handler
        self._event, self._put = _sample("run-next-step"), _sample("loop-api-register-issue")
        self._put["body"] = json.dumps({"loop": LOOP, "facts": FACTS})
        self._context: Any = Context()

    def run(self, issue_id: str, *, status: int = 200, key: str | None = None, mode: str = "execute") -> None:
        """POST run-next-step; an answer of another status is an error."""
        event = self._of(self._event, issue_id)
        event["body"] = f'{{"mode": "{mode}"}}'
        if key:
            event["headers"] = {**event["headers"], "idempotency-key": key}
        _answered(self._run_next_step(event, self._context), status)

    def put(self, issue_id: str) -> None:
        """PUT the issue."""
        _answered(self._loop_api(self._of(self._put, issue_id), self._context), 201)

    def _of(self, sample: dict[str, Any], issue_id: str) -> dict[str, Any]:
        path = sample["rawPath"].replace("AFU9-123", issue_id)
        return {**sample, "rawPath": path, "pathParameters": {"issueId": issue_id}}


def _sample(name: str) -> dict[str, Any]:
    event: dict[str, Any] = copy.deepcopy(json.loads((ROOT / "events" / f"{name}.json").read_text()))
    event["headers"].pop("x-request-id", None)  # each call has an id of its own
    return event


def _answered(answer: dict[str, Any], status: int) -> None:
    if answer["statusCode"] != status:
        raise RuntimeError(f"{answer['statusCode']} instead of {status}: {answer['body']}")


def _handler(_services: Services, prefix: str) -> Operation:
    calls = _Calls()
    return lambda number: calls.run(f"{prefix}-{number}")


def _registered(_services: Services, prefix: str) -> Operation:
    calls = _Calls()

    def operate(number: int) -> None:
        calls.put(f"{prefix}-{number}")
        calls.run(f"{prefix}-{number}")

    return operate


def _dry_run(_services: Services, prefix: str) -> Operation:
    calls = _Calls()
    return lambda number: calls.run(f"{prefix}-{number}", mode="dryRun")


def _conflict(services: Services, prefix: str) -> Operation:
    calls = _Calls()
    services.ledger.claim(_request(f"{prefix}-0"))
    return lambda _number: calls.run(f"{prefix}-0", status=409)


def _replay(_services: Services, prefix: str) -> Operation:
    calls = _Calls()
    calls.run(f"{prefix}-0", key="again")
    return lambda _number: calls.run(f"{prefix}-0", key="again")


_WAYS: Final[dict[str, Callable[[Services, str], Operation]]] = {
    "handler": _handler,
    "registered": _registered,
    "blocked": _handler,
    "dry-run": _dry_run,
    "conflict": _conflict,
    "replay": _replay,
}
