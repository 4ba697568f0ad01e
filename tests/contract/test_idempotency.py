"""Idempotency-Key: a call acts once, and is answered from its run for a day (design: claim decides in this order)."""

from __future__ import annotations

from threading import Event as Signal
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from loop_runner.executors import EXECUTORS
from loop_runner.executors.protocol import Completed, Failed
from loop_runner.services import Services
from tests.conftest import Client
from tests.contract.conftest import assert_error

if TYPE_CHECKING:
    from tests.conftest import Answer, Sql
    from tests.contract.conftest import Unchanged

ISSUE = "AFU9-123"
URL = "https://example.org/1"


def keyed(client: Client, key: str = "k-1", body: Any = None, **parts: Any) -> Answer:
    headers = {"Idempotency-Key": key, **parts.pop("headers", {})}
    return client.run(parts.pop("issue_id", ISSUE), body, headers=headers, **parts)


def without_request_id(answer: Answer) -> dict[str, Any]:
    return {key: value for key, value in answer.json.items() if key != "requestId"}


def assert_replay(first: Answer, again: Answer) -> None:
    """The same answer from the same run, under a request id of its own."""
    assert (first.status, again.status) == (200, 200)
    assert without_request_id(again) == without_request_id(first)
    assert again.json["requestId"] != first.json["requestId"]
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["etag"] == first.headers["etag"]
    assert "idempotency-replayed" not in first.headers


@pytest.mark.parametrize("mode", ["execute", "dryRun"])
@pytest.mark.parametrize("facts", [{"githubUrl": URL}, {}], ids=["completed", "blocked"])
def test_call_that_is_sent_again_gets_the_answer_it_had(
    client: Client, unchanged: Unchanged, mode: str, facts: dict[str, Any]
) -> None:
    client.register(**facts)
    first = keyed(client, body={"mode": mode})
    with unchanged():
        assert_replay(first, keyed(client, body={"mode": mode}))


