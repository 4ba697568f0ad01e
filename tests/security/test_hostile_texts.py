"""Whatever a caller or a step writes is a value: never SQL, never a log line or a key of one, never a header.

What is refused for its form and size, tests/contract/test_bad_input.py shows; what the console makes of texts,
tests/browser/test_hostile_texts.py.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from functions.loop_api import app as loop_api
from functions.run_next_step import app as run_next_step
from functions.run_worker import app as run_worker
from loop_runner.results import Blocked, Completed, Failed
from loop_runner.settings import MAX_BODY_BYTES
from tests.conftest import Context, assert_sound

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Answer, Client, Sql
    from tests.fake_steps import Steps
    from tests.security.conftest import Output

ISSUE: Final = "/api/loop/issues/A-1"
SQL: Final = [
    "'; DROP TABLE loop_runs CASCADE; --",
    "') ; DELETE FROM loop_events; SELECT ('",
    "' OR '1'='1",
    "\\'; TRUNCATE loop_issues; --",
    "$$; DROP TABLE loop_runs; $$ $1 :1 %s %(id)s %% {0} {{id}} ?",
    "{\"a\": 1}'::jsonb || '{}",
    "0x27; 1); SELECT pg_sleep(60)",
]
LINES: Final = [
    'x"}\n{"level":"CRITICAL","message":"answered","forged":"yes"}',
    '","forged":"yes","level":"CRITICAL","x":"',
    "x\r\nset-cookie: forged=yes\r\n\r\n<html>",
    "\x1b[2J\x1b[31mforged\x1b[0m\x07\x08\x7f",
    "x\u2028y\u2029z\u0085w\x0b\x0c\x1c\x1d\x1e",
    "\u202eforged\u2066\ufeff",
    "${jndi:ldap://127.0.0.1/forged} {{7*7}} <%= 7*7 %> %0a%0d",
    '{"_aws":{"CloudWatchMetrics":[{"Namespace":"forged"}]}}',
]
CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f]")
"""What a terminal or a reader of lines might obey; a line ends with a newline, and has none within."""


def lines_of(text: str) -> list[dict[str, Any]]:
    """Each line is an object of ours."""
    assert not CONTROL.search(text)
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
    for line in lines:
        assert {"level", "message", "service"} <= line.keys() or "_aws" in line, line
        assert line.get("level") != "CRITICAL"
        assert "forged" not in line
        assert "forged" not in json.dumps(line.get("_aws", ""))
    return lines


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


FIELDS: dict[str, Callable[[Steps, str], Answer]] = {
    "path of an issue": lambda on, text: on.client("GET", f"/api/loop/issues/{text}"),
    "path of a run": lambda on, text: on.client("GET", f"/api/loop/runs/{text}"),
    "path": lambda on, text: on.client("GET", f"/api/{text}"),
    "path of a file": lambda on, text: on.client("GET", f"/console/{text}"),
    "method": lambda on, text: on.client(text, ISSUE),
    "actor": lambda on, text: on.client("GET", ISSUE, actor=text),
    "subject": lambda on, text: on.client(
        "POST", f"{ISSUE}/run-next-step", authorizer={"jwt": {"claims": {"sub": text}}}
    ),
    "principal": lambda on, text: on.client("GET", ISSUE, actor=None, authorizer={"iam": {"userArn": text}}),
    "x-request-id": lambda on, text: on.client("GET", ISSUE, headers={"x-request-id": text}),
    "Idempotency-Key": lambda on, text: on.run(headers={"idempotency-key": text}),
    "If-Match": lambda on, text: on.client("PATCH", ISSUE, {}, headers={"if-match": text}),
    "If-None-Match": lambda on, text: on.client("GET", "/console", headers={"if-none-match": text}),
    "Prefer": lambda on, text: on.run(headers={"prefer": text}),
    "other header": lambda on, text: on.client("GET", ISSUE, headers={text: text}),
    "loop": lambda on, text: on.client("PUT", "/api/loop/issues/A-9", {"loop": text}),
    "body": lambda on, text: on.client("PATCH", ISSUE, text),
    "key of a body": lambda on, text: on.run(body={text: 1}),
    "mode": lambda on, text: on.run(body={"mode": text}),
    "state": lambda on, text: on.client("POST", f"{ISSUE}/state", {"state": text, "reason": "x"}),
    "decision": lambda on, text: on.client(
        "POST", f"{ISSUE}/approvals", {"decision": text}, headers={"if-match": '"1"'}
    ),
    "query": lambda on, text: on.client("GET", "/api/loop/runs", query={text: text}),
    **{
        f"query {name}": lambda on, text, name=name: on.client("GET", "/api/loop/runs", query={name: text})  # type: ignore[misc]
        for name in ("status", "loop", "actor", "since", "until", "limit", "cursor")
    },
    "query state": lambda on, text: on.client("GET", "/api/loop/issues", query={"state": text}),
    "query include": lambda on, text: on.client("GET", ISSUE, query={"include": text}),
    "cursor that is well encoded": lambda on, text: on.client(
        "GET", "/api/loop/runs", query={"cursor": base64.urlsafe_b64encode(text.encode()).decode()}
    ),
}
"""Where a caller may write a text that is refused, or looked for."""


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_text_of_a_caller_is_a_value_wherever_it_stands(
    field: str, steps: Steps, sql: Sql, output: Output, database_url: str
) -> None:
    steps.register("work")
    steps.register("work", "A-2")
    output()
    for text in SQL + LINES:
        answer = FIELDS[field](steps, text)
        assert answer.status < 500, answer.text
        for name, value in answer.headers.items():
            assert not CONTROL.search(f"{name}{value}"), (name, value)
            assert "\n" not in value
            assert "forged" not in f"{name}{value}"
    answered = [line for line in lines_of(output()) if line.get("message") == "answered"]
    assert len(answered) == len(SQL + LINES)
    assert [row["id"] for row in sql("SELECT id FROM loop_issues ORDER BY id")] == ["A-1", "A-2"]
    assert_sound(database_url)


@pytest.mark.parametrize("text", SQL + LINES)
def test_text_that_is_kept_is_kept_as_it_is(
    text: str, steps: Steps, sql: Sql, output: Output, database_url: str
) -> None:
    """Facts, their keys, reasons, comments, and what steps tell: each comes back as it was sent."""
    nested: Any = {text: [text]}
    steps.register("review", **{"note": text, text: nested})
    steps.run()
    hold = steps.client("POST", f"{ISSUE}/hold", {"reason": f"x{text}x"}).json["hold"]["reason"]
    steps.client("POST", f"{ISSUE}/resume", {"reason": f"x{text}x"})
    version = steps.client("PATCH", ISSUE, {"more": {text: text}}).headers["etag"]
    decision = {"decision": "rejected", "comment": f"x{text}x"}
    decided = steps.client("POST", f"{ISSUE}/approvals", decision, "zoe", headers={"if-match": version})
    assert (hold, decided.json["approval"]["comment"]) == (f"x{text}x", f"x{text}x"), decided.text
    steps.register("work", "A-2")
    steps.will(Blocked("NOT_YET", text), Failed(text[:128], text), Completed({text: text}, message=text))
    blocked = steps.run("A-2").json["blocker"]["message"]
    failed = steps.run("A-2").json["error"]
    steps.let_be_due()
    completed = steps.run("A-2").json["message"]
    assert text in blocked
    assert (failed["code"], failed["message"]) == (text[:128], text)
    assert text in completed
    assert steps.client("GET", "/api/loop/issues/A-2").json["facts"] == {text: text}
    facts = steps.client("GET", ISSUE).json["facts"]
    assert facts == {"note": text, text: {text: [text]}, "more": {text: text}}
    lines_of(output())
    assert_sound(database_url)


@pytest.mark.parametrize("text", SQL + LINES)
def test_message_of_the_queue_is_a_value(
    text: str, steps: Steps, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_worker, "services", lambda: steps.services)
    bodies = [
        text,
        quoted(text),
        json.dumps({"issueId": text, "runId": text}),
        json.dumps({"issueId": text, "after": text}),
    ]
    bodies.append(json.dumps({"issueId": text, "runId": "01a20b7d-054d-7c54-a982-de8e7344bfb2"}))
    records = [{"messageId": text, "body": body} for body in bodies]
    failed = run_worker.handler({"Records": records}, Context())["batchItemFailures"]  # type: ignore[arg-type]
    assert len(failed) == 4, "one of an issue that is not there is done"
    lines_of(output())


BODIES = [
    pytest.param(route.method, route.path, id=f"{route.method} {route.path}")
    for api in (loop_api.api, run_next_step.api)
    for route in api.routes
    if route.body is not None
]
"""Every route that takes a body; the contract's tests have three of them."""


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("[" * 100_000, 413),
        ("[" * 30_000 + "]" * 30_000, 400),
        ('{"a":' * 8_000 + "1" + "}" * 8_000, 400),
        ('{"a":' * 33 + "1" + "}" * 33, 400),
        ('{"a":"' + "\\u0041" * 20_000 + '"}', 413),
        ("{}" + " " * MAX_BODY_BYTES, 413),
        ('{"a":' + "9" * 60_000 + "}", 400),
        ('{"a":1e' + "9" * 60_000 + "}", 400),
    ],
    ids=["too long", "lists", "objects", "33 levels", "escapes", "spaces", "digits", "exponent"],
)
def test_body_that_is_too_much_is_refused_by_every_route(
    client: Client, sql: Sql, *, method: str, path: str, body: str, status: int
) -> None:
    path = path.replace("{issueId}", "A-1").replace("{runId}", "01a20b7d-054d-7c54-a982-de8e7344bfb2")
    answer = client(method, path, body, headers={"if-match": '"1"'})
    assert answer.status == status, answer.text
    assert len(answer.text) < 2_000
    assert sql("SELECT FROM loop_issues") == []
