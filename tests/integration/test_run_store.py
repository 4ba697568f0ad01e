"""The run store: eight operations on runs and steps. What the database itself refuses: test_database."""

from __future__ import annotations

import io
import json
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from uuid import UUID, uuid4

import pytest

from loop_runner import errors
from loop_runner.lifecycle import TERMINAL_RUN
from loop_runner.models import Run, RunMode, RunStatus, RunStep, StepStatus
from loop_runner.observability import logger
from loop_runner.run_store import RunStore
from tools.durations import milliseconds

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from psycopg.rows import DictRow

    from loop_runner.database import Database
    from loop_runner.models import Json
    from tests.conftest import Sql

pytestmark = pytest.mark.usefixtures("sound")

ISSUE = "AFU9-123"
UNKNOWN = UUID(int=4)
R, S = RunStatus, StepStatus
# design, section 4, rule 3
LEGAL_RUN = [
    *product([R.PENDING], [R.RUNNING, R.FAILED, R.CANCELLED]),
    *product([R.RUNNING], [R.COMPLETED, R.FAILED, R.BLOCKED, R.CANCELLED]),
]
LEGAL_STEP = [
    *product([S.PENDING], [S.RUNNING, S.FAILED, S.SKIPPED, S.CANCELLED]),
    *product([S.RUNNING], [S.COMPLETED, S.FAILED, S.BLOCKED, S.CANCELLED]),
]
RunPair: TypeAlias = "tuple[RunStatus, RunStatus]"
StepPair: TypeAlias = "tuple[StepStatus, StepStatus]"
ILLEGAL = [pair for pair in (*product(R, R), *product(S, S)) if pair not in {*LEGAL_RUN, *LEGAL_STEP}]
ENDS = sorted(TERMINAL_RUN)


