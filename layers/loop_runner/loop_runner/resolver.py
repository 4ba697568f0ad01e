"""Owns the decision what to do next with an issue: pure, total, deterministic; it never raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop_runner.errors import LoopDefinitionError, NoApprovalPendingError
from loop_runner.loops import ApprovalExecutor
from loop_runner.models import LoopStatus, NextCall, NextStep

if TYPE_CHECKING:
    from datetime import datetime

    from loop_runner.conditions import Gate
    from loop_runner.loops import KnownLoop, Loop, Step
    from loop_runner.models import Issue, Json


APPROVAL_REQUIRED = "APPROVAL_REQUIRED"


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why nothing can run, and the call that clears it; ``first``: what must be done before that call."""

    code: str
    reason: str
    call: NextCall
    fact: str | None = None
    first: str = ""

    @property
    def message(self) -> str:
        """Why, and what to do: it ends with the call."""
        return f"{self.reason}. To go on: {self.first}{self.call}"


@dataclass(frozen=True, slots=True)
class Ready:
    """This step of the loop can run, after those that are skipped on the way to it."""

    loop: Loop
    step: Step
    skipped: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing can run; the first of the ``blockers`` is the run's. ``step`` is what waits, where it is known."""

    blockers: tuple[Blocker, ...]
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing is left to run: the issue is in a final state, or comes to it when the steps are skipped."""

    state: str
    loop_status: LoopStatus
    skipped: tuple[Step, ...] = ()


Resolution = Ready | Blocked | Ended


def resolve_next_step(loop: KnownLoop, issue: Issue, now: datetime) -> Resolution:
    """What the next run of the issue does. ``now`` is the database's clock, aware."""
    if issue.hold is not None:
        return Blocked((_on_hold(issue),), _next_step_of(loop, issue, now))
    if loop is None:
        return Blocked((_unknown_loop(issue),))
    if isinstance(loop, LoopDefinitionError):
        return Blocked((_invalid_loop(loop, issue),))
    if issue.state not in loop.states:
        return Blocked((_unknown_state(loop, issue),))
    return _walk(loop, issue, now)


def step_to_approve(loop: KnownLoop, issue: Issue, now: datetime) -> Step:
    """The approval that is next, decided or not. NoApprovalPendingError where another step, or something else, is."""
    undecided = issue.model_copy(update={"approval": None})
    resolution = resolve_next_step(loop, undecided, now)
    if isinstance(resolution, Blocked) and resolution.blockers[0].code == APPROVAL_REQUIRED and resolution.step:
        return resolution.step
    if isinstance(resolution, Ended):
        raise NoApprovalPendingError(f"issue {issue.id} is {resolution.state}: there is nothing to decide")
    if isinstance(resolution, Blocked):
        raise NoApprovalPendingError(f"issue {issue.id} is blocked: {resolution.blockers[0].message}")
    raise NoApprovalPendingError(
        f"the next step of issue {issue.id} is {resolution.step.type}, which needs no approval. "
        f"To go on: POST /api/loop/issues/{issue.id}/run-next-step {{}}"
    )


def next_step_after(loop: KnownLoop, issue: Issue, now: datetime) -> NextStep | None:
    """The step that the next run would execute once its gates hold; None where there is none."""
    step = _next_step_of(loop, issue, now)
    return next_step(step) if step else None


def next_step(step: Step) -> NextStep:
    """The step as answers name it."""
    return NextStep(step_number=step.number, step_type=step.type, estimated_duration_ms=step.estimated_duration_ms)


def _next_step_of(loop: KnownLoop, issue: Issue, now: datetime) -> Step | None:
    if loop is None or isinstance(loop, LoopDefinitionError) or issue.state not in loop.states:
        return None
    return _way(loop, issue, now)[0]


def _way(loop: Loop, issue: Issue, now: datetime) -> tuple[Step | None, str, tuple[Step, ...]]:
    """The step that is next, if any, the state that it leaves, and what is skipped on the way to it."""
    skipped: list[Step] = []
    state = issue.state
    while (step := loop.step_leaving(state)) is not None:  # ends: a loop has no cycle of skipped steps
        if not step.skip_if or not all(condition.holds(issue.facts, now) for condition in step.skip_if):
            break
        skipped.append(step)
        state = step.to
    return step, state, tuple(skipped)


