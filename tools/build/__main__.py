"""``python -m tools.build ARCHITECTURE``: build what is deployed, check it, print its sizes, write what is in it."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from tools.build.layer import problems, problems_of_github_steps
from tools.build.lock import GITHUB_LOCK
from tools.build.sam import ARCHITECTURES, BuildError, build
from tools.build.sbom import GITHUB_STEPS_NAME, NAME, sbom
from tools.local.settings import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def main() -> int:
    """Exit status 1, with the reason on standard error, when there is nothing that may be deployed."""
    parser = argparse.ArgumentParser(prog="make build")
    parser.add_argument("architecture", choices=ARCHITECTURES, metavar=f"ARCH={'|'.join(ARCHITECTURES)}")
    architecture = parser.parse_args().architecture
    print(f"==> sam build for {architecture} (some ten seconds)", flush=True)
    try:
        artifact = build(architecture)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    _print_sizes(artifact.template.parent)
    faults = {
        "the layer": problems(artifact.layer, architecture),
        "the function github_steps": problems_of_github_steps(artifact.github_steps, architecture),
    }
    for what, found in faults.items():
        if found:
            print(f"{what} must not be deployed:", *found, sep="\n  ", file=sys.stderr)
    if any(faults.values()):
        return 1
    print(f"{' and '.join(faults)} are complete, compiled, of the locked versions and made for {architecture}")
    bills = {
        NAME: sbom(artifact.layer / "python", architecture),
        GITHUB_STEPS_NAME: sbom(artifact.github_steps, architecture, GITHUB_LOCK),
    }
    for name, content in bills.items():
        bill = artifact.template.with_name(name)
        bill.write_text(json.dumps(content, indent=2) + "\n")
        print(f"what is in it: {bill.relative_to(ROOT)}")
    print(f"built {artifact.template.relative_to(ROOT)}")
    return 0


def _print_sizes(built: Path) -> None:
    print(f"{'':20} {'unzipped':>10} {'zipped':>10}")
    for folder in sorted(path for path in built.iterdir() if path.is_dir()):
        unzipped, zipped = map(_text, _sizes(folder))
        print(f"{folder.name:20} {unzipped:>10} {zipped:>10}")


def _sizes(folder: Path) -> tuple[int, int]:
    """Bytes of the files, and of an archive of them, which is what is uploaded."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, path.relative_to(folder))
        zipped = archive.tell()
    return sum(path.stat().st_size for path in files), zipped


def _text(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
