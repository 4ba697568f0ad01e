"""The header Prefer (RFC 7240), and what an Idempotency-Key stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.identity import Identity
from loop_runner.preconditions import prefers_async, request_hash


@pytest.mark.parametrize(
    ("header", "prefers"),
    [
        ("respond-async", True),
        ("Respond-Async", True),
        (" respond-async ", True),
        ("respond-async, wait=10", True),
        ("wait=10,respond-async", True),
        ("respond-async; foo=bar", True),
        ("return=minimal, handling=lenient;x=1 , respond-async", True),
        ("", False),
        ("return=minimal", False),
        ("respond-asynchronously", False),
        ("no-respond-async", False),
        ("wait=10; respond-async", False),
        ('x="respond-async"', False),
        ("respond async", False),
    ],
)
def test_a_caller_prefers_not_to_wait_where_one_of_the_preferences_says_so(header: str, prefers: bool) -> None:
    assert prefers_async({"prefer": header}) is prefers
    assert prefers_async({}) is False


@given(st.text())
def test_any_header_is_a_preference_or_none(header: str) -> None:
    assert prefers_async({"prefer": header}) in {True, False}
    assert prefers_async({"prefer": f"{header},respond-async"}) is True


def test_a_key_stands_for_who_asks_for_what_when_and_how() -> None:
    ann = Identity("ann")
    requests = [
        (ann, {"mode": "execute"}, None, False),
        (ann, {"mode": "execute"}, None, True),
        (ann, {"mode": "dryRun"}, None, False),
        (ann, {"mode": "execute"}, frozenset[int](), False),
        (ann, {"mode": "execute"}, frozenset({1}), False),
        (ann, {"mode": "execute"}, frozenset({1, 2}), False),
        (Identity("bob"), {"mode": "execute"}, None, False),
        (Identity("ann", "arn:web"), {"mode": "execute"}, None, False),
    ]
    hashes = [request_hash(who, dict(body), versions, is_async=how) for who, body, versions, how in requests]
    assert len(set(hashes)) == len(requests)
    assert hashes == [request_hash(who, dict(body), versions, is_async=how) for who, body, versions, how in requests]
