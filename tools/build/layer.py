"""Checks what was built with packages: everything in it, made for its architecture, of the locked versions, compiled.

Nothing is imported or run: it may be for another machine than this one.
"""

from __future__ import annotations

import re
import struct
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Final

from packaging.tags import compatible_tags, cpython_tags, parse_tag
from packaging.utils import canonicalize_name

from tools.build.lock import GITHUB_LOCK, LOCK, PYTHON, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from importlib.metadata import Distribution
    from pathlib import Path

    from packaging.tags import Tag

_ABI: Final = "cp313"
_CACHE_TAG: Final = "cpython-313"
_GLIBC: Final = range(34, 4, -1)  # minor versions, the newest that of Amazon Linux 2023
_MACHINES: Final = {"arm64": ("aarch64", 183), "x86_64": ("x86_64", 62)}  # and e_machine (elf.h)
_ELF: Final = b"\x7fELF"
_UNCHECKED_HASH: Final = 1  # flags of a .pyc that never asks for its source's time (PEP 552)
_OF_LAYER: Final = (
    "python/loop_runner/py.typed",
    "certs/rds.pem",
    "loops/*.toml",
    "openapi.json",
    "migrations/*.sql",
    "migrations/functions/*.sql",
)


_OF_GITHUB_STEPS: Final = ("app.py", "github_steps/steps.py")


def problems(layer: Path, architecture: str, lock: Path = LOCK) -> list[str]:
    """What keeps the layer from being deployed, as sentences; empty when nothing does."""
    return _problems(layer, layer / "python", architecture, lock, _OF_LAYER)


def problems_of_github_steps(function: Path, architecture: str, lock: Path = GITHUB_LOCK) -> list[str]:
    """What keeps the function that has packages of its own from being deployed."""
    return _problems(function, function, architecture, lock, _OF_GITHUB_STEPS)


def _problems(folder: Path, python: Path, architecture: str, lock: Path, contents: Iterable[str]) -> list[str]:
    """Of a folder that is unpacked on Lambda, whose packages are in ``python``."""
    installed = {canonicalize_name(each.name): each for each in distributions(path=[str(python)])}
    return [
        *(f"{content} is missing" for content in contents if not any(folder.glob(content))),
        *_versions(
            {name: each.version for name, each in installed.items()},
            {name: each.version for name, each in read(lock, architecture).items()},
        ),
        *_wheels(installed.values(), architecture),
        *_machine_code(folder, architecture),
        *_bytecode(python),
    ]


def _versions(installed: Mapping[str, str], locked: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(installed.keys() | locked.keys()):
        there, wanted = installed.get(name), locked.get(name)
        if there != wanted:
            yield f"{name} is {there or 'missing'}, the lock has {wanted or 'none'}"


def _wheels(installed: Iterable[Distribution], architecture: str) -> Iterator[str]:
    machine, _ = _MACHINES[architecture]
    platforms = [*(f"manylinux_2_{minor}_{machine}" for minor in _GLIBC), f"manylinux2014_{machine}"]
    runs = {*cpython_tags(PYTHON, platforms=platforms), *compatible_tags(PYTHON, _ABI, platforms)}
    for each in installed:
        tags: set[Tag] = set()
        for line in re.findall(r"^Tag: *(\S+)", each.read_text("WHEEL") or "", re.MULTILINE):
            tags |= parse_tag(line)
        if runs.isdisjoint(tags):
            yield f"{each.name} is a wheel for {', '.join(sorted(map(str, tags))) or 'nothing'}, not for {architecture}"


def _machine_code(folder: Path, architecture: str) -> Iterator[str]:
    """Problems of what the linker reads: each ELF file is for the machine, each shared object is an ELF file."""
    _, wanted = _MACHINES[architecture]
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(20)
        name = path.relative_to(folder)
        if head.startswith(_ELF):
            (machine,) = struct.unpack("<H", head[18:20])
            if machine != wanted:
                yield f"{name} has e_machine {machine} in its ELF header, {architecture} is {wanted}"
        elif ".so" in path.suffixes:
            yield f"{name} is not machine code of Linux"


def _bytecode(python: Path) -> Iterator[str]:
    for source in sorted(python.rglob("*.py")):
        name = source.relative_to(python)
        compiled = source.parent / "__pycache__" / f"{source.stem}.{_CACHE_TAG}.pyc"
        if not compiled.exists():
            yield f"{name} is not compiled"
            continue
        with compiled.open("rb") as file:
            _magic, flags = struct.unpack("<4sI", file.read(8))
        if flags != _UNCHECKED_HASH:
            yield f"{name} is compiled so that its source is asked at each start"
