"""``make bench-scale`` at a small size: its ledger is sound and as large as a load's, every call does what is asked."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from benchmarks.scale.__main__ import goals
from benchmarks.scale.calls import CALLS, Kind
from benchmarks.scale.days import HOT, Days, Shape
from benchmarks.scale.measure import measure
from benchmarks.scale.storage import TABLES, churn, sizes
from benchmarks.scale.subject import Subject
from tests.conftest import assert_sound, create_database, drop_database
from tools.load.loader import load
from tools.local.roles import app_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Sql

SHAPE = Shape(runs=1_200, others=39, groups=3)
DAYS = 8


@pytest.fixture(scope="module")
def days(server_url: str, migrated_template: str) -> Iterator[Days]:
    """A ledger of some days, so that each group of issues has had its day and another one."""
    url = create_database(server_url, migrated_template)
    played = Days(url, datetime.now(UTC) - timedelta(days=DAYS + 2), SHAPE)
    played.grow(SHAPE.runs * DAYS)
    yield played
    drop_database(server_url, url)


def rows(days: Days, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(days.url) as connection:
        return connection.execute(statement).fetchall()


def test_days_have_the_runs_and_issues_that_were_asked_for_and_one_issue_a_tenth(days: Days) -> None:
    counts = "SELECT (SELECT count(*) FROM loop_runs), (SELECT count(*) FROM loop_issues)"
    assert rows(days, counts) == [(SHAPE.runs * DAYS, SHAPE.issues)]
    of_hot = f"SELECT count(*) FROM loop_runs WHERE issue_id = '{HOT}'"
    assert rows(days, of_hot) == [(SHAPE.runs * DAYS // 10,)]
    ((busy,),) = rows(days, "SELECT count(DISTINCT issue_id) FROM loop_runs")
    assert int(str(busy)) > 0.9 * SHAPE.issues  # chance leaves one or the other without a run


def test_days_that_are_played_again_are_sound(days: Days) -> None:
    assert_sound(days.url)
    with psycopg.connect(days.url) as connection, pytest.raises(psycopg.Error, match="illegal transition"):
        connection.execute(
            "UPDATE loop_runs SET message = 'another' WHERE created_at > %s", [days.end - timedelta(days=1)]
        )


def test_days_that_are_played_again_keep_the_checks_of_the_tables(days: Days) -> None:
    with psycopg.connect(days.url) as connection:
        checks = connection.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint"
            " WHERE contype IN ('c', 'f') AND conrelid = ANY(%s::regclass[])",
            [list(TABLES)],
        ).fetchall()
        assert len(checks) > 4  # that of each table, and the key of steps
        for table, name in checks:
            if name.startswith("chk_"):
                (definition,) = connection.execute(
                    "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conname = %s", [name]
                ).fetchone() or ("",)
                broken = connection.execute(f"SELECT count(*) FROM {table} WHERE NOT ({definition})").fetchone()
                assert broken == (0,), name
        orphans = "SELECT count(*) FROM loop_run_steps WHERE run_id NOT IN (SELECT id FROM loop_runs)"
        assert connection.execute(orphans).fetchone() == (0,)


def test_rows_of_days_that_are_played_again_are_as_many_and_as_large_as_those_of_a_load(
    days: Days, database_url: str, sql: Sql
) -> None:
    load(database_url, issues=120, runs=6_000, days=5, seed=3)
    for table in ("loop_runs", "loop_run_steps", "loop_events"):
        measured = f"SELECT avg(pg_column_size(t.*))::float AS bytes, count(*)::float AS n FROM {table} AS t"
        ((bytes_played, n_played),) = rows(days, measured)
        loaded = sql.one(measured)
        assert bytes_played == pytest.approx(loaded["bytes"], rel=0.1), table
        assert float(str(n_played)) / (SHAPE.runs * DAYS) == pytest.approx(loaded["n"] / 6_000, rel=0.25), table


def test_every_call_is_measured_and_what_it_wrote_goes_again(days: Days) -> None:
    before = [rows(days, f"SELECT count(*), max(t::text) FROM {table} AS t") for table in TABLES]
    with days.kept(), Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        one, other = (Subject(days, app_url(days.url), seed) for seed in (1, 2))
        measured = measure(CALLS, one, other, 1, lambda _round: None)
        churned = churn(other, 20)
        taken = sizes(other, days.runs)
        one.close()
        other.close()
    assert [call["name"] for call in measured["calls"]] == [call.name for call in CALLS]
    for call in measured["calls"]:
        assert call["small"]["n"] == call["large"]["n"] == 1
        assert min(call["ratio"], call["small"]["median"]) > 0
    functions = {function["name"] for function in measured["functions"]}
    assert functions >= {"loop_claim", "loop_finish", "loop_start_step", "loop_park", "loop_sweep", "loop_stats"}
    assert churned["walBytesPerRun"] > 0
    assert {table["name"]: table["inserted"] for table in churned["tables"]} == {
        "loop_runs": 20, "loop_run_steps": 20, "loop_events": 60, "loop_issues": 0,
    }  # fmt: skip
    assert taken["bytesPerRun"] == pytest.approx(sum(each["bytesPerRun"] for each in taken["relations"]), rel=0.01)
    assert [rows(days, f"SELECT count(*), max(t::text) FROM {table} AS t") for table in TABLES] == before
    days.grow(SHAPE.runs * (days.played + 1))
    assert_sound(days.url)


def test_every_query_of_the_api_is_measured() -> None:
    """Of the routes that ask for runs; a delivery looks at some issues, and then runs their next steps."""
    from functions.loop_api import app as loop_api
    from functions.run_next_step import app as run_next_step

    others = {
        "GET /api/health",
        "GET /api/openapi.json",
        "GET /console",
        "GET /console/{file}",
        "GET /api/loop/loops",
        "POST /api/github/webhook",
    }
    routes = {f"{route.method} {route.path}" for api in (loop_api.api, run_next_step.api) for route in api.routes}
    short = {
        name.replace("/api/loop/issues/{issueId}/", "").replace("/api/loop/runs/{runId}/", "").replace("/api/", "")
        .replace("loop/issues/{issueId}", "issue").replace("loop/runs/{runId}", "run").replace("loop/", "")
        for name in routes - others
    }  # fmt: skip
    names = [call.name.replace("issue's ", "") for call in CALLS if call.kind in {Kind.READ, Kind.WRITE}]
    assert {route for route in short if not any(name.startswith(route) for name in names)} == set()


def test_goal_is_the_largest_ratio_of_calls_with_as_much_to_do() -> None:
    def call(name: str, kind: Kind, ratio: float, grows: str | None = None) -> dict[str, object]:
        return {"name": name, "kind": kind, "grows": grows, "ratio": ratio, "cpuRatio": None}

    calls = [
        call("GET run", Kind.READ, 1.1),
        call("POST state", Kind.WRITE, 1.6),
        call("how many runs", Kind.SEED, 90),
        call("GET stats of a week", Kind.READ, 7, "its window"),
    ]
    levels = [{"runs": 10, "calls": []}, {"runs": 1000, "calls": calls}]
    (goal,) = goals({"levels": levels})
    assert goal == {
        "name": "api-call-time-at-1000-vs-10-runs", "value": 1.6, "bound": 1.5, "ok": False, "of": "POST state",
    }  # fmt: skip
