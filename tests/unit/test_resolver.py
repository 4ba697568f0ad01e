"""The resolver is pure, total and deterministic; what it asks for clears the way."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.errors import NoApprovalPendingError
from loop_runner.loops import Loop, load_loop
from loop_runner.models import Issue, LoopStatus
from loop_runner.resolver import Blocked, Ended, Ready, next_step, next_step_after, resolve_next_step, step_to_approve
from tests.conftest import LOOPS
from tests.unit.strategies import DECISIONS, FACTS, HOLDS, INSTANTS, ISSUES, NOW, STATES, issue, loops, merge_patch

if TYPE_CHECKING:
    from datetime import datetime

    from loop_runner.loops import Step

ISSUE_DELIVERY = load_loop(LOOPS / "issue-delivery.toml")
CALL = re.compile(r"To go on: .*(?:PATCH|POST) /api/loop/issues/AFU9-123(?:/[a-z-]+)? (\{.*\})", re.DOTALL)
BACK_TO_A_STEP = (
    ". Only a step can write it: go back to one that does. To go on: "
    'POST /api/loop/issues/AFU9-123/state {"state":"<state>","reason":"<why>"}'
)


@st.composite
def loops_and_issues(draw: st.DrawFn) -> tuple[Loop, Issue]:
    """A loop and an issue of it, not on hold, in a state that it knows."""
    loop = draw(loops())
    state = draw(st.sampled_from(sorted(loop.states)))
    return loop, issue(state, draw(FACTS), approval=draw(DECISIONS), approved_version=draw(st.integers(0, 2)))


@given(st.none() | loops(), ISSUES, INSTANTS)
def test_any_issue_of_any_loop_at_any_time_resolves_and_always_the_same(
    loop: Loop | None, found: Issue, now: datetime
) -> None:
    resolution = resolve_next_step(loop, found, now)
    assert isinstance(resolution, Ready | Blocked | Ended)
    assert resolve_next_step(loop, found.model_copy(deep=True), now) == resolution
    assert next_step_after(loop, found, now) == next_step_after(loop, found, now)


@given(st.none() | loops(), ISSUES, INSTANTS)
def test_what_is_blocked_says_why_and_ends_with_the_call_that_clears_it(
    loop: Loop | None, found: Issue, now: datetime
) -> None:
    resolution = resolve_next_step(loop, found, now)
    if isinstance(resolution, Blocked):
        assert resolution.blockers
        for blocker in resolution.blockers:
            call = CALL.search(blocker.message)
            assert call, blocker.message
            assert blocker.message.endswith(call[1])
            assert isinstance(json.loads(call[1]), dict)


@given(loops_and_issues(), INSTANTS)
def test_the_step_that_is_named_is_the_first_one_not_skipped(found: tuple[Loop, Issue], now: datetime) -> None:
    loop, at = found
    resolution = resolve_next_step(loop, at, now)
    state, skipped = at.state, []
    while (step := loop.step_leaving(state)) and step.skip_if and all(c.holds(at.facts, now) for c in step.skip_if):
        skipped.append(step)
        state = step.to
    match resolution:
        case Ready():
            assert (resolution.step, list(resolution.skipped)) == (step, skipped)
            assert all(gate.holds(at.facts, now) for gate in resolution.step.require)
            assert undecided(resolution.step, at) is None
        case Blocked():
            assert step
            assert resolution.step == step
            unmet = [(gate.blocker, gate.fact) for gate in step.require if not gate.holds(at.facts, now)]
            expected: list[tuple[str | None, str | None]] = [*unmet] or [(undecided(step, at), None)]
            assert [(b.code, b.fact) for b in resolution.blockers] == expected
        case Ended():
            assert (resolution.state, list(resolution.skipped)) == (state, skipped)
            status = LoopStatus.COMPLETED if state in loop.completed_states else LoopStatus.FAILED
            assert (state in loop.final_states, resolution.loop_status) == (True, status)


def undecided(step: Step, at: Issue) -> str | None:
    """Why an approval keeps its issue, by the design's words: a decision counts for the version that was seen."""
    if step.executor.kind != "approval":
        return None
    if at.approval is None or at.approval.version != at.version:
        return "APPROVAL_REQUIRED"
    leads_on = at.approval.decision == "approved" or "rejected" in (step.outcomes or {})
    return None if leads_on else "APPROVAL_REJECTED"


