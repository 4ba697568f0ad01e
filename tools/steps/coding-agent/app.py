"""agent-merge, IMPLEMENT: stands in for a coding agent, which works for longer than the function that starts it.

The agent is an asynchronous invocation of this function. It speaks to the API as anybody does who holds the task token;
deployed, sign these calls (AWS_IAM).
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from typing import Any

import boto3
from outside_world import do_once

LONGEST_DAYS = 5


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Start the agent and return at once. To start it twice does no harm, it looks for what it did."""
    if "agent" in event:
        _work(event["agent"])
    else:
        work = json.dumps({"agent": event}).encode()
        boto3.client("lambda").invoke(FunctionName=context.function_name, InvocationType="Event", Payload=work)
    return {}


def _work(call: dict[str, Any]) -> None:
    """Open a pull request, once for this token, and tell so; or that it is too much."""
    if not _tell(call, "heartbeat", {}):
        return
    facts = call["facts"]
    if facts["spec"].get("days", 1) > LONGEST_DAYS:
        _tell(
            call, "result", {"status": "completed", "outcome": "gave_up", "message": "too large for one pull request"}
        )
        return
    pr = {
        "url": facts["githubUrl"].replace("/issues/", "/pull/"),
        "headSha": hashlib.sha1(call["idempotencyToken"].encode(), usedforsecurity=False).hexdigest(),
    }
    done = do_once("pull-requests", call["idempotencyToken"], pr)
    _tell(call, "result", {"status": "completed", "facts": {"pr": done}, "message": f"opened {done['url']}"})


def _tell(call: dict[str, Any], what: str, body: dict[str, Any]) -> bool:
    """Make the call; whether anybody still waits for it."""
    request = urllib.request.Request(
        f"{os.environ['LOOP_API_URL']}/api/loop/runs/{call['runId']}/{what}",
        json.dumps({"taskToken": call["taskToken"], **body}).encode(),
        {"content-type": "application/json", "x-afu9-sub": "coding-agent"},
    )
    try:
        with urllib.request.urlopen(request):
            return True
    except urllib.error.HTTPError as error:
        if error.code == 409:  # the run has ended
            return False
        raise
