"""Random interleavings of all that happens to issues and runs: the code answers, and leaves rows, as the ideal has it.

Claims are held, finished late, twice or never; leases end, sweepers and other callers take over; days pass. The audit
looks through the ledger after every step.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from loop_runner.claims import Claim, ClaimRequest, ToResolve
from loop_runner.errors import IllegalTransitionError, LoopConflictError, LoopError, StepExistsError
from loop_runner.executors import EXECUTORS
from loop_runner.executors.protocol import Completed, Failed
from loop_runner.identity import Identity
from loop_runner.models import LoopStatus, RunMode, RunStatus, StepStatus
from loop_runner.observability import logger
from loop_runner.outcomes import Outcome as RecordedOutcome
from loop_runner.outcomes import StepRecord
from loop_runner.preconditions import request_hash
from loop_runner.services import Services
from tests.aging import let_days_pass
from tests.conftest import LOOPS as LOOPS_FOLDER
from tests.conftest import ROOT, Client, Context
from tests.model.ideal import LOOPS, SWEEPER, Asked, Ideal, Outcome, Refused, Run, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loop_runner.executors.protocol import StepCall
    from loop_runner.settings import Settings
    from tests.conftest import Answer, Sql

OPEN_GATES: Final[dict[str, Any]] = {
    "githubUrl": "u",
    "pr": {"url": "u", "merged": True},
    "review": {"decision": "approved"},
    "checks": {"status": "success"},
    "deployment": {"observedAt": datetime.now(UTC).isoformat()},
    "verdict": "GREEN",
    "go": 1,
}
"""What every gate asks for but those of the draft."""


class Asks(NamedTuple):
    """What a call asks for; which versions If-Match names is told in words."""

    issue_id: str
    actor: str
    mode: str
    key: str | None
    versions: str


issue_ids = st.sampled_from(["AFU9-1"] * 6 + ["AFU9-3"] + ["AFU9-2"] * 6)
"""The third one is unknown until it is registered."""
loops = st.sampled_from(list(LOOPS))
actors = st.sampled_from(["ann", "ann", "ben"])
keys = st.sampled_from([None, None, "one", "two"])
modes = st.sampled_from(["execute", "execute", "dryRun"])
versions = st.sampled_from(["any", "any", "any", "right", "right or another", "stale"])
asks = st.builds(Asks, issue_ids, actors, modes, keys, versions)
picks = st.integers(0, 20)
"""One of what there is, counted round."""
facts = st.sampled_from(
    [
        OPEN_GATES,
        {**OPEN_GATES, "draft": {"committed": True, "status": "valid"}},
        {"draft": {"committed": True, "status": "valid"}},
        {"draft": {"status": "rejected"}},
        {"draft": None, "checks": {"status": "pending"}},
        {"review": {"decision": "rejected"}, "deployment": {"observedAt": "1999-12-31T00:00:00Z"}},
        {"githubUrl": None, "go": None, "pr": None},
        {"fast": True},
        {"fast": None, "faster": True},
        {},
    ]
)


class ProcessLostError(BaseException):
    """What nothing catches, as nothing catches SIGKILL: the call ends here, and its claim stays."""


class Executor:
    """Does what the machine has planned for the next step, and tells whose step it was."""

    def __init__(self) -> None:
        self.plan: Callable[[StepCall], Completed | Failed] = lambda _call: Completed()
        self.error: AssertionError | None = None

    def __call__(self, call: StepCall, /) -> Completed | Failed:
        try:
            return self.plan(call)
        except AssertionError as error:  # the code would make a failed run of it
            self.error = error
            raise


class TimelyClient(Client):
    """Each call is an invocation of its own, with the time of one; the ledger and the store have all the time."""

    def send(self, event: dict[str, Any]) -> Answer:
        self.context = Context()
        try:
            return super().send(event)
        finally:
            self.services.database.deadline = math.inf


class World:
    """The code on a real database, for one machine after the other."""

    def __init__(self, client: Client, other: Client, sql: Sql, executor: Executor) -> None:
        self.client, self.other, self.sql, self.executor = client, other, sql, executor
        self.steps, self.seen = 0, Counter[str]()

    def reset(self) -> None:
        with self.sql.connection.transaction():
            self.sql("SET LOCAL session_replication_role = replica")
            for table in ("loop_run_steps", "loop_events", "loop_runs", "loop_issues"):
                self.sql(f"DELETE FROM {table}")


class Interleavings(RuleBasedStateMachine):
    """Each rule makes one call of the code and of the ideal, and compares what they answer."""

    def __init__(self, world: World, loop: str) -> None:
        super().__init__()
        world.reset()
        self.loop = loop
        self.world, self.sql, self.ideal = world, world.sql, Ideal(world.seen)
        self.held: list[tuple[Claim, Run]] = []
        self.keyed: list[Asked] = []

    # ------------------------------------------------------------------------------------------------ rules

    @initialize(facts=st.sampled_from([OPEN_GATES, {}]))
    def begin(self, facts: dict[str, Any]) -> None:
        self.register("AFU9-1", self.loop, facts)
        self.register("AFU9-2", self.loop, {**OPEN_GATES, "draft": {"committed": True, "status": "valid"}})

    def register(self, issue_id: str, loop: str, facts: dict[str, Any]) -> None:
        answer = self.world.client("PUT", f"/api/loop/issues/{issue_id}", {"loop": loop, "facts": facts})
        assert answer.status == self.ideal.register(issue_id, loop, facts)
        if answer.status != 409:
            self.compare_issue(answer, issue_id)

    @rule(issue_id=issue_ids, patch=facts, version=versions)
    def patch(self, issue_id: str, patch: dict[str, Any], version: str) -> None:
        self.do_patch(self.world.client, issue_id, patch, version)

    def do_patch(self, client: Client, issue_id: str, patch: dict[str, Any], version: str) -> None:
        if_match = self.if_match(issue_id, version)
        headers = {} if if_match is None else {"if-match": etags(if_match)}
        refused = self.ideal.patch(issue_id, patch, if_match)
        answer = client("PATCH", f"/api/loop/issues/{issue_id}", patch, headers=headers)
        if refused is None:
            assert answer.status == 200
            self.compare_issue(answer, issue_id)
        else:
            compare_refusal(answer.status, details(answer), refused)

    @rule(
        asks=asks,
        step=st.sampled_from(["completes", "completes", "fails", "adds facts", "is lost"]),
        meanwhile=st.sampled_from(["nothing", "nothing", "a patch", "a second call", "a repetition", "a sweep"]),
        is_late=st.booleans(),
    )
    def run(self, asks: Asks, step: str, meanwhile: str, is_late: bool) -> None:
        self.do_run(self.world.client, self.asked(asks), step, meanwhile, is_late=is_late)

    @precondition(lambda self: self.free())
    @rule(pick=picks, key=keys)
    def run_on(self, pick: int, key: str | None) -> None:
        """An issue that nobody owns: without this rule most calls would be conflicts."""
        issues = self.free()
        self.do_run(self.world.client, Asked(issues[pick % len(issues)], "ann", key=key))

    @precondition(lambda self: self.keyed)
    @rule(pick=picks)
    def run_again(self, pick: int) -> None:
        self.do_run(self.world.client, self.again(pick))

    def free(self) -> list[str]:
        return [issue_id for issue_id in self.ideal.issues if not self.ideal.live_run(issue_id)]

    def asked(self, asks: Asks) -> Asked:
        return Asked(asks.issue_id, asks.actor, asks.mode, asks.key, self.if_match(asks.issue_id, asks.versions))

    def again(self, pick: int) -> Asked:
        """One of the last calls with a key."""
        return self.keyed[-1 - pick % min(3, len(self.keyed))]

    def do_run(
        self,
        client: Client,
        asked: Asked,
        step: str = "completes",
        meanwhile: str = "nothing",
        *,
        is_late: bool = False,
    ) -> None:
        """A call of the API, in whose step the ``meanwhile`` happens; a late one's lease is over then."""
        told = self.ideal.claim(asked)
        self.keyed += [asked] if asked.key else []
        headers = {"idempotency-key": asked.key} if asked.key else {}
        if asked.if_match is not None:
            headers["if-match"] = etags(asked.if_match)

        def call() -> Answer:
            return client.run(asked.issue, {"mode": asked.mode}, actor=asked.actor, headers=headers)

        if isinstance(told, Refused):
            answer = call()
            compare_refusal(answer.status, details(answer), told)
            return
        if not told.is_live:
            compare_run(call(), told, is_replay=True)
            return
        added: dict[str, Any] | None = {"by": {"step": told.order}} if step == "adds facts" else None
        outcome = self.ideal.outcome_of(told, error="Busy" if step == "fails" else None, facts=added)

        def execute(step_call: StepCall) -> Completed | Failed:
            told.id = str(step_call.run_id)
            assert outcome.step is not None
            assert (step_call.step.number, step_call.attempt) == (outcome.step.number, told.attempt)
            if is_late:
                self.expire(told)
            self.happen(meanwhile, told)
            if step == "is lost":
                raise ProcessLostError
            return Failed("Busy", "later") if step == "fails" else Completed(added or {})

        self.world.executor.plan = execute
        try:
            answer = call()
        except ProcessLostError:
            return
        finally:
            if error := self.world.executor.error:
                self.world.executor.error = None
                raise error
        assert answer.status == 200, answer.text
        told.id = answer.json["runId"]
        if asked.mode == "dryRun":
            assert self.ideal.record_dry_run(told, outcome) is told
        else:
            self.ideal.finish(told, outcome)
        compare_run(answer, told, is_replay=False)

    def happen(self, what: str, run: Run) -> None:
        """What others do while the run executes its step, on a connection of their own."""
        issue_id = run.asked.issue
        match what:
            case "a patch":
                self.do_patch(self.world.other, issue_id, {"during": run.order}, "right")
            case "a second call":
                self.do_run(self.world.other, Asked(issue_id, "ben"))
            case "a repetition":
                self.do_run(self.world.other, run.asked)
            case "a sweep":
                self.sweep(1)

    @rule(asks=asks, is_repeated=st.booleans())
    def claim(self, asks: Asks, is_repeated: bool) -> None:
        asked = self.asked(asks)
        self.do_claim(asked)
        if is_repeated:
            self.do_claim(asked)

    def do_claim(self, asked: Asked) -> None:
        """A claim of the ledger's, whose end is another rule's."""
        told = self.ideal.claim(asked)
        self.keyed += [asked] if asked.key else []
        content = request_hash(Identity(asked.actor), {"mode": asked.mode}, asked.if_match, is_async=False)
        request = ClaimRequest(
            issue_id=asked.issue,
            actor=asked.actor,
            request_id=uuid4(),
            mode=RunMode(asked.mode),
            lease_ms=60_000,
            if_match=asked.if_match,
            idempotency_key=asked.key,
            request_hash=content if asked.key else None,
        )
        try:
            claimed = self.world.client.services.ledger.claim(request)
        except LoopError as error:
            compare_refusal(error.status, error.details, told)
            return
        assert isinstance(told, Run)
        assert not isinstance(claimed, ToResolve)
        if isinstance(claimed, Claim):
            assert told.is_live
            told.id = str(claimed.run_id)
            issue = self.ideal.issues[asked.issue]
            assert (claimed.issue.state, claimed.issue.version) == (issue.state, issue.version)
            assert claimed.attempt == told.attempt
            self.held.append((claimed, told))
        else:
            assert (str(claimed.run.id), claimed.run.status, claimed.is_replay) == (told.id, told.status, True)

    @precondition(lambda self: self.held)
    @rule(
        pick=picks,
        status=st.sampled_from(["completed", "completed", "failed", "blocked"]),
        to=st.sampled_from(["on", "on", "to the end", "back to the beginning"]),
        added=st.sampled_from([None, None, {"note": 1}, {"note": 2}, {"go": None}]),
        is_forged=st.sampled_from([False, False, False, False, True]),
    )
    def finish(self, pick: int, status: str, to: str, added: dict[str, Any] | None, is_forged: bool) -> None:
        """By whoever holds a claim, though others may have ended the run."""
        claim, run = self.held[pick % len(self.held)]
        loop = LOOPS[self.ideal.issues[run.asked.issue].loop]
        step = loop.get(claim.issue.state)
        beginning, end = next(iter(loop)), list(loop.values())[-1].to
        outcome = Outcome(
            status,
            {"completed": "active", "blocked": "paused", "failed": "failed"}[status],
            step,
            blocker="WAITS" if status == "blocked" else None,
            error="Busy" if status == "failed" else None,
            state={"on": step.to, "to the end": end}.get(to, beginning) if status == "completed" and step else None,
            facts=added,
        )
        if run.asked.mode == "dryRun":
            self.finish_dry_run(claim, run, outcome._replace(state=None, facts=None))
            return
        if is_forged:
            claim = replace(claim, lease_token=uuid4())
        is_recorded = False if is_forged else self.ideal.finish(run, outcome)
        recorded = self.world.client.services.ledger.finish(claim, as_recorded(outcome))
        assert (str(recorded.run.id), recorded.run.status) == (run.id, run.status)
        assert recorded.by_this_call == is_recorded

    def finish_dry_run(self, claim: Claim, run: Run, outcome: Outcome) -> None:
        is_new = run.is_live
        told = self.ideal.record_dry_run(run, outcome)
        try:
            recorded = self.world.client.services.ledger.finish(claim, replace(as_recorded(outcome), steps=()))
        except LoopError as error:
            compare_refusal(error.status, error.details, told)
            return
        assert isinstance(told, Run)
        assert (str(recorded.run.id), recorded.run.status) == (told.id, told.status)
        assert recorded.by_this_call == (is_new and told is run)

    @precondition(lambda self: any(run.is_live for run in self.ideal.runs))
    @rule(pick=picks, then=st.sampled_from(["nothing", "a sweep", "a call", "the same call", "the store's"]))
    def end_lease(self, pick: int, then: str) -> None:
        live = [run for run in self.ideal.runs if run.is_live]
        run = live[pick % len(live)]
        self.expire(run)
        match then:
            case "a sweep":
                self.sweep(3)
            case "a call":
                self.do_run(self.world.client, Asked(run.asked.issue, "ben"))
            case "the same call" if run.is_of_call:
                self.do_run(self.world.client, run.asked)
            case "the store's":
                self.create_run(run.asked.issue, "ben")

    def expire(self, run: Run) -> None:
        self.sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp() - interval '1 s' WHERE id = %s", run.id)
        run.is_lost = True

    def sweep(self, max_runs: int) -> None:
        lost = {run.id: run for run in self.ideal.lost_runs()}
        ended = self.world.other.services.ledger.sweep(max_runs=max_runs, ended_by=SWEEPER)
        assert len(ended) == min(max_runs, len(lost))
        for run in ended:
            self.ideal.expire(lost[str(run.id)], SWEEPER)

    def hold_or_resume(self, issue_id: str, *, is_held: bool) -> None:
        """As the routes to come will: the hold changes with version and timeline, under the issue's lock."""
        self.ideal.hold(issue_id, is_held=is_held)
        hold = "jsonb_build_object('reason', 'wait', 'by', 'eve', 'since', clock_timestamp())" if is_held else "NULL"
        event = "loop_issue_held" if is_held else "loop_issue_resumed"
        self.sql(
            f"""WITH changed AS (
                UPDATE loop_issues SET hold = {hold}, version = version + 1, updated_at = clock_timestamp()
                WHERE id = %s
                RETURNING *
            )
            INSERT INTO loop_events (issue_id, event_type, event_data)
            SELECT id, '{event}', jsonb_build_object('actor', 'eve', 'version', version) FROM changed""",
            issue_id,
        )

    @rule(
        what=st.sampled_from(["create", "create", "move", "move", "add step"]),
        issue_id=issue_ids,
        actor=actors,
        pick=picks,
        status=st.sampled_from(RunStatus),
    )
    def use_store(self, what: str, issue_id: str, actor: str, pick: int, status: RunStatus) -> None:
        if what == "create" or not self.ideal.runs:
            self.create_run(issue_id, actor)
        elif what == "move":
            self.move_run(self.ideal.runs[-1 - pick % len(self.ideal.runs)], status)
        else:
            self.add_step(self.ideal.runs[-1 - pick % len(self.ideal.runs)], 1 + pick % 2)

    def create_run(self, issue_id: str, actor: str) -> None:
        told = self.ideal.create_run(Asked(issue_id, actor))
        try:
            run = self.world.client.services.runs.create_run(issue_id=issue_id, actor=actor, request_id="r")
        except LoopConflictError:
            assert isinstance(told, Refused)
        else:
            assert isinstance(told, Run)
            told.id = str(run.id)

    def move_run(self, run: Run, status: RunStatus) -> None:
        try:
            moved = self.world.client.services.runs.update_run_status(UUID(run.id), status)
        except IllegalTransitionError:
            assert not self.ideal.move_run(run, status)
        else:
            assert self.ideal.move_run(run, status)
            assert moved.status == status

    def add_step(self, run: Run, number: int) -> None:
        may_have_steps = run.is_live and not run.is_of_call
        try:
            self.world.client.services.runs.create_step(UUID(run.id), step_number=number, step_type=f"S{number}")
        except IllegalTransitionError:
            assert not may_have_steps
        except StepExistsError:
            assert number in run.steps
        else:
            assert may_have_steps
            assert run.steps.setdefault(number, (f"S{number}", "pending")) == (f"S{number}", "pending")

    @rule(
        what=st.sampled_from(
            ["a crash", "a sweep", "a hold", "no hold", "no hold", "two days", "two days and a purge", "a registration"]
        ),
        issue_id=issue_ids,
        loop=loops,
        facts=facts,
        pick=picks,
    )
    def happen_beside(self, what: str, issue_id: str, loop: str, facts: dict[str, Any], pick: int) -> None:
        """What is no call on a run."""
        match what:
            case "a crash" if self.held:  # whoever holds the claim is heard of no more
                del self.held[pick % len(self.held)]
            case "a sweep":
                self.sweep(1 + pick % 3)
            case "a hold" | "no hold" if issue_id in self.ideal.issues:
                if self.ideal.issues[issue_id].is_held != (what == "a hold"):
                    self.hold_or_resume(issue_id, is_held=what == "a hold")
            case "two days" | "two days and a purge":
                self.two_days_pass()
                if what != "two days":
                    self.purge(1 + pick % 6)
            case "a registration":
                self.register(issue_id, loop, facts)

    def two_days_pass(self) -> None:
        let_days_pass(self.sql, 2)
        self.ideal.let_days_pass()

    def purge(self, max_rows: int) -> None:
        purged = self.world.client.services.ledger.purge(older_than_days=1, max_runs=max_rows)
        assert purged == self.ideal.purge(max_rows)
        self.held = [(claim, run) for claim, run in self.held if run not in self.ideal.purged]

    @rule(issue_id=issue_ids, pick=picks)
    def look(self, issue_id: str, pick: int) -> None:
        answer = self.world.client("GET", f"/api/loop/issues/{issue_id}")
        if issue_id in self.ideal.issues:
            self.compare_issue(answer, issue_id)
        else:
            assert (answer.status, answer.error) == (404, "ISSUE_NOT_FOUND")
        runs = sorted(self.ideal.runs, key=lambda run: (run.day, run.order), reverse=True)
        mine = [run.id for run in runs if run.asked.issue == issue_id]
        if mine:
            listed = self.world.client("GET", f"/api/loop/issues/{issue_id}/runs", query={"limit": "100"})
            assert [run["runId"] for run in listed.json["items"]] == mine
        if known := [*runs, *self.ideal.purged]:
            run = known[pick % len(known)]
            answer = self.world.client("GET", f"/api/loop/runs/{run.id}")
            if run in self.ideal.purged:
                assert (answer.status, answer.error) == (404, "RUN_NOT_FOUND")
            else:
                assert (answer.json["status"], len(answer.json["steps"])) == (run.status, len(run.steps))

    # ------------------------------------------------------------------------------------------------ comparison

    def if_match(self, issue_id: str, version: str) -> frozenset[int] | None:
        issue = self.ideal.issues.get(issue_id)
        right = issue.version if issue else 1
        return {
            "any": None,
            "right": frozenset({right}),
            "right or another": frozenset({right, right + 7}),
            "stale": frozenset({right + 1}),
        }[version]

    def compare_issue(self, answer: Answer, issue_id: str) -> None:
        issue, found = self.ideal.issues[issue_id], answer.json
        resolution, live = resolve(issue), self.ideal.live_run(issue_id)
        assert (found["loop"], found["state"], found["facts"]) == (issue.loop, issue.state, issue.facts)
        assert answer.headers["etag"] == f'"{found["version"]}"' == f'"{issue.version}"'
        assert ("hold" in found) == issue.is_held
        assert found.get("liveRun", {}).get("runId") == (live and live.id)
        assert tuple(gate["blocker"] for gate in found["unmetGates"]) == resolution.blockers
        assert found.get("nextStep", {}).get("stepNumber") == (resolution.step and resolution.step.number)

    @invariant()
    def rows_are_as_the_ideal_has_them(self) -> None:
        self.world.steps += 1
        ideal = self.ideal
        issues = self.sql("""
            SELECT id, loop_name, state, facts, version, hold IS NOT NULL AS held, failed_attempts, failed_run_id::text
            FROM loop_issues""")
        assert {row["id"]: tuple(row.values())[1:] for row in issues} == {
            issue_id: (i.loop, i.state, i.facts, i.version, i.is_held, i.failed_attempts, id_of(i.failed_run))
            for issue_id, i in ideal.issues.items()
        }
        runs = self.sql("""
            SELECT id::text, issue_id, actor, mode, status, idempotency_key, attempt, retry_of::text, state_before,
                state_after, issue_version, blocker_code, error_code
            FROM loop_runs""")
        assert {row["id"]: tuple(row.values())[1:] for row in runs} == {
            run.id: (
                *(run.asked.issue, run.asked.actor, run.asked.mode, run.status, run.asked.key),
                *(run.attempt, id_of(run.retry_of), run.state_before, run.state_after, run.version),
                *(run.outcome and run.outcome.blocker, run.outcome and run.outcome.error),
            )
            for run in ideal.runs
        }
        steps = self.sql("SELECT run_id::text, step_number, step_type, status FROM loop_run_steps")
        assert {tuple(row.values()) for row in steps} == {
            (run.id, number, *step) for run in ideal.runs for number, step in run.steps.items()
        }
        events = self.sql("""
            SELECT issue_id, event_type, run_id::text, coalesce(event_data ->> 'endedBy', event_data ->> 'version')
            FROM loop_events ORDER BY event_id""")
        told: dict[str, list[tuple[str, str | None, str | None]]] = {}
        for row in events:
            issue_id, *event = row.values()
            told.setdefault(issue_id, []).append(tuple(event))
        assert told == {
            issue_id: [(event, id_of(run), detail) for event, run, detail in timeline]
            for issue_id, timeline in ideal.timelines.items()
            if timeline
        }

    @invariant()
    def ledger_is_sound(self) -> None:
        assert self.sql("SELECT rule, ids FROM loop_audit() WHERE violations > 0") == []


