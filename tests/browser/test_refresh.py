"""A page is read again and again, and what its user is at stays: focus, caret, scrolling, what is open or typed."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.cases import DRAFT, PICKED, WAITS, multiply_run
from tests.browser.conftest import Held
from tests.browser.person import REFRESH_MS

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.conftest import NewPerson, Register
    from tests.browser.person import Person
    from tools.local.stack import Stack


LIVE_MS = 2_000


def hide(page: Page, is_hidden: bool) -> None:
    """As if the tab were behind another: a headless one never is."""
    page.evaluate(
        """isHidden => {
            const state = isHidden ? "hidden" : "visible";
            Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
            Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


def rows(person: Person) -> Locator:
    return person.main.get_by_role("table").get_by_role("rowgroup").last.get_by_role("row")


# -------------------------------------------------------------------------------------------------- when


def test_a_page_is_read_every_five_seconds_and_every_two_while_something_is_live(
    person: NewPerson, register: Register
) -> None:
    new = register("handed", **WAITS)
    ann = person(is_paused=True)
    ann.visit(f"issues/{new.id}")
    ann.settles()
    ann.calls.clear()
    ann.later(REFRESH_MS - 1)
    assert ann.calls == []
    ann.later(1)
    assert len(ann.calls) == 3
    ann.press("Run next step")
    expect(ann.button("Cancel run")).to_be_visible()
    ann.settles()
    ann.calls.clear()
    ann.later(LIVE_MS - 1)
    assert ann.calls == []
    ann.later(1)
    assert len(ann.calls) == 3


def test_a_hidden_tab_is_not_read_and_one_that_is_seen_again_is_at_once(person: NewPerson, register: Register) -> None:
    new = register("plain")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    ann.settles()
    ann.calls.clear()
    hide(page, True)
    ann.later(60_000)
    assert ann.calls == []
    new.patch(seen="again")
    hide(page, False)
    expect(ann.facts).to_contain_text("again")
    ann.settles()
    assert len(ann.calls) == 3
    ann.later()
    assert len(ann.calls) == 6


def test_a_tab_that_is_hidden_while_it_is_read_is_not_read_again(person: NewPerson, register: Register) -> None:
    new = register("plain")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    held = Held(page, "**/api/**")
    page.clock.run_for(REFRESH_MS)
    hide(page, True)
    held.let_go()
    ann.settles()
    ann.calls.clear()
    ann.later(60_000)
    assert ann.calls == []


def test_a_first_load_says_that_it_loads_and_a_refresh_does_not(person: NewPerson, register: Register) -> None:
    new = register("plain", seen="before")
    ann = person(is_paused=True)
    page = ann.page
    held = Held(page, "**/api/**")
    page.goto(f"{ann.url}/console#/issues/{new.id}")
    expect(ann.main).to_have_attribute("aria-busy", "true")
    expect(ann.main.get_by_text("Loading…")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text(new.id)
    held.let_go()
    ann.is_there()
    expect(ann.main.get_by_text("Loading…")).to_have_count(0)
    held = Held(page, "**/api/**")
    page.clock.run_for(REFRESH_MS)
    expect(ann.main).to_have_attribute("aria-busy", "false")
    expect(ann.facts).to_contain_text("seen")
    expect(ann.main.get_by_text("Loading…")).to_have_count(0)
    held.let_go()
    ann.settles()


def test_an_answer_for_a_page_that_is_left_is_dropped(person: NewPerson, register: Register) -> None:
    left, shown = register("plain", mine="left"), register("plain", mine="shown")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{left.id}")
    held = Held(page, f"**/{left.id}**")
    page.clock.run_for(REFRESH_MS)
    page.evaluate("id => { location.hash = `#/issues/${id}` }", shown.id)
    expect(ann.facts).to_contain_text("shown")
    held.let_go()
    ann.settles()
    expect(page.get_by_role("heading", level=1)).to_have_text(shown.id)
    expect(ann.facts).to_contain_text("shown")
    expect(ann.banner).to_have_count(0)


def test_an_answer_for_other_filters_is_dropped(person: NewPerson, register: Register) -> None:
    slow, shown = register("plain"), register("reviewed")
    ann = person(is_paused=True)
    page = ann.visit("issues")
    held = Held(page, "**/issues?loop=plain**")
    page.get_by_label("Loop").select_option("plain")
    expect(page).to_have_url(re.compile("loop=plain"))
    page.get_by_label("Loop").select_option("reviewed")
    expect(ann.main.get_by_role("link", name=shown.id)).to_be_visible()
    held.let_go()
    ann.settles()
    expect(ann.main.get_by_role("link", name=shown.id)).to_be_visible()
    expect(ann.main.get_by_role("link", name=slow.id)).to_have_count(0)


# -------------------------------------------------------------------------------------------- what stays


def test_focus_caret_and_typed_text_stay(person: NewPerson, register: Register) -> None:
    ann = person(is_paused=True)
    page = ann.visit("issues")
    field = page.get_by_role("textbox", name="Open issue")
    field.fill("T-1234")
    field.evaluate("field => field.setSelectionRange(1, 3)")
    new = register("plain")
    ann.later()
    expect(ann.main.get_by_role("link", name=new.id)).to_be_visible()
    expect(field).to_be_focused()
    expect(field).to_have_value("T-1234")
    assert field.evaluate("field => [field.selectionStart, field.selectionEnd]") == [1, 3]
    page.keyboard.type("x")
    expect(field).to_have_value("Tx234")


def test_a_filter_that_is_being_typed_stays(person: NewPerson, register: Register) -> None:
    new = register("plain")
    ann = person(is_paused=True)
    page = ann.visit("runs")
    page.get_by_label("Actor").type("somebo")
    new.run()
    ann.later()
    expect(ann.main.get_by_role("link", name=new.id)).to_be_visible()
    expect(page.get_by_label("Actor")).to_have_value("somebo")
    expect(page.get_by_label("Actor")).to_be_focused()
    page.keyboard.type("dy\n")
    expect(page).to_have_url(re.compile("actor=somebody"))


def test_an_open_question_stays_with_its_text_while_the_page_behind_it_changes(
    person: NewPerson, register: Register
) -> None:
    new = register("plain")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    ann.press("Hold")
    field = ann.dialog.get_by_role("textbox", name="Reason")
    field.fill("Because of")
    field.evaluate("field => field.setSelectionRange(3, 3)")
    new.patch(seen="behind")
    ann.later()
    expect(ann.facts).to_contain_text("behind")
    expect(field).to_be_focused()
    page.keyboard.type("!")
    expect(field).to_have_value("Bec!ause of")


def test_the_focus_stays_on_a_link_whose_row_moves(person: NewPerson, register: Register) -> None:
    old = register("plain")
    ann = person(is_paused=True)
    ann.visit("issues")
    link = ann.main.get_by_role("link", name=old.id)
    link.focus()
    new = register("plain")
    ann.later()
    expect(ann.main.get_by_role("link", name=new.id)).to_be_visible()
    expect(link).to_be_focused()


def test_the_focus_goes_to_the_heading_where_what_had_it_is_gone(person: NewPerson, register: Register) -> None:
    new = register("handed", **WAITS)
    run_id = new.run()["runId"]
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    ann.button("Cancel run").focus()
    new.cancel(run_id)
    ann.later()
    expect(ann.button("Cancel run")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_what_is_unfolded_stays_so(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery", **PICKED, **DRAFT)
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    loop = page.get_by_role("region", name="Loop").locator("details")
    facts = ann.facts.locator("details")
    for each in (loop, facts):
        each.locator("summary").click()
    new.run()
    new.patch(one="more")
    ann.later()
    expect(ann.facts.locator("pre")).to_contain_text("more")
    for each in (loop, facts):
        expect(each).to_have_attribute("open", "")


def test_the_tables_of_the_charts_stay_unfolded(person: NewPerson, register: Register) -> None:
    new = register("plain")
    ann = person(is_paused=True)
    ann.visit()
    tables = ann.main.locator("figure details")
    expect(tables).to_have_count(2)
    for each in tables.all():
        each.locator("summary").click()
    new.run()
    ann.later()
    for each in tables.all():
        expect(each).to_have_attribute("open", "")
        expect(each.get_by_role("table")).to_be_visible()


def test_selected_text_stays_selected(person: NewPerson, register: Register) -> None:
    new = register("plain", text="to be copied")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    ann.facts.locator("summary").click()
    ann.facts.locator("pre").evaluate("pre => getSelection().selectAllChildren(pre)")
    selected = page.evaluate("getSelection().toString()")
    assert "to be copied" in selected
    new.call("POST", f"{new.path}/hold", {"reason": "something else changes"})
    ann.later()
    expect(ann.button("Resume")).to_be_visible()
    assert page.evaluate("getSelection().toString()") == selected


def test_what_is_read_stays_where_it_is_on_the_screen(stack: Stack, person: NewPerson, register: Register) -> None:
    new = register("issue-delivery", actor="scroller")
    multiply_run(stack, new.run()["runId"], 24)
    ann = person(is_paused=True)
    page = ann.visit("runs?actor=scroller")
    href = rows(ann).nth(15).get_by_role("link").first.get_attribute("href")
    read = rows(ann).filter(has=page.locator(f'a[href="{href}"]'))
    read.evaluate("row => row.scrollIntoView({ block: 'start' })")
    place = "row => row.getBoundingClientRect().top"
    scrolled, at = page.evaluate("scrollY"), read.evaluate(place)
    assert scrolled > 0
    ann.later()
    assert (page.evaluate("scrollY"), read.evaluate(place)) == (scrolled, at)
    new.run()
    ann.later()
    expect(rows(ann)).to_have_count(26)
    assert read.evaluate(place) == pytest.approx(at, abs=2)


def test_nothing_is_built_anew_where_nothing_has_changed(person: NewPerson, cases: dict[str, str]) -> None:
    ann = person(is_paused=True)
    for name in (
        "issue, on its way",
        "run, blocked",
        "issues with filters",
        "runs with filters",
        "issue, live",
        "overview",
    ):
        page = ann.visit(cases[name])
        ann.settles()
        page.evaluate(
            """() => {
                window.changes = [];
                new MutationObserver((records) => changes.push(...records.map(({ target, addedNodes, removedNodes }) =>
                    `${target.nodeName}.${target.className} +${addedNodes.length} -${removedNodes.length}`)))
                    .observe(document.body, { childList: true, subtree: true });
            }"""
        )
        ann.later()
        assert page.evaluate("changes") == [], name


@pytest.mark.parametrize("ahead", [timedelta(hours=-30), timedelta(), timedelta(hours=30)])
def test_times_are_told_by_the_servers_clock(person: NewPerson, register: Register, ahead: timedelta) -> None:
    new = register("plain")
    ann = person(is_paused=True, ahead=ahead)
    ann.visit(f"issues/{new.id}")
    registered = ann.main.locator("time").last
    expect(registered).to_have_text(re.compile(r"^(just now|\d\d? s ago)$"))
    expect(registered).to_have_attribute("datetime", new.events()[0]["occurredAt"])
    expect(registered).to_have_attribute("title", re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ UTC$"))


# -------------------------------------------------------------------------------------------------- lists


def ids(person: Person) -> list[str]:
    return [
        str(href).rsplit("/", 1)[1]
        for href in rows(person).locator("th a").evaluate_all("all => all.map(({ href }) => href)")
    ]


def test_a_page_of_a_hundred_runs_keeps_them_and_gets_the_new_ones(
    stack: Stack, person: NewPerson, register: Register
) -> None:
    new = register("issue-delivery", actor="hundred")
    multiply_run(stack, new.run()["runId"], 104)
    ann = person(is_paused=True)
    ann.visit("runs?actor=hundred")
    first = rows(ann).count()
    while (count := rows(ann).count()) < 105:
        ann.button("Older").click()
        expect(rows(ann)).to_have_count(min(count + first, 105))
    expect(ann.button("Older")).to_have_count(0)
    before = ids(ann)
    assert len(set(before)) == 105
    run_id = new.run()["runId"]
    ann.later()
    expect(rows(ann)).to_have_count(106)
    assert ids(ann) == [run_id, *before]
    ann.later()
    assert ids(ann) == [run_id, *before]


def test_an_extended_list_ends_where_it_did_when_it_is_read_again(
    stack: Stack, person: NewPerson, register: Register
) -> None:
    new = register("issue-delivery", actor="extender")
    multiply_run(stack, new.run()["runId"], 99)
    ann = person(is_paused=True)
    ann.visit("runs?actor=extender")
    first = rows(ann).count()
    ann.button("Older").click()
    expect(rows(ann)).to_have_count(2 * first)
    new.run()
    ann.later()
    expect(rows(ann)).to_have_count(2 * first + 1)
    ann.button("Older").click()  # goes on where it ended
    expect(rows(ann)).to_have_count(3 * first + 1)
    shown = ids(ann)
    assert shown == [run["runId"] for run in reversed(new.runs())][: len(shown)]


def test_the_timeline_and_the_runs_of_an_issue_are_extended_each_for_itself(
    person: NewPerson, register: Register
) -> None:
    new = register("issue-delivery")
    for _ in range(15):
        new.run()
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    runs, timeline = (page.get_by_role("region", name=name) for name in ("Runs", "Timeline"))
    events = timeline.get_by_role("listitem")
    expect(runs.get_by_role("row")).to_have_count(10 + 1)
    expect(events).to_have_count(20)
    timeline.get_by_role("button", name="Older").click()
    expect(events).to_have_count(31)
    expect(runs.get_by_role("row")).to_have_count(10 + 1)
    runs.get_by_role("button", name="Older").click()
    expect(runs.get_by_role("row")).to_have_count(15 + 1)
    new.run()
    ann.later()
    expect(runs.get_by_role("row")).to_have_count(16 + 1)
    expect(events).to_have_count(33)
