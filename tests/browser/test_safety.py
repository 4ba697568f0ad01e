"""What the run console shows is text, whatever it looks like, and nothing of it comes from elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import OpenConsole
    from tests.stack_client import Issue
    from tools.local.stack import Stack

CONSOLE = ROOT / "functions" / "loop_api" / "console"
MODULES = sorted(CONSOLE.glob("*.js"))

SCRIPT = "<script>window.hacked=true</script>"
IMAGE = '<img src="x" onerror="window.hacked=true">'


def test_markup_in_data_is_shown_as_the_text_that_it_is(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("plain", do="fail", name=f"Bad{IMAGE}", **{SCRIPT: IMAGE})
    failed = issue.run(actor=IMAGE)["runId"]
    answer = issue.call("POST", f"{issue.path}/hold", {"reason": f"{SCRIPT}{IMAGE}"}, actor=SCRIPT)
    assert answer.status == 200
    page = open_console("#/nowhere", actor=IMAGE, may_be_refused=True)
    expect(page.get_by_role("button", name="Acting as")).to_contain_text(IMAGE)
    shown = {
        "#/": [f"Bad{IMAGE}"],
        "#/issues": [f"Bad{IMAGE}", SCRIPT],
        f"#/issues/{issue.id}": [IMAGE, SCRIPT],
        "#/runs": [IMAGE],
        f"#/runs/{failed}": [IMAGE],
        f"#/issues/{IMAGE}": [IMAGE],
    }
    for address, texts in shown.items():
        page.evaluate("address => { location.hash = address }", address)
        expect(page.locator("main")).to_have_attribute("aria-busy", "false")
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for text in texts:
            expect(page.locator("main")).to_contain_text(text)
        assert page.locator("img, main script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_page_loads_nothing_from_elsewhere_and_says_what_it_loads(open_console: OpenConsole, stack: Stack) -> None:
    page = open_console("#/nowhere")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert all(url.startswith(f"{stack.url}/console") for url in urls)
    html = (CONSOLE / "index.html").read_text()
    assert re.findall(r'modulepreload" href="console/([\w.]+)"', html) == [
        module.name for module in MODULES if module.name != "app.js"
    ]


def test_modules_read_no_markup_and_run_no_text() -> None:
    for module in MODULES:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|setHTML",
            module.read_text(),
        ), module.name


def test_modules_say_what_they_own_in_their_first_lines() -> None:
    for module in MODULES:
        assert re.match(r"// @ts-check\n/\*\*\s(\* )?Owns |// @ts-check\n/\*\*\n \* Owns ", module.read_text()), (
            module.name
        )
