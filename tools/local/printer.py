"""Plain text for people: titles, aligned tables, quiet colour where the terminal wants it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

_INDENT: Final = "   "
_WIDTH: Final = 96
_BOLD, _DIM, _GREEN = "1", "2", "32"


class Printer:
    """Writes to standard output; colour only for a terminal, and never with NO_COLOR (https://no-color.org)."""

    def __init__(self) -> None:
        self._has_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def title(self, text: str) -> None:
        """A heading, after an empty line."""
        self._print("\n" + self._coloured(text, _BOLD))

    def line(self, text: str = "") -> None:
        """A line of text."""
        self._print(_INDENT + text if text else "")

    def progress(self, text: str) -> None:
        """Something that takes a while begins."""
        self._print(_INDENT + self._coloured(text, _DIM))

    def good(self, text: str) -> None:
        """Something was checked and holds."""
        self._print(f"{_INDENT}{self._coloured('ok', _GREEN)}  {text}")

    def table(self, rows: list[list[str]], *, has_head: bool = False) -> None:
        """Aligned columns; the first row is their names if ``has_head``."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self._print(_INDENT + (self._coloured(text, _DIM) if has_head and number == 0 else text))

    def json(self, value: Any) -> None:
        """JSON, each part on one line where it fits."""
        for text in _json_lines(value, ""):
            self.line(text)

    def _coloured(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._has_colour else text

    def _print(self, text: str) -> None:
        print(text, flush=True)


def _json_lines(value: Any, prefix: str) -> list[str]:
    whole = prefix + json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or not value or (prefix and len(whole) <= _WIDTH):
        return [whole]
    lines = [prefix + "{"]
    last = len(value) - 1
    for number, (key, part) in enumerate(value.items()):
        inner = _json_lines(part, f"{json.dumps(key)}: ")
        lines += ["  " + text for text in inner]
        lines[-1] += "," if number < last else ""
    return [*lines, "}"]
