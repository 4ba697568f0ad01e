"""The contract's page says which columns and events there are; the database has these and no others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.conftest import Sql

CONTRACT = (ROOT / "docs/contracts/loop-api.v1.md").read_text()


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.mark.parametrize("table", ["loop_runs", "loop_run_steps", "loop_issues", "loop_events"])
def test_contract_has_each_column_of_a_table_and_no_other(sql: Sql, table: str) -> None:
    rows = sql("SELECT column_name FROM information_schema.columns WHERE table_name = %s", table)
    (listed,) = re.findall(rf"^\| `{table}` \| (.*) \|$", CONTRACT, re.MULTILINE)
    told = re.split(r"[,;] ", re.sub(r" \([^)]*\)", "", listed))
    assert sorted(told) == sorted(row["column_name"] for row in rows)


def test_contract_has_each_type_of_event_and_no_other(sql: Sql) -> None:
    query = "SELECT prosrc AS text FROM pg_proc WHERE proname = 'loop_is_event'"
    (paragraph,) = re.findall(r"^Event types: (.*?)\. ", CONTRACT, re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r"\bloop_\w+", paragraph)) == sorted(re.findall(r"'(loop_\w+)'", sql.one(query)["text"]))
