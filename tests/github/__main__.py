"""Owns the fake GitHub as a program, `make github`: one pull request; calls of the API review, check and deploy it."""

from __future__ import annotations

import os
import sys
import threading

from tests.github.fake import FakeGithub
from tools.local.settings import read_port

DEFAULT_PORT = 3100


def main() -> None:
    """Serve until Ctrl-C. What it prints is what to start the local stack with, and what may be called as whom."""
    port = read_port(os.environ)
    with FakeGithub(DEFAULT_PORT if port is None else port, token="token-of-the-loop") as github:
        github.tokens["token-of-bob"] = "bob"
        pull = github.pull()
        lines = (
            f"GITHUB_API_URL={github.url} GITHUB_TOKEN={github.token} GITHUB_REPOSITORIES=acme/shop make dev",
            f"{github.pull_url(pull)} is by ann; bob, whose token is token-of-bob, may review it",
        )
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit()
