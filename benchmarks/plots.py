"""Owns the plots of docs/performance.md, each for a light and a dark page; the same bytes for the same figures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.engines import COMPARED
from benchmarks.figures import Figures, Spread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes

    Rows = list[tuple[str, str, Spread]]
    """What a bar is named, the group that it belongs to, how long it is."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Bars, with the spread of the repeats."""

    name: str
    title: str
    unit: str
    rows: Callable[[Figures], Rows]

    def file(self, *, is_dark: bool) -> str:
        """The name of its file."""
        return f"performance-{self.name}{'-dark' if is_dark else ''}.svg"

    def mark(self, figures: Figures) -> str:
        """What its file says that it shows: it is drawn anew when that has changed."""
        shown = [(bar, group, spread.median, spread.least, spread.most) for bar, group, spread in self.rows(figures)]
        return hashlib.sha256(json.dumps([self.title, self.unit, shown]).encode()).hexdigest()[:16]


def _rows(field: str, groups: dict[str, tuple[int, int]]) -> Callable[[Figures], Rows]:
    def rows(figures: Figures) -> Rows:
        found: Rows = []
        for group, (clients, delay_ms) in groups.items():
            for engine in COMPARED:
                values = figures.speeds(engine.name, field, clients=clients, delay_ms=delay_ms)
                if values:
                    found.append((engine.title, group, Spread.of(values.values())))
        return found

    return rows


PLOTS: Final = (
    Plot(
        "throughput",
        "Completed runs per second",
        "runs/s",
        _rows("ops_per_second", {"1 client": (1, 0), "4 clients": (4, 0)}),
    ),
    Plot(
        "latency",
        "Median of a completed run, 1 client, as the way to the database gets longer",
        "ms",
        _rows("p50_ms", {"no delay": (1, 0), "+1 ms a reply": (1, 1), "+3 ms a reply": (1, 3)}),
    ),
)

_COLORS: Final = ("#4c78a8", "#f58518", "#54a24b")


def draw_all(figures: Figures, folder: Path) -> None:
    """Draw what was measured."""
    for plot in PLOTS:
        if plot.rows(figures):
            for is_dark in (False, True):
                _draw(plot, figures, folder / plot.file(is_dark=is_dark), is_dark=is_dark)


def _draw(plot: Plot, figures: Figures, file: Path, *, is_dark: bool) -> None:
    import matplotlib as mpl  # noqa: PLC0415  whoever only checks the page need not have it
    from matplotlib.figure import Figure  # noqa: PLC0415

    ink = "#e6edf3" if is_dark else "#1f2328"
    style = {
        "svg.hashsalt": plot.name,  # ids are random otherwise
        "svg.fonttype": "none",
        "font.size": 10,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        _bars(figure.subplots(), plot, plot.rows(figures), ink)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Description": plot.mark(figures)})


def _bars(axes: Axes, plot: Plot, rows: Rows, ink: str) -> None:
    bars = list(dict.fromkeys(bar for bar, _, _ in rows))
    groups = list(dict.fromkeys(group for _, group, _ in rows))
    height = 0.8 / len(groups)
    for number, group in enumerate(groups):
        shown = [(bars.index(bar) + (number + 0.5) * height - 0.4, spread) for bar, of, spread in rows if of == group]
        axes.barh(
            [position for position, _ in shown],
            [spread.median for _, spread in shown],
            height * 0.9,
            label=group,
            color=_COLORS[number],
            ecolor=ink,
            xerr=(
                [spread.median - spread.least for _, spread in shown],
                [spread.most - spread.median for _, spread in shown],
            ),
        )
        for position, spread in shown:
            axes.annotate(
                f"{spread.median:,.0f}" if spread.median >= 100 else f"{spread.median:.1f}",
                (spread.most, position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set_yticks(range(len(bars)), bars)
    axes.invert_yaxis()
    axes.set_xlabel(plot.unit)
    axes.set_title(plot.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.margins(x=0.1)
