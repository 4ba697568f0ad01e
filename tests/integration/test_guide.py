"""The guide to a loop of one's own, docs/loops/README.md: its files and commands as they stand, on the local stack."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT, create_database, drop_database

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE = (ROOT / "docs/loops/README.md").read_text().split("## Keys of a loop")[0]
BLOCKS = re.findall(r"(?:`([\w./-]+)`:\n\n)?```(\w+)\n(.*?)```", GUIDE, re.DOTALL)
FILES = {name: text for name, _, text in BLOCKS if name}
LOOK, START, DRIVE, ROWS, DEPLOY = (text for name, language, text in BLOCKS if language == "bash" and not name)
(PRINTED,) = (text for _, language, text in BLOCKS if language == "text")

SECONDS = 60
"""How long an answer may take to become what the guide says of it; the guide promises a second."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as somebody has it who follows the guide, with the guide's files and an environment as it is."""
    folder = tmp_path_factory.mktemp("guide")
    for name in ("events", "functions", "layers", "loops", "migrations", "requirements", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "template.yaml"):
        shutil.copy2(ROOT / name, folder)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != ".local":
            (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv/.local").touch()  # make has nothing to install
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def url(checkout: Path, server_url: str) -> Iterator[str]:
    """Of the stack that the guide's command starts, on a database and a port of the test's own."""
    database = create_database(server_url)
    process = subprocess.Popen(
        ["bash", "-c", START],
        cwd=checkout,
        env=environment(PORT="0", DATABASE_URL=database),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    ready = re.match(r"ready (\S+)", process.stdout.readline())
    try:
        assert ready, process.communicate()
        yield ready[1]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
        drop_database(server_url, database)


def environment(**variables: str) -> dict[str, str]:
    kept = {"HOME", "LANG", "PATH", "TMPDIR"}
    return {name: value for name, value in os.environ.items() if name in kept} | variables


def run(checkout: Path, commands: str, **variables: str) -> str:
    """What the commands print, the first that fails being the last."""
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=checkout, env=environment(**variables), capture_output=True, text=True,
        encoding="utf-8", check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loop_is_drawn_and_its_way_is_the_one_printed(checkout: Path) -> None:
    drawn, _, way = run(checkout, LOOK, LANG="C.UTF-8").partition("```\nsupport, from")
    assert "OPEN --> WRITTEN: WRITE (lambda)\n" in drawn
    assert f"support, from{way}" == f"{PRINTED}"


def test_each_call_is_answered_and_leaves_its_row_as_the_guide_says(checkout: Path, url: str) -> None:
    first, *calls = DRIVE.splitlines()
    issue = first.replace("http://127.0.0.1:3000", url)
    assert issue != first
    said = 0
    for call in calls:
        command, _, comment = call.partition(" #")
        wanted = re.findall(r"\b(?:[A-Z_]{3,}|[A-Z]\w+\.\w+|retryAt|letter|attempt)\b", comment)
        answer = run(checkout, f"{issue}\n{patiently(command, wanted)}")
        for word in wanted:
            assert word in answer, call
        said += len(wanted)
    assert said > len(calls), "the comments say what comes"
    assert json.loads(answer)["items"][-1]["blockerCode"] == "NO_CUSTOMER"
    rows = [line.split("|") for line in run(checkout, ROWS).splitlines()[2:-2]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1", "blocked", "", "OPEN"],
        ["1", "failed", "Printer.Busy", "OPEN"],
        ["2", "completed", "", "WRITTEN"],
        ["1", "blocked", "", "WRITTEN"],
        ["1", "completed", "", "CLOSED"],
    ]


def patiently(command: str, wanted: list[str]) -> str:
    """A command that only reads, again until it shows what is wanted or time is up; another one as it is."""
    if "-X" in shlex.split(command) or not wanted:
        return f"{command} --silent --show-error"
    shows = " && ".join(f'[[ "$answer" == *{word}* ]]' for word in wanted)
    return f"""
        for _ in $(seq {SECONDS * 5}); do
            answer=$({command} --silent --show-error)
            if {shows}; then break; fi
            sleep 0.2
        done
        echo "$answer"
    """


def test_loop_is_deployed_with_those_of_the_layer(checkout: Path) -> None:
    copy, build = DEPLOY.splitlines()
    run(checkout, copy)
    assert (checkout / "loops/support.toml").read_text() == FILES["my-loops/support.toml"]
    assert build == "sam build && sam deploy"
