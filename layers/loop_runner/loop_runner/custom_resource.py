"""Owns CloudFormation's custom resource: its request, and the answer, which is sent whatever comes of the request.

A deployment waits for the answer; without one it hangs until CloudFormation gives up, and so does its rollback.
"""

from __future__ import annotations

import json
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final
from urllib.request import Request, urlopen

from loop_runner.errors import LoopError, SchemaIsNewerError
from loop_runner.observability import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aws_lambda_powertools.utilities.typing import LambdaContext

ANSWER_SECONDS: Final = 60.0
"""Of the function's time, for the answer and its repetitions; a quarter of a short time."""

PUT_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 8.0
LONGEST_REASON: Final = 500
"""CloudFormation takes answers of 4 KiB."""

_RESOURCE_ID: Final = "loop-runner-migrations"
"""Never another one: CloudFormation would delete what has the old one."""


def is_request(event: Mapping[str, Any]) -> bool:
    """Whether CloudFormation has sent the event ("Custom resource request objects", CloudFormation User Guide)."""
    return "RequestType" in event and "ResponseURL" in event


def handle(event: Mapping[str, Any], context: LambdaContext, apply: Callable[[float], object]) -> dict[str, Any]:
    """Answer a request: ``apply`` brings the database to this release by a deadline (time.monotonic), or raises.

    Nothing is done for Delete: the database outlives the stack, or goes with it. On Update a database that is newer
    than this release is left as it is: that is how a rollback looks, and a release works on the schema of the next one.
    Raises LoopError when the answer cannot be delivered; Lambda then sends the request again.
    """
    remaining = context.get_remaining_time_in_millis() / 1000
    end = time.monotonic() + remaining
    status, reason = "SUCCESS", ""
    try:
        if event["RequestType"] != "Delete":
            apply(end - min(ANSWER_SECONDS, remaining / 4))
    except SchemaIsNewerError as error:
        logger.info("the database is newer than this release", extra={"reason": error.message})
        if event["RequestType"] != "Update":
            status, reason = "FAILED", error.message
    except LoopError as error:
        logger.exception("the request failed")
        status, reason = "FAILED", error.message
    except Exception as error:
        logger.exception("the request failed unexpectedly")
        status, reason = "FAILED", f"{type(error).__name__}: the function's log says more"
    answer = {
        "Status": status,
        "Reason": f"{reason[:LONGEST_REASON]} (log stream {context.log_stream_name})",
        "PhysicalResourceId": event.get("PhysicalResourceId") or _RESOURCE_ID,
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    _put(event["ResponseURL"], json.dumps(answer, ensure_ascii=False).encode(), end - 1)
    logger.info("answered", extra={"status": status, "reason": reason})
    return answer


def _put(url: str, body: bytes, deadline: float) -> None:
    """Put the answer where CloudFormation waits for it, in S3: the URL is presigned, for no content type."""
    pause = PAUSE_SECONDS
    while True:
        request = Request(url, body, {"content-type": ""}, method="PUT")  # noqa: S310  CloudFormation's own
        seconds = min(PUT_SECONDS, max(1.0, deadline - time.monotonic()))
        try:
            with urlopen(request, timeout=seconds):  # noqa: S310
                return
        except (OSError, HTTPException) as error:  # URLError and HTTPError are OSErrors
            logger.warning("the answer did not arrive", extra={"reason": f"{type(error).__name__}: {error}"})
        if time.monotonic() + pause > deadline:
            raise LoopError(
                "CloudFormation's answer could not be delivered: the function needs a way to S3 "
                "(a gateway endpoint in its subnets' route tables, or a NAT gateway)"
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
