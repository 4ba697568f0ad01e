"""Reads what the layer and a function are made from: the locks that uv has written, for a function on Lambda."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.local.settings import ROOT

if TYPE_CHECKING:
    from pathlib import Path

LOCK: Final = ROOT / "layers" / "loop_runner" / "requirements.txt"
GITHUB_LOCK: Final = ROOT / "functions" / "github_steps" / "requirements.txt"

PYTHON: Final = (3, 13)
_MACHINES: Final = {"arm64": "aarch64", "x86_64": "x86_64"}
_ENTRY: Final = re.compile(r"^([a-z0-9].*?) *\\?\n((?: +\S.*\n?)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Locked:
    """A package of the lock. ``hashes``: SHA-256 of each of its archives; ``needed_by``: what it is there for."""

    name: str
    version: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def read(lock: Path, architecture: str) -> dict[str, Locked]:
    """The packages that a function of this architecture has, by name."""
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": _MACHINES[architecture],
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": "{}.{}.0".format(*PYTHON),
        "python_version": "{}.{}".format(*PYTHON),
        "sys_platform": "linux",
    }
    found: dict[str, Locked] = {}
    for line, rest in _ENTRY.findall(lock.read_text()):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            hashes = tuple(re.findall(r"--hash=sha256:(\w+)", rest))
            needed_by = tuple(re.findall(r"# +(?:via +)?(?!via\b)(\S+)", rest))
            found[name] = Locked(name, str(requirement.specifier).removeprefix("=="), hashes, needed_by)
    return found
