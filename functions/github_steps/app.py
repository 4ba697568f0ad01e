"""The step function ``github`` of the loop github-delivery: finds out on GitHub what it must know, and merges."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from github_steps.execution import Access, execute
from loop_runner.observability import logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools.utilities.typing import LambdaContext

access = cache(Access.from_environment)


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Execute the step that the event names. What GitHub says or refuses is the answer, not an error."""
    logger.structure_logs(append=False)
    logger.append_keys(
        lambdaRequestId=context.aws_request_id,
        issueId=event["issueId"],
        runId=event["runId"],
        requestId=event["requestId"],
        step=event["step"]["type"],
    )
    answer = execute(event, access(), context.get_remaining_time_in_millis() / 1000)
    why = answer.get("blocker") or answer.get("error") or {}
    logger.info("executed", extra={"status": answer["status"], "code": why.get("code") or why.get("name")})
    return answer
