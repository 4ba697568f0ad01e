"""Many callers, each a process of its own, want one issue: one run at a time, each key once, and all are told why."""

from __future__ import annotations

import random
import time
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.concurrency.conftest import FORK, PATIENCE, open_gates

if TYPE_CHECKING:
    from psycopg.rows import DictRow

    from tests.concurrency.conftest import Crowd, Executor
    from tests.conftest import Answer, Client, Sql

pytestmark = pytest.mark.usefixtures("sound")

ISSUE = "AFU9-123"
STATES = ["SPEC_READY", "IMPLEMENTING_PREP", "REVIEW_READY", "DONE", "OBSERVED", "VERIFIED", "CLOSED"]
"""Where the seven runs lead of an issue for which every gate holds: with a draft the first step is skipped."""


@pytest.fixture(autouse=True)
def registered(client: Client) -> None:
    client.register(ISSUE, **open_gates())


def run(client: Client, issue_id: str = ISSUE, *, actor: str = "ann", mode: str = "execute", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.run(issue_id, {"mode": mode}, actor=actor, headers=named)


def run_when_free(client: Client, **parts: str) -> Answer:
    """Click again, after a moment, as long as a run is in flight."""
    for _ in range(int(PATIENCE / 0.003)):
        answer = run(client, **parts)
        if answer.status != 409:
            return answer
        time.sleep(random.uniform(0.001, 0.005))
    raise AssertionError("a run is in flight for ever")


def wait_for_lock(sql: Sql, count: int) -> None:
    """Until so many statements wait for a lock that somebody has."""
    for _ in range(int(PATIENCE / 0.01)):
        sql("SELECT pg_stat_clear_snapshot()")  # a transaction sees one
        waiting = sql.one("""SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'""")
        if waiting["count"] == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{waiting['count']} statements wait for the lock rather than {count}")


def holder_of(sql: Sql, issue_id: str = ISSUE) -> DictRow:
    return sql.one("SELECT * FROM loop_runs WHERE issue_id = %s AND status = 'running'", issue_id)


def states(sql: Sql) -> list[str]:
    """The states through which runs have led the issue, in the order in which they began."""
    return [row["state_after"] for row in sql("SELECT state_after FROM loop_runs WHERE step > 0 ORDER BY created_at")]


def assert_conflict_with(answer: Answer, holder: DictRow) -> None:
    """The answer is a 409 that names the run which owns the issue, as it stands in the ledger."""
    assert (answer.status, answer.error) == (409, "LOOP_CONFLICT"), answer.text
    details = answer.json["error"]["details"]
    assert (details["runId"], details["actor"]) == (str(holder["id"]), holder["actor"])
    assert datetime.fromisoformat(details["leaseExpiresAt"]) == holder["lease_expires_at"]
    assert answer.headers["retry-after"] == "5"


def test_of_fifty_simultaneous_calls_one_executes_and_the_others_are_told_the_holder(
    crowd: Crowd, executor: Executor, sql: Sql
) -> None:
    actors = ["ann", "ben"]
    callers = crowd.begin([partial(run, actor=actors[number % 2]) for number in range(50)])
    refused = callers.next(49)
    holder = holder_of(sql)
    for _, answer in refused:
        assert_conflict_with(answer, holder)
    executor.release()
    ((number, answer),) = callers.next(1)
    assert (answer.status, answer.json["runId"]) == (200, str(holder["id"]))
    assert holder["actor"] == actors[number % 2]
    assert executor.runs == [str(holder["id"])]
    assert states(sql) == STATES[:1]


def test_of_two_actors_at_once_one_runs_and_the_other_one_runs_the_next_step(
    client: Client, crowd: Crowd, executor: Executor, sql: Sql
) -> None:
    actors = ["ann", "ben"]
    callers = crowd.begin([partial(run, actor=actor) for actor in actors])
    ((number, refused),) = callers.next(1)
    second, first = actors[number], actors[1 - number]
    holder = holder_of(sql)
    assert holder["actor"] == first
    assert_conflict_with(refused, holder)
    executor.release()
    assert callers.rest()[0].status == 200
    assert run(client, actor=second).status == 200
    assert [row["actor"] for row in sql("SELECT actor FROM loop_runs ORDER BY created_at")] == [first, second]
    assert states(sql) == STATES[:2]


def test_while_a_keyed_run_is_live_every_key_conflicts_but_for_another_request_and_then_it_replays(
    crowd: Crowd, executor: Executor, sql: Sql
) -> None:
    first = crowd.begin([partial(run, idempotency_key="one")])
    executor.wait_until_called()
    holder = holder_of(sql)
    same = partial(run, idempotency_key="one")
    other_body = partial(run, idempotency_key="one", mode="dryRun")
    other_actor = partial(run, idempotency_key="one", actor="ben")
    other_key = partial(run, idempotency_key="two")
    during = crowd([same, other_body, other_actor, other_key] * 3)
    for answer in [*during[0::4], *during[3::4]]:
        assert_conflict_with(answer, holder)
    for answer in [*during[1::4], *during[2::4]]:
        assert (answer.status, answer.error) == (422, "IDEMPOTENCY_KEY_REUSED")
        assert answer.json["error"]["details"] == {"runId": str(holder["id"])}
    executor.release()
    (told,) = first.rest()
    for answer in crowd([same] * 6):
        assert (answer.status, answer.headers["idempotency-replayed"]) == (200, "true")
        assert answer.json | {"requestId": None} == told.json | {"requestId": None}
    assert executor.runs == [told.json["runId"]]


def test_keys_clicked_at_once_until_they_are_answered_have_one_run_each(
    crowd: Crowd, executor: Executor, sql: Sql
) -> None:
    executor.release()
    keys = ["one", "two", "three", "four"]
    answers = crowd([partial(run_when_free, idempotency_key=key) for key in keys * 6])
    assert {answer.status for answer in answers} == {200}
    runs = {key: {answer.json["runId"] for answer in answers[number::4]} for number, key in enumerate(keys)}
    recorded = sql("SELECT idempotency_key, id FROM loop_runs ORDER BY created_at")
    assert runs == {row["idempotency_key"]: {str(row["id"])} for row in recorded}
    assert executor.runs == [str(row["id"]) for row in recorded]
    assert states(sql) == STATES[:4]


def test_of_two_requests_that_share_a_key_the_faster_one_has_it(crowd: Crowd, executor: Executor, sql: Sql) -> None:
    executor.release()
    for key in ("one", "two", "three", "four", "five"):
        modes = ["execute", "dryRun"]
        answers = crowd([partial(run_when_free, idempotency_key=key, mode=mode) for mode in modes * 3])
        row = sql.one("SELECT id, mode FROM loop_runs WHERE idempotency_key = %s", key)
        for mode, answer in zip(modes * 3, answers, strict=True):
            if mode == row["mode"]:
                assert (answer.status, answer.json["runId"]) == (200, str(row["id"]))
            else:
                assert (answer.status, answer.error) == (422, "IDEMPOTENCY_KEY_REUSED")
                assert answer.json["error"]["details"] == {"runId": str(row["id"])}


def test_what_is_decided_of_an_issue_is_decided_under_its_lock(crowd: Crowd, sql: Sql) -> None:
    with sql.connection.transaction():
        sql("UPDATE loop_issues SET version = 2, facts = facts || '{\"note\": 1}'")
        sql("""INSERT INTO loop_events (issue_id, event_type, event_data)
            VALUES (%s, 'loop_facts_changed', '{"version": 2}')""", ISSUE)  # fmt: skip
        callers = crowd.begin([partial(run, if_match='"1"')] * 4)
        wait_for_lock(sql, 4)
    for answer in callers.rest():
        assert (answer.status, answer.error) == (412, "PRECONDITION_FAILED")
    with sql.connection.transaction():
        sql("SELECT id FROM loop_issues FOR NO KEY UPDATE")
        callers = crowd.begin([partial(run, idempotency_key="one", mode="dryRun")] * 4)
        wait_for_lock(sql, 4)
    answers = callers.rest()
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["runId"] for answer in answers} == {str(sql.one("SELECT id FROM loop_runs")["id"])}


