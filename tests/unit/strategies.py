"""Strategies and oracles that the tests of the pure modules share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from loop_runner.conditions import Condition
from loop_runner.loops import Loop
from loop_runner.models import Approval, Issue

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

NOW = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
INSTANTS = st.datetimes(timezones=ZONES | st.just(UTC))
INSTANT_TEXTS = INSTANTS.map(datetime.isoformat) | st.datetimes().map(datetime.isoformat)

TEXTS = st.text(max_size=4) | st.text("0123456789-:T+Z.W ", max_size=30) | INSTANT_TEXTS
_WRITABLE = st.characters(codec="utf-8", exclude_characters="\0")
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = TEXTS | st.booleans() | NUMBERS
WANTED = st.text(_WRITABLE, max_size=4) | INSTANT_TEXTS | st.booleans() | NUMBERS
"""Values that a loop's file may ask for."""
KEYS = st.sampled_from("abc") | st.text(max_size=3)
JSON = st.recursive(
    st.none() | SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
FACTS = st.dictionaries(KEYS, JSON, max_size=4)
"""Facts as nothing but JSON would have them; see ``stored`` for those that the database can hold."""

_SEGMENTS = st.sampled_from("abc") | st.text(
    st.characters(exclude_categories=("Z", "C"), exclude_characters="."), min_size=1, max_size=3
)
PATHS = st.lists(_SEGMENTS, min_size=1, max_size=3).map(".".join)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word: the oracle of what a PATCH leaves."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


STORED_FACTS = FACTS.map(lambda facts: dict(merge_patch({}, facts)))
"""Facts that an issue can have: they were merged, hence no member of an object outside an array is null."""


@st.composite
def bounds(draw: DrawFn) -> dict[str, Any]:
    """A min, a max, or both, the smaller first."""
    least, most = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
    return draw(st.sampled_from([{"min": least}, {"max": most}, {"min": least, "max": most}]))


def _separate_path(fact: str) -> SearchStrategy[str]:
    """Paths of which neither leads through the other: no value is the same as a part of itself."""
    return PATHS.filter(lambda path: not f"{path}.".startswith(f"{fact}.") and not f"{fact}.".startswith(f"{path}."))


@st.composite
def condition_tables(draw: DrawFn) -> dict[str, Any]:
    """A condition as a loop's file may have it, that some facts meet."""
    fact = draw(PATHS)
    operator = draw(
        st.just({})
        | st.fixed_dictionaries({"is": WANTED})
        | st.fixed_dictionaries({"in": st.lists(WANTED, min_size=1, max_size=3)})
        | bounds()
        | st.fixed_dictionaries({"same_as": _separate_path(fact)})
        | st.fixed_dictionaries({"max_age_seconds": st.integers(1, 10**9)})
    )
    return {"fact": fact, **operator}


CONDITIONS = condition_tables().map(Condition.model_validate)


@st.composite
def gate_tables(draw: DrawFn) -> dict[str, Any]:
    message = draw(st.none() | st.text(_WRITABLE, min_size=1, max_size=20))
    gate = {**draw(condition_tables()), "blocker": draw(st.sampled_from(["NO_A", "NO_B", "NO_C"]))}
    return gate if message is None else {**gate, "message": message}


EXECUTORS = st.sampled_from([
    {"kind": "transition"},
    {"kind": "transition"},
    {"kind": "lambda", "function": "work"},
    {"kind": "callback", "function": "ask", "heartbeat_seconds": 60},
    {"kind": "approval"},
    {"kind": "approval", "four_eyes": True},
])  # fmt: skip
_OUTCOMES = {"lambda": ["again", "gave_up"], "callback": ["again", "gave_up"], "approval": ["rejected"]}


@st.composite
def loops(draw: DrawFn) -> Loop:
    """A valid loop of one to five steps: from each state one step leads on, the last one to the final state.

    Outcomes lead anywhere, backward included.
    """
    numbers = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=5, unique=True))
    states = st.sampled_from([*(f"STATE_{number}" for number in range(len(numbers) + 1)), "ABANDONED"])
    steps = []
    for position, number in enumerate(numbers):
        step: dict[str, Any] = {
            "number": number,
            "type": f"STEP_{position}",
            "from": [f"STATE_{position}"],
            "to": f"STATE_{position + 1}",
            "executor": draw(EXECUTORS),
            "require": draw(st.lists(gate_tables(), max_size=3)),
        }
        names = _OUTCOMES.get(step["executor"]["kind"], [])
        if names and draw(st.booleans()) is True:
            step["outcomes"] = {name: draw(states) for name in names}
        if draw(st.booleans()):
            step["skip_if"] = draw(st.lists(condition_tables(), min_size=1, max_size=2))
        steps.append(step)
    return Loop.model_validate({
        "name": "generated",
        "initial_state": "STATE_0",
        "completed_states": [f"STATE_{len(numbers)}"],
        "failed_states": ["ABANDONED"],
        "steps": draw(st.permutations(steps)),
    })  # fmt: skip


def issue(
    state: str = "CREATED",
    facts: dict[str, Any] | None = None,
    hold: dict[str, Any] | None = None,
    *,
    approval: str | None = None,
    approved_version: int = 1,
    approved_step: int = 1,
) -> Issue:
    """An issue of version 1; ``approval`` is what was decided on this version and step."""
    decided = approval and Approval(
        decision=approval, actor="bob", comment="why", at=NOW, version=approved_version, step_number=approved_step
    )
    return Issue(
        id="AFU9-123",
        loop_name="generated",
        state=state,
        facts=facts or {},
        version=1,
        hold=hold,
        approval=decided or None,
        created_at=NOW,
        updated_at=NOW,
    )


STATES = st.integers(0, 6).map(lambda number: f"STATE_{number}") | st.text(max_size=8)
HOLDS = st.none() | FACTS
DECISIONS = st.none() | st.sampled_from(["approved", "rejected"])
ISSUES = st.builds(issue, STATES, FACTS, HOLDS, approval=DECISIONS, approved_version=st.integers(0, 2))
