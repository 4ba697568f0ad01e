"""Owns the eight operations on runs and steps. Statuses go only where lifecycle allows; times are the database's.

The run of a call is claimed and finished through the ledger, two round trips; this store is for everything that reads
runs, and for tools that record a run of their own, statement by statement. Both keep the same rules: one live run per
issue, terminal is immutable, the timeline tells each run's start and end. What a call has claimed only the holder of
its lease token writes: the store refuses.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, LiteralString
from uuid import UUID

from psycopg import errors as pg
from psycopg.types.json import Jsonb

from loop_runner.errors import (
    IllegalTransitionError,
    InvalidRequestError,
    LoopConflictError,
    RunNotFoundError,
    StepExistsError,
    StepNotFoundError,
)
from loop_runner.lifecycle import TERMINAL_RUN, sources_of_run, sources_of_step
from loop_runner.models import Run, RunMode, RunStatus, RunStep, RunWithSteps, StepStatus, new_run_id
from loop_runner.observability import logger
from loop_runner.sanitize import clean_json, clean_text

if TYPE_CHECKING:
    from loop_runner.database import Database
    from loop_runner.models import Json

DEFAULT_LEASE_SECONDS: Final = 900
"""How long a run of this store owns its issue, counted from each of its writes, before others may take it over."""

_LOCK_ISSUE: Final = "SELECT id FROM loop_issues WHERE id = %(issue_id)s FOR NO KEY UPDATE"

_EXPIRE_RUN: Final = """
SELECT loop_expire_run(id, clock_timestamp(), %(ended_by)s)
FROM loop_runs
WHERE issue_id = %(issue_id)s
    AND mode = 'execute' AND completed_at IS NULL AND lease_expires_at <= clock_timestamp()
"""

_CREATE_RUN: Final = """
WITH created AS (
    INSERT INTO loop_runs (id, issue_id, actor, request_id, mode, metadata, created_at, lease_expires_at)
    SELECT
        %(id)s, %(issue_id)s, %(actor)s, %(request_id)s, %(mode)s, %(metadata)s, now,
        now + %(lease_seconds)s * interval '1 second'
    FROM clock_timestamp() AS now
    RETURNING *
),
happened AS (
    INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
    SELECT issue_id, id, 'loop_run_queued', jsonb_build_object('actor', actor), created_at
    FROM created
    WHERE mode = 'execute'
)
SELECT * FROM created
"""

# In a statement of its own: the next one's snapshot has the steps of whoever held these locks before.
_LOCK_RUN: Final = """
WITH issue AS (
    SELECT i.id
    FROM loop_issues AS i
    WHERE i.id = (SELECT issue_id FROM loop_runs WHERE id = %(id)s)
    FOR NO KEY UPDATE
)
SELECT r.id
FROM loop_runs AS r, (SELECT count(*) FROM issue) AS locked
WHERE r.id = %(id)s
FOR NO KEY UPDATE OF r
"""

_UPDATE_RUN_STATUS: Final = """
WITH moment AS (
    SELECT clock_timestamp() AS now
),
updated AS (
    UPDATE loop_runs AS r
    SET status = %(status)s,
        started_at = CASE WHEN %(status)s = 'running' THEN m.now ELSE r.started_at END,
        completed_at = CASE WHEN %(terminal)s THEN m.now END,
        duration_ms = CASE WHEN %(terminal)s THEN loop_duration_ms(r.started_at, m.now) END,
        lease_expires_at = CASE
            WHEN %(terminal)s THEN r.lease_expires_at
            ELSE m.now + %(lease_seconds)s * interval '1 second'
        END,
        error_code = coalesce(%(error_code)s, r.error_code),
        error_message = coalesce(%(error_message)s, r.error_message),
        blocker_code = coalesce(%(blocker_code)s, r.blocker_code),
        metadata = r.metadata || %(metadata)s
    FROM moment AS m
    WHERE r.id = %(id)s AND r.status = ANY(%(sources)s) AND r.lease_token IS NULL
    RETURNING r.*, m.now AS moment
),
ended AS (
    UPDATE loop_run_steps AS s
    SET status = CASE s.status WHEN 'running' THEN 'failed' ELSE 'cancelled' END,
        completed_at = u.moment,
        duration_ms = loop_duration_ms(s.started_at, u.moment),
        error_message = coalesce(s.error_message, 'the run ended before the step did')
    FROM updated AS u
    WHERE %(terminal)s AND s.run_id = u.id AND s.status IN ('pending', 'running')
),
happened AS (
    INSERT INTO loop_events (issue_id, run_id, event_type, event_data, occurred_at)
    SELECT
        issue_id, id,
        CASE status
            WHEN 'running' THEN 'loop_run_started'
            WHEN 'completed' THEN 'loop_run_finished'
            ELSE 'loop_run_' || status
        END,
        jsonb_strip_nulls(jsonb_build_object('actor', actor, 'errorCode', error_code, 'blockerCode', blocker_code)),
        moment
    FROM updated
    WHERE mode = 'execute'
)
SELECT * FROM updated
"""

_GET_RUN: Final = "SELECT * FROM loop_runs WHERE id = %(id)s"

# An array and an order that begins with the issue: only the index of issues serves both. With an equality the planner
# may walk all runs by time, in the hope that one of an issue with many comes soon; its last may be long ago.
_LIST_RUNS_BY_ISSUE: Final = """
SELECT *
FROM loop_runs
WHERE issue_id = ANY(ARRAY[%(issue_id)s]) AND (created_at, id) < (%(before_at)s, %(before_id)s)
ORDER BY issue_id, created_at DESC, id DESC
LIMIT %(limit)s
"""

_CREATE_STEP: Final = """
INSERT INTO loop_run_steps (run_id, step_number, step_type, metadata, created_at)
SELECT r.id, %(step_number)s, %(step_type)s, %(metadata)s, clock_timestamp()
FROM loop_runs AS r
WHERE r.id = %(run_id)s AND r.completed_at IS NULL AND r.lease_token IS NULL
FOR SHARE
RETURNING *
"""

_UPDATE_STEP_STATUS: Final = """
UPDATE loop_run_steps AS s
SET status = %(status)s,
    started_at = CASE WHEN %(status)s = 'running' THEN m.now ELSE s.started_at END,
    completed_at = CASE WHEN %(status)s <> 'running' THEN m.now END,
    duration_ms = CASE WHEN %(status)s <> 'running' THEN loop_duration_ms(s.started_at, m.now) END,
    error_message = coalesce(%(error_message)s, s.error_message),
    metadata = s.metadata || %(metadata)s
