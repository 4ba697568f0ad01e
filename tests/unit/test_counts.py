"""What tests count is summed and printed at the end of a session, whichever processes they ran in."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """
import pytest

@pytest.mark.parametrize("number", [1, 1200])
def test_counts(count, number):
    count("apples", number)
    count("violations", 0)

def test_that_fails_counts(count):
    count("apples", 1)
    assert not "apples"

def test_without_counts():
    pass
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_counts_of_all_processes_are_summed(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_apples.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-n", processes, "--rootdir", str(tmp_path)]
    said = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert "3 passed" in said.stdout, said.stdout + said.stderr
    lines = said.stdout.splitlines()
    assert [line for line in lines if line.startswith(("apples", "violations"))] == ["apples: 1202", "violations: 0"]
