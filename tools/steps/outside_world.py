"""Stands for what the step functions act on: a pager, a code host, servers. Files in the folder WORLD_DIR."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4


def do_once(act: str, key: str, content: dict[str, Any]) -> dict[str, Any]:
    """Do it where it was not done before, under this key; what was done. Two at once: one of them does it."""
    path = _path(act, key)
    new = _written(path, content)
    try:
        path.hardlink_to(new)
    except FileExistsError:
        return dict(json.loads(path.read_text()))
    finally:
        new.unlink()
    return content


def replace(act: str, key: str, content: dict[str, Any]) -> None:
    """Put it in the place of what there was."""
    path = _path(act, key)
    _written(path, content).replace(path)


def _written(path: Path, content: dict[str, Any]) -> Path:
    """A file beside the path with all of the content: nobody sees half of it."""
    new = path.with_name(f".{uuid4()}.new")
    new.write_text(json.dumps(content))
    return new


def _path(act: str, key: str) -> Path:
    folder = Path(os.environ["WORLD_DIR"]) / act
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{key}.json"
