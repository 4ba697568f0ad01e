"""agent-merge, MERGE: merges the head that was checked. The code host is WORLD_DIR/merges."""

from __future__ import annotations

from typing import Any

from outside_world import do_once


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Merge it, unless it was: an attempt whose outcome nobody heard of may have done so."""
    pr = event["facts"]["pr"]
    do_once("merges", pr["headSha"], {"url": pr["url"], "by": event["idempotencyToken"]})
    return {"status": "completed", "facts": {"pr": {"merged": True}}, "message": f"merged {pr['url']}"}
