"""Fixtures of the browser's tests: people at the run console, on a local stack of the package's own.

Nothing waits for time to pass: where a test is about time, the page's clock is the test's. Stack and browser end with
the last test of this package: while Playwright is there, no other test in its process may run an event loop.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

import pytest
from playwright.sync_api import expect

from tests.browser.cases import Cases
from tests.browser.loops import BROWSER_LOOPS
from tests.browser.person import REFUSED, Person
from tests.conftest import ACTOR, LOOPS
from tests.own_stack import own_stack
from tests.stack_client import Issue
from tools.screenshots.browser import HOW_TO, chromium, find_chromium

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Route

    from tools.local.stack import Stack

PATIENCE_MS: Final = 30_000


class NewPerson(Protocol):
    """Somebody who has the console open in a window of their own; what may be said further: see Person."""

    def __call__(self, actor: str | None = ACTOR, **options: Any) -> Person: ...


class OpenConsole(Protocol):
    """Opens the console at a hash in a window of its own; ``may_be_refused``: calls of it may fail."""

    def __call__(
        self, address: str = "", *, actor: str | None = ACTOR, may_be_refused: bool = False, **options: Any
    ) -> Page: ...


class Register(Protocol):
    """Registers an issue of the test's own, with these facts."""

    def __call__(self, loop: str, *, actor: str = ACTOR, **facts: Any) -> Issue: ...


@pytest.fixture(scope="package")
def stack(server_url: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with the loops that ship, those of ``own_stack`` and those of loops.py."""
    if find_chromium() is None:
        pytest.skip(HOW_TO)
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(LOOPS, folder / "loops")
    for name, toml in BROWSER_LOOPS.items():
        (folder / "loops" / f"{name}.toml").write_text(toml)
    with own_stack(server_url, migrated_template, folder) as stack:
        yield stack


@pytest.fixture(scope="package")
def browser(stack: Stack) -> Iterator[Browser]:
    """One Chromium; each person has a context of their own in it."""
    expect.set_options(timeout=PATIENCE_MS)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def cases(stack: Stack) -> dict[str, str]:
    """The routes of pages in every situation, by name."""
    return Cases(stack).routes


@pytest.fixture
def person(browser: Browser, stack: Stack) -> Iterator[NewPerson]:
    """People at the console. At the end none of them may have met a problem that the test has not provoked."""
    people: list[Person] = []

    def person(actor: str | None = ACTOR, **options: Any) -> Person:
        people.append(Person(browser, stack.url, actor, **options))
        return people[-1]

    yield person
    for each in people:
        each.leave()
    assert [problem for each in people for problem in each.unprovoked()] == []


@pytest.fixture
def open_console(person: NewPerson) -> OpenConsole:
    """Opens the console for somebody of whom no more than the page is wanted."""

    def open_console(
        address: str = "", *, actor: str | None = ACTOR, may_be_refused: bool = False, **options: Any
    ) -> Page:
        somebody = person(actor, **options)
        if may_be_refused:
            somebody.tolerates(REFUSED)
        somebody.page.goto(f"{somebody.url}/console{address}")
        return somebody.page

    return open_console


@pytest.fixture
def register(stack: Stack) -> Register:
    """Registers an issue of the test's own."""

    def register(loop: str, *, actor: str = ACTOR, **facts: Any) -> Issue:
        issue = Issue(stack.url, f"{loop}-{uuid4().hex[:8]}", actor)
        issue.register(loop, **facts)
        return issue

    return register


class Calls:
    """The calls of the API that a page has made: method and path, without what is before /api/loop/."""

    def __init__(self, page: Page) -> None:
        self.made: list[str] = []
        page.on("request", lambda request: self._note(request.method, request.url))

    def _note(self, method: str, url: str) -> None:
        _, found, path = url.partition("/api/loop/")
        if found:
            self.made.append(f"{method} {path}")


class Held:
    """Calls of a page that get no answer before the test lets them go."""

    def __init__(self, page: Page, address: str | re.Pattern[str]) -> None:
        self._page = page
        self._address = address
        self._routes: list[Route] = []
        page.route(address, self._hold)

    def _hold(self, route: Route) -> None:
        self._routes.append(route)

    def __len__(self) -> int:
        return len(self._routes)

    def let_go(self) -> None:
        """Those that are held and all that are to come."""
        for route in self._routes:
            route.continue_()
        self._page.unroute(self._address, self._hold)


def answer_json(route: Route, status: int, body: object, **headers: str) -> None:
    """Answer a call in the API's stead, as only a gateway or a fault would."""
    route.fulfill(status=status, json=body, headers=headers or None)
