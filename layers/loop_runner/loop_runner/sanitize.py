"""Owns the cleaning of text that others produced, so that PostgreSQL can store it and nobody drowns in it."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

TEXT_LIMIT = 4_000
"""Longest stored text, in characters."""

# text and jsonb refuse NUL (22021, 22P05), jsonb and UTF-8 lone surrogates (22P02).
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store the text as it is."""
    return _UNSTORABLE.search(text) is None


def clean_text(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text with U+FFFD for what cannot be stored, cut to ``limit`` characters with a note of what it had."""
    if len(text) > limit:
        note = f" … ({len(text)} characters)"
        text = (text[: max(0, limit - len(note))] + note)[:limit]
    return _UNSTORABLE.sub("\ufffd", text)


def clean_json(value: JsonValue) -> JsonValue:
    """The value with every key and string cleaned, and null for NaN and the infinities, which JSON does not have."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case dict():
            return {_UNSTORABLE.sub("\ufffd", key): clean_json(item) for key, item in value.items()}
        case list():
            return [clean_json(item) for item in value]
        case _:
            return value