def id_of(run: Run | None) -> str | None:
    return None if run is None else run.id


def etags(versions: frozenset[int]) -> str:
    return ", ".join(f'"{version}"' for version in versions)


def details(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = answer.json["error"].get("details", {})
    return found


def compare_refusal(status: int, details: dict[str, Any], refused: object) -> None:
    """The status, and whom or what the details name."""
    assert isinstance(refused, Refused), (status, details)
    assert status == refused.status
    assert details.get("version") == refused.version
    if refused.run is not None:
        assert details["runId"] == refused.run.id
    if status == 409 and refused.run is not None:
        assert details["actor"] == refused.run.asked.actor
        assert ("startBy" if refused.run.status == "pending" else "leaseExpiresAt") in details


def compare_run(answer: Answer, run: Run, *, is_replay: bool) -> None:
    """The answer says what the run's record says."""
    assert answer.status == 200, answer.text
    found, outcome = answer.json, run.outcome
    assert outcome is not None
    assert (found["runId"], found["issueId"], found["loopStatus"]) == (run.id, run.asked.issue, outcome.loop_status)
    assert found.get("blocker", {}).get("code") == outcome.blocker
    assert found.get("error", {}).get("code") == outcome.error
    assert found.get("nextStep", {}).get("stepNumber") == outcome.next_step
    executed = [(number, *step) for number, step in run.steps.items() if step[1] != "skipped"]
    step = found.get("stepExecuted")
    assert ([(step["stepNumber"], step["stepType"], step["status"])] if step else []) == executed
    assert answer.headers["etag"] == f'"{run.version}"'
    assert answer.headers.get("idempotency-replayed") == ("true" if is_replay else None)


def as_recorded(outcome: Outcome) -> RecordedOutcome:
    """The outcome in the ledger's words."""
    steps = [StepRecord(outcome.step.number, outcome.step.type, StepStatus(outcome.status))] if outcome.step else []
    return RecordedOutcome(
        status=RunStatus(outcome.status),
        loop_status=LoopStatus(outcome.loop_status),
        message="as the test has it",
        step=outcome.step.number if outcome.step else None,
        state_after=outcome.state,
        facts=outcome.facts,
        blocker_code=outcome.blocker,
        error_code=outcome.error,
        steps=tuple(steps) if outcome.status != "blocked" else (),
    )


@pytest.fixture
def world(
    settings: Settings, sql: Sql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[World]:
    for loop in (LOOPS_FOLDER / "issue-delivery.toml", ROOT / "tests" / "model" / "small.toml"):
        shutil.copy(loop, tmp_path)
    settings = replace(settings, loops_dir=tmp_path)
    executor = Executor()
    monkeypatch.setitem(EXECUTORS, "transition", executor)
    ours, theirs = Services(settings), Services(settings)
    logger.setLevel("CRITICAL")
    sql("SET jit = off")  # compiling the audit takes longer than the audit of a small ledger
    with closing(ours.database), closing(theirs.database):
        yield World(TimelyClient(ours), TimelyClient(theirs), sql, executor)
    logger.setLevel("INFO")


@pytest.mark.parametrize(("loop", "chance"), [("issue-delivery", 4), ("small", 5)])
def test_interleavings_answer_and_leave_rows_as_the_ideal(
    world: World, count: Callable[[str, int], None], loop: str, chance: int
) -> None:
    bounded = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    machine = seed(chance)(lambda: Interleavings(world, loop))  # which has met everything
    try:
        run_state_machine_as_test(machine, settings=bounded)  # type: ignore[arg-type]
    finally:
        count("interleavings", world.steps)
