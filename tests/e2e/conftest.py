"""What is deployed, on this machine: functions and layer as SAM builds them, under Lambda's own runtime.

A function gets the environment that the template gives it, and a database that the built migrate function has migrated.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import ROOT, create_database, drop_database
from tests.e2e.emulator import HOST, Emulator
from tests.e2e.services import Services
from tests.sample_events import GIVEN, SECRET, read
from tools.build.sam import Artifact, build
from tools.local.settings import PASSWORD_IN_URL
from tools.local.template import load_functions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@pytest.fixture(scope="session")
def artifact(worker_id: str) -> Artifact:
    """What `sam build` makes for this machine. Without python3.13 it is an error that says how to get one."""
    return build(HOST, folder=ROOT / ".aws-sam" / "e2e" / worker_id)


class Functions:
    """The functions of a built template on a database, each started when it is first called."""

    def __init__(
        self, artifact: Artifact, database_url: str, started: ExitStack, timeouts: Mapping[str, int] | None = None
    ) -> None:
        self.services = started.enter_context(Services({"github-webhook": SECRET}))
        parameters = {**GIVEN, **self.services.queue_urls, "Architecture": artifact.architecture}
        local = {**PASSWORD_IN_URL, "DATABASE_URL": database_url}
        self._functions = {
            name: replace(
                function,
                environment={
                    **function.environment,
                    **self.services.environment,
                    **(local if "DATABASE_URL" in function.environment else {}),
                },
            )
            for name, function in load_functions(artifact.template, parameters).items()
        }
        self._timeouts = timeouts or {}
        self._started = started
        self._emulators: dict[str, Emulator] = {}

    def __getitem__(self, name: str) -> Emulator:
        """The function of a logical id."""
        if name not in self._emulators:
            emulator = Emulator(self._functions[name], timeout=self._timeouts.get(name))
            self._emulators[name] = self._started.enter_context(emulator)
        return self._emulators[name]

    def invoke(self, name: str, event: object) -> Any:
        """What a function answers. Raises FunctionError."""
        return self[name].invoke(event)

    def send(self, name: str, event: str) -> tuple[int, Any]:
        """Status and body with which a function answers an event of events/."""
        answer = self.invoke(name, read(event))
        return answer["statusCode"], json.loads(answer["body"])


@pytest.fixture(scope="session")
def migrated_template(artifact: Artifact, server_url: str) -> Iterator[str]:
    """The name of a database that the built migrate function has migrated, to clone."""
    url = create_database(server_url)
    with ExitStack() as started:
        Functions(artifact, url, started).invoke("MigrateFunction", read("migrate-apply.json"))
    yield str(conninfo_to_dict(url)["dbname"])
    drop_database(server_url, url)


@pytest.fixture
def functions(artifact: Artifact, database_url: str) -> Iterator[Functions]:
    """The functions on a migrated database of the test's own."""
    with ExitStack() as started:
        yield Functions(artifact, database_url, started)
