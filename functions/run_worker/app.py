"""Takes messages from the queue: begins queued runs, goes on with issues that are due or that GitHub tells of."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

import loop_runner.issues  # noqa: F401  each message asks for them: at INIT, which has a whole core
from loop_runner.background import Invocation, work
from loop_runner.database import WAKING_SECONDS
from loop_runner.observability import logger
from loop_runner.services import Services
from loop_runner.settings import ANSWER_RESERVE_SECONDS, LEASE_GRACE_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools.utilities.typing import LambdaContext

services = cache(Services.from_environment)


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Do what each message says. Those that failed come again (partial batch response), at last to the dead letters."""
    failures = []
    for record in event["Records"]:
        logger.structure_logs(append=False)
        logger.append_keys(lambdaRequestId=context.aws_request_id, messageId=record["messageId"])
        remaining_ms = context.get_remaining_time_in_millis()
        deadline = time.monotonic() + remaining_ms / 1000 - ANSWER_RESERVE_SECONDS
        try:
            services().database.deadline, services().database.connect_seconds = deadline, WAKING_SECONDS
            work(
                services().runner,
                services().issues,
                record["body"],
                Invocation(remaining_ms + LEASE_GRACE_MS, deadline, context.aws_request_id, context.log_stream_name),
            )
        except Exception:
            logger.exception("a message failed")
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}
