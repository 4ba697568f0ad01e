"""The local stack runs the template's schedules, each at least once a minute."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from tools.local import scheduler
from tools.local.intrinsics import TemplateError
from tools.local.settings import ROOT
from tools.local.template import Schedule, load_functions

if TYPE_CHECKING:
    from tools.local.workers import Workers


class Target:
    """Stands for the workers of a function: keeps what it is invoked with."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []

    async def invoke(self, payload: bytes) -> None:
        self.payloads.append(json.loads(payload))


def schedule(expression: str, payload: str | None = None, *, enabled: bool = True) -> Schedule:
    return Schedule("Name", expression, payload, enabled)


@pytest.mark.parametrize("expression", ["rate(1 minute)", "rate(5 minutes)", "rate(2 days)", "cron(0 12 * * ? *)"])
def test_a_schedule_runs_every_minute_at_the_latest(expression: str) -> None:
    assert scheduler.seconds_between(schedule(expression)) == 60


@pytest.mark.parametrize("expression", ["", "rate(0 minutes)", "rate(1 second)", "every minute", "cron()"])
def test_what_eventbridge_does_not_know_is_an_error(expression: str) -> None:
    with pytest.raises(TemplateError, match="Name"):
        scheduler.seconds_between(schedule(expression))


def test_the_template_has_a_sweeper_that_runs_every_minute() -> None:
    functions = load_functions(ROOT / "template.yaml")
    (every_minute,) = functions["RunSweeperFunction"].schedules
    assert (every_minute.expression, every_minute.enabled) == ("rate(1 minute)", True)


def test_enabled_schedules_invoke_their_function_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "LONGEST_SECONDS", 0.01)
    targets = {"Swept": Target(), "Fed": Target(), "Off": Target()}

    class Functions(dict[str, Any]):
        pass

    class Holder:
        def __init__(self, *schedules: Schedule) -> None:
            self.schedules = schedules

    functions = Functions(
        Swept=Holder(schedule("rate(1 minute)")),
        Fed=Holder(schedule("rate(1 minute)", '{"a": 1}')),
        Off=Holder(schedule("rate(1 minute)", enabled=False)),
    )

    async def main() -> None:
        running = asyncio.create_task(scheduler.run_schedules(functions, cast("dict[str, Workers]", targets)))
        async with asyncio.timeout(30):
            while min(len(targets["Swept"].payloads), len(targets["Fed"].payloads)) < 2:
                await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(main())
    assert targets["Fed"].payloads[:2] == [{"a": 1}, {"a": 1}]
    assert targets["Swept"].payloads[0]["source"] == "aws.scheduler"
    assert targets["Off"].payloads == []
