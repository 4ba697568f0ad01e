"""The guide docs/github.md: what it starts, each call and what it says comes of it, and its words for all else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loop_runner.loops import load_loop
from tests.conftest import LOOPS, ROOT, create_database, drop_database
from tests.integration.test_guide import environment, patiently
from tools.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE = (ROOT / "docs/github.md").read_text()
SERVE, START, DRIVE = re.findall(r"```bash\n(.*?)```", GUIDE.split("## A token")[0], re.DOTALL)
GITHUB, RUNNER = "http://127.0.0.1:3100", "http://127.0.0.1:3000"


@pytest.fixture
def github() -> Iterator[list[str]]:
    """What the fake GitHub prints, as the program that `make github` starts, on a port of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.github"],
        cwd=ROOT,
        env=environment(PORT="0"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield [process.stdout.readline() for _ in range(2)]
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def stack(github: list[str], server_url: str, migrated_template: str) -> Iterator[Stack]:
    """What is started with the variables of the line that it prints."""
    variables = dict(part.split("=", 1) for part in github[0].split() if "=" in part)
    url = create_database(server_url, migrated_template)
    with Stack(port=0, database_url=url, environment={"PATH": os.environ["PATH"], **variables}) as stack:
        yield stack
    drop_database(server_url, url)


def test_each_call_is_answered_as_the_guide_says(github: list[str], stack: Stack) -> None:
    assert SERVE == "make github\n"
    assert re.search(r"^github:.*\n\t.*-m tests\.github$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (url,) = re.findall(r"GITHUB_API_URL=(\S+)", github[0])
    assert github[0].replace(url, GITHUB) == START, "what it prints is what the guide starts"
    lines = DRIVE.replace(RUNNER, stack.url).replace(GITHUB, url).splitlines()
    known, said = "", 0
    for line in lines:
        command, _, comment = line.partition(" #")
        if not command.startswith("curl"):
            known += f"{command}\n"
            continue
        wanted = re.findall(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+|CLOSED|loop-runner", comment)
        script = f"{known}{patiently(command, wanted)}"
        done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, text=True, check=False)
        for word in wanted:
            assert word in done.stdout, (line, done.stdout, done.stderr)
        said += len(wanted)
    assert said > 7, "the comments say what comes"


def test_guide_has_each_blocker_and_the_page_of_the_loop_each_error() -> None:
    code = "".join(path.read_text() for path in sorted((ROOT / "functions/github_steps").rglob("*.py")))
    gates = {gate.blocker for step in load_loop(LOOPS / "github-delivery.toml").steps for gate in step.require}
    blockers = gates | set(re.findall(r'BlockedError\(\s*"(\w+)"', code))
    assert set(re.findall(r"^\| ([A-Z_]+) \|", GUIDE, re.MULTILINE)) == blockers
    errors = set(re.findall(r'"(GitHub\.\w+)"', code)) - {"GitHub.UnknownStep"}
    page = (ROOT / "docs/loops/github-delivery.md").read_text()
    assert set(re.findall(r"GitHub\.\w+", page)) == errors >= set(re.findall(r"`(GitHub\.\w+)`", GUIDE))


def test_guide_names_each_parameter() -> None:
    parameters, _, _ = (ROOT / "template.yaml").read_text().partition("\nConditions:")
    for name in re.findall(r"^  (Github\w+):", parameters, re.MULTILINE):
        assert name in GUIDE
