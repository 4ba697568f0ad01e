"""The audit: what the code writes is sound, and each rule finds the rows that break it."""

from __future__ import annotations

import json
import random
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from functions.migrate import app as migrate
from loop_runner.audit import audit
from loop_runner.claims import Claim, ClaimRequest, Recorded
from loop_runner.database import Database
from loop_runner.errors import LoopConflictError, UnavailableError
from loop_runner.identity import Identity
from loop_runner.issues import Issues
from loop_runner.ledger import Ledger
from loop_runner.loops import Step, load_loop
from loop_runner.models import LoopStatus, Run, RunMode, RunStatus, StepStatus
from loop_runner.outcomes import Outcome, StepRecord
from loop_runner.resolver import next_step
from loop_runner.run_store import RunStore
from tests.conftest import LOOPS, MIGRATIONS, ROOT, Context, Sql, assert_sound, create_database, drop_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loop_runner.models import Json

R, S = RunStatus, StepStatus
DONE = Outcome(
    R.COMPLETED, LoopStatus.ACTIVE, "S2 completed", loop_version="v1", step=2, state_after="SPEC_READY",
    steps=(StepRecord(1, "S1", S.SKIPPED), StepRecord(2, "S2", S.COMPLETED)),
)  # fmt: skip
FAILED = Outcome(
    R.FAILED, LoopStatus.FAILED, "S3 failed", loop_version="v1", step=3, error_code="Busy", error_message="later",
    steps=(StepRecord(3, "S3", S.FAILED, "later"),),
)  # fmt: skip
BLOCKED = Outcome(R.BLOCKED, LoopStatus.PAUSED, "no draft", loop_version="v1", step=3, blocker_code="NO_DRAFT")
NOT_HEARD_OF = replace(FAILED, error_code="States.Timeout", is_unknown=True)
ELSEWHERE = Step.model_validate({
    "number": 3, "type": "S3", "from": ["A"], "to": "B", "executor": {"kind": "callback", "function": "f"}
})  # fmt: skip
WOULD_RUN = Outcome(R.COMPLETED, LoopStatus.ACTIVE, "S3 would run", loop_version="v1", step=3)
NEW = UUID(int=2**128 - 1)
"""Id of a row that a case adds: the last one by order."""


class World:
    """The code that writes ledgers, on one database."""

    def __init__(self, url: str, sql: Sql, database: Database) -> None:
        self.url, self.sql = url, sql
        self.ledger, self.issues, self.store = Ledger(database), Issues(database), RunStore(database)

    def register(self, issue_id: str) -> None:
        self.issues.register(issue_id, load_loop(LOOPS / "issue-delivery.toml"), {}, actor="ann")

    def claim(self, issue_id: str, mode: RunMode = RunMode.EXECUTE) -> Claim:
        claimed = self.ledger.claim(
            ClaimRequest(issue_id=issue_id, actor="ann", request_id=uuid4(), mode=mode, lease_ms=60_000)
        )
        assert isinstance(claimed, Claim)
        return claimed

    def run(self, issue_id: str, outcome: Outcome, mode: RunMode = RunMode.EXECUTE) -> UUID:
        return self.ledger.finish(self.claim(issue_id, mode), outcome).run.id

    def run_in_background(self, issue_id: str, outcome: Outcome) -> UUID:
        request = ClaimRequest(issue_id, "ann", uuid4(), RunMode.EXECUTE, lease_ms=60_000, in_background=True)
        queued = self.ledger.claim(request)
        assert isinstance(queued, Recorded)
        claim = self.ledger.begin(request, queued.run.id)
        assert isinstance(claim, Claim)
        self.start(claim)
        return self.ledger.finish(claim, outcome).run.id

    def start(self, claim: Claim, token_hash: str | None = None) -> None:
        self.ledger.start_step(claim, ELSEWHERE, "v1", retry_if_lost={"States.Timeout": 5.0}, token_hash=token_hash)

    def wait(self, issue_id: str) -> UUID:
        claim = self.claim(issue_id)
        self.start(claim, "hash")
        return self.ledger.park(claim, "waits", next_step(ELSEWHERE)).run.id

    def lose(self, issue_id: str) -> None:
        self.sql(
            "UPDATE loop_runs SET lease_expires_at = clock_timestamp()"
            " WHERE issue_id = %s AND status IN ('pending', 'running')", issue_id
        )  # fmt: skip

    def create(self, issue_id: str, mode: RunMode = RunMode.EXECUTE) -> Run:
        return self.store.create_run(issue_id=issue_id, actor="ann", request_id="r", mode=mode)

    def add_step(self, run_id: UUID, number: int, *statuses: StepStatus) -> UUID:
        step = self.store.create_step(run_id, step_number=number, step_type=f"T{number}")
        for status in statuses:
            self.store.update_step_status(step.id, status)
        return step.id


