"""The run console for everybody: axe-core finds nothing serious, and a phone need not be scrolled sideways."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Held
from tests.stack_client import ok

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page, ViewportSize

    from tests.browser.conftest import NewPerson, OpenConsole, Register
    from tests.stack_client import Issue
    from tools.local.stack import Stack

PHONE: ViewportSize = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def addresses(stack: Stack) -> dict[str, str]:
    """A page of each kind with something of each kind on it."""
    from tests.stack_client import Issue

    issues = {
        name: Issue(stack.url, f"a11y-{name}") for name in ("blocked", "waiting", "retried", "approval", "held", "done")
    }
    issues["blocked"].register("issue-delivery", githubUrl="https://example.org/" + "long" * 40)
    issues["waiting"].register("handed", do="answer", answer={})
    issues["retried"].register("retried", do="fail", name="Late")
    issues["approval"].register("reviewed")
    issues["held"].register("agent-merge")
    issues["done"].register("plain")
    runs = {name: issue.run()["runId"] for name, issue in issues.items()}
    issues["blocked"].run()
    ok(issues["held"].call("POST", f"{issues['held'].path}/hold", {"reason": "not now"}))
    return (
        {
            "overview": "#/",
            "issues": "#/issues",
            "runs": "#/runs?actor=ann",
            "nothing": "#/runs?actor=nobody",
        }
        | {f"issue {name}": f"#/issues/{issue.id}" for name, issue in issues.items()}
        | {f"run {name}": f"#/runs/{runs[name]}" for name in ("blocked", "waiting", "retried")}
        | {"unknown": "#/issues/unknown"}
    )


KINDS = ["overview", "issues", "runs", "nothing", "unknown"]
KINDS += [f"issue {name}" for name in ("blocked", "waiting", "retried", "approval", "held", "done")]
KINDS += [f"run {name}" for name in ("blocked", "waiting", "retried")]


def findings(page: Page) -> list[Any]:
    """What axe-core finds that is serious or critical."""
    violations = Axe().run(page).response["violations"]
    return [
        (each["id"], [node["html"] for node in each["nodes"]])
        for each in violations
        if each["impact"] in {"serious", "critical"}
    ]


def opened(page: Page) -> Page:
    """The page with everything opened that can be."""
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return page


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_serious_is_found_in_light_and_dark_and_no_page_scrolls_sideways_on_a_phone(
    open_console: OpenConsole, addresses: dict[str, str], kind: str
) -> None:
    page = opened(open_console(addresses[kind], may_be_refused=kind == "unknown"))
    assert findings(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(PHONE)
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_found_in_dialogs_and_results(
    open_console: OpenConsole, register: Callable[..., Issue], scheme: str
) -> None:
    page = open_console(f"#/issues/{register('reviewed').id}", color_scheme=scheme, viewport=PHONE)
    page.get_by_role("button", name="Run next step").click()
    expect(page.get_by_role("status", name="Results")).to_contain_text("APPROVAL_REQUIRED")
    assert findings(page) == []
    page.get_by_role("button", name="Reject").click()
    expect(page.get_by_label("Comment")).to_be_focused()
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.parametrize(
    "names",
    [
        ("issue, long names", "run, long names", "run, dry", "run, queued", "nowhere"),
        ("issue, unknown loop", "issue, unknown state", "issue, large facts", "issue, right to left", "run, markup"),
    ],
)
def test_nothing_serious_is_found_where_something_is_hard_to_show(
    person: NewPerson, cases: dict[str, str], names: tuple[str]
) -> None:
    ann = person()
    assert {name: found for name in names if (found := findings(opened(ann.visit(cases[name]))))} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_found_while_a_page_loads_and_where_it_cannot(
    person: NewPerson, register: Register, scheme: str
) -> None:
    new = register("plain")
    ann = person(color_scheme=scheme)  # its clock runs: axe-core waits for it
    page = ann.visit("no/such/page")
    held = Held(page, "**/api/**")
    page.evaluate("id => { location.hash = `#/issues/${id}` }", new.id)
    expect(ann.main).to_have_attribute("aria-busy", "true")
    assert findings(page) == []
    held.let_go()
    ann.is_there()
    ann.provokes("503")
    page.route("**/api/**", lambda route: route.fulfill(status=503, body=""))
    page.evaluate("dispatchEvent(new Event('online'))")  # reads it again
    expect(ann.banner).to_be_visible()  # above what was there before
    assert findings(page) == []
    ann.press("Run next step")
    expect(ann.notices).to_contain_text("503")
    page.get_by_role("button", name="Acting as ann").click()
    expect(ann.dialog).to_be_visible()
    assert findings(page) == []


@pytest.mark.parametrize("kind", ["overview", "issues", "runs", "issue blocked", "run retried"])
def test_tables_have_captions_and_heads_and_lists_of_status_words(
    open_console: OpenConsole, addresses: dict[str, str], kind: str
) -> None:
    page = opened(open_console(addresses[kind]))
    tables = page.locator("table")
    expect(tables.first).to_be_visible()
    assert page.locator("table > caption:not(:empty)").count() == tables.count()
    assert page.locator("thead th:not([scope=col]), tbody th:not([scope=row])").count() == 0
    assert page.locator(".badge:not(:has(.shape))").count() == 0
    assert all(text.strip() for text in page.locator(".badge").all_text_contents())


def test_whole_way_from_a_list_to_an_action_goes_by_keyboard(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("plain")
    page = open_console("#/issues")
    page.get_by_label("Open issue").focus()
    page.keyboard.type(issue.id)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name=issue.id)).to_be_focused()
    expect(page.get_by_role("button", name="Hold")).to_be_visible()
    for name in ("Run next step", "Dry run", "Hold"):
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name=name)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Resume")).to_be_focused()
    assert issue.get()["hold"]["reason"] == "by keyboard"


TABBED = """() => {
    const at = document.activeElement;
    const { outlineStyle, outlineWidth } = getComputedStyle(at.closest(".chip") ?? at);
    const all = [...document.querySelectorAll("a[href], button, input, select, summary")];
    return {
        name: (at.getAttribute("aria-label") ?? at.labels?.[0]?.querySelector("span").innerText ?? at.innerText).trim(),
        isMarked: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 || at.type === "datetime-local",
        isSeen: at.checkVisibility() && at.getBoundingClientRect().width > 0,
        isLast: at === all.filter((each) => each.checkVisibility()).at(-1),
    };
}"""
"""What has the focus: its name, and whether one sees it there. A time has parts, each marked by the browser."""


def tab_through(page: Page) -> list[str]:
    """The names of what Tab reaches from the top of the page to its end, in order; each is seen to have the focus."""
    page.evaluate("document.activeElement.blur()")
    names: list[str] = []
    while len(names) < 300:
        page.keyboard.press("Tab")
        reached = page.evaluate(TABBED)
        assert reached["isMarked"], reached
        assert reached["isSeen"], reached
        names.append(reached["name"])
        if reached["isLast"]:
            break
    return names


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("issue, waits for approval", ["Run next step", "Dry run", "Approve", "Reject", "Hold"]),
        ("issue, live", ["Run next step", "Dry run", "Hold", "Cancel run"]),
        ("issue, held", ["Run next step", "Dry run", "Resume"]),
        ("issue, retry planned", ["Run next step", "Dry run", "Hold", "Cancel retry"]),
        ("run, live", ["Cancel run"]),
    ],
)
def test_tab_reaches_every_action_in_the_order_in_which_it_is_read(
    person: NewPerson, cases: dict[str, str], name: str, actions: list[str]
) -> None:
    ann = person(is_paused=True)
    reached = tab_through(ann.visit(cases[name]))
    frame = ["Skip to the content", "Loop runner", "Overview", "Issues", "Runs", "Acting as ann"]
    assert reached[: len(frame)] == frame
    buttons = ann.main.get_by_role("group", name="Actions").get_by_role("button").all_inner_texts()
    assert sorted(buttons) == sorted(actions)
    assert [each for each in reached if each in buttons] == buttons


def test_tab_reaches_every_filter_and_every_link_of_a_list(person: NewPerson, register: Register) -> None:
    new = register("plain")
    run_id = new.run()["runId"]
    ann = person(is_paused=True)
    page = ann.visit("issues?loop=plain")
    reached = tab_through(page)
    assert [each for each in reached if each in {"Loop", "State", "Clear", "Open issue", "Open"}] == [
        "Loop", "State", "Clear", "Open issue", "Open",
    ]  # fmt: skip
    assert new.id in reached
    page = ann.visit("runs?actor=ann&loop=plain")
    reached = tab_through(page)
    filters = ["completed", "failed", "blocked", "cancelled", "running", "pending", "Loop", "Actor", "Since", "Until"]
    assert [each for each in dict.fromkeys(reached) if each in filters] == filters
    assert any(each.startswith(run_id[:8]) for each in reached)


@pytest.mark.parametrize(("action", "confirm"), [("Hold", "Hold"), ("Reject", "Reject"), ("Acting as ann", "Save")])
def test_a_dialog_keeps_the_focus_until_escape_and_gives_it_back(
    person: NewPerson, register: Register, action: str, confirm: str
) -> None:
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{register('reviewed').id}")
    button = page.get_by_role("button", name=action, exact=True)
    button.focus()
    page.keyboard.press("Enter")
    field = ann.dialog.get_by_role("textbox")
    expect(field).to_be_focused()
    expect(ann.dialog).to_have_accessible_name(re.compile(r"\?$"))
    for name in ("Back", confirm):
        page.keyboard.press("Tab")
        expect(ann.dialog.get_by_role("button", name=name, exact=True)).to_be_focused()
    page.keyboard.press("Tab")  # to the browser's own buttons
    assert page.evaluate("!document.activeElement.matches('main *, header *')")
    page.evaluate("document.querySelector('main button').focus()")
    assert page.evaluate("!document.activeElement.matches('main *, header *')")
    page.keyboard.press("Escape")
    expect(ann.dialog).to_have_count(0)
    expect(button).to_be_focused()
    assert not [call for call in ann.calls if call.startswith("POST")]


def test_a_page_has_one_heading_of_the_first_order_and_landmarks(person: NewPerson, register: Register) -> None:
    new = register("plain")
    run_id = new.run()["runId"]
    ann = person()
    ann.provokes("404")
    for route in ("", "issues", "runs", f"issues/{new.id}", f"runs/{run_id}", "no/such/page", "issues/NOT-REGISTERED"):
        page = ann.visit(route)
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        expect(page.get_by_role("banner")).to_have_count(1)
        expect(page.get_by_role("main")).to_have_count(1)
        expect(page.get_by_role("navigation", name="Pages")).to_have_count(1)
        expect(page.locator("html")).to_have_attribute("lang", "en")
        levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(({ localName }) => Number(localName[1]))")
        assert all(after <= before + 1 for before, after in pairwise(levels)), (route, levels)


def test_what_was_told_is_dismissed_by_keyboard_without_losing_the_place(person: NewPerson, register: Register) -> None:
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{register('plain').id}")
    for _ in range(2):
        ann.press("Dry run")
        expect(ann.button("Dry run")).not_to_have_attribute("aria-disabled", "true")
    dismiss = ann.notices.get_by_role("button", name="Dismiss")
    expect(dismiss).to_have_count(2)
    dismiss.first.focus()
    page.keyboard.press("Enter")
    expect(dismiss).to_have_count(1)
    expect(dismiss).to_be_focused()
    page.keyboard.press("Enter")
    expect(dismiss).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_motion_is_left_out_for_who_wants_none(open_console: OpenConsole) -> None:
    page = open_console("#/nowhere", reduced_motion="reduce")
    page.route("**/api/loop/**", lambda route: None)
    page.evaluate("location.hash = '#/runs'")
    expect(page.locator(".bone").first).to_have_css("animation-name", "none")
