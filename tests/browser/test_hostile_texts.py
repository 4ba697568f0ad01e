"""Whatever a text looks like, it is only text: in answers, in errors, in addresses, in what people write."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.browser.cases import MARKUP

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Route

    from tests.browser.conftest import NewPerson, Register
    from tests.browser.person import Person

PARSED: Final = re.compile(r"^\d{4}-\d\d-\d\dT|^loop\.")
"""Values that the page reads as something else than text: times and versions of schemas."""

ELEMENTS: Final = (
    " a b blockquote button caption circle code dd desc details dialog div dl dt fieldset figcaption figure form g h1"
    " h2 h3 header input label legend li main nav ol option p path pre rect section select span summary svg table tbody"
    " td text textarea th thead time title tr ul "
)
FOREIGN: Final = """(known) => {
    const all = [...document.querySelectorAll("body, body *")];
    const hrefs = [...document.links].map((each) => each.getAttribute("href"));
    return [
        ...all.slice(1).filter(({ localName }) => !known.includes(` ${localName} `)).map((each) => each.outerHTML),
        ...all.flatMap((each) => each.getAttributeNames()).filter((name) => /^on/.test(name)),
        ...hrefs.filter((href) => !/^(#\\/|https:\\/\\/)/.test(href)),
    ];
}"""
"""Elements, attributes and links that no page has."""


def marked(value: Any) -> Any:
    """The answer with markup in every text, in keys of facts too."""
    match value:
        case dict():
            return {key: with_marked_keys(each) if key == "facts" else marked(each) for key, each in value.items()}
        case list():
            return [marked(each) for each in value]
        case str() if not PARSED.match(value):
            return value + MARKUP
        case _:
            return value


def with_marked_keys(facts: dict[str, Any]) -> dict[str, Any]:
    return {key + MARKUP: marked(each) for key, each in facts.items()}


def nothing_has_come_of_it(person: Person) -> None:
    """No text has become an element, an attribute that runs, or a link."""
    assert person.page.evaluate(FOREIGN, ELEMENTS) == []


@pytest.mark.parametrize(
    "names",
    [
        ("overview", "issues", "runs"),
        ("issue, on its way", "issue, live", "issue, held", "issue, retry planned", "issue, decided"),
        ("run, completed", "run, blocked", "run, failed", "run, live", "run, cancelled", "run, dry"),
    ],
)
def test_every_text_of_every_answer_is_only_text(person: NewPerson, cases: dict[str, str], names: tuple[str]) -> None:
    ann = person()

    def mark(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=marked(answer.json()))

    ann.page.route("**/api/loop/**", mark)
    for name in names:
        ann.visit(cases[name])
        ann.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        expect(ann.main).to_contain_text(MARKUP)
        expect(ann.banner).to_have_count(0)
        nothing_has_come_of_it(ann)


def fulfilled(status: int, body: object) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, json=body)


def test_every_text_of_every_error_is_only_text(person: NewPerson, register: Register) -> None:
    new = register("reviewed")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    for status, code in ((404, MARKUP), (409, "LOOP_CONFLICT"), (503, MARKUP)):
        details = {"actor": MARKUP, "runId": MARKUP, "leaseExpiresAt": "2026-11-24T02:57:45.721121Z"}
        error = {"code": code, "message": f"{status} {MARKUP}", "details": details}
        envelope = {"schemaVersion": "loop.error.v1", "requestId": MARKUP, "error": error, "timestamp": MARKUP}
        ann.provokes(str(status))
        page.route("**/api/loop/**", fulfilled(status, envelope))
        ann.later(30_000)
        expect(ann.banner).to_contain_text(f"{status} {MARKUP}")
        expect(ann.banner).to_contain_text(f"Request {MARKUP}")
        for name, text in (("Run next step", None), ("Hold", MARKUP)):
            ann.press(name, text)
            expect(ann.notices).to_contain_text(MARKUP)
        nothing_has_come_of_it(ann)


@pytest.mark.parametrize("body", [MARKUP, json.dumps({"message": MARKUP})])
def test_what_is_no_answer_of_ours_is_only_text(person: NewPerson, body: str) -> None:
    ann = person()
    ann.provokes("502")
    ann.page.route("**/api/loop/**", lambda route: route.fulfill(status=502, body=body, content_type="text/html"))
    ann.visit("issues")
    expect(ann.banner).to_contain_text("502")
    nothing_has_come_of_it(ann)


def test_every_text_of_an_address_is_only_text(person: NewPerson) -> None:
    ann = person()
    ann.provokes("404")
    ann.provokes("400")
    for route in (
        "issues/{}", "runs/{}", "{}", "{}/{}", "issues?loop={}&state={}", "runs?status={}", "runs?loop={}&actor={}",
    ):  # fmt: skip
        ann.visit(route.replace("{}", quote(MARKUP, safe="")))
        expect(ann.page.get_by_role("heading", level=1)).to_be_visible()
        nothing_has_come_of_it(ann)


def test_a_markup_like_id_is_asked_for_as_it_is(person: NewPerson) -> None:
    ann = person()
    ann.provokes("404")
    page = ann.visit("issues")
    page.get_by_role("textbox", name="Open issue").fill(f"../{MARKUP}?x#y")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"../{MARKUP}?x#y")
    expect(ann.banner).to_be_visible()
    assert f"GET /api/loop/issues/{quote(f'../{MARKUP}?x#y', safe=chr(39) + '()!*')}?include=loop" in ann.calls
    nothing_has_come_of_it(ann)


def test_what_people_write_is_only_text(person: NewPerson, register: Register) -> None:
    new = register("handed", actor=MARKUP, do="answer", answer={}, **{MARKUP[:40]: MARKUP})
    run_id = new.run()["runId"]
    ann = person(MARKUP)
    ann.visit(f"issues/{new.id}")
    ann.press("Hold", MARKUP)
    expect(ann.button("Resume")).to_be_visible()
    ann.press("Cancel run", MARKUP)
    expect(ann.button("Cancel run")).to_have_count(0)
    for route in (f"issues/{new.id}", f"runs/{run_id}", f"runs?actor={quote(MARKUP)}", "issues?loop=handed"):
        ann.visit(route)
        expect(ann.main).to_contain_text(MARKUP)
        nothing_has_come_of_it(ann)
    assert new.get()["hold"]["reason"] == MARKUP
    assert new.run_of(run_id)["cancelReason"] == MARKUP


def test_what_is_called_like_something_that_every_object_has_is_shown(person: NewPerson, cases: dict[str, str]) -> None:
    ann = person()
    page = ann.visit(cases["issue, named like what objects have"])
    ann.facts.locator("summary").click()
    expect(ann.facts.locator("pre")).to_contain_text('"__proto__": {')
    diagram = page.get_by_role("region", name="Loop").get_by_role("img")
    expect(diagram).to_have_accessible_description(re.compile("is constructor, next is hasOwnProperty"))
    ann.visit(cases["run, named like what objects have"])
    expect(ann.main).to_contain_text("constructor")
    ann.visit("issues?loop=constructor&state=constructor")
    expect(page.get_by_label("State")).to_have_value("constructor")
    expect(ann.main.get_by_role("table").get_by_role("link").first).to_be_visible()
