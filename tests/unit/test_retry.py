"""Retry policies are those of Amazon States Language; delays never leave their bounds (source: loop_runner.retry)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loop_runner.retry import (
    HEARTBEAT_TIMEOUT,
    LEASE_EXPIRED,
    LONGEST_DELAY_SECONDS,
    TIMEOUT,
    Retry,
    RetryPolicy,
    retry_after,
)

policies = st.fixed_dictionaries(
    {"ErrorEquals": st.just(["States.ALL"])},
    optional={
        "IntervalSeconds": st.integers(1, 99_999_999),
        "MaxAttempts": st.integers(0, 99_999_999),
        "BackoffRate": st.integers(1, 10**6) | st.floats(1, 1e6),
        "MaxDelaySeconds": st.integers(1, LONGEST_DELAY_SECONDS),
        "JitterStrategy": st.sampled_from(["FULL", "NONE"]),
    },
).map(RetryPolicy.model_validate)
attempts = st.integers(1, 50) | st.integers(1, 10**12) | st.just(10**400)
chances = st.floats(0, 1)


def policy(*errors: str, **keys: Any) -> RetryPolicy:
    return RetryPolicy.model_validate({"ErrorEquals": list(errors or ["States.ALL"]), **keys})


# ---------------------------------------------------------------------------------------------- delays


@given(policies, attempts, chances)
def test_a_delay_is_never_negative_and_never_longer_than_allowed(of: RetryPolicy, attempt: int, chance: float) -> None:
    longest = min(of.max_delay_seconds or LONGEST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
    assert 0 <= of.delay_seconds(attempt, chance) <= longest


@given(policies, attempts, attempts)
def test_without_jitter_a_later_delay_is_never_shorter_nor_left_to_chance(of: RetryPolicy, a: int, b: int) -> None:
    calm = of.model_copy(update={"jitter_strategy": "NONE"})
    first, second = sorted([a, b])
    assert calm.delay_seconds(first, 0.0) <= calm.delay_seconds(second, 1.0)
    assert calm.delay_seconds(first, 0.0) == calm.delay_seconds(first, 0.7)
    assert calm.delay_seconds(1, 0.5) == min(of.interval_seconds, of.max_delay_seconds or LONGEST_DELAY_SECONDS)


@given(policies, attempts, chances)
def test_full_jitter_is_a_part_of_the_delay_by_chance(of: RetryPolicy, attempt: int, chance: float) -> None:
    full = of.model_copy(update={"jitter_strategy": "FULL"})
    calm = of.model_copy(update={"jitter_strategy": "NONE"})
    assert full.delay_seconds(attempt, chance) == calm.delay_seconds(attempt, chance) * chance


@pytest.mark.parametrize(
    ("keys", "delays"),
    [
        ({}, [1, 2, 4, 8]),
        ({"IntervalSeconds": 5, "BackoffRate": 1}, [5, 5, 5, 5]),
        ({"IntervalSeconds": 3, "BackoffRate": 1.5}, [3, 4.5, 6.75, 10.125]),
        ({"IntervalSeconds": 3, "BackoffRate": 2.0, "MaxDelaySeconds": 7}, [3, 6, 7, 7]),
        ({"IntervalSeconds": 60, "MaxDelaySeconds": 10}, [10, 10, 10, 10]),
        ({"BackoffRate": 1e6, "IntervalSeconds": 40_000_000}, [LONGEST_DELAY_SECONDS] * 4),
    ],
)
def test_each_delay_is_the_one_before_times_the_rate(keys: dict[str, Any], delays: list[float]) -> None:
    assert [policy(**keys).delay_seconds(attempt, 0.5) for attempt in (1, 2, 3, 4)] == delays


def test_a_delay_that_no_number_can_hold_is_the_longest() -> None:
    for attempt in (1000, 10**9, 10**400):
        assert policy(BackoffRate=1e6).delay_seconds(attempt, 1.0) == LONGEST_DELAY_SECONDS
        assert policy(BackoffRate=1e6, MaxDelaySeconds=9).delay_seconds(attempt, 1.0) == 9
        assert policy(BackoffRate=1).delay_seconds(min(attempt, 10**9), 1.0) == 1


# ---------------------------------------------------------------------------------------------- attempts


@given(policies, st.integers(1, 10**9))
def test_an_attempt_is_followed_by_another_as_often_as_the_policy_says(of: RetryPolicy, attempt: int) -> None:
    retry = retry_after([of], "Any", attempt, 0.5)
    expected = of.delay_seconds(attempt, 0.5) if attempt <= of.max_attempts else None
    assert retry == Retry(expected)


def test_the_first_policy_that_matches_counts() -> None:
    first, second, last = policy("A", MaxAttempts=1), policy("A", "B", IntervalSeconds=7), policy(IntervalSeconds=9)
    both = [first, second, last]
    assert retry_after(both, "A", 1, 0) == Retry(1)
    assert retry_after(both, "A", 2, 0) == Retry(None), "used up, though the second would go on"
    assert retry_after(both, "B", 1, 0) == Retry(7)
    assert retry_after(both, "C", 1, 0) == Retry(9)
    assert retry_after(both[:2], "C", 1, 0) is None
    assert retry_after([], "A", 1, 0) is None


def test_no_retries_are_none_and_used_up_at_once() -> None:
    assert retry_after([policy("A", MaxAttempts=0), policy()], "A", 1) == Retry(None)


def test_a_step_that_asks_for_time_is_given_it_beyond_the_longest_delay_of_its_policy() -> None:
    of = [policy("A", IntervalSeconds=10, MaxDelaySeconds=20, MaxAttempts=1)]
    assert retry_after(of, "A", 1, 0, at_least=90) == Retry(90)
    assert retry_after(of, "A", 1, 0, at_least=9) == Retry(10), "the policy asks for more"
    assert retry_after(of, "A", 2, 0, at_least=90) == Retry(None), "asking makes no further attempt"
    assert retry_after(of, "B", 1, 0, at_least=90) is None, "nor does it make a policy"


def test_chance_is_taken_where_none_is_given() -> None:
    delays = {retry_after([policy(JitterStrategy="FULL", IntervalSeconds=1000)], "A", 1) for _ in range(20)}
    assert len(delays) > 1
    assert all(retry and retry.seconds is not None and 0 <= retry.seconds <= 1000 for retry in delays)


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "error", "matches"),
    [
        ("Agent.Busy", "Agent.Busy", True),
        ("Agent.Busy", "agent.busy", False),
        ("Agent", "Agent.Busy", False),
        ("States.ALL", "Agent.Busy", True),
        ("States.ALL", TIMEOUT, True),
        ("States.ALL", LEASE_EXPIRED, True),
        ("States.Timeout", TIMEOUT, True),
        ("States.Timeout", HEARTBEAT_TIMEOUT, True),
        ("States.HeartbeatTimeout", HEARTBEAT_TIMEOUT, True),
        ("States.HeartbeatTimeout", TIMEOUT, False),
        ("States.Timeout", LEASE_EXPIRED, False),
        ("LEASE_EXPIRED", LEASE_EXPIRED, True),
        ("States.TaskFailed", "Agent.Busy", True),
        ("States.TaskFailed", LEASE_EXPIRED, True),
        ("States.TaskFailed", TIMEOUT, False),
        ("States.TaskFailed", HEARTBEAT_TIMEOUT, False),
    ],
)
def test_a_policy_matches_its_errors_as_in_states_language(name: str, error: str, matches: bool) -> None:
    assert policy(name).matches(error) is matches
    assert policy("Other.Error", "Another").matches(error) is False
    if name != "States.ALL":
        assert policy("Other.Error", name).matches(error) is matches


@pytest.mark.parametrize(
    "keys",
    [
        {"ErrorEquals": []},
        {"ErrorEquals": [""]},
        {"ErrorEquals": "States.ALL"},
        {"ErrorEquals": ["States.ALL", "A"]},
        {"IntervalSeconds": 0},
        {"IntervalSeconds": 1.5},
        {"IntervalSeconds": 100_000_000},
        {"MaxAttempts": -1},
        {"MaxAttempts": True},
        {"BackoffRate": 0.99},
        {"BackoffRate": float("nan")},
        {"BackoffRate": float("inf")},
        {"MaxDelaySeconds": 0},
        {"MaxDelaySeconds": LONGEST_DELAY_SECONDS + 1},
        {"JitterStrategy": "HALF"},
        {"Backoff": 2},
        {"interval_seconds": 2},
    ],
    ids=str,
)
def test_what_states_language_does_not_have_is_no_policy(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RetryPolicy.model_validate({"ErrorEquals": ["A"], **keys})
