"""The loop github-delivery on a local stack, its GitHub being the fake one; nothing is merged twice, in any test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.conftest import assert_sound, create_database, drop_database
from tests.github.delivery import Delivery
from tests.github.fake import FakeGithub
from tests.sample_events import SECRET
from tools.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="package")
def world() -> Iterator[FakeGithub]:
    """The GitHub of all tests; each has a repository of its own."""
    with FakeGithub() as world:
        yield world


@pytest.fixture(scope="package")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the functions print."""
    return tmp_path_factory.mktemp("github") / "functions.log"


@pytest.fixture(scope="package")
def stack(server_url: str, migrated_template: str, world: FakeGithub, log_file: Path) -> Iterator[Stack]:
    url = create_database(server_url, migrated_template)
    environment = {
        "PATH": os.environ["PATH"],
        "GITHUB_TOKEN": world.token,
        "GITHUB_API_URL": world.url,
        "GITHUB_REPOSITORIES": "acme/*",
        "GITHUB_WEBHOOK_SECRET": SECRET,
    }
    with Stack(port=0, database_url=url, environment=environment, log_file=log_file) as stack:
        yield stack
        assert_sound(url)
    drop_database(server_url, url)


@pytest.fixture
def github(world: FakeGithub) -> Iterator[FakeGithub]:
    """GitHub without faults. Afterwards no pull request was merged more than once."""
    world.clear()
    world.log.clear()
    yield world
    world.clear()
    assert {url: merges for url, merges in world.merges.items() if merges > 1} == {}


@pytest.fixture
def delivery(stack: Stack, github: FakeGithub) -> Iterator[Delivery]:
    """An issue with a pull request of its own. Where it is beyond the merge, there was exactly one."""
    pull = github.repository(f"acme/{uuid4().hex[:8]}").pull()
    delivery = Delivery(stack, github, pull)
    yield delivery
    delivery.rest()
    delivery.assert_merged_once_if_at_all()
