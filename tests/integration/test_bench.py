"""`make bench` measures: quickly here, and others only where they are installed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks import page
from benchmarks.engines import COMPARED, PATHS
from benchmarks.figures import Figures
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_a_quick_run_measures_every_engine_that_is_installed(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--output", output],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "goal round-trips value 2.00 bound ≤2 ok" in done.stdout
    assert "goal commits value 2.00 bound ≤2 ok" in done.stdout

    figures = Figures.read(output)
    for engine in (engine for engine in COMPARED if engine.is_installed):
        for delay_ms in (0, 1):
            (ops,) = figures.speeds(engine.name, "ops_per_second", delay_ms=delay_ms).values()
            assert ops > 0
    for engine in PATHS:
        (ops,) = figures.speeds(engine.name, "ops_per_second", part="paths").values()
        assert ops > 0
    assert "fsync on, synchronous_commit on, full_page_writes on" in figures.content["machine"]["server"]
    assert "| run_next_step | 2 | 2 | 2 |" in page.PARTS["costs"](figures)
