"""incident-runbook, DIAGNOSE: reads what monitoring knows. It comes in late, the third attempt finds all of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

COMPLETE_FROM_ATTEMPT = 3


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Say what is suspected. It only reads: once more does no harm."""
    facts = event["facts"]
    if event["attempt"] < COMPLETE_FROM_ATTEMPT:
        message = f"the metrics of {facts['service']} are not complete yet"
        return {"status": "failed", "error": {"name": "Telemetry.Incomplete", "message": message}}
    suspect = "deployment" if facts.get("lastDeployment") else "load"
    diagnosis = {"suspect": suspect, "collectedAt": datetime.now(UTC).isoformat()}
    return {"status": "completed", "facts": {"diagnosis": diagnosis}, "message": f"{suspect} is suspected"}