@given(loops_and_issues(), INSTANTS)
def test_the_next_step_of_an_answer_is_the_one_that_would_run(found: tuple[Loop, Issue], now: datetime) -> None:
    loop, at = found
    resolution = resolve_next_step(loop, at, now)
    expected = None if isinstance(resolution, Ended) or resolution.step is None else next_step(resolution.step)
    assert next_step_after(loop, at, now) == expected


@given(ISSUES, INSTANTS)
def test_a_held_issue_is_blocked_whatever_else_is_true(found: Issue, now: datetime) -> None:
    held = found.model_copy(update={"hold": {"reason": "audit", "by": "ann", "since": "2026-11-24T12:00:00Z"}})
    for known in (ISSUE_DELIVERY, None):
        resolution = resolve_next_step(known, held, now)
        assert isinstance(resolution, Blocked)
        assert [blocker.code for blocker in resolution.blockers] == ["ON_HOLD"]
        assert "ann" in resolution.blockers[0].message
        assert "audit" in resolution.blockers[0].message


@given(STATES, FACTS)
def test_an_issue_of_an_unknown_loop_is_blocked(state: str, facts: dict[str, Any]) -> None:
    resolution = resolve_next_step(None, issue(state, facts), NOW)
    assert isinstance(resolution, Blocked)
    assert [blocker.code for blocker in resolution.blockers] == ["UNKNOWN_LOOP"]
    assert next_step_after(None, issue(state, facts), NOW) is None


@given(STATES, FACTS)
def test_an_issue_in_a_state_that_its_loop_does_not_know_is_blocked(state: str, facts: dict[str, Any]) -> None:
    assert state not in ISSUE_DELIVERY.states
    resolution = resolve_next_step(ISSUE_DELIVERY, issue(state, facts), NOW)
    assert isinstance(resolution, Blocked)
    assert [blocker.code for blocker in resolution.blockers] == ["UNKNOWN_STATE"]
    assert next_step_after(ISSUE_DELIVERY, issue(state, facts), NOW) is None


@given(HOLDS.filter(lambda hold: hold is not None), INSTANTS)
def test_a_hold_of_any_content_holds(hold: dict[str, Any], now: datetime) -> None:
    resolution = resolve_next_step(ISSUE_DELIVERY, issue("CREATED", {}, hold), now)
    assert isinstance(resolution, Blocked)
    assert resolution.blockers[0].code == "ON_HOLD"


@pytest.mark.parametrize(
    ("decision", "version", "outcomes", "code"),
    [
        (None, 1, {}, "APPROVAL_REQUIRED"),
        ("approved", 1, {}, None),
        ("approved", 0, {}, "APPROVAL_REQUIRED"),
        ("approved", 2, {}, "APPROVAL_REQUIRED"),
        ("rejected", 1, {}, "APPROVAL_REJECTED"),
        ("rejected", 0, {}, "APPROVAL_REQUIRED"),
        ("rejected", 1, {"rejected": "A"}, None),
        ("rejected", 0, {"rejected": "A"}, "APPROVAL_REQUIRED"),
    ],
)
def test_a_decision_counts_for_the_version_that_it_was_made_on(
    decision: str | None, version: int, outcomes: dict[str, str], code: str | None
) -> None:
    loop = approving({"outcomes": outcomes} if outcomes else {})
    resolution = resolve_next_step(loop, issue("A", {}, approval=decision, approved_version=version), NOW)
    if code is None:
        assert isinstance(resolution, Ready)
        return
    assert isinstance(resolution, Blocked)
    assert [blocker.code for blocker in resolution.blockers] == [code]
    assert resolution.step is loop.steps[0]
    message = resolution.blockers[0].message
    assert message.endswith('To go on: POST /api/loop/issues/AFU9-123/approvals {"decision":"approved"}')
    assert '(If-Match: "1")' in message
    assert ("bob rejected ASK: why." in message) == (code == "APPROVAL_REJECTED")


