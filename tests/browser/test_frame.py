"""The frame of the run console: reading again, what is said when that fails, in whose name calls are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.conftest import answer_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import APIResponse, Page, Route

    from tests.browser.conftest import OpenConsole
    from tests.stack_client import Issue

NOTE_WHAT_IS_SHOWN = """() => {
    window.shown = [];
    const note = () => window.shown.push(document.querySelector(".subtitle").textContent);
    const all = { subtree: true, childList: true, characterData: true };
    new MutationObserver(note).observe(document.querySelector("main"), all);
}"""


def refuse(status: int, code: str, message: str) -> Callable[[Route], None]:
    body = {
        "schemaVersion": "loop.error.v1",
        "requestId": "8302f230-53eb-4c5a-bae7-5031ef59be4d",
        "error": {"code": code, "message": message},
        "timestamp": "2026-11-24T02:57:11.737683Z",
    }
    return lambda route: answer_json(route, status, body)


def read_again(page: Page) -> None:
    """Have the page read again now, and wait until it has."""
    with page.expect_response("**/api/loop/**"):
        page.evaluate("dispatchEvent(new Event('online'))")
    expect(page.locator(".state")).to_have_class("state is-fresh")


# ------------------------------------------------------------------------------------------ reading again


def test_answer_to_an_older_reading_is_dropped(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    issue = register("plain")
    page = open_console(f"#/issues/{issue.id}")
    expect(page.locator(".subtitle")).to_contain_text("version 1")
    late: list[tuple[Route, APIResponse]] = []
    page.route(
        f"**/api/loop/issues/{issue.id}?include=loop", lambda route: late.append((route, route.fetch())), times=1
    )
    page.evaluate("dispatchEvent(new Event('online'))")
    read_again(page)
    issue.patch(more="facts")
    read_again(page)
    expect(page.locator(".subtitle")).to_contain_text("version 2")
    page.evaluate(NOTE_WHAT_IS_SHOWN)
    ((route, response),) = late
    route.fulfill(response=response)
    read_again(page)
    assert "version 1" not in page.evaluate("shown.join()")


def test_who_goes_back_finds_the_list_where_it_was_left(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    for _ in range(31):
        register("short")
    page = open_console("#/issues?loop=short", viewport={"width": 1000, "height": 400})
    page.get_by_role("button", name="Older").click()
    rows = page.get_by_role("table").get_by_role("link", name="short-")
    expect(rows).to_have_count(31)
    rows.last.click()
    expect(page.get_by_role("region", name="Timeline")).to_be_visible()
    assert page.evaluate("scrollY") == 0
    page.go_back()
    expect(rows).to_have_count(31)
    expect(rows.last).to_be_in_viewport()


# -------------------------------------------------------------------------------------------- what fails


def test_unknown_issue_says_how_to_register_it(open_console: OpenConsole) -> None:
    page = open_console("#/issues/NOPE-1", may_be_refused=True)
    expect(page.get_by_role("alert")).to_contain_text("issue NOPE-1 is not registered; register it: PUT")
    expect(page.get_by_role("heading", level=1)).to_have_text("NOPE-1")


def test_offline_is_said_and_ends_by_itself(open_console: OpenConsole) -> None:
    page = open_console("#/issues", may_be_refused=True)
    expect(page.locator(".content")).to_be_visible()
    page.context.set_offline(True)
    expect(page.get_by_role("alert")).to_contain_text("You are offline.")
    expect(page.locator(".content")).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_role("alert")).to_have_count(0)


# ------------------------------------------------------------------------------------------------ who acts


def test_who_has_no_name_is_asked_for_one_which_is_kept_and_sent(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("plain")
    page = open_console(f"#/issues/{issue.id}", actor=None, may_be_refused=True)
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Save").click()
    dialog.get_by_label("Your name").fill("ann, bob")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Your name").fill("zoe")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Acting as zoe")).to_be_visible()
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_role("region", name="Runs").get_by_role("row")).to_have_count(2)
    assert issue.runs()[0]["actor"] == "zoe"
    page.reload()
    expect(page.get_by_role("button", name="Acting as zoe")).to_be_visible()


def test_who_does_not_say_a_name_is_not_asked_again_and_again(open_console: OpenConsole) -> None:
    page = open_console("#/runs", actor=None, may_be_refused=True)
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    with page.expect_response("**/api/loop/runs*"):
        page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("alert")).to_contain_text("No identity")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Say who you are").click()
    expect(page.get_by_label("Your name")).to_be_focused()


def test_name_is_changed_and_dropped_in_the_header(open_console: OpenConsole) -> None:
    page = open_console("#/issues", may_be_refused=True)
    for name, shown in (("bob", "Acting as bob"), ("", "Acting as yourself")):
        page.get_by_role("banner").get_by_role("button").click()
        page.get_by_label("Your name").fill(name)
        with page.expect_request("**/api/loop/issues*") as request:
            page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("button", name=shown)).to_be_visible()
        assert request.value.headers.get("x-afu9-sub", "") == name


def test_name_that_may_not_be_used_can_be_dropped(open_console: OpenConsole) -> None:
    page = open_console("#/nowhere", may_be_refused=True)

    def refuse_names(route: Route) -> None:
        if "x-afu9-sub" in route.request.headers:
            refuse(403, "FORBIDDEN", "arn may not name a person in x-afu9-sub: leave the header out")(route)
        else:
            answer_json(route, 200, {"items": [], "nextCursor": None})

    page.route("**/api/loop/**", refuse_names)
    page.evaluate("location.hash = '#/issues'")
    page.get_by_role("button", name="Act as yourself, not as ann").click()
    expect(page.get_by_text("No issue is registered.")).to_be_visible()
    expect(page.get_by_role("button", name="Acting as yourself")).to_be_visible()


def test_skip_button_leads_to_the_content_and_leaves_the_address(open_console: OpenConsole) -> None:
    page = open_console("#/issues")
    expect(page.locator(".content")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert page.url.endswith("#/issues")
