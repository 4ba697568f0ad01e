"""Owns DBOS Transact as an engine: a workflow of one step, with the configuration of its quickstart.

Each client is an executor with an id of its own, as its guide to production asks for; else they would recover one
another's workflows.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from dbos import DBOS, DBOSConfig, SetWorkflowID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.engines import Operation


@DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
def step(issue_id: str) -> str:
    """Execute the step, which is as instant as a transition."""
    return f"{issue_id} is PICKED"


@DBOS.workflow()  # type: ignore[untyped-decorator,unused-ignore]
def run_next_step(issue_id: str) -> str:
    """Run one step."""
    state: str = step(issue_id)
    return state


class _Dbos:
    def prepare(self, url: str) -> None:
        with self.connected(url, "prepare"):
            """Launched, it migrates its database."""

    def register(self, url: str, prefix: str, count: int) -> None:
        """Nothing is needed: a workflow begins with a row of its own."""

    @contextmanager
    def connected(self, url: str, name: str) -> Iterator[Callable[[str], Operation]]:
        config: DBOSConfig = {
            "name": "bench",
            "system_database_url": url,
            "executor_id": name,
            "application_version": "1",
        }
        DBOS(config=config)
        DBOS.launch()
        try:

            def operation(prefix: str) -> Operation:
                def operate(number: int) -> None:
                    with SetWorkflowID(f"{prefix}-{number}"):
                        run_next_step(f"{prefix}-{number}")

                return operate

            yield operation
        finally:
            DBOS.destroy()


def parts(_name: str) -> _Dbos:
    """There is one."""
    return _Dbos()
