"""Owns the generated parts of pages: each between two comments, made of the figures and of nothing else.

    python -m benchmarks.page

writes them, and the plots, from the results that are there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from benchmarks import plots
from benchmarks.engines import COMPARED, ENGINES, HANDLER, PATHS, PGBENCH, RUN
from benchmarks.figures import Figures, Spread
from benchmarks.goals import GOALS
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PAGE: Final = ROOT / "docs" / "performance.md"
PAGES: Final = (PAGE, ROOT / "README.md")
_PART: Final = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(page: str, figures: Figures) -> str:
    """The page with its parts made of these figures."""
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]](figures)}\n{part[3]}", page)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    aligned = ["---", *["--:"] * (len(titles) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (titles, aligned, *rows))


def _machine(figures: Figures) -> str:
    lines = [f"- {name}: {text}" for name, text in figures.content["machine"].items()]
    settings = figures.content["settings"]
    lines.append(
        f"- measured: {settings['repeats']} repeats, {settings['seconds']:g} s each without a delay and "
        f"{settings['delayed_seconds']:g} s with one; {settings['operations']:,} operations where costs were counted"
    )
    return "\n".join(lines)


def _costs(figures: Figures) -> str:
    head = [
        "one operation",
        "round trips",
        "transactions",
        "commits in the WAL",
        "WAL, bytes",
        "tables and indexes, bytes",
    ]
    fields = ("round_trips", "transactions", "commits", "wal_bytes", "stored_bytes")
    return _table(
        head,
        [
            [
                ENGINES[row["engine"]].title,
                *(f"{row[field]:,g}" if row[field] < 1000 else f"{row[field]:,.0f}" for field in fields),
            ]
            for row in figures.part("costs")
        ],
    )


def _speeds(delay_ms: int) -> Callable[[Figures], str]:
    def table(figures: Figures) -> str:
        head = ["", "clients", "ops/s", "to the floor", "p50, ms", "p99, ms", "CPU of the client, ms"]
        rows = []
        for clients in (1, 4):
            for engine in COMPARED:
                found = {
                    field: figures.speeds(engine.name, field, clients=clients, delay_ms=delay_ms)
                    for field in ("ops_per_second", "p50_ms", "p99_ms", "cpu_ms")
                }
                ops = found.pop("ops_per_second")
                ratio = figures.ratio(engine.name, PGBENCH.name, clients=clients, delay_ms=delay_ms)
                if not ops or ratio is None:
                    continue
                rows.append([
                    engine.title,
                    str(clients),
                    Spread.of(ops.values()).text(0),
                    ratio.text(),
                    *(f"{Spread.of(values.values()).median:.2f}" for values in found.values()),
                ])  # fmt: skip
        return _table(head, rows)

    return table


def _ratios(figures: Figures) -> str:
    rows = []
    for other in ("pgbench", "psycopg", "ledger", "dbos", "langgraph"):
        cells = [
            figures.ratio(RUN.name, other, clients=clients, delay_ms=delay_ms)
            for delay_ms in (0, 1, 3)
            for clients in (1, 4)
        ]
        if any(cells):
            rows.append([ENGINES[other].title, *(cell.text() if cell else "-" for cell in cells)])
    head = [
        f"{clients} client{'s' * (clients > 1)}{delay}" for delay in ("", ", +1 ms", ", +3 ms") for clients in (1, 4)
    ]
    return _table(["run_next_step to", *head], rows)


def _paths(figures: Figures) -> str:
    rows = []
    for engine in PATHS:
        ops = figures.speeds(engine.name, "ops_per_second", part="paths")
        ratio = figures.ratio(engine.name, HANDLER.name, part="paths")
        if ops and ratio:
            title = "completed" if engine is HANDLER else engine.title
            p50, p99, cpu = (
                Spread.of(figures.speeds(engine.name, field, part="paths").values()).median
                for field in ("p50_ms", "p99_ms", "cpu_ms")
            )
            rows.append(
                [title, Spread.of(ops.values()).text(0), ratio.text(), f"{p50:.2f}", f"{p99:.2f}", f"{cpu:.2f}"]
            )
    return _table(["a call that is", "ops/s", "to completed", "p50, ms", "p99, ms", "CPU, ms"], rows)


def _starts(figures: Figures) -> str:
    by_function = _by(figures, "starts", "function")
    floor = {row["repeat"]: row["init_ms"] for row in by_function.get("floor", [])}
    rows = []
    for name, found in by_function.items():
        init, cpu = (Spread.of(row[field] for row in found) for field in ("init_ms", "cpu_ms"))
        ratio = Spread.of(row["init_ms"] / floor[row["repeat"]] for row in found)
        rows.append([name, init.text(0), ratio.text(), cpu.text(0)])
    return _table(["function", "INIT, ms", "to the floor", "CPU until it has answered, ms"], rows)


def _imports(figures: Figures) -> str:
    by_package: dict[str, dict[str, float]] = {}
    for row in figures.part("imports"):
        by_package.setdefault(row["package"], {})[row["function"]] = row["ms"]
    functions = list(_by(figures, "imports", "function"))
    most = {package: max(found.values()) for package, found in by_package.items()}
    rows = [
        [package, *(f"{by_package[package][name]:.1f}" if name in by_package[package] else "-" for name in functions)]
        for package in sorted(most, key=lambda package: -most[package])
        if most[package] >= 0.5
    ]
    sums = [sum(row["ms"] for row in figures.part("imports") if row["function"] == name) for name in functions]
    return _table(["ms", *functions], [*rows, ["all", *(f"{total:.0f}" for total in sums)]])


def _by(figures: Figures, part: str, key: str) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {}
    for row in figures.part(part):
        found.setdefault(row[key], []).append(row)
    return found


def _goals(figures: Figures) -> str:
    rows = []
    for goal in GOALS:
        value, sign = goal.value(figures), "≤" if goal.at_most else "≥"
        rows.append(
            [goal.title, "-" if value is None else f"{value:.2f}", f"{sign} {goal.bound:g}", goal.verdict(value)]
        )
    return _table(["goal", "value", "bound", ""], rows)


def _summary(figures: Figures) -> str:
    cost = figures.cost(RUN.name) or {}
    near, far = (
        [figures.ratio(RUN.name, other, delay_ms=delay_ms) for other in ("pgbench", "dbos", "langgraph")]
        for delay_ms in (0, 1)
    )
    if not (cost and all(near) and all(far)):
        return ""
    (floor, dbos, langgraph), (far_floor, far_dbos, far_langgraph) = (
        [f"{ratio.median:.2f}" for ratio in ratios if ratio] for ratios in (near, far)
    )
    return (
        f"A completed run costs {cost['round_trips']:g} round trips and {cost['commits']:g} commits. With 1 ms of "
        f"way to the database that is {far_floor} times as many in a second as pgbench\n"
        f"does of the least that two commits can be, {far_dbos} times as many as DBOS Transact and "
        f"{far_langgraph} times as many as LangGraph's Postgres checkpointer; with none "
        f"{floor}, {dbos} and {langgraph}\n"
        "(one client, one run on a shared machine): [docs/performance.md](docs/performance.md), by `make bench`."
    )


def _pictures(figures: Figures) -> str:
    return "\n\n".join(
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="images/{plot.file(is_dark=True)}">\n'
        f'  <img alt="{plot.title}" src="images/{plot.file(is_dark=False)}">\n</picture>'
        for plot in plots.PLOTS
        if plot.rows(figures)
    )


PARTS: Final[Mapping[str, Callable[[Figures], str]]] = {
    "machine": _machine,
    "goals": _goals,
    "costs": _costs,
    "speeds": _speeds(0),
    "delayed": _speeds(1),
    "delayed-more": _speeds(3),
    "ratios": _ratios,
    "paths": _paths,
    "starts": _starts,
    "imports": _imports,
    "pictures": _pictures,
    "summary": _summary,
}


def write(figures: Figures) -> None:
    """Write the parts of the pages, and the plots."""
    for path in PAGES:
        path.write_text(render(path.read_text(), figures))
    plots.draw_all(figures, PAGE.parent / "images")


if __name__ == "__main__":
    write(Figures.read())