def test_failed_answer_replays_under_its_own_key_only(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.register(githubUrl=URL)
    monkeypatch.setitem(EXECUTORS, "transition", lambda _: Failed("Busy", "later"))
    first = keyed(client)
    assert first.json["error"]["code"] == "Busy"
    monkeypatch.undo()
    assert_replay(first, keyed(client))
    assert keyed(client, "k-2").json["loopStatus"] == "active"


def test_ended_issue_replays_too(client: Client, sql: Sql) -> None:
    client.register()
    sql("UPDATE loop_issues SET state = 'CLOSED'")
    assert_replay(keyed(client), keyed(client))
    assert len(sql("SELECT 1 FROM loop_runs")) == 1


def test_empty_body_and_its_default_are_the_same_request(client: Client) -> None:
    client.register(githubUrl=URL)
    assert_replay(keyed(client), keyed(client, body={"mode": "execute"}))


def test_quoted_and_bare_key_are_the_same(client: Client) -> None:
    client.register(githubUrl=URL)
    assert_replay(keyed(client, '"k-1"'), keyed(client, "k-1"))


def test_each_issue_has_keys_of_its_own(client: Client) -> None:
    for issue_id in ("A-1", "A-2"):
        client.register(issue_id)
    first, other = keyed(client, issue_id="A-1"), keyed(client, issue_id="A-2")
    assert first.json["runId"] != other.json["runId"]
    assert "idempotency-replayed" not in other.headers


@pytest.mark.parametrize(
    "other",
    [
        {"body": {"mode": "dryRun"}},
        {"actor": "ben"},
        {"headers": {"if-match": '"1"'}},
        {"headers": {"prefer": "respond-async"}},
    ],
    ids=["body", "actor", "If-Match", "Prefer"],
)
def test_key_that_stands_for_another_request_is_refused(
    client: Client, unchanged: Unchanged, other: dict[str, Any]
) -> None:
    client.register(githubUrl=URL)
    run_id = keyed(client).json["runId"]
    with unchanged():
        error = assert_error(keyed(client, **other), 422, "IDEMPOTENCY_KEY_REUSED")
    assert error["details"] == {"runId": run_id}


def test_key_of_a_dry_run_is_refused_to_an_execute(client: Client, unchanged: Unchanged) -> None:
    client.register(githubUrl=URL)
    keyed(client, body={"mode": "dryRun"})
    with unchanged():
        assert_error(keyed(client), 422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.parametrize("header", ["", " ", '""', "a,b", '"a", "b"', 'a"b', '"a', "ä", "x" * 256, "a b", "a\tb"])
def test_what_is_no_key_is_refused_and_nothing_runs(client: Client, unchanged: Unchanged, header: str) -> None:
    client.register(githubUrl=URL)
    with unchanged():
        assert "Idempotency-Key" in assert_error(keyed(client, header), 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize("header", ["x" * 255, '"a, b c"', r'"say \"hi\" \\"', "8e03978e-40d5-43dd-bc93-6894a57f9324"])
def test_printable_keys_are_taken(client: Client, header: str) -> None:
    client.register(githubUrl=URL)
    assert_replay(keyed(client, header), keyed(client, header))


def test_key_comes_before_if_match(client: Client) -> None:
    client.register(githubUrl=URL)
    first = keyed(client, headers={"if-match": '"1"'})
    assert first.headers["etag"] == '"2"'
    assert_replay(first, keyed(client, headers={"if-match": '"1"'}))
    assert_error(keyed(client, "k-2", headers={"if-match": '"1"'}), 412, "PRECONDITION_FAILED")


def test_refused_call_leaves_its_key_free(client: Client) -> None:
    client.register(githubUrl=URL)
    assert_error(keyed(client, headers={"if-match": '"9"'}), 412, "PRECONDITION_FAILED")
    assert keyed(client).json["loopStatus"] == "active"


def test_key_of_an_unknown_issue_is_404(client: Client) -> None:
    assert_error(keyed(client), 404, "ISSUE_NOT_FOUND")


def test_key_is_free_again_after_a_day(client: Client, sql: Sql) -> None:
    client.register(githubUrl=URL)
    first = keyed(client, body={"mode": "dryRun"})
    sql("ALTER TABLE loop_runs DISABLE TRIGGER loop_runs_lifecycle")
    sql("UPDATE loop_runs SET created_at = created_at - interval '23 hours 59 minutes'")
    assert keyed(client, body={"mode": "dryRun"}).json["runId"] == first.json["runId"]
    sql("UPDATE loop_runs SET created_at = created_at - interval '1 minute'")
    second = keyed(client, body={"mode": "execute"})
    assert second.json["runId"] != first.json["runId"]
    assert_replay(second, keyed(client))


class TestInFlight:
    @pytest.fixture
    def slow(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A keyed call that is within its step until ``end`` is set."""
        begun, end = Signal(), Signal()

        def executor(_: object) -> Completed:
            begun.set()
            assert end.wait(30)
            return Completed()

        client.register(githubUrl=URL)
        monkeypatch.setitem(EXECUTORS, "transition", executor)
        answers: list[Answer] = []
        services = Services(client.services.settings)
        caller = Thread(target=lambda: answers.append(keyed(Client(services))))
        caller.start()
        assert begun.wait(30)
        yield end, caller, answers
        end.set()
        caller.join(30)
        services.database.close()

    def test_same_key_is_a_conflict_then_a_replay(self, client: Client, slow: Any, unchanged: Unchanged) -> None:
        end, caller, answers = slow
        with unchanged():
            details = assert_error(keyed(client), 409, "LOOP_CONFLICT")["details"]
        end.set()
        caller.join(30)
        (first,) = answers
        assert first.json["runId"] == details["runId"]
        assert_replay(first, keyed(client))

    def test_same_key_for_another_request_is_422_even_then(self, client: Client, slow: Any) -> None:
        assert_error(keyed(client, body={"mode": "dryRun"}), 422, "IDEMPOTENCY_KEY_REUSED")

    def test_dry_run_with_a_key_of_its_own_is_answered(self, client: Client, slow: Any) -> None:
        assert_replay(
            keyed(client, "d", body={"mode": "dryRun"}), keyed(client, "d", body={"mode": "dryRun"})
        )  # never conflicts


def test_lost_run_is_ended_by_its_own_key_and_answers_it(client: Client, sql: Sql) -> None:
    client.register(githubUrl=URL)
    first = keyed(client)
    sql("ALTER TABLE loop_runs DISABLE TRIGGER loop_runs_lifecycle")
    sql("DELETE FROM loop_run_steps")
    sql("DELETE FROM loop_events WHERE event_type <> 'loop_run_started'")
    sql(
        "UPDATE loop_runs SET status = 'running', completed_at = NULL, duration_ms = NULL,"
        " lease_expires_at = clock_timestamp()"
    )
    sql("UPDATE loop_issues SET state = 'CREATED'")
    lost = keyed(client)
    assert lost.json["runId"] == first.json["runId"]
    assert (lost.json["loopStatus"], lost.json["error"]["code"]) == ("failed", "LEASE_EXPIRED")
    assert without_request_id(keyed(client)) == without_request_id(lost)
    ended = sql.one("SELECT event_data FROM loop_events WHERE event_type = 'loop_run_failed'")
    assert ended["event_data"] == {"errorCode": "LEASE_EXPIRED", "endedBy": "ann"}
    again = keyed(client, "k-2")
    assert again.json["loopStatus"] == "active"
    assert sql.one("SELECT attempt, retry_of FROM loop_runs WHERE id = %s", again.json["runId"]) == {
        "attempt": 2,
        "retry_of": sql.one("SELECT id FROM loop_runs WHERE id = %s", first.json["runId"])["id"],
    }
