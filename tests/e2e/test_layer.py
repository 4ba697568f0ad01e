"""The layer that is built for each architecture may be deployed on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.emulator import HOST
from tools.build.layer import problems
from tools.build.lock import LOCK, read
from tools.build.sam import ARCHITECTURES, Artifact, build
from tools.build.sbom import sbom

if TYPE_CHECKING:
    from pathlib import Path


def test_layer_for_this_machine_is_complete_locked_and_compiled(artifact: Artifact) -> None:
    assert problems(artifact.layer, HOST) == []


def test_bill_has_every_package_and_library_of_the_layer_and_no_other(artifact: Artifact) -> None:
    bill = sbom(artifact.layer, HOST)
    python = artifact.layer / "python"
    assert {each["name"] for each in bill["components"] if each["type"] == "library"} == read(LOCK, HOST).keys()
    there = {path.relative_to(python).as_posix() for path in python.rglob("*.so*") if path.parent.suffix == ".libs"}
    assert {each["name"] for each in bill["components"] if each["type"] == "file"} == there
    assert any("libpq" in name for name in there)
    needed = {ref for each in bill["dependencies"] for ref in each["dependsOn"]}
    assert needed == {each["purl"] for each in bill["components"] if "purl" in each}


def test_layer_for_the_other_architecture_is_built_here_too(tmp_path: Path) -> None:
    (other,) = set(ARCHITECTURES) - {HOST}
    assert problems(build(other, folder=tmp_path).layer, other) == []


@pytest.mark.parametrize("other", sorted(set(ARCHITECTURES) - {HOST}))
def test_layer_of_one_architecture_is_refused_for_the_other(artifact: Artifact, other: str) -> None:
    found = "\n".join(problems(artifact.layer, other))
    assert "psycopg-binary is a wheel for cp313-cp313-" in found
    assert "pydantic_core/_pydantic_core.cpython-313" in found
