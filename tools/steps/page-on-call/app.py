"""incident-runbook, PAGE: pages who is on call, with the call that acknowledges it. The pager is WORLD_DIR/pages."""

from __future__ import annotations

import os
from typing import Any

from outside_world import replace


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Page, unless somebody is at work already. A page that is sent again takes the place of the one before it."""
    facts = event["facts"]
    if by := facts.get("acknowledgedBy"):
        return {"status": "completed", "message": f"{by} is at work already, nobody was paged"}
    outcome = {"status": "completed", "facts": {"acknowledgedBy": "<who>"}}
    page = {
        "text": f"{facts['service']}: {facts.get('diagnosis', {}).get('suspect', 'nothing yet')} is suspected",
        "url": f"{os.environ['LOOP_API_URL']}/api/loop/runs/{event['runId']}/result",
        "body": {"taskToken": event["taskToken"], **outcome},
    }
    replace("pages", event["issueId"], page)
    print(f"paged who is on call for {event['issueId']}: WORLD_DIR/pages/{event['issueId']}.json")
    return {}
