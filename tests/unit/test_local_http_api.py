"""API Gateway's part: routes, events of payload format 2.0, answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tools.local.http_api import Match, Request, Response, Router, event_of, response_of
from tools.local.template import Route

ROUTES = [
    Route("F", "ANY", None),
    Route("F", "ANY", "/{proxy+}"),
    Route("F", "GET", "/pets/{proxy+}"),
    Route("F", "GET", "/pets/dog/{id}"),
    Route("F", "ANY", "/pets/dog/{id}"),
    Route("F", "GET", "/pets/dog/1"),
    Route("F", "POST", "/pets"),
]

# The example of https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
# with what the local stack lacks (authentication, authorizer, stage variables) taken out.
DOCUMENTED: dict[str, Any] = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/my/path",
    "rawQueryString": "parameter1=value1&parameter1=value2&parameter2=value",
    "cookies": ["cookie1", "cookie2"],
    "headers": {"header1": "value1", "header2": "value1,value2"},
    "queryStringParameters": {"parameter1": "value1,value2", "parameter2": "value"},
    "requestContext": {
        "accountId": "123456789012",
        "apiId": "api-id",
        "domainName": "id.execute-api.us-east-1.amazonaws.com",
        "domainPrefix": "id",
        "http": {
            "method": "POST",
            "path": "/my/path",
            "protocol": "HTTP/1.1",
            "sourceIp": "192.0.2.1",
            "userAgent": "agent",
        },
        "requestId": "id",
        "routeKey": "$default",
        "stage": "$default",
        "time": "12/Mar/2020:19:03:58 +0000",
        "timeEpoch": 1583348638390,
    },
    "body": "Hello from Lambda",
    "pathParameters": {"parameter1": "value1"},
    "isBase64Encoded": False,
}


def request(method: str = "GET", raw_path: str = "/", **parts: Any) -> Request:
    return Request(**({"method": method, "raw_path": raw_path, "query": "", "headers": (), "body": b""} | parts))


def event(**parts: Any) -> dict[str, Any]:
    return event_of(request(**parts), Match(Route("F", "ANY", None)))


@pytest.mark.parametrize(
    ("method", "path", "key", "parameters"),
    [
        ("GET", "/pets/dog/1", "GET /pets/dog/1", {}),
        ("GET", "/pets/dog/2", "GET /pets/dog/{id}", {"id": "2"}),
        ("PUT", "/pets/dog/1", "ANY /pets/dog/{id}", {"id": "1"}),
        ("GET", "/pets/cat/a%20b/c", "GET /pets/{proxy+}", {"proxy": "cat/a b/c"}),
        ("GET", "/pets/dog/a%2Fb%3Ac", "GET /pets/dog/{id}", {"id": "a/b:c"}),
        ("POST", "/pets", "POST /pets", {}),
        ("DELETE", "/pets", "ANY /{proxy+}", {"proxy": "pets"}),
        ("GET", "/pets/dog/", "GET /pets/{proxy+}", {"proxy": "dog/"}),
        ("GET", "/", "$default", {}),
    ],
)
def test_most_specific_route_is_chosen(method: str, path: str, key: str, parameters: dict[str, str]) -> None:
    match = Router(ROUTES).match(method, path)
    assert match is not None
    assert (match.route.key, match.parameters) == (key, parameters)


def test_parameter_is_one_segment_that_is_not_empty() -> None:
    router = Router([Route("F", "GET", "/a/{x}/b")])
    assert router.match("GET", "/a/1/b")
    for path in ("/a//b", "/a/1/2/b", "/a/1/b/", "/a/1", "/A/1/b"):
        assert router.match("GET", path) is None, path
    assert router.match("POST", "/a/1/b") is None


def test_event_has_the_documented_shape() -> None:
    made = event_of(
        request(
            method="POST",
            raw_path="/my/path",
            query=DOCUMENTED["rawQueryString"],
            headers=(
                ("host", "id.execute-api.us-east-1.amazonaws.com"),
                ("user-agent", "agent"),
                ("cookie", "cookie1; cookie2"),
                ("header1", "value1"),
                ("header2", "value1"),
                ("header2", "value2"),
                ("content-type", "text/plain"),
                ("connection", "keep-alive"),
            ),
            body=b"Hello from Lambda",
            source_ip="192.0.2.1",
        ),
        Match(Route("F", "ANY", None), {"parameter1": "value1"}),
    )
    assert set(made) == set(DOCUMENTED)
    assert set(made["requestContext"]) == set(DOCUMENTED["requestContext"])
    for key in set(DOCUMENTED) - {"headers", "requestContext"}:
        assert made[key] == DOCUMENTED[key], key
    for key in ("domainName", "domainPrefix", "http", "routeKey", "stage"):
        assert made["requestContext"][key] == DOCUMENTED["requestContext"][key], key
    assert DOCUMENTED["headers"].items() <= made["headers"].items()
    assert {"cookie", "connection"}.isdisjoint(made["headers"])
    assert made["headers"]["x-forwarded-for"] == "192.0.2.1"
    assert made["requestContext"]["timeEpoch"] > DOCUMENTED["requestContext"]["timeEpoch"]


def test_what_is_absent_has_no_key() -> None:
    made = event()
    assert {"body", "cookies", "pathParameters", "queryStringParameters"}.isdisjoint(made)
    assert made["isBase64Encoded"] is False
    assert "authorizer" not in made["requestContext"]


def test_path_and_query_are_decoded_but_for_the_raw_query() -> None:
    made = event(raw_path="/a%20b/%C3%A9", query="q=a+b&q=%26&empty=")
    assert made["rawPath"] == made["requestContext"]["http"]["path"] == "/a b/é"
    assert made["rawQueryString"] == "q=a+b&q=%26&empty="
    assert made["queryStringParameters"] == {"q": "a b,&", "empty": ""}


@pytest.mark.parametrize(
    ("content_type", "body", "is_text"),
    [
        ("application/json", b"{}", True),
        ("Application/JSON; charset=utf-8", "é".encode(), True),
        ("text/csv", b"a", True),
        ("application/xml", b"<a/>", True),
        ("application/x-www-form-urlencoded", b"{}", False),
        ("application/merge-patch+json", b"{}", False),
        ("application/octet-stream", b"a", False),
        ("", b"{}", False),
        ("application/json", b"\xff", False),
    ],
)
def test_body_is_text_or_base64_as_on_the_real_one(content_type: str, body: bytes, is_text: bool) -> None:
    made = event(method="POST", headers=(("content-type", content_type),), body=body)
    assert made["isBase64Encoded"] is not is_text
    assert made["body"] == (body.decode() if is_text else base64.b64encode(body).decode())


def answer(**result: Any) -> Response | None:
    return response_of(json.dumps(result).encode())


def test_answer_has_status_headers_cookies_and_body() -> None:
    headers = {"X-One": "1", "number": 2, "flag": True, "Content-Length": "99"}
    assert answer(statusCode=201, headers=headers, cookies=["a=1", "b=2"], body="é") == Response(
        201,
        (
            ("x-one", "1"),
            ("number", "2"),
            ("flag", "true"),
            ("content-type", "text/plain;charset=UTF-8"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ),
        "é".encode(),
    )


def test_binary_answer_is_decoded() -> None:
    made = answer(statusCode=200, isBase64Encoded=True, body=base64.b64encode(b"\xff\x00").decode())
    assert made is not None
    assert made.body == b"\xff\x00"


@pytest.mark.parametrize("result", ['"hello"', "null", '{"a": 1}', "[1]"])
def test_result_without_status_is_the_json_body_of_a_200(result: str) -> None:
    assert response_of(result.encode()) == Response(200, (("content-type", "application/json"),), result.encode())


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": "many"},
        {"statusCode": 99},
        {"statusCode": None},
        {"statusCode": 200, "body": {"a": 1}},
        {"statusCode": 200, "headers": ["a"]},
        {"statusCode": 200, "headers": {"a": "b\r\nc: d"}},
        {"statusCode": 200, "isBase64Encoded": True, "body": "not base64!"},
    ],
)
def test_malformed_answer_stands_for_none(result: dict[str, Any]) -> None:
    assert answer(**result) is None