@pytest.fixture(scope="module")
def world(server_url: str, migrated_template: str) -> Iterator[World]:
    url = create_database(server_url, migrated_template)
    with (
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection,
        closing(Database(url)) as database,
    ):
        yield World(url, Sql(connection), database)
    drop_database(server_url, url)


@pytest.fixture(scope="module")
def ids(world: World) -> dict[str, Any]:
    """A ledger with runs of every kind, and the names of its rows."""
    ids: dict[str, Any] = {"new": NEW}
    world.register("AFU9-1")
    ids["first"] = world.run("AFU9-1", FAILED)
    ids["lost"] = world.claim("AFU9-1").run_id
    world.lose("AFU9-1")
    ids["done"] = world.run("AFU9-1", DONE)
    world.issues.patch_facts("AFU9-1", {"a": 1}, actor="ann")
    ids["blocked"] = world.run("AFU9-1", BLOCKED)
    ids["dry"] = world.run("AFU9-1", WOULD_RUN, RunMode.DRY_RUN)
    ids["failed"] = world.run("AFU9-1", FAILED)
    world.register("AFU9-2")
    ids["moved"] = world.run("AFU9-2", DONE)
    ids["live"] = world.claim("AFU9-2").run_id

    world.register("AFU9-4")
    ids["queued"] = world.run_in_background("AFU9-4", NOT_HEARD_OF)
    ids["waiting"] = world.wait("AFU9-4")
    world.register("AFU9-5")
    ids["planned"] = world.run("AFU9-5", replace(FAILED, loop_status=LoopStatus.PAUSED, retry_seconds=600.0))
    world.register("AFU9-6")
    now = world.issues.get("AFU9-6")
    world.issues.decide(
        now, ELSEWHERE, decision="approved", comment=None, by=Identity("ben"), if_match=frozenset({now.issue.version})
    )
    ids["cancelled"] = world.wait("AFU9-6")
    world.ledger.cancel(ids["cancelled"], actor="ann", principal=None, reason=None)

    ids["stored"] = world.create("AFU9-3").id
    ids["stored step"] = world.add_step(ids["stored"], 1, S.RUNNING, S.COMPLETED)
    world.add_step(ids["stored"], 2, S.RUNNING)
    world.add_step(ids["stored"], 3)
    world.store.update_run_status(ids["stored"], R.RUNNING)
    world.store.update_run_status(ids["stored"], R.COMPLETED)
    world.store.update_run_status(world.create("AFU9-3").id, R.CANCELLED)
    ids["pending"] = world.create("AFU9-3").id
    ids["open step"] = world.add_step(ids["pending"], 1)
    ids["stored dry"] = world.create("AFU9-3", RunMode.DRY_RUN).id
    world.add_step(ids["stored dry"], 1, S.SKIPPED)
    # as 083 let clients write it
    world.sql(
        "INSERT INTO loop_runs (issue_id, actor, request_id, status, started_at, completed_at, duration_ms)"
        " VALUES ('AFU9-3', 'ann', 'r', 'blocked', now() - interval '1 h', now() - interval '2 h', 7)"
    )
    ids["waiting step"] = world.sql.one("SELECT id FROM loop_run_steps WHERE run_id = %s", ids["waiting"])["id"]
    for row in world.sql("SELECT id, run_id, step_type FROM loop_run_steps"):
        if row["run_id"] == ids["done"]:
            ids[{"S1": "skipped step", "S2": "step"}[row["step_type"]]] = row["id"]
    for row in world.sql("SELECT event_id, issue_id, run_id, event_type FROM loop_events"):
        names = [name for name, value in ids.items() if value == row["run_id"]] or [row["issue_id"]]
        ids[f"{names[0]}: {row['event_type']}"] = row["event_id"]
    return ids


