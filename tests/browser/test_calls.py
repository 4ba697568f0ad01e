"""What a page costs: few calls, the same ones again when it refreshes; its address is all that it needs."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.browser.conftest import NewPerson, Register

MOST_CALLS = 3
PAGES = [
    "overview",
    "overview of a week",
    "issues",
    "issues with filters",
    "issue, new",
    "issue, live",
    "issue, retry planned",
    "issue, unknown loop",
    "run, completed",
    "run, live",
    "run, failed",
    "runs",
    "runs with filters",
]


def without_times(calls: list[str]) -> Counter[str]:
    """The calls, whatever window of time they ask for."""
    return Counter(re.sub(r"(since|until)=[^&]*", r"\1=…", call) for call in calls)


@pytest.mark.parametrize("part", range(2))
def test_a_page_loads_with_at_most_three_calls_and_refreshes_with_these(
    person: NewPerson, cases: dict[str, str], part: int
) -> None:
    ann = person(is_paused=True)
    for name in PAGES[part::2]:
        ann.calls.clear()
        ann.visit(cases[name])
        ann.settles()
        loaded = without_times(ann.calls)
        assert 0 < loaded.total() <= MOST_CALLS, (name, loaded)
        ann.calls.clear()
        ann.later()
        refreshed = without_times(ann.calls)
        assert refreshed, name
        assert refreshed <= loaded, (name, refreshed, loaded)


def test_another_page_is_read_with_at_most_three_calls(person: NewPerson, cases: dict[str, str]) -> None:
    ann = person(is_paused=True)
    ann.visit()
    for name in ("Issues", "Runs", "Overview"):
        ann.settles()
        ann.calls.clear()
        ann.page.get_by_role("link", name=name, exact=True).click()
        expect(ann.page.get_by_role("heading", level=1, name=name)).to_be_focused()
        ann.settles()
        assert 0 < len(ann.calls) <= MOST_CALLS, ann.calls


def test_an_address_restores_every_filter_of_runs(person: NewPerson, cases: dict[str, str]) -> None:
    ann, bea = person(), person("bea")
    page = ann.visit("runs")
    page.get_by_label("failed").check()
    page.get_by_label("blocked").check()
    page.get_by_label("Loop").select_option("plain")
    page.get_by_label("Actor").fill("ann & bea")
    page.get_by_label("Actor").press("Enter")
    page.get_by_label("Since").fill("2026-01-02T03:04")
    page.get_by_label("Until").fill("2027-01-02T03:04")
    page.get_by_label("Until").press("Enter")
    asked = (
        "status=failed%2Cblocked&loop=plain&actor=ann\\+%26\\+bea&since=2026-01-02T03%3A04Z&until=2027-01-02T03%3A04Z"
    )
    expect(page).to_have_url(re.compile(re.escape("#/runs?") + asked))

    bea.visit(page.url.split("#/")[1])
    there = bea.page
    expect(there.get_by_label("failed")).to_be_checked()
    expect(there.get_by_label("blocked")).to_be_checked()
    expect(there.get_by_label("completed")).not_to_be_checked()
    expect(there.get_by_label("Loop")).to_have_value("plain")
    expect(there.get_by_label("Actor")).to_have_value("ann & bea")
    expect(there.get_by_label("Since")).to_have_value("2026-01-02T03:04")
    expect(there.get_by_label("Until")).to_have_value("2027-01-02T03:04")
    assert any(re.search(asked, call) for call in bea.calls), bea.calls


def test_an_address_restores_the_filters_of_issues(person: NewPerson, register: Register) -> None:
    shown, other = register("plain"), register("reviewed")
    ann, bea = person(), person("bea")
    page = ann.visit("issues")
    page.get_by_label("Loop").select_option("plain")
    page.get_by_label("State").select_option("OPEN")
    expect(page).to_have_url(re.compile(re.escape("#/issues?loop=plain&state=OPEN")))
    bea.visit(page.url.split("#/")[1])
    for someone in (ann, bea):
        expect(someone.page.get_by_label("Loop")).to_have_value("plain")
        expect(someone.page.get_by_label("State")).to_have_value("OPEN")
        expect(someone.main.get_by_role("link", name=shown.id)).to_be_visible()
        expect(someone.main.get_by_role("link", name=other.id)).to_have_count(0)


def test_going_back_and_forward_restores_pages_and_filters(person: NewPerson, register: Register) -> None:
    opened = register("plain")
    ann = person()
    page = ann.visit("issues")
    page.get_by_label("Loop").select_option("plain")
    ann.main.get_by_role("link", name=opened.id).click()
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text(opened.id)
    page.go_back()
    expect(heading).to_have_text("Issues")
    expect(page.get_by_label("Loop")).to_have_value("plain")
    page.go_back()
    expect(page.get_by_label("Loop")).to_have_value("")
    page.go_forward()
    expect(page.get_by_label("Loop")).to_have_value("plain")
    page.go_forward()
    expect(heading).to_have_text(opened.id)
