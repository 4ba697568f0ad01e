"""Runs `sam build` for one architecture into a folder of its own.

SAM lives in .venv-sam. It needs a real python3.13 first on PATH: it refuses a version manager's shim.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCHITECTURES: Final = ("arm64", "x86_64")

_LAYER: Final = "LoopRunnerLayer"
_GITHUB_STEPS: Final = "GithubStepsFunction"
_SAM: Final = ".venv-sam/bin/sam"
_MAKE_VARIABLES: Final = frozenset({"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"})


class BuildError(RuntimeError):
    """Nothing was built, or what was built must not be deployed; the message says why."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What `sam build` made: ``template`` names the folders of functions and layer, relative to itself."""

    architecture: str
    template: Path

    @property
    def layer(self) -> Path:
        """What Lambda unpacks into /opt."""
        return self.template.parent / _LAYER

    @property
    def github_steps(self) -> Path:
        """The function that has packages of its own: what Lambda unpacks into /var/task."""
        return self.template.parent / _GITHUB_STEPS


def build(architecture: str, *, folder: Path | None = None, root: Path = ROOT) -> Artifact:
    """Build everything into ``folder``/build, .aws-sam/<architecture>/build by default. Raises BuildError.

    Two builds do not disturb each other as long as they have different folders: SAM keeps notes beside what it builds.
    """
    build_folder = (folder or root / ".aws-sam" / architecture) / "build"
    sam = root / _SAM
    if not sam.exists():
        raise BuildError(f"there is no {_SAM}: run make build or make e2e, which install it")
    options = ["--build-dir", str(build_folder), "--parameter-overrides", f"Architecture={architecture}"]
    environment = _environment(os.environ, architecture, deployed_python(root))
    built = subprocess.run(
        [sam, "build", *options],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode:
        raise BuildError(f"sam build failed with exit status {built.returncode}:\n{built.stdout.strip()}")
    return Artifact(architecture, build_folder / "template.yaml")


def deployed_python(root: Path = ROOT) -> Path:
    """The python3.13 of this machine: never a shim. BuildError says how to get one."""
    found = subprocess.run([root / "tools" / "find-python", "13"], capture_output=True, text=True, check=False)
    if found.returncode:
        raise BuildError(found.stderr.strip())
    executable = subprocess.run(
        [found.stdout.strip(), "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    python = Path(executable).with_name("python3.13")
    if not python.exists():
        raise BuildError(f"there is no python3.13 beside {executable}, and sam build looks for that name: link it")
    return python


def _environment(inherited: Mapping[str, str], architecture: str, python: Path) -> dict[str, str]:
    """The environment of SAM; without what an outer make would tell the one that builds the layer."""
    kept = {name: value for name, value in inherited.items() if name not in _MAKE_VARIABLES}
    search = os.pathsep.join([str(python.parent), inherited.get("PATH", os.defpath)])
    return kept | {"ARCH": architecture, "PATH": search, "SAM_CLI_TELEMETRY": "0"}
