"""Conditions are total, deterministic and fail closed; what they ask for can be given."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from loop_runner import facts as facts_module
from loop_runner.conditions import Condition, fact_at, is_empty, same
from tests.unit.strategies import CONDITIONS, FACTS, INSTANTS, JSON, NOW, STORED_FACTS, merge_patch

EMPTY: list[Any] = [None, "", " \t\n", [], {}]


def holds(condition: dict[str, Any], facts: dict[str, Any], now: datetime = NOW) -> bool:
    return Condition.model_validate(condition).holds(facts, now)


def ago(**age: float) -> str:
    return (NOW - timedelta(**age)).isoformat()


@given(CONDITIONS, FACTS, INSTANTS)
def test_any_condition_on_any_facts_at_any_time_holds_or_does_not(
    condition: Condition, facts: dict[str, Any], now: datetime
) -> None:
    answer = condition.holds(facts, now)
    assert answer is True or answer is False
    assert condition.holds(json.loads(json.dumps(facts)), now) is answer


@given(CONDITIONS, INSTANTS)
def test_no_condition_holds_without_facts(condition: Condition, now: datetime) -> None:
    assert not condition.holds({}, now)


@given(CONDITIONS, FACTS, INSTANTS)
def test_no_condition_holds_where_its_fact_is_null_or_missing(
    condition: Condition, facts: dict[str, Any], now: datetime
) -> None:
    first = condition.fact.split(".")[0]
    assert not condition.holds({**facts, first: None}, now)
    assert not condition.holds({key: value for key, value in facts.items() if key != first}, now)


@given(CONDITIONS, STORED_FACTS)
def test_the_patch_that_a_condition_asks_for_makes_it_hold(condition: Condition, facts: dict[str, Any]) -> None:
    """For every fact that an issue can have and every condition that can be met at all.

    Not covered, because no facts meet them: ``min`` over ``max``; ``same_as`` of which one path leads through the
    other. The loader refuses both (test_a_condition_that_no_facts_meet_is_refused).
    """
    assert condition.holds(merge_patch(facts, condition.satisfying_patch(facts, NOW)), NOW)


@given(CONDITIONS, STORED_FACTS)
def test_the_patch_that_a_condition_asks_for_is_json(condition: Condition, facts: dict[str, Any]) -> None:
    patch = condition.satisfying_patch(facts, NOW)
    assert json.loads(json.dumps(patch, allow_nan=False)) == patch


def test_the_patch_for_same_as_replaces_an_object_that_has_other_members() -> None:
    facts: dict[str, Any] = {"checks": {"ref": {"sha": "old", "stale": True}}, "pr": {"ref": {"sha": "new"}}}
    condition = Condition.model_validate({"fact": "checks.ref", "same_as": "pr.ref"})
    assert condition.holds(merge_patch(facts, condition.satisfying_patch(facts, NOW)), NOW)


@pytest.mark.parametrize("value", EMPTY)
def test_nothing_null_blank_or_empty_is_present(value: Any) -> None:
    assert is_empty(value)
    assert not holds({"fact": "a"}, {"a": value})
    assert not holds({"fact": "a.b"}, {"a": {"b": value}})


@pytest.mark.parametrize("value", [False, 0, 0.0, "x", [None], {"k": None}])
def test_false_and_zero_are_present(value: Any) -> None:
    assert holds({"fact": "a"}, {"a": value})


@pytest.mark.parametrize(
    ("wanted", "value"),
    [(True, True), (False, False), ("x", "x"), (1, 1), (1, 1.0), (1.0, 1), (0, -0.0), (10**400, 10**400)],
)
def test_is_compares_as_json_does(wanted: Any, value: Any) -> None:
    assert holds({"fact": "a", "is": wanted}, {"a": value})
    assert holds({"fact": "a", "in": ["other", wanted]}, {"a": value})


def test_a_number_is_the_same_when_the_database_has_written_it_out() -> None:
    """PostgreSQL keeps 1e23 of a body as the numeric 100000000000000000000000: Python reads an integer."""
    written_out = {"a": json.loads("100000000000000000000000")}
    for operator in ("is", "min", "max"):
        assert holds({"fact": "a", operator: 1e23}, written_out), operator


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (True, 1),
        (True, "true"),
        (False, 0),
        (False, None),
        (1, True),
        (0, False),
        ("1", 1),
        (1, "1"),
        ("x", "X"),
        ("x", ["x"]),
        ("x", {"x": "x"}),
        ("x", " x"),
        (10**400, 1e300),
    ],
)
def test_another_type_or_value_is_not_the_same(wanted: Any, value: Any) -> None:
    assert not holds({"fact": "a", "is": wanted}, {"a": value})
    assert not holds({"fact": "a", "in": [wanted]}, {"a": value})


@pytest.mark.parametrize("value", [True, False, "3", None, [3], {"a": 3}, "", "NaN"])
@pytest.mark.parametrize("bounds", [{"min": 0}, {"max": 10}, {"min": 0, "max": 10}])
def test_only_numbers_lie_between_bounds_and_true_is_none(value: Any, bounds: dict[str, int]) -> None:
    assert not holds({"fact": "a", **bounds}, {"a": value})


def test_bounds_include_themselves() -> None:
    between = {"fact": "a", "min": 2, "max": 3.5}
    assert [value for value in (1.9, 2, 2.0, 3, 3.5, 3.6, 10**400, -(10**400)) if holds(between, {"a": value})] == [
        2,
        2.0,
        3,
        3.5,
    ]


@pytest.mark.parametrize("value", EMPTY)
def test_two_missing_or_empty_values_are_not_the_same(value: Any) -> None:
    condition = {"fact": "a", "same_as": "b"}
    assert not holds(condition, {})
    assert not holds(condition, {"a": value})
    assert not holds(condition, {"a": value, "b": value})


@pytest.mark.parametrize("value", ["x", 0, False, [1, None], {"k": [None]}, {"k": {"l": 1.0}}])
def test_two_equal_values_are_the_same(value: Any) -> None:
    assert holds({"fact": "a.b", "same_as": "c"}, {"a": {"b": value}, "c": json.loads(json.dumps(value))})


@pytest.mark.parametrize(
    ("left", "right"),
    [([1], [True]), ([1], [1, 1]), ({"k": 1}, {"k": 1, "l": None}), ({"k": 1}, {"l": 1}), ([1], {"0": 1}), ("1", 1)],
)
def test_lists_and_objects_are_compared_member_by_member(left: Any, right: Any) -> None:
    assert not same(left, right)
    assert not holds({"fact": "a", "same_as": "b"}, {"a": left, "b": right})


@given(JSON, JSON)
def test_same_has_no_sides(left: Any, right: Any) -> None:
    assert same(left, right) is same(right, left)
    assert same(left, left) is (left is not None)


@pytest.mark.parametrize("age", [{}, {"seconds": 1}, {"seconds": 3600}, {"seconds": -60}])
def test_a_recent_time_holds(age: dict[str, float]) -> None:
    assert holds({"fact": "a", "max_age_seconds": 3600}, {"a": ago(**age)})


@pytest.mark.parametrize("age", [{"seconds": 3600.000001}, {"days": 400}, {"seconds": -60.000001}, {"days": -1}])
def test_a_time_too_old_or_ahead_of_the_clock_does_not_hold(age: dict[str, float]) -> None:
    assert not holds({"fact": "a", "max_age_seconds": 3600}, {"a": ago(**age)})


@pytest.mark.parametrize(
    "text", ["2026-11-24T12:00:00Z", "2026-11-24T13:00:00+01:00", "20261124T120000Z", "2026-11-23T22:00:00-14:00"]
)
def test_any_zone_and_form_of_iso_8601_is_a_time(text: str) -> None:
    assert holds({"fact": "a", "max_age_seconds": 60}, {"a": text})


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-24T12:00:00",
        "2026-11-24",
        "2026-11-24 12:00",
        "now",
        "",
        "24.11.2026 12:00Z",
        "2026-13-24T12:00:00Z",
        "2026-11-24T12:00:00 Z Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-11-24T12:00:00+99:99",
        "2026-11-2\u0664T12:00:00Z",
        1_795_521_600,
        1_795_521_600_000.0,
        True,
        None,
        ["2026-11-24T12:00:00Z"],
        {"at": "2026-11-24T12:00:00Z"},
    ],
)
def test_a_naive_time_or_what_is_no_time_does_not_hold(value: Any) -> None:
    assert not holds({"fact": "a", "max_age_seconds": 86_400}, {"a": value})


@pytest.mark.parametrize("now", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_the_ends_of_the_calendar_do_not_break_the_clock(now: datetime, text: str) -> None:
    expected = (now.year == 1) == (text[:4] == "0001")
    assert holds({"fact": "a", "max_age_seconds": 86_400}, {"a": text}, now) is (expected and now.year == 1)


@pytest.mark.parametrize("path", ["a.b", "a.b.c", "b", "a.0"])
@pytest.mark.parametrize("facts", [{"a": "text"}, {"a": ["x"]}, {"a": 1}, {"a": None}, {"a.b": "x"}])
def test_a_path_leads_through_objects_only(path: str, facts: dict[str, Any]) -> None:
    assert fact_at(facts, path) is None


@pytest.mark.parametrize(
    "operators",
    [
        {"is": 1, "in": [1]},
        {"is": 1, "min": 1},
        {"in": [1], "max": 1},
        {"min": 1, "max": 2, "same_as": "b"},
        {"same_as": "b", "max_age_seconds": 1},
        {"is": True, "max_age_seconds": 1},
    ],
)
def test_two_operators_in_one_condition_are_refused(operators: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give one of is, in, min and max, same_as, max_age_seconds"):
        Condition.model_validate({"fact": "a", **operators})


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"fact": ""},
        {"fact": "."},
        {"fact": "a."},
        {"fact": ".a"},
        {"fact": "a..b"},
        {"fact": "a b"},
        {"fact": "a\n"},
        {"fact": "a" * 257},
        {"fact": 1},
        {"fact": "a", "is": None, "equals": 1},
        {"fact": "a", "is": [1]},
        {"fact": "a", "is": {"b": 1}},
        {"fact": "a", "is": math.nan},
        {"fact": "a", "in": []},
        {"fact": "a", "in": "x"},
        {"fact": "a", "in": [[1]]},
        {"fact": "a", "in": [math.inf]},
        {"fact": "a", "min": "1"},
        {"fact": "a", "min": True},
        {"fact": "a", "max": -math.inf},
        {"fact": "a", "same_as": "b c"},
        {"fact": "a", "same_as": 1},
        {"fact": "a", "max_age_seconds": 0},
        {"fact": "a", "max_age_seconds": 1.5},
        {"fact": "a", "max_age_seconds": True},
        {"fact": "a", "max_age_seconds": "1"},
    ],
)
def test_a_bad_condition_is_refused(condition: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Condition.model_validate(condition)


@pytest.mark.parametrize(
    "condition",
    [
        {"fact": "a", "min": 2, "max": 1},
        {"fact": "a", "same_as": "a.b"},
        {"fact": "a.b", "same_as": "a"},
    ],
)
def test_a_condition_that_no_facts_meet_is_refused(condition: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Condition.model_validate(condition)


@pytest.mark.parametrize("seconds", [10**14, 10**30])
def test_an_age_that_no_clock_can_measure_is_refused(seconds: int) -> None:
    with pytest.raises(ValidationError):
        Condition.model_validate({"fact": "a", "max_age_seconds": seconds})


@given(STORED_FACTS, FACTS)
def test_the_patch_that_looks_ahead_is_rfc_7396(facts: dict[str, Any], patch: dict[str, Any]) -> None:
    assert facts_module.merge_patch(facts, patch) == merge_patch(facts, patch)
