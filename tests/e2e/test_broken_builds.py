"""What is broken on Lambda is broken here, and says why: these tests test the others."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import Functions
from tests.e2e.emulator import ROOT, FunctionError

if TYPE_CHECKING:
    from pathlib import Path

    from tools.build.sam import Artifact

PROBE = """
import os, platform, sys
def handler(event, context):
    return {"path": sys.path, "version": platform.python_version(), "environment": dict(os.environ)}
"""
URL = "postgresql://127.0.0.1:1/none"


@pytest.fixture
def copy(artifact: Artifact, tmp_path: Path) -> Artifact:
    """A copy of what was built, to be broken: the layer's packages are links, all else is its own."""
    built, copied = artifact.template.parent, tmp_path / "build"
    shutil.copytree(built, copied, ignore=shutil.ignore_patterns("python"))
    packages = copied / artifact.layer.name / "python"
    packages.mkdir()
    for package in (artifact.layer / "python").iterdir():
        (packages / package.name).symlink_to(package)
    return replace(artifact, template=copied / "template.yaml")


def answer(artifact: Artifact) -> object:
    with ExitStack() as started:
        return Functions(artifact, URL, started).invoke("LoopApiFunction", {})


def failure(artifact: Artifact) -> str:
    with pytest.raises(FunctionError) as failure:
        answer(artifact)
    return str(failure.value)


def test_copy_that_is_not_broken_answers(copy: Artifact) -> None:
    assert answer(copy)


def test_broken_import_of_a_handler_is_told(copy: Artifact) -> None:
    app = copy.template.parent / "LoopApiFunction" / "app.py"
    app.write_text(app.read_text().replace("from loop_runner.pages import", "from loop_runner.page import"))
    assert failure(copy) == (
        "Runtime.ImportModuleError: Unable to import module 'app': No module named 'loop_runner.page'"
    )


@pytest.mark.parametrize("package", ["aws_lambda_powertools", "psycopg", "pydantic"])
def test_dependency_that_the_layer_lacks_is_told(copy: Artifact, package: str) -> None:
    """It is in the environment of these tests: the function must not find it there."""
    (copy.layer / "python" / package).unlink()
    assert failure(copy) == f"Runtime.ImportModuleError: Unable to import module 'app': No module named '{package}'"


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        ("app.main", "Runtime.HandlerNotFound: Handler 'main' missing on module 'app'"),
        ("main.handler", "Runtime.ImportModuleError: Unable to import module 'main': No module named 'main'"),
    ],
)
def test_handler_that_does_not_exist_is_told(copy: Artifact, handler: str, told: str) -> None:
    copy.template.write_text(copy.template.read_text().replace("Handler: app.handler", f"Handler: {handler}"))
    assert failure(copy) == told


def test_variable_that_names_no_folder_of_the_layer_is_told(copy: Artifact) -> None:
    copy.template.write_text(copy.template.read_text().replace("/opt/migrations", "/opt/migration"))
    with ExitStack() as started, pytest.raises(FunctionError, match="MigrationError: there are no migrations in "):
        Functions(copy, URL, started).invoke("MigrateFunction", {"action": "plan"})


def test_function_has_lambdas_python_and_nothing_of_ours(copy: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEFT_BEHIND", "1")
    (copy.template.parent / "LoopApiFunction" / "app.py").write_text(PROBE)
    with ExitStack() as started:
        probe = Functions(copy, URL, started).invoke("LoopApiFunction", {})
    assert probe["version"].startswith("3.13.")
    assert probe["environment"]["LOOPS_DIR"] == str(copy.layer / "loops")
    assert probe["environment"]["POWERTOOLS_SERVICE_NAME"] == "loop-api"
    assert "LEFT_BEHIND" not in probe["environment"]
    ours = {os.path.realpath(ROOT), os.path.realpath(ROOT / ".venv")}
    assert [path for path in probe["path"] if os.path.realpath(path) in ours or f"{ROOT}/.venv/" in path] == []
