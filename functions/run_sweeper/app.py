"""On a schedule: ends lost runs, sends messages for what is due, deletes what is past its retention."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

from loop_runner.background import sweep
from loop_runner.database import WAKING_SECONDS
from loop_runner.observability import logger
from loop_runner.services import Services
from loop_runner.settings import ANSWER_RESERVE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools.utilities.typing import LambdaContext

services = cache(Services.from_environment)


def handler(_event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Sweep once; an error fails the invocation, and the next one goes on."""
    logger.structure_logs(append=False)
    logger.append_keys(lambdaRequestId=context.aws_request_id)
    deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - ANSWER_RESERVE_SECONDS
    services().database.deadline, services().database.connect_seconds = deadline, WAKING_SECONDS
    done = sweep(
        services().ledger,
        services().messages,
        retention_days=services().settings.retention_days,
        deadline=deadline - 1,
    )
    logger.info("swept", extra=done)
    return {"schemaVersion": "loop.sweep.v1", **done}
