"""Owns the ideal: what a ledger of issues and runs is to do, in plain Python, without a database, leases or locks.

It knows the contract and two loops, and nothing of the code. Each method is one call: it changes the ideal and returns
what must be answered. A run's id is the ledger's to give: whoever makes the call tells it here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.unit.strategies import merge_patch

if TYPE_CHECKING:
    from collections import Counter

Facts = dict[str, Any]
Holds = Callable[[Facts], bool]

SWEEPER: Final = "run-sweeper"


class Gate(NamedTuple):
    """A condition, and what blocks while it does not hold."""

    blocker: str
    holds: Holds


class Step(NamedTuple):
    """The step that leaves a state."""

    number: int
    type: str
    to: str
    gates: tuple[Gate, ...] = ()
    is_skipped: Holds = lambda _facts: False


def _fact(path: str) -> Callable[[Facts], Any]:
    def read(facts: Any) -> Any:
        for key in path.split("."):
            facts = facts.get(key) if isinstance(facts, dict) else None
        return facts

    return read


def _present(path: str) -> Holds:
    return lambda facts: _fact(path)(facts) not in (None, "", {}, [])


def _equal(path: str, value: Any) -> Holds:
    return lambda facts: _fact(path)(facts) == value


def _fresh(path: str) -> Holds:
    """Of this session: a stale time is one of another century here."""
    return lambda facts: str(_fact(path)(facts)).startswith("20")


LOOPS: Final[dict[str, dict[str, Step]]] = {
    "issue-delivery": {
        "CREATED": Step(
            1, "S1_PICK_ISSUE", "PICKED", (Gate("NO_GITHUB_LINK", _present("githubUrl")),), _present("draft")
        ),
        "PICKED": Step(2, "S2_SPEC_READY", "SPEC_READY", (
            Gate("NO_DRAFT", _present("draft")),
            Gate("NO_COMMITTED_DRAFT", _equal("draft.committed", value=True)),
            Gate("DRAFT_INVALID", _equal("draft.status", "valid")),
        )),
        "SPEC_READY": Step(3, "S3_IMPLEMENT_PREP", "IMPLEMENTING_PREP"),
        "IMPLEMENTING_PREP": Step(4, "S4_REVIEW", "REVIEW_READY", (Gate("NO_PR_LINKED", _present("pr.url")),)),
        "REVIEW_READY": Step(5, "S5_MERGE", "DONE", (
            Gate("NO_REVIEW_APPROVAL", _present("review.decision")),
            Gate("CHANGES_REQUESTED", _equal("review.decision", "approved")),
            Gate("CHECKS_PENDING", _present("checks.status")),
            Gate("CHECKS_FAILED", _equal("checks.status", "success")),
        )),
        "DONE": Step(6, "S6_DEPLOYMENT_OBSERVE", "OBSERVED", (Gate("PR_NOT_MERGED", _equal("pr.merged", value=True)),)),
        "OBSERVED": Step(7, "S7_VERIFY_GATE", "VERIFIED", (
            Gate("NO_DEPLOYMENT_OBSERVATIONS", _present("deployment.observedAt")),
            Gate("STALE_EVIDENCE", _fresh("deployment.observedAt")),
            Gate("NO_GREEN_VERDICT", _equal("verdict", "GREEN")),
        )),
        "VERIFIED": Step(8, "S8_CLOSE", "CLOSED"),
    },
    "small": {
        "A": Step(1, "FIRST", "B", (Gate("NO_GO", _present("go")),)),
        "B": Step(2, "SECOND", "C", (), _equal("fast", value=True)),
        "C": Step(3, "THIRD", "D", (Gate("NO_GO", _present("go")),), _equal("fast", value=True)),
        "D": Step(4, "FOURTH", "E", (), _equal("faster", value=True)),
    },
}  # fmt: skip
"""By name; the first state is where issues begin, the one that no step leaves is where they end."""


@dataclass
class Issue:
    """A row of loop_issues."""

    loop: str
    state: str
    facts: Facts
    version: int = 1
    is_held: bool = False
    failed_attempts: int = 0
    failed_run: Run | None = None


class Outcome(NamedTuple):
    """How a run ends; None leaves state or facts as they are."""

    status: str
    loop_status: str
    step: Step | None = None
    blocker: str | None = None
    error: str | None = None
    state: str | None = None
    facts: Facts | None = None
    next_step: int | None = None
    skipped: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What a caller asks for; with a key, everything else is what the key stands for."""

    issue: str
    actor: str
    mode: str = "execute"
    key: str | None = None
    if_match: frozenset[int] | None = None


