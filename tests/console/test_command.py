"""``make console``: one line with the URL to open, until Ctrl-C; what it cannot use it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.console.browser import RUNS, Browser, error_of
from tools.console.guard import Guard
from tools.local.stack import listen

if TYPE_CHECKING:
    import socket

    from tests.console.signed_api import Api


def command(**variables: str) -> subprocess.Popen[str]:
    environment = {"PORT": "0", **os.environ, **variables}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tools.console"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_make_console_prints_one_url_and_serves_until_it_is_told_to_stop(api: Api, number: signal.Signals) -> None:
    silent, asked = threading.Event(), threading.Event()

    def wait(_connection: socket.socket) -> bool:
        asked.set()
        return silent.wait(60)

    process = command(API_URL=api.url)
    assert process.stdout
    line = process.stdout.readline()
    found = re.fullmatch(rf"console of {api.url}: http://127\.0\.0\.1:(\d+)/console\?token=([\w-]{{43}})\n", line)
    assert found, process.communicate()
    browser = Browser(Guard(int(found[1]), found[2]))
    assert browser("GET", RUNS).status == 200
    api.before = wait
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(browser, "GET", RUNS)
        assert asked.wait(60)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
        silent.set()
        assert error_of(waiting.result()) == (502, "UNAVAILABLE")
    assert (process.returncode, rest, errors) == (0, "", "")


def test_each_start_has_a_token_of_its_own(api: Api) -> None:
    tokens = []
    for _ in range(2):
        process = command(API_URL=api.url)
        assert process.stdout
        tokens.append(process.stdout.readline().partition("token=")[2])
        process.terminate()
        process.communicate(timeout=60)
    assert tokens[0] != tokens[1]


REMOTE = "https://abc.execute-api.eu-central-1.amazonaws.com"


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "API_URL is missing"),
        ({"API_URL": ""}, "API_URL is missing"),
        ({"API_URL": "abc"}, "must begin with https://"),
        ({"API_URL": "http://abc.execute-api.eu-central-1.amazonaws.com"}, "must begin with https://"),
        ({"API_URL": "http://127.0.0.1.evil.example"}, "must begin with https://"),
        ({"API_URL": "file:///etc/passwd"}, "must begin with https://"),
        ({"API_URL": "https://"}, "must have a host"),
        ({"API_URL": "https://user:password@abc.example"}, "must not have a user"),
        ({"API_URL": f"{REMOTE}?x=1"}, "no query or fragment"),
        ({"API_URL": f"{REMOTE}#x"}, "no query or fragment"),
        ({"API_URL": f"{REMOTE}:port"}, "is no URL"),
        ({"API_URL": f"{REMOTE}/\x7f"}, "must have a host"),
        ({"API_URL": REMOTE, "PORT": "many"}, "PORT=many is not a port"),
        ({"API_URL": "https://api.example.com", "AWS_REGION": ""}, "no AWS region is known: name that of"),
    ],
)  # fmt: skip
def test_make_console_says_what_it_cannot_use(variables: dict[str, str], reason: str) -> None:
    process = command(**variables)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("error: ")
    assert reason in errors
    assert "password" not in errors


def test_port_in_use_is_told(api: Api) -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
        output, errors = command(API_URL=api.url, PORT=str(port)).communicate(timeout=60)
    assert (output, f"port {port} is in use" in errors) == ("", True)
