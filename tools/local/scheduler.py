"""Runs the template's schedules: each at least once a minute, so that nobody waits for a long one on a laptop.

What an invocation comes to stands in the function's log. One at a time for each schedule.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tools.local.intrinsics import ACCOUNT, REGION, TemplateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.local.template import Function, Schedule
    from tools.local.workers import Workers

LONGEST_SECONDS: Final = 60.0

_RATE: Final = re.compile(r"rate\(([1-9]\d*) (minute|hour|day)s?\)")
_CRON: Final = re.compile(r"cron\(.+\)")


def seconds_between(schedule: Schedule) -> float:
    """How often the local stack runs the schedule, in seconds. TemplateError for what EventBridge does not know."""
    expression = schedule.expression
    if not _RATE.fullmatch(expression) and not _CRON.fullmatch(expression):
        raise TemplateError(f"{schedule.name}: {expression!r} is neither a rate(1 minute) nor a cron(…)")
    return LONGEST_SECONDS  # no rate is shorter than a minute


async def run_schedules(functions: Mapping[str, Function], workers: Mapping[str, Workers]) -> None:
    """Run every enabled schedule until cancelled; the first time after its first interval."""
    scheduled = [
        (schedule, workers[name])
        for name, function in functions.items()
        for schedule in function.schedules
        if schedule.enabled
    ]
    await asyncio.gather(*(_run(schedule, target) for schedule, target in scheduled))


async def _run(schedule: Schedule, target: Workers) -> None:
    pause = seconds_between(schedule)
    while True:
        await asyncio.sleep(pause)
        await target.invoke((schedule.payload or json.dumps(scheduled_event(schedule.name))).encode())


def scheduled_event(name: str) -> dict[str, object]:
    """What EventBridge Scheduler sends where no input is given, as observed."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": ACCOUNT,
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "region": REGION,
        "resources": [f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/{name}"],
        "detail": "{}",
    }