@dataclass(eq=False)
class Run:
    """A row of loop_runs. Days tell its age, ``order`` which of two was claimed first."""

    asked: Asked
    order: int
    day: int
    status: str = "running"
    is_of_call: bool = True
    is_lost: bool = False
    attempt: int = 1
    retry_of: Run | None = None
    state_before: str | None = None
    version_before: int | None = None
    state_after: str | None = None
    version: int | None = None
    ended_on: int | None = None
    outcome: Outcome | None = None
    steps: dict[int, tuple[str, str]] = field(default_factory=dict)
    id: str = ""

    @property
    def is_live(self) -> bool:
        return self.ended_on is None


class Refused(NamedTuple):
    """An HTTP error, and what it names."""

    status: int
    run: Run | None = None
    version: int | None = None


class Resolution(NamedTuple):
    """What the next run of an issue would do: blocked, execute a step, or find nothing left to run."""

    blockers: tuple[str, ...]
    step: Step | None
    skipped: tuple[Step, ...]
    state: str


def resolve(issue: Issue) -> Resolution:
    """The first step that is not skipped on the way from the issue's state, and which of its gates do not hold."""
    state, skipped = issue.state, list[Step]()
    while (step := LOOPS[issue.loop].get(state)) and step.is_skipped(issue.facts):
        skipped.append(step)
        state = step.to
    unmet = tuple(gate.blocker for gate in step.gates if not gate.holds(issue.facts)) if step else ()
    return Resolution(("ON_HOLD",) if issue.is_held else unmet, step, tuple(skipped), state)


def is_final(loop: str, state: str) -> bool:
    """Whether no step leaves the state."""
    return state not in LOOPS[loop]


