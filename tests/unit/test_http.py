"""The parts of a request: read strictly, refused with one of the contract's errors, never with anything else."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.loop_api import app as loop_api
from loop_runner.bodies import RegisterIssueRequest
from loop_runner.contract import RunNextStepRequest
from loop_runner.errors import InvalidRequestError, PayloadTooLargeError
from loop_runner.http import Api, Call, body_of, etag, headers_of
from loop_runner.identity import Identity
from loop_runner.models import RunMode
from loop_runner.services import Services
from loop_runner.settings import MAX_BODY_BYTES, Settings
from loop_runner.strict_json import MAX_DEPTH, parse_json
from tests.conftest import Context
from tests.unit.strategies import JSON

SERVICES = Services(
    Settings("postgresql://nobody@127.0.0.1:1/none", Path("none"), Path("none"), trust_actor_header=True)
)


def call(body: Any = None, headers: dict[str, str] | None = None, **path: str) -> Call:
    event: dict[str, Any] = {"headers": headers or {}}
    if body is not None:
        event["body"] = body if isinstance(body, str) else json.dumps(body)
    return Call(event, Context(), SERVICES, Identity("ann"), UUID(int=1), path)  # type: ignore[arg-type]


# --- body


@pytest.mark.parametrize("event", [{}, {"body": None}, {"body": ""}, {"body": "", "isBase64Encoded": True}])
def test_no_body_is_no_bytes(event: dict[str, Any]) -> None:
    assert body_of(event) == b""


@given(st.binary(max_size=100))
def test_a_base64_body_is_decoded(content: bytes) -> None:
    assert body_of({"body": base64.b64encode(content).decode(), "isBase64Encoded": True}) == content


@pytest.mark.parametrize("body", ["e30", "e3 0=", "e30=\n", "!!!!", "{}", "ä", "e30-", "e30=e30="])
def test_what_is_not_base64_is_refused(body: str) -> None:
    with pytest.raises(InvalidRequestError, match="base64"):
        body_of({"body": body, "isBase64Encoded": True})


def test_a_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        body_of({"body": '"\ud800"'})


@pytest.mark.parametrize("character", ["x", "ä", "𝄞"])
def test_the_limit_counts_bytes_and_is_64_kib(character: str) -> None:
    fits = character * (MAX_BODY_BYTES // len(character.encode()))
    assert len(body_of({"body": fits})) == MAX_BODY_BYTES
    for body in (f"{fits}x", fits * 3):
        with pytest.raises(PayloadTooLargeError, match=str(MAX_BODY_BYTES)):
            body_of({"body": body})


def test_the_limit_is_that_of_the_decoded_body() -> None:
    encoded = partial(base64.b64encode)
    assert len(body_of({"body": encoded(b"x" * MAX_BODY_BYTES).decode(), "isBase64Encoded": True})) == MAX_BODY_BYTES
    with pytest.raises(PayloadTooLargeError):
        body_of({"body": encoded(b"x" * (MAX_BODY_BYTES + 1)).decode(), "isBase64Encoded": True})


# --- JSON


@pytest.mark.parametrize("content", [b"", b" ", b"\r\n\t ", "\u00a0".encode()])
def test_a_blank_body_is_an_empty_object(content: bytes) -> None:
    assert parse_json(content) == {}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
                    lambda inner: st.lists(inner, max_size=3), max_leaves=5))  # fmt: skip
def test_json_that_can_be_stored_is_read_as_it_is(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0dE+-NaInfity1 \0', max_size=60).map(str.encode))
def test_any_bytes_are_json_or_refused_and_nothing_else(content: bytes) -> None:
    with suppress(InvalidRequestError):
        parse_json(content)


@pytest.mark.parametrize("content", [b"\xff", b'"\xed\xa0\x80"', b'"\xc0\x80"', "{}".encode("utf-16"), b'"\xe4"'])
def test_bytes_that_are_not_utf_8_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        parse_json(content)


@pytest.mark.parametrize(
    "text",
    ["{", "}", "nul", "'a'", "{a:1}", "[1,]", '{"a":1,}', "01", "1 2", "\ufeff{}", "// x", '"\n"', "+1", ".5", "1."],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="not JSON"):
        parse_json(text.encode())


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", '{"a":[NaN]}'])
def test_what_only_javascript_has_as_a_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="no JSON number"):
        parse_json(text.encode())


@pytest.mark.parametrize("text", ["1e999", "-1e999", "[1E+400]", '{"a":123456789e400}'])
def test_a_number_beyond_double_precision_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="too large"):
        parse_json(text.encode())


def test_a_number_of_thousands_of_digits_is_refused_a_long_one_is_exact() -> None:
    assert parse_json(b"9" * 4000) == 10**4000 - 1
    with pytest.raises(InvalidRequestError, match="too long"):
        parse_json(b"9" * 5000)


@pytest.mark.parametrize("text", ['{"a":1,"a":1}', '[{"b":{"a":1,"a":2}}]', '{"a":1,"\\u0061":2}'])
def test_a_key_given_twice_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="twice"):
        parse_json(text.encode())


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\udfff", "\\udc00\\ud800", "a\\ud83dz"])
@pytest.mark.parametrize("form", ['"%s"', '{"%s":1}', '{"a":["%s"]}', '[{"a":{"%s":1}}]'])
def test_text_that_postgresql_cannot_store_is_refused_wherever_it_is(escape: str, form: str) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be stored"):
        parse_json((form % escape).encode())


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_32_levels_are_read_and_any_more_refused(opening: str, closing: str) -> None:
    assert parse_json((opening * MAX_DEPTH + "1" + closing * MAX_DEPTH).encode())
    for levels in (MAX_DEPTH + 1, 1000, 10_000):
        with pytest.raises(InvalidRequestError, match=f"more than {MAX_DEPTH} levels"):
            parse_json((opening * levels + "1" + closing * levels).encode())


# --- models


@pytest.mark.parametrize(("body", "mode"), [
    (None, RunMode.EXECUTE), ("", RunMode.EXECUTE), (" \n", RunMode.EXECUTE), ({}, RunMode.EXECUTE),
    ({"mode": "execute"}, RunMode.EXECUTE), ({"mode": "dryRun"}, RunMode.DRY_RUN),
])  # fmt: skip
def test_a_run_is_executed_unless_a_dry_one_is_asked_for(body: Any, mode: RunMode) -> None:
    assert call(body).body(RunNextStepRequest).mode is mode


@pytest.mark.parametrize("mode", ["dryrun", "DRY_RUN", "dry_run", "", None, True, 1, ["execute"], {"mode": "execute"}])
def test_any_other_mode_is_refused_and_named(mode: Any) -> None:
    with pytest.raises(InvalidRequestError, match="mode: "):
        call({"mode": mode}).body(RunNextStepRequest)


@pytest.mark.parametrize("value", [[], [{}], "text", 1, 1.5, True, None])
def test_a_body_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="must be a JSON object"):
        call(json.dumps(value)).body(RunNextStepRequest)


@given(st.dictionaries(st.sampled_from(["loop", "facts", "Loop", "schema_version"]) | st.text(max_size=3), JSON))
def test_any_object_is_a_registration_or_refused_without_repeating_its_values(body: dict[str, Any]) -> None:
    try:
        request = call(body).body(RegisterIssueRequest)
    except InvalidRequestError:
        return
    assert {"loop": request.loop, "facts": request.facts} == {"facts": {}, **body}


# --- headers, ids


@pytest.mark.parametrize(
    ("header", "versions"),
    [
        (None, None),
        ("", None),
        ("*", None),
        (" * ", None),
        ('"3"', {3}),
        (' "3" ', {3}),
        ('"3", "5"', {3, 5}),
        ('W/"3"', set()),
        ('W/"3", "4"', {4}),
    ],
)
def test_if_match_accepts_the_versions_it_names_and_a_weak_tag_none(header: str | None, versions: object) -> None:
    assert call(headers={} if header is None else {"If-Match": header}).if_match == versions


@pytest.mark.parametrize(
    "header", ["3", "'3'", '"3', '"a"', '"3" "4"', '"-1"', '"1.0"', '*, "3"', '"3",', f'"{"9" * 19}"', "w"]
)
def test_any_other_if_match_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequestError, match="If-Match"):
        _ = call(headers={"if-match": header}).if_match


@given(st.integers(1, 10**18 - 1))
def test_the_etag_of_a_version_matches_it(version: int) -> None:
    assert call(headers=etag(version) | {"if-match": etag(version)["etag"]}).if_match == frozenset({version})


def test_headers_have_their_names_in_lower_case() -> None:
    assert headers_of({"headers": {"X-Request-ID": "1", "content-type": "a"}}) == {
        "x-request-id": "1",
        "content-type": "a",
    }
    assert headers_of({}) == headers_of({"headers": None}) == {}


@pytest.mark.parametrize("issue_id", ["A", "0", "AFU9-123", "a.b_c:d-e", "x" * 128])
def test_an_issue_id_of_the_contract_is_taken(issue_id: str) -> None:
    assert call(issueId=issue_id).issue_id == issue_id


@pytest.mark.parametrize(
    "issue_id", ["", "-a", ".", "..", "a b", "a#b", "a/b", "ä", "a\n", "\na", "x" * 129, "a%20b", "٣"]
)
def test_any_other_issue_id_is_refused(issue_id: str) -> None:
    with pytest.raises(InvalidRequestError, match="issue id"):
        _ = call(issueId=issue_id).issue_id


# --- whatever comes in


EVENTS = st.fixed_dictionaries({}, optional={
    "headers": JSON | st.dictionaries(st.text(max_size=12), st.text(max_size=12)),
    "body": JSON,
    "isBase64Encoded": JSON,
    "rawPath": JSON | st.just("/api/health") | st.just("/api/loop/issues/A"),
    "requestContext": JSON | st.fixed_dictionaries({"http": JSON | st.just({"method": "GET"})}),
    "queryStringParameters": JSON,
})  # fmt: skip


@given(EVENTS)
def test_any_event_is_answered_with_an_envelope(event: dict[str, Any]) -> None:
    api = Api(lambda: SERVICES)
    api.routes = loop_api.api.routes
    answer = api.handle(event, Context())  # type: ignore[arg-type]
    body = json.loads(answer["body"])
    assert answer["statusCode"] in {200, 400, 401, 404, 405, 500, 503}
    assert body["schemaVersion"] == ("loop.health.v1" if answer["statusCode"] == 200 else "loop.error.v1")
    assert UUID(answer["headers"]["x-request-id"])
