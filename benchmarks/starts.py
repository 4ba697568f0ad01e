"""Owns cold starts: INIT of each function as it is built, under the runtime emulator, beside a floor; import by import.

The floor is a function that imports psycopg, pydantic and Powertools' Logger, and does nothing.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks.own import app_url_of
from benchmarks.processes import BenchmarkError
from tests.e2e.emulator import HOST, RUNTIME, Emulator, FunctionError, environment
from tools.build.sam import build
from tools.local.settings import PASSWORD_IN_URL, ROOT
from tools.local.template import load_functions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tools.local.template import Function

FLOOR: Final = "floor"
_FLOOR_CODE: Final = """
import psycopg
from pydantic import BaseModel
from aws_lambda_powertools import Logger


def handler(event, context):
    return {}
"""
_FIRST_CALLS: Final[Mapping[str, object]] = {
    FLOOR: {},
    "RunNextStepFunction": {},  # nobody's: refused before it asks the database
    "LoopApiFunction": {},
    "RunWorkerFunction": {"Records": []},
    "RunSweeperFunction": json.loads((ROOT / "events" / "run-sweeper.json").read_text()),
    "MigrateFunction": {"action": "plan"},
}
"""The cheapest call of each: the emulator initializes a function with its first one."""

_INIT: Final = re.compile(rb"INIT REPORT\(durationMs: ([\d.]+)")
_IMPORT: Final = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", re.MULTILINE)


def functions(url: str, floor_folder: Path) -> dict[str, Function]:
    """What is deployed, built for this machine, and the floor, whose code is written into a folder."""
    artifact = build(HOST, folder=ROOT / ".aws-sam" / "bench")
    found = load_functions(artifact.template, {"Architecture": artifact.architecture})
    (floor_folder / "app.py").write_text(_FLOOR_CODE)
    floor = replace(found["RunNextStepFunction"], name=FLOOR, code=floor_folder, module="app", attribute="handler")
    local = {**PASSWORD_IN_URL, "DATABASE_URL": app_url_of(url)}
    return {
        name: replace(function, environment={**function.environment, **local})
        for name, function in {FLOOR: floor, **found}.items()
    }


def start(function: Function) -> tuple[float, float]:
    """Milliseconds of one INIT, and of CPU that the function's process had used after its first call."""
    with tempfile.TemporaryFile() as output, Emulator(function, output=output) as emulator:
        with suppress(FunctionError):
            emulator.invoke(_FIRST_CALLS.get(function.name, {}))
        used = psutil.Process(emulator.pid()).cpu_times()
        output.seek(0)
        said = output.read()
    found = _INIT.search(said)
    if found is None:
        raise BenchmarkError(f"the emulator has not said how long INIT of {function.name} took: {said[-2000:]!r}")
    return float(found[1]), (used.user + used.system) * 1000


def imports(function: Function) -> dict[str, int]:
    """Microseconds that each package took to be imported, without what it imports; the standard library is one."""
    done = subprocess.run(
        [RUNTIME, "-X", "importtime", "-c", f"import {function.module}"],
        cwd=function.code,
        env=environment(function, function.timeout),
        capture_output=True,
        text=True,
        check=True,
    )
    packages: dict[str, int] = {}
    installed = {path.name.removesuffix(".py") for folder in _folders(function) for path in folder.iterdir()}
    for microseconds, module in _IMPORT.findall(done.stderr):
        top = module.partition(".")[0]
        package = top if top in installed else "the standard library"
        packages[package] = packages.get(package, 0) + int(microseconds)
    return packages


def _folders(function: Function) -> list[Path]:
    (layer,) = function.layers
    return [function.code, layer / "python"]


def measure_all(
    url: str, repeats: int, progress: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of starts, and of imports: of each function, its packages with the median of their milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        progress("building what is deployed")
        found = functions(url, Path(folder))
        starts, imported = [], {name: list[dict[str, int]]() for name in found}
        for repeat in range(repeats):
            for name, function in found.items():
                init_ms, cpu_ms = start(function)
                starts.append({
                    "function": name, "repeat": repeat, "init_ms": round(init_ms, 1), "cpu_ms": round(cpu_ms, 1)
                })  # fmt: skip
                imported[name].append(imports(function))
            progress(f"{repeat + 1}/{repeats}  starts of {len(found)} functions")
    return starts, [
        {"function": name, "package": package, "ms": round(milliseconds, 1)}
        for name, repeated in imported.items()
        for package, milliseconds in _medians(repeated).items()
    ]


def _medians(repeated: list[dict[str, int]]) -> dict[str, float]:
    medians = {
        package: statistics.median(packages.get(package, 0) for packages in repeated) / 1000 for package in repeated[0]
    }
    return dict(sorted(medians.items(), key=lambda item: -item[1]))