class Ideal:
    """Issues, runs and timelines as they must be."""

    def __init__(self, seen: Counter[str]) -> None:
        """``seen`` counts what has happened, so that a test can tell that it has met everything."""
        self._seen = seen
        self.issues: dict[str, Issue] = {}
        self.runs: list[Run] = []
        self.purged: list[Run] = []
        self.timelines: dict[str, list[tuple[str, Run | None, str | None]]] = {}
        """Event type, run, and who ended it or which version it made, where it tells."""
        self.day = 0
        self._claims = 0

    # ------------------------------------------------------------------------------------------------ issues

    def register(self, issue_id: str, loop: str, facts: Facts) -> int:
        """The status of the answer."""
        if (issue := self.issues.get(issue_id)) is not None:
            return 200 if issue.loop == loop else 409
        self.issues[issue_id] = Issue(loop, next(iter(LOOPS[loop])), merge_patch({}, facts))
        self._tell(issue_id, "loop_issue_registered")
        return 201

    def patch(self, issue_id: str, patch: Facts, if_match: frozenset[int] | None) -> Refused | None:
        """Merge facts."""
        if (issue := self.issues.get(issue_id)) is None:
            return Refused(404)
        if if_match is not None and issue.version not in if_match:
            return Refused(412, version=issue.version)
        facts = merge_patch(issue.facts, patch)
        if facts != issue.facts:
            issue.facts = facts
            issue.version += 1
            self._tell(issue_id, "loop_facts_changed", detail=str(issue.version))
        return None

    def hold(self, issue_id: str, *, is_held: bool) -> None:
        """Stop an issue, or let it go on."""
        issue = self.issues[issue_id]
        issue.is_held = is_held
        issue.version += 1
        self._tell(issue_id, "loop_issue_held" if is_held else "loop_issue_resumed", detail=str(issue.version))

    # ------------------------------------------------------------------------------------------------ runs

    def claim(self, asked: Asked) -> Refused | Run:
        """A new live run, the one for which the key stands already, or a refusal; decided in this order."""
        if (issue := self.issues.get(asked.issue)) is None:
            return self._refuse("a call on an unknown issue", Refused(404))
        if (keyed := self._keyed(asked)) is not None:
            return self._replay(keyed, asked)
        live = self.live_run(asked.issue)
        if asked.mode == "execute" and live is not None and not live.is_lost:
            return self._refuse("a conflict", Refused(409, live))
        if asked.if_match is not None and issue.version not in asked.if_match:
            return self._refuse("a call on a stale version", Refused(412, version=issue.version))
        run = self._new_run(asked, state_before=issue.state, version_before=issue.version)
        if asked.mode == "execute":
            if live is not None:
                self._seen["a takeover"] += 1
                self.expire(live, asked.actor)
            run.attempt, run.retry_of = issue.failed_attempts + 1, issue.failed_run
            self.runs.append(run)
            self._tell(asked.issue, "loop_run_started", run)
        return run

    def finish(self, run: Run, outcome: Outcome) -> bool:
        """End the claimed run; False where it has ended already: then nothing changes."""
        if not run.is_live:
            self._seen["a stale holder"] += 1
            return False
        self._seen[f"a run {outcome.status}"] += 1
        issue = self.issues[run.asked.issue]
        for step in outcome.skipped:
            self._tell(run.asked.issue, "loop_step_skipped", run)
            run.steps[step.number] = (step.type, "skipped")
        if outcome.step is not None and outcome.status in {"completed", "failed"}:
            run.steps[outcome.step.number] = (outcome.step.type, outcome.status)
            if outcome.status == "completed":
                self._tell(run.asked.issue, "loop_step_completed", run)
        before = (issue.state, issue.facts)
        if outcome.status == "failed":
            issue.failed_attempts, issue.failed_run = run.attempt, run
        else:
            issue.state = outcome.state or issue.state
            issue.facts = merge_patch(issue.facts, outcome.facts or {})
        if (issue.state, issue.facts) != before:
            issue.version += 1
        if (issue.state, issue.facts) != before or outcome.status == "completed":
            issue.failed_attempts, issue.failed_run = 0, None
        if issue.facts != before[1]:
            self._tell(run.asked.issue, "loop_facts_changed", run, str(issue.version))
        self._end(run, outcome, state=issue.state, version=issue.version)
        return True

    def outcome_of(self, run: Run, *, error: str | None = None, facts: Facts | None = None) -> Outcome:
        """How the run ends when the system runs it, given what becomes of the step."""
        issue = self.issues[run.asked.issue]
        found = resolve(issue)
        next_step = found.step.number if found.step else None
        self._seen["a step skipped"] += bool(found.skipped)
        self._seen["a step on hold"] += issue.is_held
        if found.blockers:
            return Outcome("blocked", "paused", found.step, blocker=found.blockers[0], next_step=next_step)
        self._seen["a call on a finished issue"] += found.step is None
        if found.step is None:
            return Outcome("completed", "completed", state=found.state, skipped=found.skipped)
        if run.asked.mode == "dryRun":
            return Outcome("completed", "active", found.step, next_step=next_step)
        if error is not None:
            return Outcome("failed", "failed", found.step, error=error, next_step=next_step, skipped=found.skipped)
        to = found.step.to
        after = resolve(replace(issue, state=to, facts=merge_patch(issue.facts, facts or {})))
        return Outcome(
            "completed",
            "completed" if is_final(issue.loop, to) else "active",
            found.step,
            state=to,
            facts=facts,
            next_step=after.step.number if after.step else None,
            skipped=found.skipped,
        )

    def record_dry_run(self, run: Run, outcome: Outcome) -> Refused | Run:
        """The run in the ledger that answers the dry run: itself, or a faster one with its key."""
        if (keyed := self._keyed(run.asked)) is not None:
            self._seen["a dry run that another one was faster than"] += run is not keyed
            return keyed if keyed.asked == run.asked else Refused(422, keyed)
        if run.is_live:
            run.day = self.day
            self.runs.append(run)
            self._end(run, outcome, state=run.state_before, version=run.version_before)
        return run

    def expire(self, run: Run, ended_by: str) -> None:
        """End a run whose lease is over."""
        self._seen["a sweep"] += ended_by == SWEEPER
        issue = self.issues.get(run.asked.issue)
        run.steps = {number: (step_type, "failed") for number, (step_type, _) in run.steps.items()}
        outcome, version = Outcome("failed", "failed", error="LEASE_EXPIRED"), issue.version if issue else None
        self._end(run, outcome, state=run.state_before, version=version, ended_by=ended_by)
        if issue:
            issue.failed_attempts, issue.failed_run = run.attempt, run

    def live_run(self, issue_id: str) -> Run | None:
        """The run that owns the issue, even though its lease may be over."""
        mine = (run for run in self.runs if run.asked.issue == issue_id and run.asked.mode == "execute" and run.is_live)
        return next(mine, None)

    def lost_runs(self) -> list[Run]:
        """Live runs whose lease is over."""
        return [run for run in self.runs if run.is_live and run.is_lost and run.asked.mode == "execute"]

    # ------------------------------------------------------------------------------------------------ store

    def create_run(self, asked: Asked) -> Refused | Run:
        """A pending run of the store's."""
        live = self.live_run(asked.issue)
        if live is not None and not live.is_lost:
            return Refused(409)
        if live is not None:
            self._seen["a takeover by the store"] += 1
            self.expire(live, asked.actor)
        run = self._new_run(asked, status="pending", is_of_call=False)
        self.runs.append(run)
        self._tell(asked.issue, "loop_run_queued", run)
        return run

    def move_run(self, run: Run, status: str) -> bool:
        """Move a run of the store's on; False where the way is not open, or the run is a call's."""
        ways = {
            "pending": {"running", "failed", "cancelled"},
            "running": {"completed", "failed", "blocked", "cancelled"},
        }
        if run.is_of_call or status not in ways.get(run.status, ()):
            self._seen["a way that is not open"] += 1
            return False
        run.status = status
        if status == "running":
            run.is_lost = False  # each write renews the lease
            self._tell(run.asked.issue, "loop_run_started", run)
        else:
            run.steps = {number: (step_type, "cancelled") for number, (step_type, _) in run.steps.items()}
            self._end(run, Outcome(status, ""), state=None, version=None)
        return True

    # ------------------------------------------------------------------------------------------------ time

    def let_days_pass(self) -> None:
        """Every lease ends, every key is free again, every ended run may be purged."""
        self.day += 1
        for run in self.runs:
            run.is_lost = run.is_lost or run.is_live

    def purge(self, max_rows: int) -> int:
        """Forget the oldest of what ended on another day, but for what an issue would retry."""
        kept = [issue.failed_run for issue in self.issues.values()]
        old = [run for run in self.runs if not run.is_live and run.ended_on != self.day and run not in kept]
        gone = sorted(old, key=lambda run: (run.day, run.order))[:max_rows]
        self.runs = [run for run in self.runs if run not in gone]
        self.purged += gone
        self._seen["a purged run"] += len(gone)
        self._seen["a failed run that purging left"] += any(run and run.day != self.day for run in kept)
        for issue_id, timeline in self.timelines.items():
            self.timelines[issue_id] = [event for event in timeline if event[1] not in gone]
        return len(gone)

    # ------------------------------------------------------------------------------------------------ inside

    def _new_run(self, asked: Asked, **fields: Any) -> Run:
        self._claims += 1
        return Run(asked, self._claims, self.day, **fields)

    def _refuse(self, what: str, refused: Refused) -> Refused:
        self._seen[what] += 1
        return refused

    def _replay(self, keyed: Run, asked: Asked) -> Refused | Run:
        if keyed.asked != asked:
            return self._refuse("a key reused", Refused(422, keyed))
        if keyed.is_live and not keyed.is_lost:
            return self._refuse("a key in flight", Refused(409, keyed))
        if keyed.is_live:
            self._seen["a key of a lost run"] += 1
            self.expire(keyed, asked.actor)
        self._seen["a replay"] += 1
        return keyed

    def _keyed(self, asked: Asked) -> Run | None:
        keyed = (
            run
            for run in self.runs
            if asked.key and (run.asked.issue, run.asked.key, run.day) == (asked.issue, asked.key, self.day)
        )
        return next(keyed, None)

    def _end(
        self, run: Run, outcome: Outcome, *, state: str | None, version: int | None, ended_by: str | None = None
    ) -> None:
        run.status, run.outcome, run.state_after, run.version = outcome.status, outcome, state, version
        run.ended_on = self.day
        if run.asked.mode == "execute":
            event = "loop_run_finished" if run.status == "completed" else f"loop_run_{run.status}"
            self._tell(run.asked.issue, event, run, ended_by)

    def _tell(self, issue_id: str, event: str, run: Run | None = None, detail: str | None = None) -> None:
        self.timelines.setdefault(issue_id, []).append((event, run, detail))