FROM (SELECT clock_timestamp() AS now) AS m
WHERE s.id = %(id)s AND s.status = ANY(%(sources)s)
RETURNING s.*
"""

_GET_STEP: Final = "SELECT * FROM loop_run_steps WHERE id = %(id)s"

_GET_STEPS_BY_RUN: Final = "SELECT * FROM loop_run_steps WHERE run_id = %(run_id)s ORDER BY step_number"

_GET_RUN_WITH_STEPS: Final = """
SELECT
    r.*,
    coalesce((
        SELECT jsonb_agg(to_jsonb(s) ORDER BY s.step_number) FROM loop_run_steps AS s WHERE s.run_id = r.id
    ), '[]') AS steps
FROM loop_runs AS r
WHERE r.id = %(id)s
"""

_AFTER_ALL: Final = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))


class RunStore:
    """Runs and steps, one log line an operation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_run(
        self,
        *,
        issue_id: str,
        actor: str,
        request_id: str,
        mode: RunMode = RunMode.EXECUTE,
        metadata: Json | None = None,
        lease_seconds: int = DEFAULT_LEASE_SECONDS,
    ) -> Run:
        """Record a pending run, in the place of one whose lease is over.

        Raises LoopConflictError where another run of the issue is live; dry runs never conflict, and take nothing over.
        """
        run_id = new_run_id()
        try:
            with self._database.transaction():
                if mode is RunMode.EXECUTE:
                    self._write(_LOCK_ISSUE, issue_id=issue_id)
                    self._write(_EXPIRE_RUN, issue_id=issue_id, ended_by=actor)
                rows = self._write(
                    _CREATE_RUN,
                    id=run_id,
                    issue_id=issue_id,
                    actor=actor,
                    request_id=request_id,
                    mode=mode,
                    metadata=_json(metadata),
                    lease_seconds=lease_seconds,
                )
        except pg.UniqueViolation:
            raise LoopConflictError(f"another run owns issue {issue_id}: wait until it has ended") from None
        run = Run.model_validate(rows[0])
        _log("create_run", run)
        return run

    def get_run(self, run_id: UUID) -> Run:
        """The run. Raises RunNotFoundError."""
        rows = self._database.query(_GET_RUN, {"id": run_id})
        if not rows:
            raise RunNotFoundError.of(run_id)
        run = Run.model_validate(rows[0])
        _log("get_run", run)
        return run

    def update_run_status(
        self,
        run_id: UUID,
        status: RunStatus,
        *,
        error_code: str | None = None,
        error_message: str | None = None,
        blocker_code: str | None = None,
        metadata: Json | None = None,
        lease_seconds: int = DEFAULT_LEASE_SECONDS,
    ) -> Run:
        """Move a run on; metadata is merged, steps that are still open end with the run.

        Raises RunNotFoundError, IllegalTransitionError (terminal is immutable).
        """
        with self._database.transaction():
            self._write(_LOCK_RUN, id=run_id)
            rows = self._write(
                _UPDATE_RUN_STATUS,
                id=run_id,
                status=status,
                terminal=status in TERMINAL_RUN,
                sources=sources_of_run(status),
                error_code=_text(error_code),
                error_message=_text(error_message),
                blocker_code=_text(blocker_code),
                metadata=_json(metadata),
                lease_seconds=lease_seconds,
            )
        if not rows:
            raise self._refusal(run_id, f"it does not become {status}")
        run = Run.model_validate(rows[0])
        _log("update_run_status", run)
        return run

    def list_runs_by_issue(
        self, issue_id: str, *, limit: int = 20, before: tuple[datetime, UUID] | None = None
    ) -> list[Run]:
        """At most ``limit`` runs of the issue, newest first; ``before``: created_at and id of the run to go on from."""
        if limit < 1:
            raise InvalidRequestError("limit must be at least 1")
        before_at, before_id = before or _AFTER_ALL
        rows = self._database.query(
            _LIST_RUNS_BY_ISSUE, {"issue_id": issue_id, "limit": limit, "before_at": before_at, "before_id": before_id}
        )
        logger.info("list_runs_by_issue", extra={"issueId": issue_id, "runs": len(rows)})
        return [Run.model_validate(row) for row in rows]

    def create_step(self, run_id: UUID, *, step_number: int, step_type: str, metadata: Json | None = None) -> RunStep:
        """Record a pending step of a live run.

        Raises RunNotFoundError, IllegalTransitionError (the run has ended), StepExistsError, InvalidRequestError.
        """
        try:
            rows = self._write(
                _CREATE_STEP, run_id=run_id, step_number=step_number, step_type=step_type, metadata=_json(metadata)
            )
        except pg.UniqueViolation:
            raise StepExistsError(f"run {run_id} has a step {step_number} already") from None
        except pg.CheckViolation:
            raise InvalidRequestError("step numbers start at 1") from None
        if not rows:
            raise self._refusal(run_id, "it takes no more steps")
        step = RunStep.model_validate(rows[0])
        _log("create_step", step)
        return step

    def update_step_status(
        self, step_id: UUID, status: StepStatus, *, error_message: str | None = None, metadata: Json | None = None
    ) -> RunStep:
        """Move a step on; metadata is merged. Raises StepNotFoundError, IllegalTransitionError."""
        rows = self._write(
            _UPDATE_STEP_STATUS,
            id=step_id,
            status=status,
            sources=sources_of_step(status),
            error_message=_text(error_message),
            metadata=_json(metadata),
        )
        if not rows:
            found = self._database.query(_GET_STEP, {"id": step_id})
            if not found:
                raise StepNotFoundError(f"there is no step {step_id}")
            raise IllegalTransitionError(f"step {step_id} is {found[0]['status']}, it does not become {status}")
        step = RunStep.model_validate(rows[0])
        _log("update_step_status", step)
        return step

    def get_steps_by_run(self, run_id: UUID) -> list[RunStep]:
        """The steps of a run by number; none where there is no such run."""
        rows = self._database.query(_GET_STEPS_BY_RUN, {"run_id": run_id})
        logger.info("get_steps_by_run", extra={"runId": str(run_id), "steps": len(rows)})
        return [RunStep.model_validate(row) for row in rows]

    def get_run_with_steps(self, run_id: UUID) -> RunWithSteps:
        """The run and its steps, read at one moment. Raises RunNotFoundError."""
        rows = self._database.query(_GET_RUN_WITH_STEPS, {"id": run_id})
        if not rows:
            raise RunNotFoundError.of(run_id)
        run = RunWithSteps.model_validate(rows[0])
        _log("get_run_with_steps", run)
        return run

    def _refusal(self, run_id: UUID, what: str) -> IllegalTransitionError:
        """Why a write matched no row. Raises RunNotFoundError."""
        run = self.get_run(run_id)
        if run.status in TERMINAL_RUN:
            return IllegalTransitionError(f"run {run_id} is {run.status}, {what}")
        return IllegalTransitionError(f"run {run_id} is {run.status}, {what} here: a call holds it, or it is too early")

    def _write(self, sql: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        return self._database.query(sql, parameters, repeatable=False)


def _text(text: str | None) -> str | None:
    return None if text is None else clean_text(text)


def _json(value: Json | None) -> Jsonb:
    return Jsonb(clean_json(value or {}))


def _log(operation: str, row: Run | RunStep) -> None:
    ids = (
        {"runId": str(row.id), "issueId": row.issue_id}
        if isinstance(row, Run)
        else {"runId": str(row.run_id), "stepNumber": row.step_number}
    )
    logger.info(operation, extra={**ids, "status": row.status, "durationMs": row.duration_ms})
