"""What the suites of faults share: short loops, a queue of messages, and the audit of the whole database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.crash.crashes import Crashes
from tests.crash.run_queue import Queue
from tests.crash.trial import LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from loop_runner.settings import Settings
    from tests.conftest import Client, Sql


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, loops_dir=LOOPS, run_queue_url="queue")


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Where all messages of a test go."""
    queue = Queue()
    monkeypatch.setattr("loop_runner.messages.client", lambda *_args, **_options: queue)
    return queue


@pytest.fixture
def audit(sql: Sql, count: Callable[[str, int], None]) -> Callable[[], None]:
    """Assert that the ledger keeps every rule; on one session, since a first audit is mostly its planning."""

    def audit() -> None:
        broken = sql("SELECT rule, violations, ids FROM loop_audit() WHERE violations > 0")
        count("violations", sum(rule["violations"] for rule in broken))
        assert broken == []

    return audit


@pytest.fixture
def crashes(
    request: pytest.FixtureRequest, sql: Sql, client: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> Crashes:
    """Of the scenario that is the parameter."""
    return Crashes(request.param, sql, client, queue, monkeypatch)
