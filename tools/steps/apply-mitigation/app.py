"""incident-runbook, MITIGATE: does what was approved. The servers are WORLD_DIR/mitigations."""

from __future__ import annotations

from typing import Any

from outside_world import do_once


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Restart or roll back, once for this token: an attempt whose outcome nobody heard of may have done it."""
    facts = event["facts"]
    done = do_once(
        "mitigations", event["idempotencyToken"], {"service": facts["service"], "action": facts["plan"]["action"]}
    )
    return {"status": "completed", "facts": {"mitigation": {"action": done["action"]}}}
