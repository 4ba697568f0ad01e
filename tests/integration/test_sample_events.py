"""Each sample event is answered by its function's handler, in the local stack's worker processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.conftest import create_database, drop_database
from tests.sample_events import GIVEN, NAMES, SECRET, assert_answered
from tools.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def stack(server_url: str, migrated_template: str) -> Iterator[Stack]:
    """As deployed, it does not trust the header x-afu9-sub: who calls is what the events' authorizer says."""
    url = create_database(server_url, migrated_template)
    github = {
        "GITHUB_TOKEN": "x",
        "GITHUB_API_URL": GIVEN["GithubApiUrl"],
        "GITHUB_REPOSITORIES": GIVEN["GithubRepositories"],
        "GITHUB_WEBHOOK_SECRET": SECRET,
    }
    environment = {"PATH": os.environ["PATH"], "TRUST_ACTOR_HEADER": "0", **github}
    with Stack(port=0, database_url=url, environment=environment) as stack:
        yield stack
    drop_database(server_url, url)


@pytest.mark.parametrize("name", NAMES)
def test_event_is_answered_by_its_handler(stack: Stack, name: str) -> None:
    assert_answered(name, stack.invoke)
