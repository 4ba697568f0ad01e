"""Nothing breaks the layout, on a phone or on a desk: whatever there is to show, nobody scrolls sideways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from playwright.sync_api import expect

from tests.browser.cases import HEBREW, UNBROKEN

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

    from tests.browser.conftest import NewPerson, Register

PHONE: Final[ViewportSize] = {"width": 360, "height": 740}

OUTSIDE: Final = """() => {
    const hides = (each) => each && (getComputedStyle(each).overflowX !== "visible" || hides(each.parentElement));
    const leaves = [...document.querySelectorAll("body *:not(:has(*)):not(svg *)")].filter((each) =>
        each.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !hides(each));
    const isWide = (each) => {
        const { left, right } = each.getBoundingClientRect();
        return left < -1 || right > innerWidth + 1 || (each.clientWidth > 1 && each.scrollWidth > each.clientWidth + 4);
    };
    const name = (each) => `${each.localName}.${each.className} ${each.textContent.slice(0, 20)}`;
    const wide = leaves.filter(isWide).map(name);
    return document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways", ...wide] : wide;
}"""
"""What is wider than the page, or than what it is in, and is not cut."""


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")


@pytest.mark.parametrize("part", range(3))
def test_no_page_is_wider_than_the_screen_whatever_it_shows(
    person: NewPerson, cases: dict[str, str], part: int
) -> None:
    ann = person(viewport=PHONE)
    wide = {}
    for name in sorted(cases)[part::3]:
        page = ann.visit(cases[name])
        unfold(page)
        for width in (PHONE["width"], 768, 1000, 1280):
            page.set_viewport_size({"width": width, "height": 740})
            if found := page.evaluate(OUTSIDE):
                wide[f"{name} at {width}"] = found[:5]
        page.set_viewport_size(PHONE)

    assert wide == {}


@pytest.mark.parametrize("text", [UNBROKEN, HEBREW[:500]], ids=["unbroken", "right to left"])
def test_no_question_result_or_error_is_wider_than_a_phone(person: NewPerson, register: Register, text: str) -> None:
    new = register("plain")
    ann = person(viewport=PHONE, is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    ann.press("Hold")
    ann.dialog.get_by_role("textbox").fill(text)
    assert page.evaluate(OUTSIDE) == []
    expect(ann.dialog.get_by_role("button", name="Hold")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Escape")
    error = {"code": "UNAVAILABLE", "message": text * 4}
    envelope = {"schemaVersion": "loop.error.v1", "requestId": text, "error": error, "timestamp": ""}
    ann.provokes("503")
    page.route("**/api/loop/**", lambda route: route.fulfill(status=503, json=envelope))
    ann.press("Run next step")
    expect(ann.notices).to_contain_text(text[:100])
    expect(ann.banner).to_be_visible()
    assert page.evaluate(OUTSIDE) == []
    dismiss = ann.notices.get_by_role("button", name="Dismiss")
    expect(dismiss).to_be_in_viewport(ratio=1)
    dismiss.click()
    expect(ann.banner.get_by_role("button", name="Retry")).to_be_visible()


def test_what_is_done_on_a_phone_is_large_enough_to_be_touched(person: NewPerson, cases: dict[str, str]) -> None:
    ann = person(viewport=PHONE, has_touch=True, is_mobile=True)
    small = {}
    for name in ("overview", "issues", "issue, live", "issue, waits for approval", "run, live", "runs"):
        page = ann.visit(cases[name])
        for each in page.locator("button:not(#skip), input, select, nav a").all():
            box = each.bounding_box()
            if box and min(box["width"], box["height"]) < 24 and each.get_attribute("type") != "checkbox":
                small[f"{name}: {each.inner_text()}"] = box  # WCAG 2.2, 2.5.8

    assert small == {}


@pytest.mark.parametrize("name", ["issue, on its way", "issue, waits for approval", "issue, long names"])
def test_on_a_phone_everything_can_be_reached_and_done(person: NewPerson, cases: dict[str, str], name: str) -> None:
    ann = person(viewport=PHONE, has_touch=True, is_mobile=True)
    page = ann.visit(cases[name])
    for action in ann.main.get_by_role("group", name="Actions").get_by_role("button").all():
        action.scroll_into_view_if_needed()
        expect(action).to_be_in_viewport(ratio=1)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Runs").tap()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    page.get_by_role("button", name="Acting as ann").tap()
    expect(ann.dialog).to_be_visible()


def test_a_row_of_a_table_tells_on_a_phone_what_each_value_is(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery")
    new.run()
    ann = person(viewport=PHONE)
    page = ann.visit("issues")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=new.id))
    labels = row.get_by_role("cell").evaluate_all("all => all.map(each => getComputedStyle(each, '::before').content)")
    assert len(labels) >= 4
    assert all(len(label.strip('"')) > 2 for label in labels), labels


def test_a_long_error_takes_few_lines_of_a_list(person: NewPerson, register: Register) -> None:
    error = {"name": "Long", "message": "word " * 800}
    new = register("plain", do="answer", answer={"status": "failed", "error": error})
    new.run()
    ann = person()
    page = ann.visit()
    message = page.get_by_role("row").filter(has=page.get_by_role("link", name=new.id)).locator(".message")
    for width in (PHONE["width"], 1280):
        page.set_viewport_size({"width": width, "height": 740})
        assert 22 < message.evaluate("each => each.clientHeight") <= 4 * 22
