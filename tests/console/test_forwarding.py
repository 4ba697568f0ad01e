"""What goes on to the API, signed as AWS wants it, and what comes back: what the contract knows and nothing else."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from loop_runner.settings import MAX_BODY_BYTES
from tests.conftest import create_database, drop_database
from tests.console.browser import RUNS, Browser, console_of, error_of
from tests.console.signed_api import SESSION, Api
from tools.local.stack import Stack

SIGNATURE_HEADERS = {"authorization", "x-amz-date", "x-amz-security-token"}

TARGETS = [
    RUNS,
    f"{RUNS}?limit=20&status=failed",
    f"{RUNS}?status=failed&actor=Ann+Smith&actor=a%20b",
    f"{RUNS}?since=2026-11-24T12:00:00Z&until=2026-11-25T12%3A00%3a00%2B01:00",
    f"{RUNS}?cursor=a/b==&x=~!*'()%7E&flag&y=%C3%A9",
    f"{RUNS}?",
    f"{RUNS}?a=1&&b=%",
    "/api/loop/issues/A%3A1/runs",
    "/api/loop/issues/a:b-_.~c",
    "/api/loop/issues/%C3%A9%2F%20+",
    "/api/loop/issues/A-1/",
]


@pytest.mark.parametrize("target", TARGETS)
def test_path_and_query_go_on_as_they_came_with_a_valid_signature(browser: Browser, api: Api, target: str) -> None:
    assert browser("GET", target).status == 200
    (received,) = api.received
    assert received.line == f"GET {target.removesuffix('?')} HTTP/1.1"
    assert received.is_signed


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_method_and_body_go_on_with_a_valid_signature(browser: Browser, api: Api, method: str) -> None:
    body = None if method == "GET" else '{"comment": "é\\u0000"}'.encode()
    answer = browser(method, RUNS, body)
    (received,) = api.received
    assert received.line == f"{method} {RUNS} HTTP/1.1"
    assert (received.body, answer.json()) == (body or b"", {"ok": True})
    assert received.is_signed


def test_headers_of_the_contract_go_on_and_no_others(browser: Browser, api: Api) -> None:
    known = {
        "accept": "application/json", "content-type": "application/json", "idempotency-key": '"k  1"',
        "if-match": '"3"',
        "prefer": "respond-async", "x-afu9-sub": "ann", "x-request-id": "3f0c5b1e-7a52-4b8e-9d57-0c2b8a6f1d34",
    }  # fmt: skip
    smuggled = {
        "authorization": "AWS4-HMAC-SHA256 Credential=evil", "x-amz-date": "20200101T000000Z",
        "x-amz-security-token": "evil",
        "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-forwarded-for": "10.0.0.1", "forwarded": "for=10.0.0.1",
        "x-http-method-override": "DELETE", "referer": "http://127.0.0.1/", "user-agent": "evil", "te": "trailers",
        "accept-encoding": "gzip", "x-amzn-trace-id": "Root=1", "upgrade-insecure-requests": "1",
    }  # fmt: skip
    browser("POST", RUNS, b"{}", *known.items(), *smuggled.items())
    (received,) = api.received
    assert received.names == {*known, *SIGNATURE_HEADERS, "host", "content-length"}
    for name, value in known.items():
        assert received.get(name) == value
    assert received.get("host") == api.url.removeprefix("http://")
    assert (received.get("x-amz-security-token"), received.is_signed) == (SESSION, True)


def test_a_call_without_headers_gets_none(browser: Browser, api: Api) -> None:
    browser("GET", RUNS)
    assert api.received[0].names == {*SIGNATURE_HEADERS, "host"}


def test_an_identity_that_is_named_twice_is_the_apis_to_refuse(browser: Browser, api: Api) -> None:
    browser("GET", RUNS, None, ("x-afu9-sub", "ann"), ("X-Afu9-Sub", "bob"))
    assert api.received[0].get("x-afu9-sub") == "ann,bob"
    assert api.received[0].is_signed


def test_a_header_that_cannot_be_signed_is_refused(browser: Browser, api: Api) -> None:
    assert error_of(browser("GET", RUNS, x_afu9_sub="ann\xe9")) == (400, "INVALID_REQUEST")
    assert api.received == []


@pytest.mark.parametrize("value", ["ann\r\nx-afu9-sub: root", "ann\nroot", "ann\x00"])
def test_a_header_with_another_one_in_it_does_not_smuggle(browser: Browser, api: Api, value: str) -> None:
    browser("GET", RUNS, x_afu9_sub=value)
    for received in api.received:
        assert received.get("x-afu9-sub") in {"ann,root", "ann"}
        assert received.is_signed


def test_a_second_request_in_the_body_of_the_first_is_not_one(browser: Browser, api: Api) -> None:
    second = b"DELETE /api/loop HTTP/1.1\r\nhost: x\r\n\r\n"
    browser("POST", RUNS, second)
    chunked = b"0\r\n\r\n" + second
    browser("POST", RUNS, chunked, transfer_encoding="chunked")
    assert {received.line for received in api.received} <= {f"POST {RUNS} HTTP/1.1"}
    assert api.received[0].body == second


def test_a_chunked_body_goes_on_whole(browser: Browser, api: Api) -> None:
    lines = ["POST {} HTTP/1.1", "host: 127.0.0.1:{}", "cookie: {}", "sec-fetch-site: same-origin", "connection: close"]
    head = "\r\n".join(lines).format(RUNS, browser.guard.port, browser.guard.cookie.partition(";")[0])
    with socket.create_connection(("127.0.0.1", browser.guard.port), timeout=60) as connection:
        connection.sendall(
            f'{head}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{"\r\n4\r\na":1\r\n1\r\n}}\r\n0\r\n\r\n'.encode()
        )
        response = http.client.HTTPResponse(connection)
        response.begin()
    assert (response.status, api.received[0].body) == (200, b'{"a":1}')
    assert api.received[0].is_signed


def test_body_a_little_too_long_is_the_apis_to_refuse_and_a_longer_one_ours(browser: Browser, api: Api) -> None:
    longest = MAX_BODY_BYTES + 1024
    assert browser("POST", RUNS, b"x" * longest).status == 200
    assert len(api.received[0].body) == longest
    assert error_of(browser("POST", RUNS, b"x" * (longest + 1))) == (413, "PAYLOAD_TOO_LARGE")
    assert len(api.received) == 1


def test_path_of_the_url_comes_first_and_is_signed(api: Api) -> None:
    for suffix in ("/prod", "/prod/"):
        with console_of(api.url + suffix) as browser:
            assert browser("GET", f"{RUNS}?limit=1").status == 200
    assert {received.line for received in api.received} == {f"GET /prod{RUNS}?limit=1 HTTP/1.1"}
    assert all(received.is_signed for received in api.received)


# ---------------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("status", [200, 201, 202, 400, 404, 409, 412, 428, 429, 500, 503])
def test_status_and_body_come_back(browser: Browser, api: Api, status: int) -> None:
    api.status, api.body = status, b'{"message": "\xc3\xa9"}'
    answer = browser("GET", RUNS)
    assert (answer.status, answer.body) == (status, api.body)


def test_headers_of_the_contract_come_back_and_no_others(browser: Browser, api: Api) -> None:
    known = {
        "allow": "GET", "cache-control": "no-store", "content-type": "application/json", "etag": '"3"',
        "idempotency-replayed": "true", "location": "/api/loop/runs/1", "retry-after": "5", "x-request-id": "1",
        "date": "Tue, 24 Nov 2026 12:00:00 GMT", "apigw-requestid": "abc=",
    }  # fmt: skip
    others = {
        "set-cookie": "a=b", "access-control-allow-origin": "*",
        "access-control-allow-credentials": "true", "server": "x",
        "x-amz-apigw-id": "1", "content-encoding": "gzip", "refresh": "0; url=http://evil.example",
        "link": "</x>; rel=preload",
    }  # fmt: skip
    api.headers = [*known.items(), *others.items()]
    answer = browser("GET", RUNS)
    assert {name: answer.headers[name] for name in known} == known
    assert not others.keys() & answer.headers.keys()
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_answer_without_a_body_comes_back(browser: Browser, api: Api) -> None:
    assert browser("HEAD", RUNS).body == b""
    api.status, api.body = 204, b""
    assert (browser("DELETE", RUNS).status, api.received[0].is_signed) == (204, True)


def test_redirects_are_not_followed(browser: Browser, api: Api) -> None:
    api.status, api.headers = 302, [("location", "http://127.0.0.1:1/elsewhere")]
    assert browser("GET", RUNS).status == 302
    assert len(api.received) == 1


# ---------------------------------------------------------------------------------------------- the local stack


def test_console_drives_the_local_stack(server_url: str, migrated_template: str) -> None:
    url = create_database(server_url, migrated_template)
    with Stack(port=0, database_url=url, workers_per_function=1) as stack, console_of(stack.url) as browser:
        issue = "/api/loop/issues/A-1"
        body = json.dumps({"loop": "issue-delivery", "facts": {"githubUrl": "u"}}).encode()
        assert browser("PUT", issue, body, x_afu9_sub="ann").status == 201
        ran = browser("POST", f"{issue}/run-next-step", b"{}", x_afu9_sub="ann", idempotency_key="k")
        assert (ran.status, ran.json()["stepExecuted"]["stepType"]) == (200, "S1_PICK_ISSUE")
        again = browser("POST", f"{issue}/run-next-step", b"{}", x_afu9_sub="ann", idempotency_key="k")
        assert (again.json()["runId"], again.headers["idempotency-replayed"]) == (ran.json()["runId"], "true")
        listed = browser("GET", f"{RUNS}?actor=ann&since=2026-01-01T00:00:00Z&limit=5", x_afu9_sub="ann")
        assert [run["runId"] for run in listed.json()["items"]] == [ran.json()["runId"]]
        stale = browser("PATCH", issue, b"{}", x_afu9_sub="ann", if_match='"1"')
        assert error_of(stale) == (412, "PRECONDITION_FAILED")
        assert error_of(browser("GET", RUNS)) == (401, "UNAUTHORIZED")
        assert browser("GET", "/console").status == 200
    drop_database(server_url, url)
