"""``make bench``: measures the floor, this project and others on one PostgreSQL, that of the wheel, and keeps it.

The results go to benchmarks/results/bench.json and docs/performance.md; the last lines are the goals. ``QUICK=1``: a
minute, once, without cold starts, and nothing of it is kept but where ``--output`` says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import costs, machine, page, priority, processes, speeds
from benchmarks.engines import COMPARED, ENGINES, PATHS
from benchmarks.figures import RESULTS, Figures
from benchmarks.goals import GOALS, lines_of_scale
from tools.build.sam import BuildError
from tools.local.binaries import PostgresError
from tools.local.postgres import Server
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from benchmarks.engines import Engine

AS_BY_DEFAULT: Final = {"shared_buffers": "128MB", "client_connection_check_interval": "0"}
"""What the local stack's server has otherwise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    repeats: int
    seconds: float
    delayed_seconds: float
    clients: tuple[int, ...]
    delays_ms: tuple[int, ...]
    operations: int
    starts: int
    """How often each function is started."""


FULL: Final = Plan(5, 3, 1.5, (1, 4), (0, 1, 3), 2000, 10)
QUICK: Final = Plan(1, 1, 1, (1,), (0, 1), 200, 0)


def run(plan: Plan) -> Figures:
    """Measure everything that the plan says, of the engines that are installed."""
    engines = [engine for engine in COMPARED if engine.is_installed]
    local = ROOT / ".local"
    local.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=local) as folder,
        Server(folder=Path(folder) / "postgres", options=AS_BY_DEFAULT, progress=_say) as server,
    ):
        urls = {engine.name: _prepared(server, engine) for engine in engines}
        paths_url = _prepared(server, PATHS[-1])  # whatever way a call goes
        _say("counting what one operation costs")
        content = {
            "machine": machine.describe(server.url, Path(folder)),
            "settings": {
                "repeats": plan.repeats,
                "seconds": plan.seconds,
                "delayed_seconds": plan.delayed_seconds,
                "operations": plan.operations,
            },
            "costs": [costs.measure(engine, urls[engine.name], plan.operations) for engine in engines],
        }
        cells = {
            delay_ms: [*speeds.order(engines, plan.clients, delay_ms, plan.repeats)] for delay_ms in plan.delays_ms
        }
        paths = [*speeds.order(PATHS, (1,), 0, plan.repeats)]
        content["speeds"] = [
            row
            for delay_ms, of_delay in cells.items()
            for row in speeds.measure_all(of_delay, urls, plan.delayed_seconds if delay_ms else plan.seconds, _say)
        ]
        content["paths"] = speeds.measure_all(paths, dict.fromkeys(ENGINES, paths_url), plan.seconds, _say)
        if plan.starts:
            from benchmarks import starts  # noqa: PLC0415  it needs what only `make bench` installs

            content["starts"], content["imports"] = starts.measure_all(urls["handler"], plan.starts, _say)
    return Figures(content)


def _prepared(server: Server, engine: Engine) -> str:
    url = server.create_database(f"bench_{engine.name.replace('-', '_')}")
    processes.prepare(engine, url)
    return url


def _say(line: str) -> None:
    print(f"==> {line}", flush=True)


def main() -> int:
    """Measure, keep, show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="once, for a second each, and keep nothing")
    parser.add_argument("--output", type=Path, help="where the results go instead")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        with priority.raised():
            figures = run(QUICK if options.quick else FULL)
    except (processes.BenchmarkError, PostgresError, BuildError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.output or not options.quick:
        figures.write(options.output or RESULTS)
    if not options.quick and not options.output:
        page.write(figures)
    for name, part in page.PARTS.items():
        if name in {"machine", "costs", "speeds", "ratios", "paths", "starts"} and figures.part(
            "starts" if name == "starts" else "costs"
        ):
            print(f"\n{part(figures)}")
    print(f"\nmeasured in {(time.monotonic() - began) / 60:.0f} minutes")
    for goal in GOALS:
        print(goal.line(figures))
    print("\n".join(lines_of_scale()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
