"""incident-runbook, VERIFY: looks whether the service has recovered. A restart does not cure a bad deployment."""

from __future__ import annotations

from typing import Any


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Say so. It only reads."""
    facts = event["facts"]
    action, suspect = facts["mitigation"]["action"], facts["diagnosis"]["suspect"]
    if (action, suspect) == ("restart", "deployment"):
        message = f"{facts['service']} still fails after the restart"
        return {"status": "completed", "outcome": "not_recovered", "message": message}
    return {"status": "completed", "facts": {"recovery": {"after": action}}}
