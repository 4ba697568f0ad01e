"""The sample issue of events/, which dev registers in a new database and the demo drives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tools.local.client import Answer, request
from tools.local.stack import StackError

if TYPE_CHECKING:
    from pathlib import Path

ACTOR = "admin-user"


def read_sample(root: Path) -> dict[str, Any]:
    """What events/sample-issue.json says: issueId, loop, facts."""
    sample: dict[str, Any] = json.loads((root / "events" / "sample-issue.json").read_text())
    return sample


def register_sample_issue(url: str, root: Path) -> tuple[str, Answer]:
    """Register the issue of events/sample-issue.json; its id and the answer. StackError when it is refused."""
    sample = read_sample(root)
    path = f"/api/loop/issues/{quote(sample['issueId'], safe='')}"
    body = {"loop": sample["loop"], "facts": sample["facts"]}
    answer = request(url, "PUT", path, body, {"x-afu9-sub": ACTOR})
    if answer.status not in {200, 201}:
        raise StackError(f"PUT {path} was answered with {answer.status}: {answer.body.decode(errors='replace')}")
    return str(sample["issueId"]), answer
