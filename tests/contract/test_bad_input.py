"""Whatever a caller sends is answered with the right error in the one envelope, and leaves no trace."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from loop_runner.settings import MAX_BODY_BYTES, MAX_FACTS_BYTES
from tests.conftest import Client, Sql, event
from tests.contract.conftest import Unchanged, assert_error

if TYPE_CHECKING:
    from tests.conftest import Answer

ISSUE = "/api/loop/issues/AFU9-123"
BODIES = [
    pytest.param("POST", f"{ISSUE}/run-next-step", id="run"),
    pytest.param("PUT", ISSUE, id="put"),
    pytest.param("PATCH", ISSUE, id="patch"),
]
"""The routes that take a body."""

with_body = pytest.mark.parametrize(("method", "path"), BODIES)


@pytest.fixture(scope="module")
def database_url(shared_database_url: str) -> str:
    """One database for all of these tests: they write nothing, or to an issue of their own."""
    return shared_database_url


@pytest.fixture(autouse=True)
def registered(client: Client) -> None:
    client.register(githubUrl="https://github.com/acme/app/issues/1")


def sent(client: Client, method: str, path: str, **parts: Any) -> Answer:
    """An answer to an event whose parts are as given."""
    return client.send({**event(method, path, headers={"x-afu9-sub": "ann"}), **parts})


# --- the body as bytes


@with_body
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("{", id="cut off"),
        pytest.param("mode=execute", id="a form"),
        pytest.param("{'mode': 'execute'}", id="single quotes"),
        pytest.param('{"mode": "execute"}{}', id="two values"),
        pytest.param("\ufeff{}", id="byte order mark"),
        pytest.param("<xml/>", id="xml"),
        pytest.param("[]", id="array"),
        pytest.param('[{"mode": "execute"}]', id="array of objects"),
        pytest.param('"execute"', id="text"),
        pytest.param("1", id="number"),
        pytest.param("true", id="bool"),
        pytest.param("null", id="null"),
        pytest.param('{"a": NaN}', id="NaN"),
        pytest.param('{"a": -Infinity}', id="Infinity"),
        pytest.param('{"a": 1e999}', id="1e999"),
        pytest.param('{"a": ' + "9" * 5000 + "}", id="5000 digits"),
        pytest.param('{"loop": "issue-delivery", "loop": "issue-delivery"}', id="key twice"),
        pytest.param('{"a": [{"b": 1, "b": 1}]}', id="key twice within"),
        pytest.param('{"a": "x\\u0000"}', id="NUL in a value"),
        pytest.param('{"a\\u0000": 1}', id="NUL in a key"),
        pytest.param('{"a": ["\\ud800"]}', id="lone surrogate in a value"),
        pytest.param('{"\\udfff": 1}', id="lone surrogate in a key"),
        pytest.param('{"a": "\ud800"}', id="lone surrogate itself"),
        pytest.param("[" * 10_000 + "]" * 10_000, id="10000 lists deep"),
        pytest.param('{"a":' * 10_000 + "1" + "}" * 10_000, id="10000 objects deep"),
        pytest.param('{"a":' * 33 + "1" + "}" * 33, id="33 objects deep"),
    ],
)
def test_a_body_that_is_no_storable_json_object_is_400(
    client: Client, unchanged: Unchanged, method: str, path: str, body: str
) -> None:
    with unchanged():
        assert_error(client(method, path, body), 400, "INVALID_REQUEST")


@with_body
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("e30", id="not padded"),
        pytest.param("{}", id="no base64"),
        pytest.param(base64.b64encode(b'{"a": "\xff"}').decode(), id="not UTF-8"),
        pytest.param(base64.b64encode(b'{"a": "\xed\xa0\x80"}').decode(), id="surrogate as bytes"),
        pytest.param(base64.b64encode("{}".encode("utf-16")).decode(), id="UTF-16"),
        pytest.param(base64.b64encode(b"{}\x00").decode(), id="NUL after it"),
    ],
)
def test_a_body_of_bytes_that_are_no_utf_8_json_is_400(
    client: Client, unchanged: Unchanged, method: str, path: str, body: str
) -> None:
    with unchanged():
        answer = sent(client, method, path, body=body, isBase64Encoded=True)
        assert_error(answer, 400, "INVALID_REQUEST")


@with_body
def test_a_body_over_64_kib_is_413(client: Client, unchanged: Unchanged, method: str, path: str) -> None:
    for body in ("{}" + " " * (MAX_BODY_BYTES - 1), "[" * (10 * MAX_BODY_BYTES), '{"ä":"' + "ä" * 32_768 + '"}'):
        with unchanged():
            assert_error(client(method, path, body), 413, "PAYLOAD_TOO_LARGE")
    encoded = base64.b64encode(b"{}" + b" " * (MAX_BODY_BYTES - 1)).decode()
    with unchanged():
        assert_error(sent(client, method, path, body=encoded, isBase64Encoded=True), 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{ISSUE}/run-next-step", "{}"),
        ("PUT", ISSUE, '{"loop":"issue-delivery"}'),
        ("PATCH", ISSUE, '{"notes":"full"}'),
    ],
)
def test_a_body_of_exactly_64_kib_passes(client: Client, method: str, path: str, body: str) -> None:
    padded = body.ljust(MAX_BODY_BYTES)
    client.register("PADDED-1")
    path = path.replace("AFU9-123", "PADDED-1")
    assert client(method, path, padded).status == 200
    assert (
        sent(client, method, path, body=base64.b64encode(padded.encode()).decode(), isBase64Encoded=True).status == 200
    )


# --- the body as a value


@pytest.mark.parametrize(
    "body",
    [
        {"mode": "dryrun"},
        {"mode": "EXECUTE"},
        {"mode": ""},
        {"mode": None},
        {"mode": True},
        {"mode": ["execute"]},
        {"mode": {"execute": True}},
        {"Mode": "execute"},
        {"mode": "execute", "actor": "eve"},
        {"mode": "execute", "lease_ms": 1},
        {"": ""},
    ],
)
def test_a_run_is_asked_for_in_the_contracts_form_only(
    client: Client, unchanged: Unchanged, body: dict[str, Any]
) -> None:
    with unchanged():
        error = assert_error(client.run(body=body), 400, "INVALID_REQUEST")
        assert any(key in error["message"] for key in body)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"facts": {}},
        {"loop": None},
        {"loop": 1},
        {"loop": ["issue-delivery"]},
        {"loop": ""},
        {"loop": "x" * 65},
        {"loop": "no-such-loop"},
        {"loop": "../issue-delivery"},
        {"loop": "issue-delivery.toml"},
        {"loop": "Issue-Delivery"},
        {"loop": "issue-delivery", "facts": None},
        {"loop": "issue-delivery", "facts": []},
        {"loop": "issue-delivery", "facts": "{}"},
        {"loop": "issue-delivery", "state": "CLOSED"},
        {"loop": "issue-delivery", "issueId": "AFU9-123"},
    ],
)
@pytest.mark.parametrize("issue_id", ["AFU9-123", "AFU9-124"])
def test_an_issue_is_registered_in_the_contracts_form_only(
    client: Client, unchanged: Unchanged, body: dict[str, Any], issue_id: str
) -> None:
    with unchanged():
        assert_error(client("PUT", f"/api/loop/issues/{issue_id}", body), 400, "INVALID_REQUEST")


def test_facts_over_256_kib_in_all_are_413_and_stay_as_they_are(client: Client, unchanged: Unchanged) -> None:
    path, part = "/api/loop/issues/LARGE-1", "x" * 60_000
    client.register("LARGE-1")
    for number in range(4):
        assert client("PATCH", path, {f"part{number}": part}).status == 200
    before = client("GET", path).json
    with unchanged():
        error = assert_error(client("PATCH", path, {"part4": part}), 413, "PAYLOAD_TOO_LARGE")
        assert str(MAX_FACTS_BYTES) in error["message"]
    assert client("GET", path).json == before
    assert client("PATCH", path, {"part3": None, "part4": part}).status == 200


def test_facts_over_256_kib_are_413_when_they_come_with_the_issue(client: Client, unchanged: Unchanged) -> None:
    """1e300 has five characters in the body, and 301 as PostgreSQL keeps it."""
    body = json.dumps({"loop": "issue-delivery", "facts": {"a": [1e300] * 2000}})
    with unchanged():
        assert_error(client("PUT", "/api/loop/issues/AFU9-124", body), 413, "PAYLOAD_TOO_LARGE")


# --- these tests


def test_the_tables_are_watched_by_these_tests(client: Client, unchanged: Unchanged, sql: Sql) -> None:
    with pytest.raises(AssertionError), unchanged():
        client.run()
    with pytest.raises(AssertionError), unchanged():
        sql("UPDATE loop_issues SET facts = facts")