def test_the_gates_of_an_approval_come_before_its_decision() -> None:
    loop = approving({"require": [{"fact": "plan", "blocker": "NO_PLAN"}]})
    for decision in (None, "approved", "rejected"):
        resolution = resolve_next_step(loop, issue("A", {}, approval=decision), NOW)
        assert isinstance(resolution, Blocked)
        assert [blocker.code for blocker in resolution.blockers] == ["NO_PLAN"]


def test_an_approval_with_four_eyes_says_who_must_not_give_it() -> None:
    for four_eyes in (True, False):
        loop = approving({"executor": {"kind": "approval", "four_eyes": four_eyes}})
        resolution = resolve_next_step(loop, issue("A"), NOW)
        assert isinstance(resolution, Blocked)
        assert ("by somebody who has not asked for it" in resolution.blockers[0].message) == four_eyes


def test_what_can_be_decided_is_the_approval_that_is_next_decided_or_not() -> None:
    loop = approving({"skip_if": [{"fact": "trivial"}], "require": [{"fact": "plan", "blocker": "NO_PLAN"}]})
    for decision in (None, "approved", "rejected"):
        assert step_to_approve(loop, issue("A", {"plan": 1}, approval=decision), NOW) is loop.steps[0]
    for state, facts, reason in [
        ("A", {}, "is blocked: the fact plan must be present"),
        ("A", {"trivial": 1}, "the next step of issue AFU9-123 is CLOSE, which needs no approval"),
        ("B", {"plan": 1}, "the next step of issue AFU9-123 is CLOSE, which needs no approval"),
        ("C", {"plan": 1}, "issue AFU9-123 is C: there is nothing to decide"),
        ("Z", {"plan": 1}, "is blocked: the loop generated does not know the state Z"),
    ]:
        with pytest.raises(NoApprovalPendingError, match=reason):
            step_to_approve(loop, issue(state, facts), NOW)
    with pytest.raises(NoApprovalPendingError, match="is blocked: ann holds the issue"):
        step_to_approve(loop, issue("A", {"plan": 1}, {"by": "ann"}), NOW)
    with pytest.raises(NoApprovalPendingError, match="is not deployed"):
        step_to_approve(None, issue("A"), NOW)


def approving(keys: dict[str, Any]) -> Loop:
    """A loop with the approval ASK, with these keys, and then CLOSE."""
    ask = {"number": 1, "type": "ASK", "from": ["A"], "to": "B", "executor": {"kind": "approval"}, **keys}
    close = {"number": 2, "type": "CLOSE", "from": ["B"], "to": "C", "executor": {"kind": "transition"}}
    return Loop.model_validate(
        {"name": "generated", "initial_state": "A", "completed_states": ["C"], "steps": [ask, close]}
    )


@given(st.none() | loops(), ISSUES, INSTANTS)
def test_there_is_a_step_to_approve_exactly_where_a_decision_is_missing_or_made(
    loop: Loop | None, found: Issue, now: datetime
) -> None:
    undecided_yet = found.model_copy(update={"approval": None})
    resolution = resolve_next_step(loop, undecided_yet, now)
    waits = isinstance(resolution, Blocked) and resolution.blockers[0].code == "APPROVAL_REQUIRED"
    try:
        step = step_to_approve(loop, found, now)
    except NoApprovalPendingError:
        assert not waits
    else:
        assert waits
        assert step.executor.kind == "approval"


def test_skips_may_lead_to_the_end() -> None:
    loop = Loop.model_validate({
        "name": "generated", "initial_state": "A", "completed_states": ["C"],
        "steps": [
            {"number": 1, "type": "ONE", "from": ["A"], "to": "B", "skip_if": [{"fact": "no"}],
             "executor": {"kind": "transition"}},
            {"number": 2, "type": "TWO", "from": ["B"], "to": "C", "skip_if": [{"fact": "no"}],
             "executor": {"kind": "transition"}},
        ],
    })  # fmt: skip
    resolution = resolve_next_step(loop, issue("A", {"no": True}), NOW)
    assert isinstance(resolution, Ended)
    assert resolution.state == "C"
    assert [step.type for step in resolution.skipped] == ["ONE", "TWO"]


