"""The sample issue of events/, which dev registers in a new database and the demo drives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from tools.local.client import Answer, request
from tools.local.stack import StackError

if TYPE_CHECKING:
    from pathlib import Path

ACTOR = "local-developer"


def register_sample_issue(url: str, root: Path) -> tuple[str, Answer]:
    """Register the issue of events/sample-issue.json; its id and the answer. StackError when it is refused."""
    sample = json.loads((root / "events" / "sample-issue.json").read_text())
    path = f"/api/loop/issues/{quote(sample['issueId'], safe='')}"
    body = {"loop": sample["loop"], "facts": sample["facts"]}
    answer = request(url, "PUT", path, body, {"x-afu9-sub": ACTOR})
    if answer.status not in {200, 201}:
        raise StackError(f"PUT {path} was answered with {answer.status}: {answer.body.decode(errors='replace')}")
    return sample["issueId"], answer
