"""``make openapi``: writes docs/openapi.json."""

from __future__ import annotations

import json
from typing import Final

from tools.local.settings import ROOT
from tools.openapi.document import document

FILE: Final = ROOT / "docs" / "openapi.json"


def text() -> str:
    """The document as its file has it."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(f"{FILE.relative_to(ROOT)}: {len(document()['paths'])} paths")
