"""What the suites of faults share: the short loop, and the audit of the whole database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.crash.trial import LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from loop_runner.settings import Settings
    from tests.conftest import Sql


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, loops_dir=LOOPS)


@pytest.fixture
def audit(sql: Sql, count: Callable[[str, int], None]) -> Callable[[], None]:
    """Assert that the ledger keeps every rule; on one session, since a first audit is mostly its planning."""

    def audit() -> None:
        broken = sql("SELECT rule, violations, ids FROM loop_audit() WHERE violations > 0")
        count("violations", sum(rule["violations"] for rule in broken))
        assert broken == []

    return audit
