"""What `make bench` makes of what it measured: the page and its plots are what the results say, and nothing else."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from benchmarks import page, plots
from benchmarks.engines import COMPARED, FLOOR, PGBENCH, RUN
from benchmarks.figures import RESULTS, Figures, Spread
from benchmarks.goals import GOALS, lines_of_scale
from benchmarks.speeds import order
from benchmarks.wire import Counts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def figures() -> Figures:
    return Figures.read(RESULTS)


def test_the_pages_are_what_the_results_say(figures: Figures) -> None:
    found = []
    for path in page.PAGES:
        text = path.read_text()
        assert text == page.render(text, figures), "run: .venv-bench/bin/python -m benchmarks.page"
        found += re.findall(r"<!-- figures: (\S+) -->", text)
    assert sorted(found) == sorted(page.PARTS)


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("plot", plots.PLOTS, ids=lambda plot: plot.name)
def test_the_plots_show_the_results(plot: plots.Plot, is_dark: bool, figures: Figures) -> None:
    drawn = (page.PAGE.parent / "images" / plot.file(is_dark=is_dark)).read_text()
    assert plot.mark(figures) in drawn, "run: .venv-bench/bin/python -m benchmarks.page"


def test_the_results_are_of_every_engine_under_every_condition(figures: Figures) -> None:
    repeats = set(range(figures.content["settings"]["repeats"]))
    for engine in COMPARED:
        assert figures.cost(engine.name), engine.name
        for clients in (1, 4):
            for delay_ms in (0, 1, 3):
                found = figures.speeds(engine.name, "ops_per_second", clients=clients, delay_ms=delay_ms)
                assert set(found) == repeats, engine.name


def test_results_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, figures: Figures) -> None:
    path = tmp_path_factory.mktemp("results") / "bench.json"
    figures.write(path)
    assert path.read_bytes() == RESULTS.read_bytes()
    assert Figures.read(path) == figures


def test_within_a_repeat_every_engine_meets_the_same_conditions_and_another_is_first_each_time() -> None:
    cells = list(order([PGBENCH, FLOOR, RUN], [1, 4], 0, 3))
    assert len(set(cells)) == len(cells) == 3 * 2 * 3
    groups = [cells[begin : begin + 3] for begin in range(0, len(cells), 3)]
    assert all(len({(cell.clients, cell.repeat) for cell in group}) == 1 for group in groups)
    assert {(group[0].repeat, group[0].engine) for group in groups} == {(0, PGBENCH), (1, FLOOR), (2, RUN)}


def test_a_ratio_is_taken_within_a_repeat() -> None:
    rows = [
        {"engine": name, "clients": 1, "delay_ms": 0, "repeat": repeat, "ops_per_second": ops}
        for repeat, speeds in enumerate([(100, 50), (10, 20), (30, 30), (7, None)])
        for name, ops in zip(("ours", "theirs"), speeds, strict=True)
        if ops is not None
    ]
    assert Figures({"speeds": rows}).ratio("ours", "theirs") == Spread(1, 0.5, 2)
    assert Figures({"speeds": rows}).ratio("ours", "nobody's") is None


def test_a_goal_that_was_not_measured_is_not_met() -> None:
    for goal in GOALS:
        assert goal.line(Figures({})).endswith("not measured")


def test_goals_of_scale_are_those_of_its_last_result(tmp_path: Path) -> None:
    path = tmp_path / "scale.json"
    (line,) = lines_of_scale(path)
    assert "not measured" in line
    path.write_text(json.dumps({"goals": [{"name": "any", "value": 1.604, "bound": 1.5, "ok": False, "of": "stats"}]}))
    assert lines_of_scale(path) == ["goal any value 1.60 bound ≤1.5 missed"]


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [(2, True, "ok"), (2.01, True, "missed"), (2, False, "ok"), (1.99, False, "missed"), (1.996, False, "ok")],
)
def test_a_goal_is_met_by_the_value_that_is_shown(value: float, at_most: bool, verdict: str) -> None:
    goal = next(goal for goal in GOALS if goal.at_most is at_most and goal.name in {"commits", "floor-1"})
    from dataclasses import replace

    goal = replace(goal, bound=2, value=lambda _figures: value)
    assert goal.line(Figures({})).split()[-1] == verdict


# --- the wire: messages are (sender, type, body), in the order in which the proxy sees them


def count(*messages: str) -> tuple[int, int]:
    counts = Counts()
    for message in messages:
        sender, kind, *body = message.split(":")
        if sender == "client":
            counts.from_client(kind)
        else:
            counts.from_server(kind, body[0].encode() if body else b"")
    return counts.round_trips, counts.transactions


DONE = ("server:C:SELECT 1", "server:Z:I")


def test_what_is_sent_until_the_answer_is_one_round_trip() -> None:
    statement = ("client:P", "client:B", "client:D", "client:E", "client:S")
    assert count(*statement, *DONE) == (1, 1)
    assert count(*statement, *DONE, *statement, *DONE) == (2, 2)
    assert count("client:", "server:R", "server:Z:I", "client:Q", *DONE) == (2, 1)


def test_a_pipeline_is_one_round_trip_as_long_as_the_client_does_not_wait() -> None:
    assert count("client:B", "client:S", "client:B", "client:S", *DONE, *DONE) == (1, 2)
    assert count("client:B", "client:S", "client:B", *DONE, "client:S", *DONE) == (2, 2), "it had its answer"
    assert count("client:B", "client:H", "server:C:SELECT 1", "client:B", "client:S", *DONE) == (2, 1), (
        "it asked for it"
    )


def test_a_transaction_ends_idle_and_not_with_a_rollback() -> None:
    begun = ("client:Q", "server:C:BEGIN", "server:Z:T", "client:Q", "server:C:INSERT 0 1", "server:Z:T")
    assert count(*begun, "client:Q", "server:C:COMMIT", "server:Z:I") == (3, 1)
    assert count(*begun, "client:Q", "server:C:ROLLBACK", "server:Z:I") == (3, 0)
    assert count("client:Q", "server:E", "server:Z:I") == (1, 0)
    assert count("client:Q", *DONE, "client:X") == (1, 1)
