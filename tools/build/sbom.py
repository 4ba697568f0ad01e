"""Writes what is deployed down for others: a software bill of materials, CycloneDX 1.6, the same for the same build.

What is in it is looked up in the folder of packages; hashes, and who needs what, in the lock. A package has the hash
of each archive that the lock allows, since nothing in there says which of them it came from.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_URL, uuid5

from packaging.utils import canonicalize_name

from tools.build.lock import LOCK, Locked, read
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "sbom.cdx.json"
GITHUB_STEPS_NAME: Final = "sbom-github-steps.cdx.json"
_LIBRARIES: Final = "*.libs/*.so*"
"""What wheels bring along that is no Python: libpq, OpenSSL and the like."""


def sbom(python: Path, architecture: str, lock: Path = LOCK) -> dict[str, Any]:
    """The bill of a folder of packages that has no problem (tools.build.layer)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = read(lock, architecture)
    packages = sorted(
        (locked[canonicalize_name(each.name)] for each in distributions(path=[str(python)])), key=lambda each: each.name
    )
    root = {"type": "application", "bom-ref": project["name"], "name": project["name"], "version": project["version"]}
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**root, "properties": [{"name": "architecture", "value": architecture}]}},
        "components": [
            *map(_package, packages),
            *(_library(path, python) for path in sorted(python.glob(_LIBRARIES))),
        ],
        "dependencies": [
            {"ref": ref, "dependsOn": [_purl(each) for each in packages if name in each.needed_by]}
            for name, ref in [(project["name"], project["name"]), *((each.name, _purl(each)) for each in packages)]
        ],
    }
    return {**bill, "serialNumber": uuid5(NAMESPACE_URL, json.dumps(bill, sort_keys=True)).urn}


def _purl(package: Locked) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"


def _package(package: Locked) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
        "hashes": [{"alg": "SHA-256", "content": each} for each in package.hashes],
    }


def _library(path: Path, python: Path) -> dict[str, Any]:
    name = path.relative_to(python).as_posix()
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"type": "file", "bom-ref": name, "name": name, "hashes": [{"alg": "SHA-256", "content": content}]}