WITHOUT_GUARDS = """
DO $$
DECLARE
    v_guard record;
BEGIN
    FOR v_guard IN
        SELECT conrelid::regclass AS relation, conname FROM pg_constraint
        WHERE contype IN ('c', 'u') AND conrelid::regclass::text LIKE 'loop%'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', v_guard.relation, v_guard.conname);
    END LOOP;
    DROP INDEX uq_loop_runs_live;
    ALTER TABLE loop_events ALTER COLUMN event_id DROP IDENTITY;
    SET LOCAL session_replication_role = replica;
END
$$
"""


def found_after(world: World, ids: dict[str, Any], *statements: str) -> dict[str, list[str]]:
    """What the audit finds, by rule, after writes that the guards of the database would refuse; nothing stays."""
    with world.sql.connection.transaction(force_rollback=True):
        world.sql(WITHOUT_GUARDS)
        for statement in statements:
            cursor = world.sql.connection.execute(statement, ids)
            assert cursor.rowcount > 0, f"changes nothing: {statement}"
        return {row["rule"]: row["ids"] for row in world.sql("SELECT * FROM loop_audit()") if row["violations"]}


RUN, STEP = "UPDATE loop_runs SET ", "UPDATE loop_run_steps SET "
ISSUE, EVENT = "UPDATE loop_issues SET ", "UPDATE loop_events SET "
PLANS = "next_attempt_at = now(), next_attempt_after = %({})s"
TOLD = "INSERT INTO loop_events (event_id, issue_id, run_id, event_type, event_data) VALUES (99999, "
RECORDED = "INSERT INTO loop_runs (id, issue_id, actor, request_id, lease_expires_at) VALUES "
COPY_OF_STEP = (
    "INSERT INTO loop_run_steps SELECT %(new)s, run_id, {number}, step_type, {status}, created_at, started_at,"
    " completed_at, duration_ms, error_message, metadata FROM loop_run_steps WHERE id = {of}"
)
OF_DONE, OF_FAILED, OF_BLOCKED = " WHERE id = %(done)s", " WHERE id = %(failed)s", " WHERE id = %(blocked)s"
OF_LIVE, OF_STORED, OF_PENDING = " WHERE id = %(live)s", " WHERE id = %(stored)s", " WHERE id = %(pending)s"
OF_WAITING, OF_WAITING_STEP = " WHERE id = %(waiting)s", " WHERE run_id = %(waiting)s"
OF_PLANNED = " WHERE id = %(planned)s"
OF_STEP, OF_DRY = " WHERE id = %(step)s", " WHERE id = %(dry)s"

