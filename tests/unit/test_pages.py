"""Paging: limits are checked, never changed; cursors lead on exactly, and only ours are taken."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.errors import InvalidRequestError
from loop_runner.models import Event, Run
from loop_runner.pages import DEFAULT_LIMIT, MAX_LIMIT, Page
from tests.unit.strategies import JSON, NOW


def run(created_at: datetime, run_id: UUID) -> Run:
    return Run.model_validate(
        {"id": run_id, "issue_id": "A", "actor": "ann", "request_id": "r", "mode": "execute", "status": "completed",
         "created_at": created_at, "metadata": {}, "attempt": 1}
    )  # fmt: skip


def event(event_id: int) -> Event:
    return Event(event_id=event_id, issue_id="A", event_type="loop_run_started", event_data={}, occurred_at=NOW)


def cursor(key: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def refused(text: str) -> bool:
    """Whether both lists refuse the cursor; nothing but the refusal may be raised."""
    page, refusals = Page(20, text), 0
    for read in (page.before_run, page.before_event):
        try:
            read()
        except InvalidRequestError:
            refusals += 1
    return refusals == 2


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


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(), st.integers(1, 100))
def test_a_cursor_of_runs_leads_on_exactly_after_the_last_one(created_at: datetime, run_id: UUID, limit: int) -> None:
    runs = [run(NOW, uuid4())] * (limit - 1) + [run(created_at, run_id), run(NOW - timedelta(days=1), uuid4())]
    following = Page(limit, None).after_runs(runs)
    assert following
    assert Page.of({"cursor": following}).before_run() == (created_at, run_id)


@given(st.integers(1, 2**63 - 1), st.integers(1, 100))
def test_a_cursor_of_events_leads_on_exactly_after_the_last_one(event_id: int, limit: int) -> None:
    following = Page(limit, None).after_events([event(1)] * (limit - 1) + [event(event_id), event(1)])
    assert following
    assert Page.of({"cursor": following}).before_event() == event_id


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_last_page_has_no_cursor(count: int) -> None:
    page = Page(5, None)
    assert page.after_runs([run(NOW, uuid4())] * count) is None
    assert page.after_events([event(1)] * count) is None


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
        ["2026-11-24T12:00:00+00:00", "1"],
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


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(), st.data())
def test_a_cursor_with_one_character_changed_is_a_position_or_refused_and_nothing_else(
    created_at: datetime, run_id: UUID, data: st.DataObject
) -> None:
    text = cursor([created_at.isoformat(), str(run_id)])
    position = data.draw(st.integers(0, len(text) - 1))
    changed = text[:position] + data.draw(st.sampled_from("Aa0_-=~")) + text[position + 1 :]
    with suppress(InvalidRequestError):
        position_of_run = Page(20, changed).before_run()
        assert position_of_run
        assert position_of_run[0].tzinfo
