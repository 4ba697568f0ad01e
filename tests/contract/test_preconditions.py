"""Request ids, versions, and the second caller."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.contract.conftest import Unchanged, assert_error

if TYPE_CHECKING:
    from tests.conftest import Answer, Client, Sql

ISSUE = "/api/loop/issues/AFU9-123"
REQUEST_ID = "3f0c5b1e-7a52-4b8e-9d57-0c2b8a6f1d34"
CHANGES = [pytest.param("PATCH", "", id="patch"), pytest.param("POST", "/run-next-step", id="run")]

with_change = pytest.mark.parametrize(("method", "suffix"), CHANGES)


@pytest.fixture(autouse=True)
def registered(client: Client) -> None:
    client.register(githubUrl="https://github.com/acme/app/issues/1")


def change(client: Client, method: str, suffix: str, if_match: str) -> Answer:
    body = {"a": 1} if method == "PATCH" else {}
    return client(method, f"{ISSUE}{suffix}", body, headers={"If-Match": if_match})


# --- x-request-id


@pytest.mark.parametrize("name", ["x-request-id", "X-Request-Id"])
@pytest.mark.parametrize("given", [REQUEST_ID, REQUEST_ID.upper(), f" {REQUEST_ID} "])
def test_a_request_id_that_is_a_uuid_is_kept(client: Client, sql: Sql, name: str, given: str) -> None:
    answer = client.run(headers={name: given})
    assert answer.headers["x-request-id"] == answer.json["requestId"] == REQUEST_ID
    assert sql.one("SELECT request_id FROM loop_runs")["request_id"] == REQUEST_ID
    assert client("GET", "/nowhere", headers={name: given}).json["requestId"] == REQUEST_ID
    assert client("GET", "/api/health", headers={name: given}).headers["x-request-id"] == REQUEST_ID


def test_any_other_request_id_is_replaced(client: Client, sql: Sql, subtests: pytest.Subtests) -> None:
    for given in ("", "1", "abc", f"{REQUEST_ID},{REQUEST_ID}", REQUEST_ID[:-1], "x" * 9999, "ä\0"):
        with subtests.test(given=given):
            answer = client.run(headers={"x-request-id": given})
            assert UUID(answer.json["requestId"]).version == 4
            assert answer.headers["x-request-id"] == answer.json["requestId"]
            row = sql.one("SELECT request_id FROM loop_runs WHERE id = %s", answer.json["runId"])
            assert row["request_id"] == answer.json["requestId"]


def test_every_call_without_one_gets_a_request_id_of_its_own(client: Client) -> None:
    assert client.run().json["requestId"] != client.run().json["requestId"]


# --- If-Match


@with_change
@pytest.mark.parametrize("if_match", ['"1"', ' "1" ', '"7", "1"', "*", ""])
def test_a_change_of_the_version_named_is_made(client: Client, method: str, suffix: str, if_match: str) -> None:
    answer = change(client, method, suffix, if_match)
    assert (answer.status, answer.headers["etag"]) == (200, '"2"')
    assert client("GET", ISSUE).headers["etag"] == '"2"'


@with_change
def test_a_change_of_another_version_is_412_and_not_made(
    client: Client, unchanged: Unchanged, method: str, suffix: str, subtests: pytest.Subtests
) -> None:
    for if_match in ('"2"', '"0"', '"2", "3"', 'W/"1"', '"999999999999999999"'):
        with subtests.test(if_match=if_match), unchanged():
            error = assert_error(change(client, method, suffix, if_match), 412, "PRECONDITION_FAILED")
            assert error["details"] == {"version": 1}


@with_change
def test_an_if_match_that_is_no_etag_is_400(
    client: Client, unchanged: Unchanged, method: str, suffix: str, subtests: pytest.Subtests
) -> None:
    for if_match in ("1", '"1', "'1'", '"one"', '"1" "2"', '"-1"', "**", '"1"; x'):
        with subtests.test(if_match=if_match), unchanged():
            assert_error(change(client, method, suffix, if_match), 400, "INVALID_REQUEST")


def test_a_dry_run_of_another_version_is_412(client: Client, unchanged: Unchanged) -> None:
    with unchanged():
        answer = client.run(body={"mode": "dryRun"}, headers={"if-match": '"2"'})
        assert_error(answer, 412, "PRECONDITION_FAILED")


def test_an_unknown_issue_is_404_whatever_version_is_named(client: Client) -> None:
    assert_error(client.run("NEW-1", headers={"if-match": '"1"'}), 404, "ISSUE_NOT_FOUND")
    patched = client("PATCH", "/api/loop/issues/NEW-1", {"a": 1}, headers={"if-match": '"1"'})
    assert_error(patched, 404, "ISSUE_NOT_FOUND")


def test_of_two_changes_of_one_version_the_second_is_412(client: Client) -> None:
    tag = client("GET", ISSUE).headers["etag"]
    assert client("PATCH", ISSUE, {"a": 1}, headers={"if-match": tag}).status == 200
    assert_error(client("PATCH", ISSUE, {"a": 2}, headers={"if-match": tag}), 412, "PRECONDITION_FAILED")
    assert client("GET", ISSUE).json["facts"]["a"] == 1


# --- the second caller


@pytest.fixture
def live_run(client: Client, sql: Sql) -> str:
    """A run of bob's that owns the issue for an hour."""
    sql("""INSERT INTO loop_runs (issue_id, actor, request_id, status, started_at, lease_token, lease_expires_at)
        VALUES ('AFU9-123', 'bob', 'r', 'running', clock_timestamp(), gen_random_uuid(),
        clock_timestamp() + interval '1 hour')""")
    return str(sql.one("SELECT id FROM loop_runs")["id"])


