"""Who is let in: the browser in which the printed URL was opened, from pages of ours, and nobody else."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.console.browser import RUNS, Browser, error_of

if TYPE_CHECKING:
    from tests.console.signed_api import Api

PAGES = ["/console", "/console/console.css", "/console/none", "/", RUNS]


def test_printed_url_lets_the_browser_in_and_leaves_the_token_behind(browser: Browser) -> None:
    stranger = Browser(browser.guard, has_cookie=False)
    assert stranger("GET", "/console").status == 403
    opened = stranger("GET", browser.guard.url.removeprefix(f"http://127.0.0.1:{browser.guard.port}"))
    assert (opened.status, opened.headers["location"], opened.body) == (303, "/console", b"")
    cookie, *attributes = opened.headers["set-cookie"].split("; ")
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert opened.headers["cache-control"] == "no-store"
    assert opened.headers["referrer-policy"] == "no-referrer"
    page = stranger("GET", "/console", cookie=cookie)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_page_is_told_that_its_calls_are_signed(browser: Browser) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", browser.guard.port)
    connection.request("GET", f"/console?token={browser.guard.token}")
    response = connection.getresponse()
    response.read()
    mark, cookie = response.headers.get_all("set-cookie", [])
    connection.close()
    assert mark == f"signed_{browser.guard.port}=1; Path=/; SameSite=Strict"
    assert browser.guard.token in cookie
    assert browser("GET", "/console", cookie=mark.partition(";")[0]).status == 403


def test_files_of_the_console_are_served_and_not_sent_twice(browser: Browser, api: Api) -> None:
    style = browser("GET", "/console/console.css")
    assert (style.status, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert style.body == (ROOT / "functions/loop_api/console/console.css").read_bytes()
    again = browser("GET", "/console/console.css", if_none_match=style.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert browser("HEAD", "/console").body == b""
    refused = browser("POST", "/console")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert api.received == []


@pytest.mark.parametrize("target", PAGES)
@pytest.mark.parametrize(
    "cookie", [None, "", "loop-console-{port}=", "loop-console-{port}=guess", "loop-console=the-token-of-this-start"]
)
def test_nothing_is_there_without_the_cookie(browser: Browser, api: Api, target: str, cookie: str | None) -> None:
    answer = browser("GET", target, cookie=cookie and cookie.format(port=browser.guard.port))
    assert answer.status == 403
    assert b"open the URL that make console has printed" in answer.body
    if target == RUNS:
        assert error_of(answer) == (403, "FORBIDDEN")
    else:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert api.received == []


@pytest.mark.parametrize(
    "query", ["token=", "token=guess", "token", "token=%00", "token=guess&token={token}", "x={token}"]
)
def test_another_token_opens_nothing(browser: Browser, query: str) -> None:
    answer = browser("GET", f"/console?{query.format(token=browser.guard.token)}", cookie=None)
    assert (answer.status, "set-cookie" in answer.headers) == (403, False)


@pytest.mark.parametrize("target", [f"{RUNS}?token=", "/console/console.css?token=", "/?token="])
def test_the_token_opens_the_page_only(browser: Browser, target: str) -> None:
    answer = browser("GET", target + browser.guard.token, cookie=None)
    assert (answer.status, "set-cookie" in answer.headers) == (403, False)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}", "evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.1:{port}.evil.example",
        "localhost.evil.example:{port}", "127.0.0.1.:{port}", "[::1]:{port}", "user@127.0.0.1:{port}", "",
    ],
)  # fmt: skip
def test_another_host_is_not_us_even_with_cookie_or_token(browser: Browser, api: Api, host: str) -> None:
    named = host.format(port=browser.guard.port)
    for target in (RUNS, "/console", f"/console?token={browser.guard.token}"):
        answer = browser("GET", target, host=named)
        assert (answer.status, "set-cookie" in answer.headers) == (421, False)
    assert api.received == []


def test_localhost_is_us(browser: Browser) -> None:
    host = f"localhost:{browser.guard.port}"
    assert browser("GET", RUNS, host=host).status == 200
    assert browser("POST", RUNS, b"{}", host=host, origin=f"http://{host}").status == 200


@pytest.mark.parametrize("hosts", [[], ["evil.example", "127.0.0.1:{port}"], ["127.0.0.1:{port}", "evil.example"]])
def test_no_host_and_two_hosts_are_refused(browser: Browser, api: Api, hosts: list[str]) -> None:
    named = [("host", host.format(port=browser.guard.port)) for host in hosts]
    assert browser("GET", RUNS, None, *named, host=None).status in {400, 421}
    assert api.received == []


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:1", "https://127.0.0.1:{port}",
     "http://localhost:{port}", "http://127.0.0.1:{port}/", "http://127.0.0.1:{port}.evil.example"],
)  # fmt: skip
def test_another_origin_may_call_nothing(browser: Browser, api: Api, method: str, origin: str) -> None:
    answer = browser(method, RUNS, origin=origin.format(port=browser.guard.port), sec_fetch_site="same-origin")
    assert error_of(answer) == (403, "FORBIDDEN")
    assert api.received == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("site", [None, "none", "same-site", "cross-site"])
def test_nothing_is_changed_without_a_word_where_the_call_comes_from(
    browser: Browser, api: Api, method: str, site: str | None
) -> None:
    assert error_of(browser(method, RUNS, origin=None, sec_fetch_site=site)) == (403, "FORBIDDEN")
    assert api.received == []


def test_a_browser_that_tells_the_site_only_may_change_things(browser: Browser) -> None:
    assert browser("POST", RUNS, b"{}", origin=None, sec_fetch_site="same-origin").status == 200


def test_preflight_of_another_page_is_answered_with_no(browser: Browser, api: Api) -> None:
    answer = browser("OPTIONS", RUNS, origin="http://evil.example", access_control_request_method="POST")
    assert answer.status == 403
    refused = browser("OPTIONS", RUNS)
    assert error_of(refused) == (405, "METHOD_NOT_ALLOWED")
    assert "OPTIONS" not in refused.headers["allow"]
    assert api.received == []


@pytest.mark.parametrize(
    "target",
    [
        "/", "/favicon.ico", "/api", "/apis/x", "/API/loop", "/console/", "/console/app.py",
        "/console/../app.py", "/console/..%2fapp.py", "/console/%2e%2e%2fapp.py", "/console/a/b", "//console",
        "/loop", "http://evil.example/api/x", "/api/..", "/api/../x", "/api/loop/../../x", "/api/./x",
        "/api/%2e%2e/x", "/api/%2E./x", "/api/loop/..%2f..%2fx", "/api/..%5cx", "/api/..\\x", "/api/x#y", "*",
    ],
)  # fmt: skip
def test_nothing_else_is_there(browser: Browser, api: Api, target: str) -> None:
    assert browser("GET", target).status == 404
    assert api.received == []
