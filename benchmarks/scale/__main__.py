"""``make bench-scale``: load, measure, load more, measure again; the result in benchmarks/results/scale.json.

LEVELS (10000,1000000,10000000): how many runs there are when it is measured, the first the small one that all others
are compared with. ROUNDS (50): how often each call is timed. FOLDER: where the data lie meanwhile, removed at the end.
RESULT: the file. AUDIT (1000000): up to how many runs the audit looks through the ledger as well; it takes a minute
for a million.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from benchmarks.scale.calls import CALLS, Kind
from benchmarks.scale.days import Days, Shape
from benchmarks.scale.measure import measure
from benchmarks.scale.storage import TABLES, churn, sizes
from benchmarks.scale.subject import Subject
from loop_runner import migrations
from loop_runner.audit import audit
from loop_runner.observability import logger
from tools.local.postgres import Server
from tools.local.roles import app_url
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT: Final = ROOT / "benchmarks" / "results" / "scale.json"
BOUND: Final = 1.5
_CHURN: Final = 1_000
_REPORT_SECONDS: Final = 10.0


class UnsoundError(RuntimeError):
    """The ledger that was made breaks a rule; what was measured on it says nothing."""


def bench(
    server: Server,
    levels: list[int],
    *,
    rounds: int,
    shape: Shape | None = None,
    churn_runs: int = _CHURN,
    audit_up_to: int = 1_000_000,
    say: Callable[[str], None] = lambda _line: None,
    keep: Callable[[dict[str, Any]], None] = lambda _result: None,
) -> dict[str, Any]:
    """What calls and chores cost at each level. The server is restarted before each is measured.

    ``keep`` is given the result after each level, since the next one may take an hour.
    """
    shape = shape or Shape(runs=levels[0])
    app_url(server.url)  # the role must be there before the migrations give it rights
    small_url = server.create_database("small")
    migrations.apply(small_url, ROOT / "migrations")
    first = datetime.now(UTC) - timedelta(days=max(levels[-1] // shape.runs, 2) + 2)
    say(f"playing a day of {shape.runs:,} runs")
    small = Days(small_url, first, shape)
    large = small.copied(server.create_database("large", template="small"))
    result: dict[str, Any] = {"machine": _machine(small_url), "rounds": rounds, "issues": shape.issues, "levels": []}
    for level in levels:
        say(f"growing to {level:,} runs")
        started = time.monotonic()
        large.grow(level, _Reporter(say))
        grown = time.monotonic() - started
        for days in (small, large):
            _settle(days.url)
        with small.kept(), large.kept():
            server.restart()
            result["levels"].append({
                "runs": large.runs,
                "growSeconds": round(grown, 1),
                **_level(small, large, rounds, churn_runs, say),
                "auditSeconds": _audited(large.url) if large.runs <= audit_up_to else None,
            })  # fmt: skip
        result["goals"] = goals(result)
        keep(result)
    return result


def _level(small: Days, large: Days, rounds: int, churn_runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    say(f"measuring at {large.runs:,} runs")
    one, other = (Subject(days, app_url(days.url)) for days in (small, large))
    try:
        measured = measure(CALLS, one, other, rounds, lambda done: say(f"  round {done} of {rounds}"))
        taken = sizes(other, large.runs)
        say("running real runs")
        return {**measured, "sizes": taken, "churn": churn(other, churn_runs)}
    finally:
        one.close()
        other.close()


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """For each level beyond the first: the largest ratio of an API call's medians, of those whose work is the same."""
    found = []
    base = result["levels"][0]["runs"]
    for level in result["levels"][1:]:
        calls = [each for each in level["calls"] if each["kind"] in {Kind.READ, Kind.WRITE} and not each["grows"]]
        for ratio, of_what in (("ratio", "time"), ("cpuRatio", "cpu")):
            if any(each[ratio] is None for each in calls):
                continue
            worst = max(calls, key=lambda each: float(each[ratio]))
            found.append({
                "name": f"api-call-{of_what}-at-{level['runs']}-vs-{base}-runs", "value": worst[ratio], "bound": BOUND,
                "ok": worst[ratio] <= BOUND, "of": worst["name"],
            })  # fmt: skip
    return found


class _Reporter:
    """Says how far it has come, now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said_at = say, time.monotonic()

    def __call__(self, runs: int, seconds: float) -> None:
        if time.monotonic() - self._said_at >= _REPORT_SECONDS:
            self._said_at = time.monotonic()
            self._say(f"  {runs:,} more runs, {runs / seconds:,.0f} a second")


def _settle(url: str) -> None:
    """Do what autovacuum would have done by now, so that it does not begin while we measure."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(f"VACUUM (ANALYZE) {table}")
        connection.execute("CHECKPOINT")


def _audited(url: str) -> float:
    started = time.monotonic()
    broken = {finding["rule"]: finding["ids"] for finding in audit(url) if finding["violations"]}
    if broken:
        raise UnsoundError(f"the ledger breaks {broken}: mend benchmarks/scale/days.py")
    return round(time.monotonic() - started, 1)


def _machine(url: str) -> dict[str, Any]:
    with psycopg.connect(url) as connection:
        names = (
            "server_version",
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "shared_buffers",
            "max_wal_size",
            "work_mem",
        )
        settings = {name: str(connection.execute(f"SHOW {name}").fetchone()[0]) for name in names}  # type: ignore[index]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memoryGiB": round(memory / 2**30),
        "python": platform.python_version(),
        "loadBefore": [round(load, 1) for load in os.getloadavg()],
        "postgresql": settings,
    }


def _write(target: Path, result: dict[str, Any]) -> None:
    target.write_text(json.dumps(result, indent=1) + "\n")


def _line_of(goal: dict[str, Any]) -> str:
    verdict = "ok" if goal["ok"] else "missed"
    return f"goal {goal['name']} value {goal['value']} bound ≤{goal['bound']} {verdict}: {goal['of']}"


def main() -> int:
    """Measure; exit status 1 where nothing could be. A goal that is missed is told, and no error."""
    logger.setLevel(logging.CRITICAL)  # log lines and metrics are written, and read by nobody
    levels = [int(level) for level in (os.environ.get("LEVELS") or "10000,1000000,10000000").split(",")]
    target = Path(os.environ.get("RESULT") or RESULT)
    folder = Path(os.environ.get("FOLDER") or tempfile.mkdtemp(prefix="loop-runner-scale-"))
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the data go, whoever ends it

    def say(line: str) -> None:
        print(f"==> {time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    try:
        with (
            Server(folder=folder, progress=say) as server,
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
        ):
            result = bench(
                server,
                levels,
                rounds=int(os.environ.get("ROUNDS") or 50),
                audit_up_to=int(os.environ.get("AUDIT") or 1_000_000),
                say=say,
                keep=lambda done: _write(target, {**done, "seconds": round(time.monotonic() - started)}),
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for goal in result["goals"]:
        print(_line_of(goal))
    return 0


if __name__ == "__main__":
    sys.exit(main())
