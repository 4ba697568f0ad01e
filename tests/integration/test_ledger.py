"""The ledger's SQL functions: who may claim an issue, what a finish writes, and that nobody else's writes count."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from threading import Barrier
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from loop_runner.claims import Claim, ClaimRequest, Recorded
from loop_runner.database import Database
from loop_runner.errors import IssueNotFoundError, LoopConflictError, PreconditionFailedError
from loop_runner.issues import Issues
from loop_runner.ledger import Ledger
from loop_runner.loops import load_loop
from loop_runner.models import LoopStatus, NextStep, RunMode, RunStatus, StepStatus
from loop_runner.outcomes import Outcome, StepRecord
from tests.conftest import LOOPS
from tools.durations import milliseconds

if TYPE_CHECKING:
    from psycopg.rows import DictRow

    from loop_runner.models import Json
    from tests.conftest import Sql

pytestmark = pytest.mark.usefixtures("sound")

ISSUE = "AFU9-123"
DONE = Outcome(
    RunStatus.COMPLETED,
    LoopStatus.ACTIVE,
    "S2 completed",
    loop_version="0123456789abcdef",
    step=2,
    state_after="SPEC_READY",
    facts={"draft": {"status": "valid"}},
    next_step=NextStep(step_number=3, step_type="S3"),
    steps=(StepRecord(1, "S1", StepStatus.SKIPPED), StepRecord(2, "S2", StepStatus.COMPLETED)),
)
FAILED = Outcome(RunStatus.FAILED, LoopStatus.FAILED, "S1 failed", error_code="Busy", error_message="later")
BLOCKED = Outcome(RunStatus.BLOCKED, LoopStatus.PAUSED, "no draft", step=2, blocker_code="NO_DRAFT")


class World:
    """The code under test on one database, and a look at its rows."""

    def __init__(self, database: Database, sql: Sql) -> None:
        self.ledger, self.issues, self.sql = Ledger(database), Issues(database), sql

    def register(self, issue_id: str = ISSUE, **facts: Any) -> None:
        loop = load_loop(LOOPS / "issue-delivery.toml")
        self.issues.register(issue_id, loop, facts, actor="ann")

    def claim(self, actor: str = "ann", mode: RunMode = RunMode.EXECUTE, **fields: Any) -> Claim:
        claimed = self.ledger.claim(asks(actor, mode, **fields))
        assert isinstance(claimed, Claim)
        return claimed

    def lose_lease(self) -> None:
        self.sql("UPDATE loop_runs SET lease_expires_at = now() - interval '1 s' WHERE status = 'running'")

    def rows(self) -> dict[str, list[DictRow]]:
        """The full contents of every table."""
        tables = ("loop_issues", "loop_runs", "loop_run_steps", "loop_events")
        return {table: self.sql(f"SELECT * FROM {table} ORDER BY 1") for table in tables}


def asks(actor: str = "ann", mode: RunMode = RunMode.EXECUTE, **fields: Any) -> ClaimRequest:
    request = ClaimRequest(issue_id=ISSUE, actor=actor, request_id=uuid4(), mode=mode, lease_ms=60_000)
    return replace(request, **fields)


@pytest.fixture
def world(database: Database, sql: Sql) -> World:
    return World(database, sql)


@pytest.fixture
def registered(world: World) -> World:
    world.register(githubUrl="https://example.org/1")
    return world


class TestClaim:
    def test_unknown_issue_is_not_found_and_leaves_no_row(self, world: World) -> None:
        for mode in RunMode:
            with pytest.raises(IssueNotFoundError, match=f"PUT /api/loop/issues/{ISSUE}"):
                world.claim(mode=mode, if_match=frozenset({1}))
        assert not any(world.rows().values())

    def test_claim_starts_a_run_under_a_lease(self, registered: World) -> None:
        before = registered.issues.get(ISSUE).issue
        claim = registered.claim(principal="arn:p", lambda_request_id="l", log_stream="s")
        run = registered.issues.get(ISSUE).run
        assert run is not None
        assert (run.id, run.actor, run.principal, run.attempt) == (claim.run_id, "ann", "arn:p", claim.attempt)
        assert (run.status, run.state_before, run.loop_name) == (RunStatus.RUNNING, "CREATED", "issue-delivery")
        assert (run.lambda_request_id, run.log_stream, run.request_id) == ("l", "s", str(claim.request.request_id))
        assert run.created_at == run.started_at == claim.now
        assert run.lease_expires_at is not None
        assert (run.lease_expires_at - claim.now).total_seconds() == 60
        assert claim.issue == before == registered.issues.get(ISSUE).issue

    def test_second_caller_gets_conflict_with_holder(self, registered: World) -> None:
        claim = registered.claim()
        before = registered.rows()
        with pytest.raises(LoopConflictError, match=f"run {claim.run_id} of ann") as conflict:
            registered.claim("ben", if_match=frozenset({99}))
        lease = registered.rows()["loop_runs"][0]["lease_expires_at"]
        instant = str(conflict.value.details["leaseExpiresAt"])
        assert conflict.value.details == {"runId": str(claim.run_id), "actor": "ann", "leaseExpiresAt": instant}
        assert datetime.fromisoformat(instant) == lease
        assert conflict.value.headers == {"retry-after": "5"}
        assert registered.rows() == before

    def test_stale_version_is_refused_and_changes_nothing(self, registered: World) -> None:
        registered.claim()
        registered.lose_lease()
        before = registered.rows()
        for mode in RunMode:
            with pytest.raises(PreconditionFailedError) as stale:
                registered.claim(mode=mode, if_match=frozenset({2, 3}))
            assert stale.value.details == {"version": 1}
        assert registered.rows() == before
        assert registered.claim(if_match=frozenset({7, 1})).attempt == 2

    def test_same_claim_repeated_finds_its_own_run(self, registered: World, database: Database) -> None:
        request = {"runId": str(uuid4()), "issueId": ISSUE, "actor": "ann", "requestId": "r", "mode": "execute"}
        request |= {"leaseToken": str(uuid4()), "leaseMs": "60000", "ifMatch": [1]}  # type: ignore[dict-item]
        first = database.call("loop_claim", request)
        before = registered.rows()
        again = database.call("loop_claim", request)
        assert (again["outcome"], again["run"], again["issue"]) == ("claimed", first["run"], first["issue"])
        assert registered.rows() == before

    def test_one_of_simultaneous_claims_wins(self, world: World, database_url: str) -> None:
        issues = [f"AFU9-{number}" for number in range(20)]
        for issue_id in issues:
            world.register(issue_id)
        barrier = Barrier(4)

        def compete(actor: str) -> list[str]:
            """The holder of each issue, as this caller learns it."""
            with closing(Database(database_url)) as database:
                ledger, holders = Ledger(database), []
                for issue_id in issues:
                    barrier.wait(30)
                    try:
                        claimed = ledger.claim(asks(actor, issue_id=issue_id))
                        assert isinstance(claimed, Claim)
                        holders.append(str(claimed.run_id))
                    except LoopConflictError as conflict:
                        holders.append(str(conflict.details["runId"]))
            return holders

        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(compete, ["ann", "ben", "cyd", "dan"]))
        runs = sorted((int(run["issue_id"][5:]), str(run["id"])) for run in world.rows()["loop_runs"])
        assert seen == [[run_id for _, run_id in runs]] * 4


class TestTakeover:
    def test_expired_lease_is_taken_over_and_the_lost_run_ended(self, registered: World) -> None:
        lost = registered.claim()
        registered.sql("INSERT INTO loop_run_steps (run_id, step_number, step_type) VALUES (%s, 1, 'S1')", lost.run_id)
        registered.lose_lease()
        successor = registered.claim("ben")
        old, new = registered.sql("SELECT * FROM loop_runs ORDER BY created_at, id")
        assert (old["id"], old["status"], old["error_code"]) == (lost.run_id, "failed", "LEASE_EXPIRED")
        assert (old["completed_at"], old["state_after"]) == (successor.now, "CREATED")
        assert (new["id"], new["status"], new["actor"]) == (successor.run_id, "running", "ben")
        assert (new["attempt"], new["retry_of"], successor.attempt) == (2, lost.run_id, 2)
        (step,) = registered.rows()["loop_run_steps"]
        assert (step["status"], step["completed_at"]) == ("failed", successor.now)
        *_, ended, started = registered.sql("SELECT * FROM loop_events ORDER BY event_id")
        assert (ended["event_type"], ended["run_id"]) == ("loop_run_failed", lost.run_id)
        assert ended["event_data"] == {"errorCode": "LEASE_EXPIRED", "endedBy": successor.request.actor}
        assert (started["event_type"], started["run_id"]) == ("loop_run_started", successor.run_id)

    def test_attempts_count_on_while_the_visit_fails_and_anew_after_it(self, registered: World) -> None:
        attempts = []
        for outcome in (FAILED, FAILED, DONE, FAILED, BLOCKED, FAILED):
            claim = registered.claim()
            attempts.append(claim.attempt)
            registered.ledger.finish(claim, outcome)
        assert attempts == [1, 2, 3, 1, 2, 2], "a blocked run has executed nothing"

    @pytest.mark.parametrize("outcome", [DONE, FAILED, BLOCKED], ids=lambda outcome: outcome.status)
    def test_stale_holders_finish_changes_no_row(self, registered: World, outcome: Outcome) -> None:
        lost = registered.claim()
        registered.lose_lease()
        claim = registered.claim("ben")
        before = registered.rows()
        stale = registered.ledger.finish(lost, outcome)
        forged = registered.ledger.finish(replace(claim, lease_token=lost.lease_token), outcome)
        assert registered.rows() == before
        assert (stale.by_this_call, stale.run.id, stale.run.error_code) == (False, lost.run_id, "LEASE_EXPIRED")
        assert (forged.by_this_call, forged.run.id, forged.run.status) == (False, claim.run_id, RunStatus.RUNNING)


class TestFinish:
    def test_finish_writes_run_steps_issue_and_events(self, registered: World) -> None:
        claim = registered.claim()
        recorded = registered.ledger.finish(claim, DONE)
        run = recorded.run
        expected = {name: getattr(DONE, name) for name in ("status", "loop_status", "message", "step", "state_after")}
        expected |= {"loop_version": DONE.loop_version, "next_step": DONE.next_step, "issue_version": 2}
        assert {name: getattr(run, name) for name in expected} == expected
        assert run.completed_at is not None
        assert run.duration_ms == milliseconds(claim.now, run.completed_at)
        assert [StepRecord(s.step_number, s.step_type, s.status) for s in recorded.steps] == list(DONE.steps)
        assert [s.completed_at for s in recorded.steps] == [run.completed_at] * 2
        assert [(s.started_at, s.duration_ms) for s in recorded.steps] == [(None, None), (claim.now, run.duration_ms)]
        issue = registered.issues.get(ISSUE).issue
        assert (issue.state, issue.version, issue.updated_at) == ("SPEC_READY", 2, run.completed_at)
        assert issue.facts == {"githubUrl": "https://example.org/1", "draft": {"status": "valid"}}

    def test_events_are_in_the_order_of_what_happened(self, registered: World) -> None:
        registered.issues.patch_facts(ISSUE, {"a": 1}, actor="ann")
        for outcome in (DONE, FAILED, BLOCKED):
            registered.ledger.finish(registered.claim(), outcome)
        events = registered.sql("SELECT * FROM loop_events ORDER BY event_id")
        assert [event["event_type"].removeprefix("loop_") for event in events] == [
            *("issue_registered", "facts_changed"),
            *("run_started", "step_skipped", "step_completed", "facts_changed", "run_finished"),
            *("run_started", "run_failed", "run_started", "run_blocked"),
        ]
        times = [event["occurred_at"] for event in events]
        assert times == sorted(times)

    def test_finish_repeated_by_its_holder_returns_the_same_record(self, registered: World) -> None:
        claim = registered.claim()
        first = registered.ledger.finish(claim, DONE)
        before = registered.rows()
        assert registered.ledger.finish(claim, DONE) == replace(first, by_this_call=False)
        assert registered.ledger.finish(claim, FAILED) == replace(first, by_this_call=False)
        assert registered.rows() == before

    @pytest.mark.parametrize(
        "broken",
        [
            {"steps": (*DONE.steps, StepRecord(0, "S0", StepStatus.COMPLETED))},
            {"steps": (*DONE.steps, *DONE.steps)},
            {"steps": (StepRecord(1, "S1", StepStatus.RUNNING),)},
            {"step": 0},
        ],
        ids=["step 0", "step twice", "step still open", "run of step 0"],
    )
    def test_finish_that_fails_in_the_middle_leaves_nothing(self, registered: World, broken: dict[str, Any]) -> None:
        claim = registered.claim()
        before = registered.rows()
        with pytest.raises((psycopg.IntegrityError, psycopg.errors.CardinalityViolation)):
            registered.ledger.finish(claim, replace(DONE, **broken))
        assert registered.rows() == before
        assert registered.ledger.finish(claim, DONE).by_this_call

    @pytest.mark.parametrize(
        ("state", "facts", "grows"),
        [
            ("PICKED", None, True),
            (None, {"pr": {"url": "u"}}, True),
            ("PICKED", {"githubUrl": None}, True),
            (None, None, False),
            ("CREATED", {"absent": None, "githubUrl": "https://example.org/1"}, False),
        ],
    )
    def test_version_grows_when_state_or_facts_change_and_only_then(
        self, registered: World, state: str | None, facts: Json | None, grows: bool
    ) -> None:
        before = registered.issues.get(ISSUE).issue
        outcome = replace(DONE, step=None, steps=(), state_after=state, facts=facts)
        run = registered.ledger.finish(registered.claim(), outcome).run
        issue = registered.issues.get(ISSUE).issue
        assert (issue != before, issue.version, run.issue_version) == (grows, 1 + grows, 1 + grows)

    def test_failed_run_leaves_the_issue_as_it_was_whatever_it_says_of_it(self, registered: World) -> None:
        before = registered.issues.get(ISSUE).issue
        claim = registered.claim()
        run = registered.ledger.finish(claim, replace(FAILED, state_after="PICKED", facts={"a": 1})).run
        assert registered.issues.get(ISSUE).issue == before
        assert (run.state_after, run.issue_version) == (before.state, before.version)


@pytest.mark.parametrize("owner", [None, "live", "lost"])
def test_dry_run_writes_its_row_and_nothing_else(registered: World, owner: str | None) -> None:
    if owner:
        registered.claim("ben")
    if owner == "lost":
        registered.lose_lease()
    before = registered.rows()
    claim = registered.claim(mode=RunMode.DRY_RUN)
    assert registered.rows() == before
    outcome = replace(DONE, state_after=None, facts=None, steps=())
    first, again = (registered.ledger.finish(claim, outcome) for _ in range(2))
    assert (first.by_this_call, first.run.mode, first.run.started_at) == (True, RunMode.DRY_RUN, claim.now)
    assert again == Recorded(first.run, (), by_this_call=False)
    after = registered.rows()
    assert [row for row in after["loop_runs"] if row["id"] != claim.run_id] == before["loop_runs"]
    assert after | {"loop_runs": []} == before | {"loop_runs": []}


MERGES = [  # RFC 7396, appendix A
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]


def merged(sql: Sql, target: Any, patch: Any) -> str:
    row = sql.one("SELECT loop_merge_patch(%s, %s) AS result", Jsonb(target), Jsonb(patch))
    return json.dumps(row["result"], sort_keys=True)


@pytest.mark.parametrize(("target", "patch", "result"), MERGES)
def test_merge_patch_follows_the_rfcs_examples(sql: Sql, target: str, patch: str, result: str) -> None:
    assert merged(sql, json.loads(target), json.loads(patch)) == json.dumps(json.loads(result), sort_keys=True)


def model_of_merge(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = model_of_merge(result.get(key), value)
    return result


keys = st.sampled_from(["a", "b", "", "ü\U0001f600", "a.b"])
scalars = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=12
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=documents, patch=documents)
def test_merge_patch_does_what_the_rfcs_model_does(sql: Sql, target: Any, patch: Any) -> None:
    assert merged(sql, target, patch) == json.dumps(model_of_merge(target, patch), sort_keys=True)
