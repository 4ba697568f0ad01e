"""While a deployment replaces the functions, those of the release before work on the schema of this one."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.previous_release import git, newest_tag, run_tests

if TYPE_CHECKING:
    from pathlib import Path

FEW = ("tests/integration/test_run_store.py", "-k", "TestCreateRun")


pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def test_release_before_this_one_works_on_the_schema_of_now(tmp_path: Path, server_url: str) -> None:
    tag = newest_tag(ROOT)
    if tag is None:
        pytest.skip("no release before this one is tagged (v…): there is none to be compatible with")
    done = run_tests(ROOT, tag, tmp_path, server_url)
    assert done.returncode == 0, f"{tag} on the migrations of now:\n{done.stdout}{done.stderr}"


# --- that this would be seen: a repository whose release is what is here


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A release, v0.0.1, and a commit after it; the code of now does not work at all."""
    repository = tmp_path / "repository"
    for name in ("functions", "layers", "loops", "migrations", "tests", "tools"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", repository)
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    for arguments in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "release"), ("tag", "v0.0.1")):
        done = git(repository, *arguments)
        assert done.returncode == 0, done.stderr
    assert newest_tag(repository) is None, "a release is not before itself"
    (repository / "layers/loop_runner/loop_runner/run_store.py").write_text("raise RuntimeError('the code of now')\n")
    git(repository, *who, "commit", "-qam", "next")
    return repository


def migrate(repository: Path, sql: str) -> None:
    """The next migration."""
    newest = max(int(path.name[:3]) for path in (repository / "migrations").glob("[0-9]*.sql"))
    (repository / "migrations" / f"{newest + 1:03}_next.sql").write_text(sql)


def test_migration_that_adds_leaves_the_release_before_it_at_work(
    repository: Path, tmp_path: Path, server_url: str
) -> None:
    migrate(repository, "ALTER TABLE loop_runs ADD COLUMN mood text;")
    done = run_tests(repository, str(newest_tag(repository)), tmp_path, server_url, FEW)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)


def test_migration_that_takes_away_is_found(repository: Path, tmp_path: Path, server_url: str) -> None:
    migrate(repository, "ALTER TABLE loop_runs RENAME COLUMN request_id TO correlation_id;")
    done = run_tests(repository, str(newest_tag(repository)), tmp_path, server_url, FEW)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed" in done.stdout