def test_the_second_caller_gets_409_with_the_holder_and_when_to_come_back(
    client: Client, sql: Sql, unchanged: Unchanged, live_run: str
) -> None:
    with unchanged():
        answer = client.run(headers={"if-match": '"7"'})
        error = assert_error(answer, 409, "LOOP_CONFLICT")
    assert set(error["details"]) == {"runId", "actor", "leaseExpiresAt"}
    assert (error["details"]["runId"], error["details"]["actor"]) == (live_run, "bob")
    lease = sql.one("SELECT lease_expires_at FROM loop_runs")["lease_expires_at"]
    assert datetime.fromisoformat(error["details"]["leaseExpiresAt"]) == lease
    assert answer.headers["retry-after"] == "5"


def test_a_pending_run_says_by_when_it_must_start(client: Client, unchanged: Unchanged) -> None:
    run = client.services.runs.create_run(issue_id="AFU9-123", actor="bob", request_id="r")
    with unchanged():
        error = assert_error(client.run(), 409, "LOOP_CONFLICT")
    assert set(error["details"]) == {"runId", "actor", "startBy"}
    assert datetime.fromisoformat(error["details"]["startBy"]) == run.lease_expires_at


def test_a_dry_run_a_patch_and_another_issue_never_conflict(client: Client, live_run: str) -> None:
    assert client.run(body={"mode": "dryRun"}).status == 200
    assert client("PATCH", ISSUE, {"a": 1}).status == 200
    client.register("AFU9-124")
    assert client.run("AFU9-124").status == 200


def test_after_the_lease_the_next_caller_ends_the_lost_run_and_goes_on(client: Client, sql: Sql, live_run: str) -> None:
    sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp()")
    body = client.run().json
    assert body["stepExecuted"]["stepType"] == "S1_PICK_ISSUE"
    lost = client("GET", f"/api/loop/runs/{live_run}").json
    assert (lost["status"], lost["errorCode"]) == ("failed", "LEASE_EXPIRED")
    assert client.run().json["loopStatus"] == "paused"
