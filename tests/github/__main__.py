"""Owns the fake GitHub as a program: one pull request, which calls of the API review, check and deploy.

python -m tests.github --port 3100
"""

from __future__ import annotations

import argparse
import sys
import threading

from tests.github.fake import FakeGithub


def main() -> None:
    """Serve until Ctrl-C; the first lines say what to start the local stack with, and what to call as whom."""
    parser = argparse.ArgumentParser(description="Behaves as GitHub's REST API, with one pull request.")
    parser.add_argument("--port", type=int, default=3100)
    with FakeGithub(parser.parse_args().port, token="token-of-the-loop") as github:
        github.tokens["token-of-bob"] = "bob"
        pull = github.pull()
        lines = (
            f"GITHUB_API_URL={github.url} GITHUB_TOKEN={github.token} GITHUB_REPOSITORIES=acme/shop make dev",
            f"pull request {github.pull_url(pull)}, head {pull.head}; bob, who reviews it, has token-of-bob",
        )
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit()
