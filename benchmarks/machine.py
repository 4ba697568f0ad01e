"""Owns the description of the machine, and of what ran on it: figures without it say nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg

from benchmarks import priority
from tools.local.binaries import wheel_bin

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGES: Final = ("psycopg", "pydantic", "dbos", "langgraph", "langgraph-checkpoint-postgres")


def describe(url: str, folder: Path) -> dict[str, str]:
    """What a reader must know; ``folder`` lies where the server's data do."""
    with psycopg.connect(url) as connection:
        settings = [
            f"{name} {connection.execute('SELECT current_setting(%s)', [name]).fetchone()[0]}"  # type: ignore[index]
            for name in ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        ]
        server = connection.info.parameter_status("server_version")
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "server": f"PostgreSQL {server}, {', '.join(settings)}, other settings as they are by default",
        "disk": f"fdatasync of 8 kB: {_sync_microseconds(folder)}",
        "others": _others(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _sync_microseconds(folder: Path) -> str:
    """What a commit waits for at least."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        said = subprocess.run(
            [wheel_bin() / "pg_test_fsync", "--secs-per-test", "1", "--filename", file.name],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    found = re.search(r"fdatasync .* (\d+) usecs/op", said)
    return f"{found[1]} µs" if found else "not known"


def _others() -> str:
    """Who else uses the machine, and whether they are let in."""
    with priority.raised() as is_raised:
        goes_first = "what is measured goes first (SCHED_RR)" if is_raised else "what is measured does not go first"
    return f"{os.getloadavg()[0]:.1f} processes wanted to run on average of the minute before; {goes_first}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def summary(description: Mapping[str, str]) -> str:
    """As the page has it."""
    return "\n".join(f"- {name}: {text}" for name, text in description.items())