def test_all_conditions_of_a_skip_must_hold() -> None:
    loop = Loop.model_validate({
        "name": "generated", "initial_state": "A", "completed_states": ["B"],
        "steps": [{"number": 1, "type": "ONE", "from": ["A"], "to": "B",
                   "skip_if": [{"fact": "risk", "is": "low"}, {"fact": "size", "max": 10}],
                   "executor": {"kind": "transition"}}],
    })  # fmt: skip
    assert isinstance(resolve_next_step(loop, issue("A", {"risk": "low"}), NOW), Ready)
    assert isinstance(resolve_next_step(loop, issue("A", {"risk": "low", "size": 10}), NOW), Ended)


@pytest.mark.parametrize("state", sorted(ISSUE_DELIVERY.states - ISSUE_DELIVERY.final_states))
def test_the_calls_that_blockers_end_with_clear_each_state_of_the_shipped_loop(state: str) -> None:
    at = issue(state)
    codes: list[str] = []
    while isinstance(resolution := resolve_next_step(ISSUE_DELIVERY, at, NOW), Blocked):
        blocker = resolution.blockers[0]
        assert blocker.code not in codes, f"the call of {blocker.code} did not clear it"
        codes.append(blocker.code)
        call = CALL.search(blocker.message)
        assert call
        at = issue(state, merge_patch(at.facts, json.loads(call[1])))
    assert isinstance(resolution, Ready)
    assert resolution.step is ISSUE_DELIVERY.step_leaving(state)
    assert codes == [gate.blocker for gate in resolution.step.require]


def gated(gate: dict[str, Any], **keys: Any) -> Loop:
    """A loop of one step, which requires this."""
    return Loop.model_validate({
        "name": "generated", "initial_state": "A", "completed_states": ["B"], **keys,
        "steps": [{"number": 1, "type": "ONE", "from": ["A"], "to": "B",
                   "require": [{"blocker": "NO_A", **gate}], "executor": {"kind": "transition"}}],
    })  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ({}, "the fact a must be present and not empty"),
        ({"is": True}, "the fact a must be true"),
        ({"is": "x"}, 'the fact a must be "x"'),
        ({"in": ["x", 2]}, 'the fact a must be one of "x", 2'),
        ({"min": 1}, "the fact a must be a number, at least 1"),
        ({"min": 0, "max": 2.5}, "the fact a must be a number, at least 0 and at most 2.5"),
        ({"same_as": "b.c"}, "the fact a must be present and the same as b.c"),
        ({"max_age_seconds": 60}, "the fact a must be a time with a zone, at most 60 s old"),
        ({"is": "x", "message": "Say x."}, "Say x"),
    ],
)
def test_a_gate_without_words_of_its_own_says_what_it_wants(gate: dict[str, Any], reason: str) -> None:
    resolution = resolve_next_step(gated({"fact": "a", **gate}), issue("A"), NOW)
    assert isinstance(resolution, Blocked)
    assert resolution.blockers[0].message.startswith(f"{reason}. To go on: PATCH /api/loop/issues/AFU9-123 {{")


@pytest.mark.parametrize(
    ("fact", "what_to_do"),
    [
        ("pr", BACK_TO_A_STEP),
        ("pr.headSha", BACK_TO_A_STEP),
        ("prs", '. To go on: PATCH /api/loop/issues/AFU9-123 {"prs":"x"}'),
        ("a.pr", '. To go on: PATCH /api/loop/issues/AFU9-123 {"a":{"pr":"x"}}'),
    ],
)
def test_no_call_is_named_that_is_refused_because_only_steps_write_the_fact(fact: str, what_to_do: str) -> None:
    resolution = resolve_next_step(gated({"fact": fact, "is": "x"}, protected_facts=["pr"]), issue("A"), NOW)
    assert isinstance(resolution, Blocked)
    assert resolution.blockers[0].message == f'the fact {fact} must be "x"{what_to_do}'
