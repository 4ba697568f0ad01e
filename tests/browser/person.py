"""Owns a person at the console: a browser context with a page, and every problem that it had."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from playwright.sync_api import expect

from tests.stack_client import PATIENCE_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        ConsoleMessage,
        Dialog,
        Locator,
        Page,
        Request,
        Response,
        ViewportSize,
    )

DESKTOP: Final[ViewportSize] = {"width": 1280, "height": 800}
REFRESH_MS: Final = 5_000
REFUSED: Final = r"^[45]\d\d |^net::|Failed to load resource"
"""Problems that a call has which is refused or gets no answer; the last is what the browser itself says of it."""
NAME_ONCE: Final = """(actor) => {
    if (location.protocol === "about:" || sessionStorage.isNamed) return;
    sessionStorage.isNamed = "yes";
    localStorage.setItem("loop-runner.actor", actor);
}"""
"""As if the name had been given in an earlier visit. Chromium takes longer to be told its storage from outside."""
COUNT_CALLS: Final = """(() => {
    const { fetch } = window;
    window.callsUnderWay = 0;
    window.fetch = async (...call) => {
        window.callsUnderWay += 1;
        try {
            const answer = await fetch(...call);
            await answer.clone().text();
            return answer;
        } finally {
            window.callsUnderWay -= 1;
        }
    };
})()"""
"""Counts in the page what it waits for: whoever asks from outside may hear of a call after they have asked."""
NEXT_TASK: Final = """() => new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => done(window.callsUnderWay);
    port2.postMessage(0);
})"""
"""A timer would not do: the page's clock may stand still."""


class Person:
    """Acts as ``actor``; without one the API asks who calls. ``options`` are those of Playwright's new_context.

    ``is_paused``: the page's clock stands still until the test lets it run; ``ahead`` of ours, or behind.
    """

    def __init__(
        self,
        browser: Browser,
        url: str,
        actor: str | None,
        *,
        is_paused: bool = False,
        ahead: timedelta = timedelta(),
        **options: Any,
    ) -> None:
        self.url = url
        self.context = browser.new_context(**{"viewport": DESKTOP, **options})
        self.context.add_init_script(COUNT_CALLS)
        if actor:
            self.context.add_init_script(f"({NAME_ONCE})({json.dumps(actor)})")
        self.page = self.context.new_page()
        self.calls: list[str] = []
        self._problems: list[str] = []
        self._provoked: list[str] = []
        self._tolerated: list[str] = []
        self._watch(self.page)
        if is_paused:
            now = datetime.now(UTC) + ahead
            self.page.clock.install(time=now - timedelta(minutes=5))
            self.page.clock.pause_at(now)

    def _watch(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("crash", lambda _page: self._problems.append("the page has crashed"))
        page.on("dialog", self._asked)
        page.on("pageerror", lambda error: self._problems.append(str(error)))
        page.on("popup", lambda popup: self._problems.append(f"opened {popup.url}"))
        page.on("request", self._asks)
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        self._problems.append(f"{message.type}: {message.text} {message.location['url']}")

    def _asked(self, dialog: Dialog) -> None:
        self._problems.append(f"{dialog.type}: {dialog.message}")
        dialog.dismiss()

    def _asks(self, request: Request) -> None:
        if not request.url.startswith(self.url):
            self._problems.append(f"asks for {request.url}")
        path = request.url.removeprefix(self.url)
        if path.startswith("/api/"):
            self.calls.append(f"{request.method} {path}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page itself drops what it needs no more
            self._problems.append(f"{request.failure} {request.url}")

    def _answered(self, answer: Response) -> None:
        if answer.status >= 400:
            self._problems.append(f"{answer.status} {answer.request.method} {answer.url}")

    def provokes(self, pattern: str) -> None:
        """The test provokes problems like this: they are no failure, but there must be one."""
        self._provoked.append(pattern)

    def tolerates(self, pattern: str) -> None:
        """Problems like this are no failure, and there need be none."""
        self._tolerated.append(pattern)

    def unprovoked(self) -> list[str]:
        """What is a failure: other problems than those, and what was provoked in vain."""
        allowed = [*self._provoked, *self._tolerated]
        return [
            *(each for each in self._problems if not any(re.search(pattern, each) for pattern in allowed)),
            *(each for each in self._provoked if not any(re.search(each, problem) for problem in self._problems)),
        ]

    def leave(self) -> None:
        self.context.close()

    # ------------------------------------------------------------------------------------------------ pages

    def visit(self, route: str = "") -> Page:
        """Load a page and wait for its data, or for what is wrong with it."""
        self.page.goto("about:blank")  # else only the part behind the # changes, and nothing is loaded
        self.page.goto(f"{self.url}/console#/{route}")
        self.is_there()
        return self.page

    def settles(self) -> None:
        """Wait until no call is under way and what came of the last one is shown."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        quiet = 0
        while quiet < 4:
            assert time.monotonic() < deadline, f"not all were answered: {self.calls}"
            quiet = quiet + 1 if self.page.evaluate(NEXT_TASK) == 0 else 0

    def later(self, milliseconds: int = REFRESH_MS) -> None:
        """Let the page's clock, which is paused, run so far; by default until it has refreshed once."""
        self.page.clock.run_for(milliseconds)
        self.settles()

    def is_there(self) -> None:
        """The page's data are there, or what is wrong with them."""
        expect(self.main).to_have_attribute("aria-busy", "false")

    @property
    def main(self) -> Locator:
        return self.page.get_by_role("main")

    @property
    def notices(self) -> Locator:
        return self.page.get_by_role("status", name="Results")

    @property
    def banner(self) -> Locator:
        return self.main.get_by_role("alert")

    @property
    def facts(self) -> Locator:
        return self.main.get_by_role("region", name="Facts")

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def button(self, name: str) -> Locator:
        return self.main.get_by_role("button", name=name, exact=True)

    def press(self, name: str, text: str | None = None) -> None:
        """Press a button; where it asks, answer with the text."""
        self.button(name).click()
        if text is not None:
            self.dialog.get_by_role("textbox").fill(text)
            self.dialog.get_by_role("button", name=name, exact=True).click()
