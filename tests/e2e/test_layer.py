"""The layer that is built for each architecture may be deployed on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.emulator import HOST
from tools.build.layer import problems, problems_of_github_steps
from tools.build.lock import GITHUB_LOCK, LOCK, read
from tools.build.sam import ARCHITECTURES, Artifact, build
from tools.build.sbom import sbom

if TYPE_CHECKING:
    from pathlib import Path


def test_layer_for_this_machine_is_complete_locked_and_compiled(artifact: Artifact) -> None:
    assert problems(artifact.layer, HOST) == []


def test_bill_has_every_package_and_library_of_the_layer_and_no_other(artifact: Artifact) -> None:
    python = artifact.layer / "python"
    bill = sbom(python, HOST)
    assert {each["name"] for each in bill["components"] if each["type"] == "library"} == read(LOCK, HOST).keys()
    there = {path.relative_to(python).as_posix() for path in python.rglob("*.so*") if path.parent.suffix == ".libs"}
    assert {each["name"] for each in bill["components"] if each["type"] == "file"} == there
    assert any("libpq" in name for name in there)
    needed = {ref for each in bill["dependencies"] for ref in each["dependsOn"]}
    assert needed == {each["purl"] for each in bill["components"] if "purl" in each}


def test_function_with_packages_of_its_own_is_complete_locked_and_compiled(artifact: Artifact) -> None:
    assert problems_of_github_steps(artifact.github_steps, HOST) == []
    bill = sbom(artifact.github_steps, HOST, GITHUB_LOCK)
    assert {each["name"] for each in bill["components"] if each["type"] == "library"} == read(GITHUB_LOCK, HOST).keys()


def test_layer_and_function_for_the_other_architecture_are_built_here_too(tmp_path: Path) -> None:
    (other,) = set(ARCHITECTURES) - {HOST}
    built = build(other, folder=tmp_path)
    assert problems(built.layer, other) == []
    assert problems_of_github_steps(built.github_steps, other) == []


@pytest.mark.parametrize("other", sorted(set(ARCHITECTURES) - {HOST}))
def test_layer_of_one_architecture_is_refused_for_the_other(artifact: Artifact, other: str) -> None:
    found = "\n".join(problems(artifact.layer, other))
    assert "psycopg-binary is a wheel for cp313-cp313-" in found
    assert "pydantic_core/_pydantic_core.cpython-313" in found
