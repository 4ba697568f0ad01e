"""Owns the figures of docs/scale.md: each part between two comments, made of the results and of nothing else.

    python -m benchmarks.scale.page

writes them, from the result that is there.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from benchmarks.scale.calls import Kind
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PAGE: Final = ROOT / "docs" / "scale.md"
RESULT: Final = ROOT / "benchmarks" / "results" / "scale.json"

_PART: Final = re.compile(r"(<!-- scale: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(page: str, result: Mapping[str, Any]) -> str:
    """The page with its parts made of this result."""
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]](result)}\n{part[3]}", page)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    aligned = ["---", *["--:"] * (len(titles) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (titles, aligned, *rows))


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    settings = ", ".join(f"{name} {value}" for name, value in machine["postgresql"].items() if name != "server_version")
    levels = [f"{level['runs']:,} runs ({level['growSeconds']:,.0f} s to grow)" for level in result["levels"]]
    return "\n".join([
        (
            f"- {machine['date']}: {machine['cores']} cores ({machine['architecture']}), {machine['memoryGiB']} GiB, "
            f"Python {machine['python']}, {machine['loadBefore'][0]:.0f} processes of others on average"
        ),
        f"- PostgreSQL {machine['postgresql']['server_version']}: {settings}; other settings as they are by default",
        f"- measured at {', '.join(levels)}, {result['rounds']} rounds each",
    ])  # fmt: skip


def _goals(result: Mapping[str, Any]) -> str:
    rows = [
        [goal["name"], f"{goal['value']:.2f}", f"≤ {goal['bound']}", "ok" if goal["ok"] else "missed", goal["of"]]
        for goal in result["goals"]
    ]
    return _table(["goal", "value", "bound", "", "the largest is that of"], rows)


def _calls(kind: Kind) -> Callable[[Mapping[str, Any]], str]:
    def part(result: Mapping[str, Any]) -> str:
        first, *later = result["levels"]
        head = [f"ms of processors, and ratio to {first['runs']:,} runs", f"{first['runs']:,} runs"]
        for level in later:
            head += [f"{level['runs']:,}", "ratio", "ratio of time", "p95, time", "first call"]
        rows = []
        for number, call in enumerate(first["calls"]):
            if call["kind"] != kind:
                continue
            row = [call["name"], _shown(call["large"]["cpuMedian"])]
            for level in later:
                at = level["calls"][number]
                row += [
                    _shown(at["large"]["cpuMedian"]), _shown(at["cpuRatio"]), _shown(at["ratio"]),
                    _shown(at["large"]["p95"]), _shown(at["large"]["cold"]),
                ]  # fmt: skip
            rows.append(row)
        return _table(head, rows)

    return part


def _functions(result: Mapping[str, Any]) -> str:
    head, levels = ["SQL function, ms of time"], result["levels"]
    for level in levels:
        head += [f"{level['runs']:,} runs", "p95"]
    by_name = [{each["name"]: each["large"] for each in level["functions"]} for level in levels]
    rows = [
        [f"`{name}`", *(_shown(each[name][key]) for each in by_name for key in ("median", "p95"))]
        for name in by_name[0]
    ]
    return _table(head, rows)


def _noise(result: Mapping[str, Any]) -> str:
    calls = [call for call in result["levels"][0]["calls"] if call["kind"] in {Kind.READ, Kind.WRITE}]
    time, cpu = ([call[name] for call in calls if call[name] is not None] for name in ("ratio", "cpuRatio"))
    return (
        f"On two ledgers of the same {result['levels'][0]['runs']:,} runs the ratio was {min(time):.2f} to "
        f"{max(time):.2f} by time, and {min(cpu):.2f} to {max(cpu):.2f} by processor: that much is the machine's."
    )


def _sizes(result: Mapping[str, Any]) -> str:
    levels = result["levels"]
    head = ["bytes a run", *(f"{level['runs']:,} runs" for level in levels), "all, MB"]
    names = [each["name"] for each in levels[-1]["sizes"]["relations"]]
    by_name = [{each["name"]: each for each in level["sizes"]["relations"]} for level in levels]
    rows = [
        [
            f"`{name}`" if not by_name[-1][name]["isIndex"] else f"  index `{name}`",
            *(_shown(each[name]["bytesPerRun"]) for each in by_name),
            f"{by_name[-1][name]['bytes'] / 1e6:,.0f}",
        ]
        for name in names
    ]
    sums = [_shown(level["sizes"]["bytesPerRun"]) for level in levels]
    rows.append(["**sum**", *sums, f"{levels[-1]['sizes']['bytes'] / 1e6:,.0f}"])
    return _table(head, rows)


def _churn(result: Mapping[str, Any]) -> str:
    head = ["", *(f"{level['runs']:,} runs" for level in result["levels"])]
    churns = [level["churn"] for level in result["levels"]]
    rows = [
        ["real runs", *(f"{churn['runs']:,}" for churn in churns)],
        ["WAL of a run, bytes", *(f"{churn['walBytesPerRun']:,}" for churn in churns)],
    ]
    for number, table in enumerate(churns[0]["tables"]):
        of_table = [churn["tables"][number] for churn in churns]
        name = f"`{table['name']}`"
        rows += [
            [f"{name}: changes, HOT", *(f"{each['updated']:,}, {each['hot']:,}" for each in of_table)],
            [f"{name}: vacuum, s", *(_shown(each["vacuumSeconds"]) for each in of_table)],
        ]
    return _table(head, rows)


PARTS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "machine": _machine,
    "goals": _goals,
    "noise": _noise,
    "reads": _calls(Kind.READ),
    "writes": _calls(Kind.WRITE),
    "chores": _calls(Kind.CHORE),
    "seed": _calls(Kind.SEED),
    "functions": _functions,
    "sizes": _sizes,
    "churn": _churn,
}


def main() -> None:
    """Write the page's parts."""
    PAGE.write_text(render(PAGE.read_text(), json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
