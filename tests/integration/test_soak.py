"""The soak in short, and proof that it finds what is not as callers were told."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tools.soak.__main__ import Plan, soak
from tools.soak.caller import Caller, Record, Told
from tools.soak.judge import violations

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Client, Sql

SHORT = Plan(duration=8, between_crashes=0.7, between_restarts=3.5, between_sweeps=1, progress=60, is_strict=False)


def test_load_with_crashes_and_restarts_leaves_no_violation(count: Callable[..., None]) -> None:
    result = soak(SHORT)
    count("requests", result.requests)
    count("violations", len(result.violations))
    assert result.violations == []
    assert min(result.requests, result.runs, result.crashes, result.restarts) > 0
    assert str(result).startswith(f"soak: {result.requests} requests, {result.runs} runs, ")


class _SetWhileRegistering(threading.Event):
    """Is seen to be set from the second look on."""

    _looks = 0

    def is_set(self) -> bool:
        self._looks += 1
        return self._looks > 1


def test_a_caller_that_is_stopped_before_it_has_registered_an_issue_ends() -> None:
    record = Record()
    caller = Caller(0, "http://127.0.0.1:9", record, _SetWhileRegistering())
    caller.start()
    caller.join(10)
    assert not caller.is_alive()
    assert record.wrong == []


@pytest.fixture
def told(client: Client) -> Told:
    client.register(githubUrl="u")
    answer = client.run()
    content = answer.json
    del content["requestId"]
    return Told("AFU9-123", content["runId"], answer.status, json.dumps(content), key="k")


def test_what_is_as_it_was_told_is_no_violation(told: Told, database_url: str) -> None:
    assert violations(database_url, [told, told]) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM loop_runs", "is not there"),
        ("UPDATE loop_runs SET message = 'another'", "is recorded as"),
        ("UPDATE loop_run_steps SET duration_ms = duration_ms + 1", "is recorded as"),
        ("DELETE FROM loop_issues", "was registered, is not there"),
        ("UPDATE loop_issues SET state = 'CREATED'", "audit issue-state"),
        ("UPDATE loop_runs SET status = 'running', lease_expires_at = now()", "its lease is over"),
    ],
)
def test_what_is_not_as_it_was_told_is_a_violation(
    told: Told, database_url: str, sql: Sql, statement: str, found: str
) -> None:
    sql("SET session_replication_role = replica")
    sql("ALTER TABLE loop_runs DROP CONSTRAINT chk_loop_runs")
    sql(statement)
    assert any(found in violation for violation in violations(database_url, [told])), violations(database_url, [told])


@pytest.mark.parametrize("change", [{"version": 7}, {"run_id": "01a20b7d-054d-7c54-a982-de8e7344bfb2"}])
def test_what_was_told_and_never_was_is_a_violation(told: Told, database_url: str, change: dict[str, Any]) -> None:
    assert violations(database_url, [told, replace(told, **change)])