def _walk(loop: Loop, issue: Issue, now: datetime) -> Resolution:
    step, state, skipped = _way(loop, issue, now)
    if step is None:
        ended = LoopStatus.COMPLETED if state in loop.completed_states else LoopStatus.FAILED
        return Ended(state, ended, skipped)
    if unmet := [gate for gate in step.require if not gate.holds(issue.facts, now)]:
        return Blocked(tuple(_unmet(loop, gate, issue, now) for gate in unmet), step)
    if isinstance(step.executor, ApprovalExecutor) and (undecided := _undecided(step, step.executor, issue)):
        return Blocked((undecided,), step)
    return Ready(loop, step, skipped)


def _undecided(step: Step, executor: ApprovalExecutor, issue: Issue) -> Blocker | None:
    """Why the step waits for a decision; None where the issue's version carries one that leads somewhere."""
    approval = issue.approval
    if approval and (approval.version, approval.step_number) != (issue.version, step.number):
        approval = None
    call = _call(issue, "/approvals", {"decision": "approved"}, if_match=issue.version)
    if approval is None:
        who = " by somebody who has not asked for it" if executor.four_eyes else ""
        return Blocker(
            APPROVAL_REQUIRED,
            f'{step.type} needs an approval{who} of the issue as it is now (If-Match: "{issue.version}")',
            call,
        )
    if approval.decision == "rejected" and "rejected" not in (step.outcomes or {}):
        comment = f": {approval.comment}" if approval.comment else ""
        return Blocker(
            "APPROVAL_REJECTED",
            f"{approval.actor} rejected {step.type}{comment}. Change the facts, or have it decided again "
            f'(If-Match: "{issue.version}")',
            call,
        )
    return None


def _unmet(loop: Loop, gate: Gate, issue: Issue, now: datetime) -> Blocker:
    reason = (gate.message or f"the fact {gate.fact} {gate.wanted}").rstrip(".")
    if gate.fact.split(".")[0] in loop.protected_facts:  # a PATCH of it is 403
        reason = f"{reason}. Only a step can write it: go back to one that does"
        return Blocker(gate.blocker, reason, _call(issue, "/state", {"state": "<state>", "reason": "<why>"}), gate.fact)
    patch = NextCall(method="PATCH", path=_path(issue), body=gate.satisfying_patch(issue.facts, now))
    return Blocker(gate.blocker, reason, patch, gate.fact)


def _on_hold(issue: Issue) -> Blocker:
    hold = issue.hold or {}
    reason = f"{hold.get('by')} holds the issue since {hold.get('since')}: {hold.get('reason')}"
    return Blocker("ON_HOLD", reason, _call(issue, "/resume", {"reason": "<why>"}))


def _unknown_loop(issue: Issue) -> Blocker:
    reason, first = f"the loop {issue.loop_name} is not deployed", f"deploy loops/{issue.loop_name}.toml, then "
    return Blocker("UNKNOWN_LOOP", reason, run_next_step_of(issue), first=first)


def _invalid_loop(error: LoopDefinitionError, issue: Issue) -> Blocker:
    reason = f"the loop {issue.loop_name} is not valid: {error.message}"
    return Blocker("INVALID_LOOP", reason, run_next_step_of(issue), first="mend and deploy the file, then ")


def _unknown_state(loop: Loop, issue: Issue) -> Blocker:
    return Blocker(
        "UNKNOWN_STATE",
        f"the loop {loop.name} does not know the state {issue.state}, it has {', '.join(sorted(loop.states))}. "
        "Deploy a loop that knows it, or put the issue into one of these",
        _call(issue, "/state", {"state": loop.initial_state, "reason": "<why>"}),
    )


def run_next_step_of(issue: Issue) -> NextCall:
    """The call that runs the issue's next step."""
    return _call(issue, "/run-next-step", {})


def _call(issue: Issue, route: str, body: Json, if_match: int | None = None) -> NextCall:
    return NextCall(method="POST", path=_path(issue) + route, body=body, if_match=if_match)


def _path(issue: Issue) -> str:
    return f"/api/loop/issues/{issue.id}"
