"""Owns what a function works with: made from the settings, once per process, each part when it is first used."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Self

from loop_runner.database import Database
from loop_runner.execution import Runner
from loop_runner.ledger import Ledger
from loop_runner.loops import LoopCatalog
from loop_runner.messages import Messages
from loop_runner.settings import Settings

if TYPE_CHECKING:
    from loop_runner.history import History
    from loop_runner.issues import Issues
    from loop_runner.run_store import RunStore


class Services:
    """The parts that routes call, on one database connection."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def from_environment(cls) -> Self:
        """From the function's environment; ConfigurationError names a variable that is missing."""
        return cls(Settings.from_environment())

    @cached_property
    def database(self) -> Database:
        """The one connection."""
        return Database(self.settings.url_to_connect)

    @cached_property
    def loops(self) -> LoopCatalog:
        """The loops of this deployment."""
        return LoopCatalog(self.settings.loops_dir)

    @cached_property
    def ledger(self) -> Ledger:
        """Claims and finishes."""
        return Ledger(self.database)

    @cached_property
    def messages(self) -> Messages:
        """The queue of run-worker."""
        return Messages(self.settings.run_queue_url)

    @cached_property
    def runner(self) -> Runner:
        """Runs next steps."""
        return Runner(self.ledger, self.loops, self.messages, self.settings.step_function_prefix)

    @cached_property
    def runs(self) -> RunStore:
        """Runs and steps."""
        from loop_runner.run_store import RunStore  # noqa: PLC0415  run-next-step does without

        return RunStore(self.database)

    @cached_property
    def issues(self) -> Issues:
        """Issues."""
        from loop_runner.issues import Issues  # noqa: PLC0415  run-next-step does without

        return Issues(self.database)

    @cached_property
    def history(self) -> History:
        """The timeline."""
        from loop_runner.history import History  # noqa: PLC0415  run-next-step does without

        return History(self.database)
