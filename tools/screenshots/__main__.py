"""``make screenshots``: the pictures of docs/images, in light, in dark and on a phone."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tools.local.client import request
from tools.local.settings import ROOT
from tools.local.stack import Stack, StackError
from tools.screenshots.browser import HOW_TO, chromium, find_chromium
from tools.screenshots.day import spread
from tools.screenshots.team import Team

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ViewportSize

ACTOR: Final = "ann"
IMAGES: Final = ROOT / "docs" / "images"
MOST_BYTES: Final = 200_000

DESK: Final[ViewportSize] = {"width": 1280, "height": 900}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "": {"viewport": DESK, "color_scheme": "light"},
    "-dark": {"viewport": DESK, "color_scheme": "dark"},
    "-phone": {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 2},
}

_ISSUE: Final = "INC-2044"
_FAILED: Final = "INC-2041"


def main() -> int:
    """Take every picture; exit status 1 where there is no browser, or one is too large."""
    if find_chromium() is None:
        print(f"error: {HOW_TO}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="screenshots-") as folder:
        environment = {"PATH": os.environ["PATH"]}
        stack = Stack(port=0, environment=environment, log_file=Path(folder) / "functions.log", progress=_say)
        with stack:
            _say("a day of work")
            Team(stack.url, stack.world).work()
            spread(stack.database_url)
            with chromium() as browser:
                return _take_all(browser, stack.url)


def _take_all(browser: Browser, url: str) -> int:
    pages = {"overview": "#/", "issue": f"#/issues/{_ISSUE}", "run": f"#/runs/{_last_run(url, _FAILED)}"}
    IMAGES.mkdir(exist_ok=True)
    status = 0
    for page, address in pages.items():
        for variant, options in VARIANTS.items():
            path = IMAGES / f"console-{page}{variant}.png"
            _take(browser, f"{url}/console{address}", path, options)
            size = path.stat().st_size
            _say(f"{path.relative_to(ROOT)} {size // 1000} KB")
            if size > MOST_BYTES:
                print(
                    f"error: {path.name} is larger than {MOST_BYTES // 1000} KB: show less of the page", file=sys.stderr
                )
                status = 1
    return status


def _take(browser: Browser, address: str, path: Path, options: dict[str, Any]) -> None:
    context = browser.new_context(**options, reduced_motion="reduce", locale="en-GB", timezone_id="UTC")
    context.add_init_script(f"localStorage.setItem('loop-runner.actor', '{ACTOR}')")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".state.is-fresh")
    page.screenshot(path=path)
    context.close()


def _last_run(url: str, issue_id: str) -> str:
    answer = request(url, "GET", f"/api/loop/issues/{issue_id}/runs?limit=1", headers={"x-afu9-sub": ACTOR})
    run_id: str = answer.json()["items"][0]["runId"]
    return run_id


def _say(line: str) -> None:
    print(f"==> {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackError as error:
        sys.exit(f"error: {error}")
