"""Owns the release before this one: its code and its tests, from its tag, on the migrations of now."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STORE = ("tests/integration/test_run_store.py", "tests/integration/test_ledger.py")
"""What a release says of runs and steps, and of the SQL functions that move them."""


def git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What git says of this repository, whichever one a hook may have told us of."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", repository, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def newest_tag(repository: Path) -> str | None:
    """The tag of the newest release before HEAD; None where there is none."""
    found = git(repository, "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^")
    return found.stdout.strip() or None


def run_tests(
    repository: Path, tag: str, folder: Path, server_url: str, tests: Sequence[str] = STORE
) -> subprocess.CompletedProcess[str]:
    """Run tests of the tag's release, with its code, on a database with the migrations that the repository has now."""
    archive = folder / "release.tar"
    done = git(repository, "archive", f"--output={archive}", tag)
    assert done.returncode == 0, done.stderr
    release = folder / tag
    with tarfile.open(archive) as files:
        files.extractall(release, filter="data")
    shutil.rmtree(release / "migrations")
    shutil.copytree(repository / "migrations", release / "migrations")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=release,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))},
            "PYTHONPATH": os.pathsep.join(map(str, (release / "layers/loop_runner", release))),
            "TEST_DATABASE_URL": server_url,
        },
        capture_output=True,
        text=True,
        check=False,
    )