def test_of_six_jittered_clicks_that_share_a_key_one_runs_in_each_of_150_rounds(
    client: Client, crowd: Crowd, executor: Executor, sql: Sql
) -> None:
    rounds = [f"ROUND-{number}" for number in range(150)]
    for issue_id in rounds:
        client.register(issue_id, **open_gates())
    executor.release()
    together = FORK.Barrier(6)

    def click(client: Client) -> list[Answer]:
        answers = []
        for issue_id in rounds:
            together.wait(PATIENCE)
            time.sleep(random.uniform(0, 0.004))
            answers.append(run(client, issue_id, idempotency_key="click"))
        return answers

    clicks = crowd([click] * 6)
    recorded = {row["issue_id"]: str(row["id"]) for row in sql("SELECT issue_id, id FROM loop_runs")}
    for issue_id, answers in zip(rounds, zip(*clicks, strict=True), strict=True):
        told = [answer.json["runId"] for answer in answers if answer.status == 200]
        named = [answer.json["error"]["details"]["runId"] for answer in answers if answer.status == 409]
        assert len(told) + len(named) == 6
        assert len(told) >= 1
        assert set(told + named) == {recorded[issue_id]}
    assert sorted(executor.runs) == sorted(recorded.values())
    assert len(recorded) == sql.one("SELECT count(*) FROM loop_runs")["count"] == 150


def test_a_double_click_with_one_etag_advances_the_issue_once(crowd: Crowd, sql: Sql) -> None:
    together = FORK.Barrier(2)

    def click(client: Client) -> list[Answer]:
        answers = []
        for version in range(1, 8):
            together.wait(PATIENCE)
            answers.append(run(client, if_match=f'"{version}"'))
        return answers

    for pair in zip(*crowd([click] * 2), strict=True):
        made, refused = sorted(pair, key=lambda answer: answer.status)
        assert made.status == 200
        assert (refused.status, refused.error) in {(409, "LOOP_CONFLICT"), (412, "PRECONDITION_FAILED")}
    assert states(sql) == STATES
