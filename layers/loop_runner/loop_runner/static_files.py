"""Owns the run console's files: a page that is a client of the API like any other, and what browsers must keep to."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Final

from loop_runner.errors import NotFoundError
from loop_runner.http import Reply

if TYPE_CHECKING:
    from pathlib import Path

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS: Final = {
    "cache-control": "no-cache",  # asked again each time, answered 304 while it is the same
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""With each file: nothing is loaded from elsewhere, no inline script or style runs, nobody may frame the page."""


class StaticFiles:
    """The files of a folder, read once per process; what is not one of them is not served."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _files(self) -> dict[str, tuple[str, str, str]]:
        """By name: content, type, ETag."""
        files = {path.name: (path.read_text(), path.suffix) for path in self._folder.iterdir() if path.suffix in _TYPES}
        return {
            name: (text, _TYPES[suffix], f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"')
            for name, (text, suffix) in files.items()
        }

    def reply(self, name: str, if_none_match: str = "") -> Reply:
        """The file; 304 where the caller has it (RFC 9110, section 13.1.2). Raises NotFoundError."""
        if name not in self._files:
            raise NotFoundError
        text, content_type, tag = self._files[name]
        headers = HEADERS | {"etag": tag}
        if tag in (each.strip().removeprefix("W/") for each in if_none_match.split(",")):
            return Reply("", 304, headers)
        return Reply(text, headers=headers | {"content-type": content_type})