@pytest.fixture
def store(database: Database) -> RunStore:
    return RunStore(database)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged during the test: JSON lines."""
    handler, stream = cast("logging.StreamHandler[Any]", logger.registered_handler), io.StringIO()
    before = handler.setStream(stream)
    yield stream
    handler.setStream(before or stream)


def create(store: RunStore, issue_id: str = ISSUE, **fields: Any) -> Run:
    return store.create_run(**{"issue_id": issue_id, "actor": "ann", "request_id": str(uuid4()), **fields})


def run_in(store: RunStore, status: RunStatus, issue_id: str = ISSUE) -> Run:
    run = create(store, issue_id)
    if status is not R.PENDING:
        run = store.update_run_status(run.id, R.RUNNING)
    if status not in {R.PENDING, R.RUNNING}:
        run = store.update_run_status(run.id, status)
    return run


def step_in(store: RunStore, run: Run, status: StepStatus, number: int = 1) -> RunStep:
    step = store.create_step(run.id, step_number=number, step_type=f"S{number}")
    if status not in {S.PENDING, S.SKIPPED}:
        step = store.update_step_status(step.id, S.RUNNING)
    if status not in {S.PENDING, S.RUNNING}:
        step = store.update_step_status(step.id, status)
    return step


def everything(sql: Sql) -> list[list[DictRow]]:
    """All that the store may write."""
    return [sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("loop_runs", "loop_run_steps", "loop_events")]


class TestCreateRun:
    def test_new_run_is_a_pending_execution(self, store: RunStore, sql: Sql) -> None:
        before = sql.one("SELECT clock_timestamp() AS now")["now"]
        run = create(store, request_id="call-1")
        assert (run.issue_id, run.actor, run.request_id) == (ISSUE, "ann", "call-1")
        assert (run.mode, run.status, run.metadata, run.attempt) == (RunMode.EXECUTE, R.PENDING, {}, 1)
        assert (run.started_at, run.completed_at, run.duration_ms, run.error_message) == (None,) * 4
        assert before <= run.created_at <= sql.one("SELECT clock_timestamp() AS now")["now"]
        assert run.created_at < cast("datetime", run.lease_expires_at)

    @pytest.mark.parametrize("metadata", [None, {}, {"trigger": "ci", "nested": {"list": [1, 2.5, None, True]}}])
    def test_metadata_is_kept_as_given(self, store: RunStore, metadata: Json | None) -> None:
        run = create(store, metadata=metadata)
        assert run.metadata == (metadata or {})
        assert store.get_run(run.id) == run

    @pytest.mark.parametrize("status", [R.PENDING, R.RUNNING])
    def test_second_live_run_of_an_issue_is_a_conflict(self, store: RunStore, sql: Sql, status: RunStatus) -> None:
        run_in(store, status)
        before = everything(sql)
        with pytest.raises(errors.LoopConflictError, match=ISSUE):
            create(store)
        assert everything(sql) == before

    def test_run_whose_lease_is_over_is_ended_and_its_place_taken(self, store: RunStore, sql: Sql) -> None:
        lost = run_in(store, R.RUNNING)
        sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp()")
        create(store, mode=RunMode.DRY_RUN)
        assert store.get_run(lost.id).status is R.RUNNING
        taker = create(store)
        ended = store.get_run(lost.id)
        assert (ended.status, ended.error_code, taker.status) == (R.FAILED, "LEASE_EXPIRED", R.PENDING)
        event = sql.one("SELECT event_data FROM loop_events WHERE event_type = 'loop_run_failed'")
        assert event["event_data"]["endedBy"] == taker.actor

    def test_ended_dry_or_foreign_run_leaves_the_issue_free(self, store: RunStore) -> None:
        for end in ENDS:
            run_in(store, end)
        create(store, mode=RunMode.DRY_RUN)
        create(store, "AFU9-124")
        assert create(store).status is R.PENDING

    def test_dry_run_never_conflicts_and_writes_no_event(self, store: RunStore, sql: Sql) -> None:
        create(store)
        events = sql("SELECT * FROM loop_events")
        dry_run, _ = (create(store, mode=RunMode.DRY_RUN) for _ in range(2))
        assert store.update_run_status(dry_run.id, R.RUNNING).mode is RunMode.DRY_RUN
        assert sql("SELECT * FROM loop_events") == events


def test_unknown_run_or_step_is_not_found(store: RunStore) -> None:
    def refused(error: type[errors.LoopError], operation: Callable[..., Any], *args: Any, **fields: Any) -> None:
        with pytest.raises(error, match=str(UNKNOWN)):
            operation(UNKNOWN, *args, **fields)

    refused(errors.RunNotFoundError, store.get_run)
    refused(errors.RunNotFoundError, store.get_run_with_steps)
    refused(errors.RunNotFoundError, store.update_run_status, R.RUNNING)
    refused(errors.RunNotFoundError, store.create_step, step_number=1, step_type="S1")
    refused(errors.StepNotFoundError, store.update_step_status, S.RUNNING)


def test_run_is_read_with_its_own_steps_by_number(store: RunStore) -> None:
    run, other = run_in(store, R.RUNNING), run_in(store, R.RUNNING, "AFU9-124")
    steps = [step_in(store, run, status, number) for number, status in ((3, S.RUNNING), (1, S.SKIPPED))]
    found, bare = store.get_run_with_steps(run.id), store.get_run_with_steps(other.id)
    assert Run.model_validate(found.model_dump(exclude={"steps"}, by_alias=False)) == run
    assert list(found.steps) == steps[::-1] == store.get_steps_by_run(run.id)
    assert list(bare.steps) == store.get_steps_by_run(other.id) == store.get_steps_by_run(UNKNOWN) == []


@pytest.mark.parametrize("pair", ILLEGAL, ids=lambda pair: f"{type(pair[0]).__name__}:{'-'.join(pair)}")
def test_illegal_transition_changes_nothing(store: RunStore, sql: Sql, pair: RunPair | StepPair) -> None:
    source, target = pair
    row = run_in(store, source) if isinstance(source, R) else step_in(store, run_in(store, R.RUNNING), source)
    update: Callable[..., Any] = store.update_run_status if isinstance(source, R) else store.update_step_status
    before = everything(sql)
    with pytest.raises(errors.IllegalTransitionError, match=f"{row.id} is {source}, it does not become {target}"):
        update(row.id, target, error_message="no", metadata={"no": 1})
    assert everything(sql) == before


class TestUpdateRunStatus:
    @pytest.mark.parametrize("pair", LEGAL_RUN, ids="-".join)
    def test_legal_transition_takes_its_time_from_the_database(self, store: RunStore, sql: Sql, pair: RunPair) -> None:
        source, target = pair
        before = run_in(store, source)
        now = sql.one("SELECT clock_timestamp() AS now FROM pg_sleep(0.02)")["now"]
        run = store.update_run_status(before.id, target)
        assert (run.status, store.get_run(run.id)) == (target, run)
        moment = run.started_at if target is R.RUNNING else run.completed_at
        assert moment is not None
        assert before.created_at == run.created_at < now <= moment <= sql.one("SELECT clock_timestamp() AS t")["t"]
        assert (run.completed_at is None) == (run.started_at != before.started_at) == (target is R.RUNNING)
        assert run.duration_ms == milliseconds(run.started_at, run.completed_at)

    @pytest.mark.parametrize("pair", [pair for pair in LEGAL_RUN if pair[1] in ENDS], ids="-".join)
    def test_timeline_tells_queued_started_and_one_end(self, store: RunStore, sql: Sql, pair: RunPair) -> None:
        source, end = pair
        run = store.update_run_status(run_in(store, source).id, end, error_code="E", blocker_code="B")
        with pytest.raises(errors.IllegalTransitionError):
            store.update_run_status(run.id, R.FAILED)
        told = sql("SELECT * FROM loop_events WHERE run_id = %s AND issue_id = %s ORDER BY event_id", run.id, ISSUE)
        name = "finished" if end is R.COMPLETED else end.value
        names = ["queued", *(["started"] if source is R.RUNNING else []), name]
        assert [event["event_type"] for event in told] == [f"loop_run_{name}" for name in names]
        assert told[-1]["event_data"] == {"actor": "ann", "errorCode": "E", "blockerCode": "B"}
        assert told[-1]["occurred_at"] == run.completed_at

    def test_reasons_are_kept_where_none_is_given(self, store: RunStore) -> None:
        reasons = {"error_code": "MERGE_REFUSED", "error_message": "protected", "blocker_code": "NO_REVIEW"}
        run = store.update_run_status(create(store).id, R.RUNNING, **reasons)  # type: ignore[arg-type]
        run = store.update_run_status(run.id, R.FAILED, error_message=None, metadata=None)
        assert {name: getattr(run, name) for name in reasons} == reasons

    def test_metadata_is_merged_never_replaced(self, store: RunStore) -> None:
        run = create(store, metadata={"kept": 1, "changed": "old"})
        store.update_run_status(run.id, R.RUNNING, metadata=None)
        run = store.update_run_status(run.id, R.COMPLETED, metadata={"changed": "new", "added": [2]})
        assert run.metadata == {"kept": 1, "changed": "new", "added": [2]}

    @pytest.mark.parametrize("end", ENDS)
    def test_open_steps_end_with_the_run(self, store: RunStore, end: RunStatus) -> None:
        run = run_in(store, R.RUNNING)
        done, _, _ = (step_in(store, run, status, n) for n, status in enumerate((S.COMPLETED, S.RUNNING, S.PENDING), 1))
        run = store.update_run_status(run.id, end)
        ended, running, pending = store.get_steps_by_run(run.id)
        assert ended == done
        assert (running.status, pending.status) == (S.FAILED, S.CANCELLED)
        assert running.completed_at == pending.completed_at == run.completed_at
        assert (running.duration_ms is not None, pending.duration_ms) == (True, None)
        assert running.error_message


class TestListRunsByIssue:
    @pytest.fixture
    def runs(self, store: RunStore, sql: Sql) -> list[Run]:
        """25 runs, newest first; several share each created_at, and no index orders them by chance."""
        sql("DROP INDEX idx_loop_runs_issue_id")
        created = [create(store, mode=RunMode.DRY_RUN) for _ in range(25)]
        sql("UPDATE loop_runs SET created_at = now() - interval '1 min' * (get_byte(uuid_send(id), 15) % 5)")
        create(store, "AFU9-124")
        made = [store.get_run(run.id) for run in created]
        return sorted(made, key=lambda run: (run.created_at, run.id), reverse=True)

    @pytest.mark.parametrize("limit", [1, 24, 25, 100])
    def test_newest_twenty_or_as_many_as_asked_for(self, store: RunStore, runs: list[Run], limit: int) -> None:
        assert store.list_runs_by_issue(ISSUE) == runs[:20]
        assert store.list_runs_by_issue(ISSUE, limit=limit) == runs[:limit]
        assert store.list_runs_by_issue("AFU9-999") == []

    @pytest.mark.parametrize("limit", [1, 2, 7])
    def test_pages_have_no_gap_and_no_repetition(self, store: RunStore, runs: list[Run], limit: int) -> None:
        listed: list[Run] = []
        before = None
        while page := store.list_runs_by_issue(ISSUE, limit=limit, before=before):
            listed += page
            before = page[-1].created_at, page[-1].id
        assert listed == runs

    @pytest.mark.parametrize("limit", [0, -1])
    def test_limit_below_one_is_refused(self, store: RunStore, limit: int) -> None:
        with pytest.raises(errors.InvalidRequestError, match="limit"):
            store.list_runs_by_issue(ISSUE, limit=limit)


class TestCreateStep:
    def test_new_step_is_pending(self, store: RunStore) -> None:
        run = create(store)
        step = store.create_step(run.id, step_number=7, step_type="S7_VERIFY_GATE", metadata={"note": 1})
        assert (step.run_id, step.step_number, step.step_type) == (run.id, 7, "S7_VERIFY_GATE")
        assert (step.status, step.metadata) == (S.PENDING, {"note": 1})
        assert (step.started_at, step.completed_at, step.duration_ms, step.error_message) == (None,) * 4
        assert store.get_steps_by_run(run.id) == [step]

    def test_step_number_is_unique_within_its_run(self, store: RunStore) -> None:
        run, other = create(store), create(store, "AFU9-124")
        step = step_in(store, run, S.PENDING)
        with pytest.raises(errors.StepExistsError, match=f"{run.id} has a step 1"):
            step_in(store, run, S.PENDING)
        step_in(store, other, S.PENDING)
        assert store.get_steps_by_run(run.id) == [step]

    def test_step_numbers_start_at_one(self, store: RunStore) -> None:
        run = create(store)
        with pytest.raises(errors.InvalidRequestError, match="start at 1"):
            step_in(store, run, S.PENDING, 0)
        assert store.get_steps_by_run(run.id) == []

    @pytest.mark.parametrize("end", ENDS)
    def test_ended_run_takes_no_more_steps(self, store: RunStore, end: RunStatus) -> None:
        run = run_in(store, end)
        with pytest.raises(errors.IllegalTransitionError, match=f"{run.id} is {end}"):
            step_in(store, run, S.PENDING)
        assert store.get_steps_by_run(run.id) == []


class TestUpdateStepStatus:
    @pytest.mark.parametrize("pair", LEGAL_STEP, ids="-".join)
    def test_legal_transition_takes_its_time_from_the_database(self, store: RunStore, sql: Sql, pair: StepPair) -> None:
        source, target = pair
        before = step_in(store, run_in(store, R.RUNNING), source)
        now = sql.one("SELECT clock_timestamp() AS now FROM pg_sleep(0.02)")["now"]
        step = store.update_step_status(before.id, target)
        assert (step.status, store.get_steps_by_run(step.run_id)) == (target, [step])
        moment = step.started_at if target is S.RUNNING else step.completed_at
        assert moment is not None
        assert before.created_at == step.created_at < now <= moment <= sql.one("SELECT clock_timestamp() AS t")["t"]
        assert (step.completed_at is None) == (step.started_at != before.started_at) == (target is S.RUNNING)
        assert step.duration_ms == milliseconds(step.started_at, step.completed_at)

    def test_metadata_is_merged_and_none_keeps_the_former(self, store: RunStore) -> None:
        run = run_in(store, R.RUNNING)
        step = store.create_step(run.id, step_number=1, step_type="S1", metadata={"kept": 1, "changed": "old"})
        store.update_step_status(step.id, S.RUNNING, error_message="slow", metadata={"changed": "new"})
        step = store.update_step_status(step.id, S.FAILED, error_message=None, metadata=None)
        assert (step.error_message, step.metadata) == ("slow", {"kept": 1, "changed": "new"})


class TestTextOfOthers:
    """What a failing step says is written down, whatever it holds: the run must not stay open for it."""

    @pytest.mark.parametrize("text", ["", "a\x00b", "a\ud800b", "\udfff" * 3, "ü😀\n\t\\u0000"])
    def test_text_that_cannot_be_stored_is_replaced(self, store: RunStore, text: str) -> None:
        stored = "".join("\ufffd" if char in "\x00\ud800\udfff" else char for char in text)
        step = step_in(store, run_in(store, R.RUNNING), S.RUNNING)
        metadata: Json = {text: [text, {"deep": text}]}
        step = store.update_step_status(step.id, S.FAILED, error_message=text, metadata=metadata)
        reasons = {"error_code": text, "error_message": text, "blocker_code": text}
        run = store.update_run_status(step.run_id, R.FAILED, metadata=metadata, **reasons)  # type: ignore[arg-type]
        assert (run.status, run.error_message, run.error_code, run.blocker_code) == (R.FAILED, *(stored,) * 3)
        assert (step.status, step.error_message) == (S.FAILED, stored)
        assert run.metadata == step.metadata == {stored: [stored, {"deep": stored}]}

    def test_endless_text_is_cut_and_says_so_while_metadata_is_kept(self, store: RunStore) -> None:
        run, text = run_in(store, R.RUNNING), "x" * 100_000
        run = store.update_run_status(run.id, R.FAILED, error_message=text, metadata={"output": text})
        assert (run.status, run.metadata) == (R.FAILED, {"output": text})
        assert (run.error_message or "")[3970:] == "x" * 8 + " … (100000 characters)"

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_that_json_does_not_have_end_the_run_all_the_same(self, store: RunStore, number: float) -> None:
        run = store.update_run_status(run_in(store, R.RUNNING).id, R.FAILED, metadata={"kept": 1, "score": number})
        assert (run.status, run.metadata["kept"]) == (R.FAILED, 1)


def test_each_operation_writes_one_log_line(store: RunStore, log: io.StringIO) -> None:
    run = create(store)
    step = step_in(store, run, S.PENDING)
    store.update_step_status(step.id, S.RUNNING)
    store.update_run_status(run.id, R.RUNNING, metadata={"secret": "s3cret"})
    ended = store.update_run_status(run.id, R.FAILED, error_message="s3cret")
    _ = store.get_run(run.id), store.get_run_with_steps(run.id)
    store.list_runs_by_issue(ISSUE)
    store.get_steps_by_run(run.id)
    of_run, of_step = {"runId": str(run.id), "issueId": ISSUE}, {"runId": str(run.id), "stepNumber": 1}
    end = {"status": "failed", "durationMs": ended.duration_ms}
    expected: list[dict[str, Any]] = [
        {"message": "create_run", **of_run, "status": "pending"},
        {"message": "create_step", **of_step, "status": "pending"},
        {"message": "update_step_status", **of_step, "status": "running"},
        {"message": "update_run_status", **of_run, "status": "running"},
        *({"message": name, **of_run, **end} for name in ("update_run_status", "get_run", "get_run_with_steps")),
        {"message": "list_runs_by_issue", "issueId": ISSUE, "runs": 1},
        {"message": "get_steps_by_run", "runId": str(run.id), "steps": 1},
    ]
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line | fields for line, fields in zip(lines, expected, strict=True)] == lines
    assert "s3cret" not in json.dumps(lines)