CASES: list[tuple[list[str], dict[str, list[str]]]] = [
    # runs
    (
        [RECORDED + "(%(new)s, 'AFU9-3', 'ben', 'r', now())",
         TOLD + "'AFU9-3', %(new)s, 'loop_run_queued', '{}')"],
        {"one-live-run": ["pending", "new"]},
    ),
    (
        [RUN + "completed_at = completed_at + interval '1 h', duration_ms = duration_ms + 3600000" + OF_DONE],
        {"one-run-at-a-time": ["blocked"]},
    ),
    ([RUN + "completed_at = NULL, duration_ms = NULL" + OF_FAILED], {"run-end": ["failed"]}),
    ([RUN + "completed_at = started_at, duration_ms = 0" + OF_LIVE], {"run-end": ["live"]}),
    (
        [RUN + "started_at = NULL, duration_ms = NULL" + OF_STORED],
        {"run-start": ["stored"], "run-start-event": ["stored"]},
    ),
    ([RUN + "started_at = created_at" + OF_PENDING], {"run-start": ["pending"], "run-start-event": ["pending"]}),
    (
        [RUN + "started_at = created_at - interval '1 s',"
         " duration_ms = loop_duration_ms(created_at - interval '1 s', completed_at)" + OF_DONE],
        {"run-times": ["done"]},
    ),
    (
        [RUN + "completed_at = started_at - interval '1 ms', created_at = started_at - interval '1 s', duration_ms = 0"
         + OF_STORED],
        {"run-times": ["stored"]},
    ),
    ([RUN + "duration_ms = duration_ms + 1" + OF_BLOCKED], {"run-times": ["blocked"]}),
    ([RUN + "duration_ms = NULL" + OF_DRY], {"run-times": ["dry"]}),
    ([RUN + "lease_expires_at = NULL" + OF_LIVE], {"run-lease": ["live"]}),
    ([RUN + "lease_expires_at = NULL" + OF_PENDING], {"run-lease": ["pending"]}),
    ([RUN + "lease_token = NULL" + OF_LIVE], {"run-lease": ["live"]}),
    ([RUN + "loop_name = 'other'" + OF_DONE], {"run-issue": ["done"]}),
    *(
        ([RUN + f"{column} = NULL" + OF_DONE], {"run-outcome": ["done"]})
        for column in ("state_before", "state_after", "issue_version", "loop_status")
    ),
    ([RUN + "blocker_code = NULL" + OF_BLOCKED], {"run-reason": ["blocked"]}),
    ([RUN + "error_code = NULL" + OF_FAILED], {"run-reason": ["failed"]}),
    ([RUN + "error_code = 'Busy'" + OF_DONE], {"run-reason": ["done"]}),
    ([TOLD + "'AFU9-3', %(stored dry)s, 'loop_run_queued', '{}')"], {"dry-run": ["stored dry"]}),
    ([RUN + "status = 'running', completed_at = NULL, duration_ms = NULL, lease_expires_at = now(), lease_token = id"
      + OF_DRY], {"dry-run": ["dry"]}),
    ([STEP + "run_id = %(dry)s WHERE run_id = %(failed)s"], {"dry-run": ["dry"]}),
    ([RUN + "state_after = 'CLOSED'" + OF_DRY], {"dry-run": ["dry"]}),
    ([RUN + "retry_of = NULL" + OF_DONE], {"run-attempt": ["done"]}),
    ([RUN + "retry_of = %(first)s" + OF_DONE], {"run-attempt": ["done"]}),
    ([RUN + "retry_of = %(first)s" + OF_BLOCKED], {"run-attempt": ["blocked"]}),
    ([RUN + "retry_of = %(done)s, attempt = 4" + OF_BLOCKED], {"run-attempt": ["blocked"]}),
    ([RUN + "retry_of = %(first)s, attempt = 2" + OF_LIVE], {"run-attempt": ["live"]}),
    *(
        ([RUN + change + " WHERE id = %(queued)s"], {"run-queued": ["queued"]})
        for change in ("queued_at = NULL", "sent_at = NULL", "sends = 0")
    ),
    ([RUN + "queued_at = now(), sent_at = now(), sends = 1" + OF_DONE], {"run-queued": ["done"]}),
    (["DELETE FROM loop_events WHERE event_id = %(queued: loop_run_queued)s"], {"run-queued": ["queued"]}),
    (
        [EVENT + "event_id = 99999, occurred_at = now() WHERE event_id = %(queued: loop_run_queued)s"],
        {"run-queued": ["queued"]},
    ),
    ([RUN + "loop_status = 'paused'" + OF_LIVE], {"run-waiting": ["live"]}),
    ([RUN + "loop_status = 'active'" + OF_WAITING], {"run-waiting": ["waiting"]}),
    ([RUN + "lease_expires_at = 'infinity'" + OF_WAITING], {"run-waiting": ["waiting"]}),
    ([STEP + "task_token_hash = NULL" + OF_WAITING_STEP], {"run-waiting": ["waiting"]}),
    ([STEP + "timeout_at = NULL" + OF_WAITING_STEP],
     {"run-waiting": ["waiting"], "step-elsewhere": ["waiting step"]}),
    ([RUN + "retry_at = NULL" + OF_PLANNED], {"run-retry": ["planned"], "issue-plan": ["AFU9-5"]}),
    ([RUN + "retry_at = completed_at - interval '1 s'" + OF_PLANNED], {"run-retry": ["planned"]}),
    ([RUN + "loop_status = 'failed'" + OF_PLANNED], {"run-retry": ["planned"]}),
    (["DELETE FROM loop_events WHERE event_id = %(planned: loop_retry_planned)s"], {"run-retry": ["planned"]}),
    ([RUN + "retry_at = completed_at, loop_status = 'paused'" + OF_FAILED], {"run-retry": ["failed"]}),
    ([RUN + "cancel_requested_by = NULL WHERE id = %(cancelled)s"], {"run-cancelled": ["cancelled"]}),
    # steps
    ([STEP + "completed_at = NULL, duration_ms = NULL" + OF_STEP], {"step-end": ["step"]}),
    ([STEP + "completed_at = now() WHERE id = %(open step)s"], {"step-end": ["open step"]}),
    ([STEP + "started_at = NULL, duration_ms = NULL" + OF_STEP], {"step-start": ["step"]}),
    (
        [STEP + "started_at = completed_at, duration_ms = 0 WHERE id = %(skipped step)s"],
        {"step-start": ["skipped step"]},
    ),
    ([STEP + "duration_ms = duration_ms + 1" + OF_STEP], {"step-times": ["step"]}),
    ([STEP + "created_at = completed_at + interval '1 ms'" + OF_STEP], {"step-times": ["step"]}),
    ([STEP + "started_at = completed_at + interval '1 ms', duration_ms = 0" + OF_STEP], {"step-times": ["step"]}),
    (
        [STEP + "status = 'pending', started_at = NULL, completed_at = NULL, duration_ms = NULL"
         " WHERE id = %(stored step)s"],
        {"step-open": ["stored step"]},
    ),
    (
        [COPY_OF_STEP.format(number="step_number", status="status", of="%(stored step)s")],
        {"step-once": ["stored step", "new"]},
    ),
    (
        [COPY_OF_STEP.format(number="3", status="'failed'", of="%(step)s")],
        {"step-once": ["step", "new"], "step-of-run": ["done"], "step-type": ["new"]},
    ),
    (
        [STEP + "step_type = 'T1' WHERE id = %(skipped step)s",
         EVENT + """event_data = event_data || '{"stepType": "T1"}' WHERE event_id = %(done: loop_step_skipped)s"""],
        {"step-type": ["skipped step"]},
    ),
    ([RUN + "step = 1" + OF_DONE], {"step-of-run": ["done"]}),
    ([RUN + "step = NULL" + OF_DONE], {"step-of-run": ["done"]}),
    (
        ["DELETE FROM loop_run_steps WHERE id = %(step)s",
         "DELETE FROM loop_events WHERE event_id = %(done: loop_step_completed)s"],
        {"step-of-run": ["done"]},
    ),
    (
        [STEP + "status = 'completed' WHERE run_id = %(failed)s"],
        {"step-of-run": ["failed"], "step-event": ["failed"]},
    ),
    ([STEP + "heartbeat_seconds = 5" + OF_STEP], {"step-elsewhere": ["step"]}),
    # events
    (["DELETE FROM loop_events WHERE event_id = %(done: loop_run_started)s"], {"run-start-event": ["done"]}),
    ([TOLD + "'AFU9-2', %(live)s, 'loop_run_started', '{}')"], {"run-start-event": ["live"]}),
    (["DELETE FROM loop_events WHERE event_id = %(blocked: loop_run_blocked)s"], {"run-end-event": ["blocked"]}),
    (
        [EVENT + "event_type = 'loop_run_cancelled' WHERE event_id = %(blocked: loop_run_blocked)s"],
        {"run-end-event": ["blocked"]},
    ),
    ([TOLD + "'AFU9-1', %(failed)s, 'loop_run_failed', '{}')"], {"run-end-event": ["failed"]}),
    ([TOLD + "'AFU9-2', %(live)s, 'loop_run_finished', '{}')"], {"run-end-event": ["live"]}),
    (["DELETE FROM loop_events WHERE event_id = %(stored: loop_run_finished)s"], {"run-end-event": ["stored"]}),
    (["DELETE FROM loop_events WHERE event_id = %(done: loop_step_skipped)s"], {"step-event": ["done"]}),
    (
        [EVENT + """event_data = event_data || '{"stepNumber": 7}' WHERE event_id = %(moved: loop_step_completed)s"""],
        {"step-event": ["moved"]},
    ),
    (
        [EVENT + "event_id = 99999, occurred_at = now() WHERE event_id = %(failed: loop_run_started)s"],
        {"event-order": ["failed: loop_run_failed"]},
    ),
    (
        [EVENT + "event_id = -1, occurred_at = '-infinity' WHERE event_id = %(done: loop_step_skipped)s"],
        {"event-order": ["-1"]},
    ),
    (
        [EVENT + "event_id = 99999, occurred_at = now() WHERE event_id = %(moved: loop_step_completed)s"],
        {"event-order": ["99999"]},
    ),
    (
        [EVENT + "occurred_at = occurred_at + interval '1 h' WHERE event_id = %(done: loop_step_skipped)s"],
        {"event-time": ["done: loop_step_completed"]},
    ),
    (
        [EVENT + "issue_id = 'AFU9-3' WHERE event_id = %(AFU9-1: loop_facts_changed)s"],
        {"event-issue": ["AFU9-1: loop_facts_changed"]},
    ),
    (
        [EVENT + "issue_id = 'AFU9-2' WHERE event_id = %(done: loop_step_skipped)s"],
        {"event-issue": ["done: loop_step_skipped"]},
    ),
    # issues
    (
        [RUN + "state_before = 'PICKED', state_after = 'PICKED'" + OF_BLOCKED],
        {"state-found": ["blocked", "failed"]},
    ),
    (
        [RUN + "state_before = 'PICKED'" + " WHERE id = %(moved)s"],
        {"state-found": ["moved"]},
    ),
    ([RUN + "state_after = 'PICKED' WHERE id = %(done)s"], {"state-found": ["blocked"]}),
    (
        [RUN + "state_after = 'PICKED', issue_version = 4" + OF_FAILED,
         ISSUE + "state = 'PICKED', version = 4 WHERE id = 'AFU9-1'"],
        {"state-moved": ["failed"]},
    ),
    ([RUN + "issue_version = 1" + OF_BLOCKED], {"version-grown": ["blocked"]}),
    ([RUN + "issue_version = 1" + OF_DONE], {"version-grown": ["done"]}),
    ([RUN + "issue_version = 1 WHERE id = %(moved)s"], {"version-grown": ["moved"]}),
    ([ISSUE + "state = 'CLOSED' WHERE id = 'AFU9-1'"], {"issue-state": ["AFU9-1"]}),
    ([ISSUE + "version = 1 WHERE id = 'AFU9-2'"], {"issue-state": ["AFU9-2"]}),
    (
        [TOLD + """'AFU9-2', NULL, 'loop_state_set', '{"state": "CLOSED"}')"""],
        {"issue-state": ["AFU9-2"]},
    ),
    (
        [ISSUE + "failed_attempts = 0, failed_run_id = NULL WHERE id = 'AFU9-1'"],
        {"issue-failed-attempts": ["AFU9-1"]},
    ),
    ([ISSUE + "failed_attempts = 2 WHERE id = 'AFU9-1'"], {"issue-failed-attempts": ["AFU9-1"]}),
    ([ISSUE + "failed_attempts = 1 WHERE id = 'AFU9-2'"], {"issue-failed-attempts": ["AFU9-2"]}),
    (
        [ISSUE + "failed_attempts = 2, failed_run_id = %(lost)s WHERE id = 'AFU9-1'"],
        {"issue-failed-attempts": ["AFU9-1"]},
    ),
    (
        [ISSUE + "failed_attempts = 1, failed_run_id = %(failed)s WHERE id = 'AFU9-2'"],
        {"issue-failed-attempts": ["AFU9-2"]},
    ),
    (
        [ISSUE + "failed_attempts = 1, failed_run_id = %(moved)s WHERE id = 'AFU9-2'"],
        {"issue-failed-attempts": ["AFU9-2"]},
    ),
    ([ISSUE + "next_attempt_at = NULL WHERE id = 'AFU9-5'"], {"issue-plan": ["AFU9-5"]}),
    ([ISSUE + "next_attempt_at = now() WHERE id = 'AFU9-1'"], {"issue-plan": ["AFU9-1"]}),
    *(
        ([ISSUE + PLANS.format(run) + " WHERE id = 'AFU9-1'"], {"issue-plan": ["AFU9-1"]})
        for run in ("new", "moved", "blocked", "failed")
    ),
    (
        [ISSUE + PLANS.format("moved") + " WHERE id = 'AFU9-2'"],
        {"issue-plan": ["AFU9-2"]},
    ),
    ([ISSUE + "idempotency_token = %(queued)s WHERE id = 'AFU9-5'"], {"issue-token": ["AFU9-5"]}),
    ([ISSUE + "idempotency_token = %(planned)s WHERE id = 'AFU9-5'"], {"issue-token": ["AFU9-5"]}),
    (
        [STEP + "timeout_at = now() WHERE id = %(step)s",
         ISSUE + "idempotency_token = %(done)s WHERE id = 'AFU9-1'"],
        {"issue-token": ["AFU9-1"]},
    ),
    ([ISSUE + """approval = approval || '{"version": 9}' WHERE id = 'AFU9-6'"""], {"issue-approval": ["AFU9-6"]}),
    (
        [EVENT + "event_data = '{}' WHERE event_id = %(AFU9-6: loop_approval_decided)s"],
        {"issue-approval": ["AFU9-6"]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "expected"), CASES, ids=[f"{n} {'+'.join(c[1])}" for n, c in enumerate(CASES)])
def test_what_breaks_a_rule_is_found_by_the_id_of_its_row(
    world: World, ids: dict[str, Any], statements: list[str], expected: dict[str, list[str]]
) -> None:
    found = found_after(world, ids, *statements)
    assert found == {rule: [str(ids.get(name, name)) for name in names] for rule, names in expected.items()}


def test_every_rule_is_broken_by_a_case_and_says_what_it_is(world: World) -> None:
    findings = audit(world.url)
    assert {finding["rule"] for finding in findings} == {rule for _, expected in CASES for rule in expected}
    assert len({finding["meaning"] for finding in findings}) == len(findings)


TOLERATED = {
    "a run that is gone, its events kept": ["DELETE FROM loop_runs WHERE id = %(done)s"],
    "runs that are gone with their steps and events": [
        "DELETE FROM loop_runs WHERE issue_id = 'AFU9-1' AND id <> %(failed)s",
        "DELETE FROM loop_run_steps WHERE NOT EXISTS (SELECT FROM loop_runs AS r WHERE r.id = run_id)",
        "DELETE FROM loop_events WHERE issue_id = 'AFU9-1' AND run_id IS DISTINCT FROM %(failed)s",
    ],
    "a state that a person set": [
        TOLD + """'AFU9-2', NULL, 'loop_state_set', '{"state": "CLOSED"}')""",
        ISSUE + "state = 'CLOSED' WHERE id = 'AFU9-2'",
    ],
    "a hold that says nothing of states": [
        TOLD + "'AFU9-2', NULL, 'loop_issue_held', '{}')",
        ISSUE + "state = 'HOLD' WHERE id = 'AFU9-2'",
    ],
}


@pytest.mark.parametrize("statements", TOLERATED.values(), ids=TOLERATED)
def test_what_the_ledger_cannot_tell_breaks_no_rule(world: World, ids: dict[str, Any], statements: list[str]) -> None:
    assert found_after(world, ids, *statements) == {}


def test_ledger_with_runs_of_every_kind_is_sound(world: World, ids: dict[str, Any]) -> None:
    assert_sound(world.url)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_code_writes_is_sound(database_url: str, sql: Sql, database: Database, seed: int) -> None:
    world, chance, claims = World(database_url, sql, database), random.Random(seed), list[Claim]()
    registered = ["AFU9-1", "AFU9-2"]
    for issue_id in registered:
        world.register(issue_id)

    def act() -> None:
        issue_id = chance.choice(registered)
        facts: Json = {"a": chance.randrange(3)}
        match chance.choice(["run", "run", "claim", "finish", "lose", "patch", "dry run", "store"]):
            case "run":
                state = chance.choice([None, "CREATED", "PICKED", "SPEC_READY"])
                done, told = replace(DONE, state_after=state), replace(DONE, state_after=state, facts=facts)
                world.run(issue_id, chance.choice([done, told, replace(BLOCKED, facts=facts), BLOCKED, FAILED, FAILED]))
            case "claim":
                claims.append(world.claim(issue_id))
            case "finish" if claims:  # by then it may have been lost
                world.ledger.finish(chance.choice(claims), chance.choice([DONE, FAILED, BLOCKED]))
            case "lose":
                for each in (*registered, "AFU9-3"):
                    world.lose(each)
            case "patch":
                world.issues.patch_facts(issue_id, facts, actor="ann")
            case "dry run":
                world.run(issue_id, chance.choice([WOULD_RUN, BLOCKED]), RunMode.DRY_RUN)
            case "store":
                mode = chance.choice([*RunMode, RunMode.EXECUTE])
                run = world.create(chance.choice([*registered, "AFU9-3"]), mode)
                world.add_step(run.id, 1, *chance.choice([[], [S.FAILED], [S.RUNNING], [S.RUNNING, S.COMPLETED]]))
                end = chance.choice([R.COMPLETED, R.FAILED, R.BLOCKED, R.CANCELLED])
                for status in chance.choice([[], [R.RUNNING], [R.FAILED], [R.RUNNING, end], [R.RUNNING, end]]):
                    world.store.update_run_status(run.id, status)

    for _ in range(250):
        with suppress(LoopConflictError):
            act()
    runs = sql("SELECT status, attempt, error_code FROM loop_runs")
    assert {run["status"] for run in runs} >= {R.COMPLETED, R.FAILED, R.BLOCKED, R.CANCELLED}
    assert any(run["error_code"] == "LEASE_EXPIRED" for run in runs)
    assert max(run["attempt"] for run in runs) > 2
    assert_sound(database_url)


def test_many_violations_are_counted_and_the_first_are_named(world: World, ids: dict[str, Any]) -> None:
    with world.sql.connection.transaction(force_rollback=True):
        world.sql(WITHOUT_GUARDS)
        world.sql(
            "INSERT INTO loop_events (event_id, issue_id, event_type) SELECT n, 'gone', 'loop_facts_changed'"
            " FROM generate_series(100001, 100025) AS n"
        )
        for limit, named in (("", 20), ("3", 3), ("100", 25)):
            found = world.sql.one(f"SELECT * FROM loop_audit({limit}) WHERE rule = 'event-issue'")
            assert (found["violations"], found["ids"]) == (25, [str(100001 + n) for n in range(named)])


class TestMigrateFunction:
    @pytest.fixture(autouse=True)
    def environment(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", database_url)
        monkeypatch.setenv("MIGRATIONS_DIR", str(MIGRATIONS))

    def invoke(self) -> dict[str, Any]:
        event = json.loads((ROOT / "events" / "migrate-audit.json").read_text())
        answer = migrate.handler(event, Context())  # type: ignore[arg-type]
        assert json.loads(json.dumps(answer)) == answer
        assert (answer["schemaVersion"], answer["action"]) == ("loop.migrate.v1", "audit")
        return answer

    def test_audit_answers_every_rule_and_whether_all_hold(self, sql: Sql) -> None:
        answer = self.invoke()
        assert answer["ok"] is True
        assert {tuple(rule) for rule in answer["rules"]} == {("rule", "table", "meaning", "violations", "ids")}
        assert {(rule["violations"], len(rule["ids"])) for rule in answer["rules"]} == {(0, 0)}
        sql("INSERT INTO loop_events (issue_id, event_type) VALUES ('gone', 'loop_facts_changed')")
        answer = self.invoke()
        (broken,) = (rule for rule in answer["rules"] if rule["violations"])
        assert answer["ok"] is False
        assert (broken["rule"], broken["table"], broken["violations"]) == ("event-issue", "loop_events", 1)
        assert broken["ids"] == [str(sql.one("SELECT event_id FROM loop_events")["event_id"])]

    def test_audit_of_a_schema_without_it_says_what_to_apply(self, sql: Sql) -> None:
        sql("DROP FUNCTION loop_audit")
        with pytest.raises(UnavailableError, match=r'invoke .* with \{"action":"apply"\}'):
            self.invoke()
