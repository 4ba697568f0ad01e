"""Paging: limits are checked, never changed; cursors lead on exactly, and only ours are taken."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.contract import ISSUE_ID
from loop_runner.errors import InvalidRequestError
from loop_runner.pages import DEFAULT_LIMIT, MAX_LIMIT, Page
from tests.unit.strategies import JSON, NOW


def cursor(key: Any) -> str:
    """What a caller may make up who has seen how ours are made."""
    content = json.dumps(key, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(Page()._check(content) + content).decode().rstrip("=")


def refused(text: str) -> bool:
    """Whether all lists refuse the cursor; nothing but the refusal may be raised."""
    page, refusals = Page(20, text), 0
    for read in (page.before_run, page.before_issue, page.before_event):
        try:
            read()
        except InvalidRequestError:
            refusals += 1
    return refusals == 3


def test_nothing_asked_for_is_the_first_page_of_twenty() -> None:
    page = Page.of({})
    assert (page.limit, page.cursor, page.before_run(), page.before_event()) == (DEFAULT_LIMIT, None, None, None)


@pytest.mark.parametrize("limit", ["1", "20", "100"])
def test_a_limit_from_1_to_100_is_taken(limit: str) -> None:
    assert Page.of({"limit": limit}).limit == int(limit)


@pytest.mark.parametrize(
    "limit", ["0", "101", "-1", "", " 1", "1.0", "1e1", "ten", "+5", "\u0665", "²", "1" * 5000, "null", "0x1", "1_0"]
)
def test_any_other_limit_is_refused_not_changed(limit: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"1 to {MAX_LIMIT}"):
        Page.of({"limit": limit})


@pytest.mark.parametrize("key", ["Limit", "offset", "page", "status", ""])
def test_an_unknown_parameter_is_refused_by_name(key: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"unknown query parameter '{key}'"):
        Page.of({"limit": "1", key: "1"})


READERS = {"run": Page.before_run, "issue": Page.before_issue, "event": Page.before_event}
KEYS = st.one_of(
    st.tuples(st.just("run"), st.uuids()),
    st.tuples(st.just("issue"), st.from_regex(ISSUE_ID, fullmatch=True)),
    st.tuples(st.just("event"), st.integers(1, 2**63 - 1)),
)


@given(st.datetimes(timezones=st.just(UTC)), KEYS, st.integers(1, 100))
def test_a_cursor_leads_on_exactly_after_the_last_item(at: datetime, key: tuple[str, Any], limit: int) -> None:
    items = [(NOW, UUID(int=7))] * (limit - 1) + [(at, key[1]), (NOW - timedelta(days=1), UUID(int=1))]
    shown, following = Page(limit).cut(items, lambda item: item)
    assert (len(shown), shown[-1]) == (limit, (at, key[1]))
    assert following
    assert READERS[key[0]](Page.of({"cursor": following})) == (at, key[1])


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(), st.data())
def test_a_cursor_with_any_character_changed_is_refused(at: datetime, run_id: UUID, data: st.DataObject) -> None:
    following = Page().cursor_after(at, run_id)
    position = data.draw(st.integers(0, len(following) - 1))
    other = data.draw(st.sampled_from(sorted(set("ABCxyz019-_=!") - {following[position]})))
    with pytest.raises(InvalidRequestError, match="nextCursor"):
        Page.of({"cursor": following[:position] + other + following[position + 1 :]}).before_run()


def test_a_cursor_belongs_to_the_filters_of_its_page() -> None:
    following = Page.of({"status": "failed"}, "status", "loop").cursor_after(NOW, UUID(int=1))
    assert Page.of({"status": "failed", "limit": "3", "cursor": following}, "status").before_run()
    for other in ({}, {"status": "completed"}, {"status": "failed", "loop": "a"}):
        with pytest.raises(InvalidRequestError, match="same list and filters"):
            Page.of({**other, "cursor": following}, "status", "loop").before_run()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_last_page_has_no_cursor(count: int) -> None:
    assert Page(5).cut([(NOW, 1)] * count, lambda item: item) == (((NOW, 1),) * count, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "=",
        "!!!!",
        "ä",
        "A" * 100_000,
        "bnVsbA",
        "e30",
        "WzEgXQ",
        "W10",
        "W10=",
        "WzFd=",
        "Wy0xXQ",
        "/w",
        "\0",
        " WzFd",
    ],
)
def test_a_cursor_that_is_not_ours_is_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    "key",
    [
        [],
        {},
        "a",
        1,
        None,
        [None],
        [True],
        [1.5],
        ["1"],
        [0],
        [-1],
        [2**63],
        [1, 2],
        [[1]],
        ["2026-11-24T12:00:00+00:00"],
        ["2026-11-24T12:00:00", str(UUID(int=1))],
        ["2026-11-24", str(UUID(int=1))],
        ["now", str(UUID(int=1))],
        ["2026-11-24T12:00:00+00:00", str(UUID(int=1)), 1],
        [1, str(UUID(int=1))],
    ],
)
def test_a_cursor_of_another_form_is_refused(key: Any) -> None:
    assert refused(cursor(key))


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda key: base64.urlsafe_b64encode(key).decode()))
def test_any_text_is_a_cursor_or_refused_and_nothing_else(text: str) -> None:
    refused(text)


@given(JSON)
def test_any_json_is_a_cursor_or_refused_and_nothing_else(key: Any) -> None:
    refused(cursor(key))
