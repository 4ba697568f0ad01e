"""Owns what a merge patch does to facts before the database does it: for answers that look ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop_runner.models import Json


def merge_patch(target: Json, patch: Json) -> Json:
    """The result of applying a merge patch (RFC 7396); the database's is loop_merge_patch, a test compares them."""
    merged = dict(target)
    for key, value in patch.items():
        before = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = merge_patch(before if isinstance(before, dict) else {}, value)
        else:
            merged[key] = value
    return merged
