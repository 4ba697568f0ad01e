"""What is cleaned can be stored, and nothing else is changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.sanitize import TEXT_LIMIT, clean_json, clean_text, is_storable

WILD_TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("\0\ud800\udfff"))
WILD_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WILD_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WILD_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(WILD_TEXT)
def test_cleaned_text_can_be_stored_and_keeps_its_length(text: str) -> None:
    cleaned = clean_text(text)
    assert is_storable(cleaned)
    assert len(cleaned) == len(text)
    assert (cleaned == text) is is_storable(text)
    assert clean_text(cleaned) == cleaned


@given(WILD_TEXT)
def test_storable_text_is_utf_8_without_nul(text: str) -> None:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        assert not is_storable(text)
    else:
        assert is_storable(text) is (b"\0" not in encoded)


@given(WILD_JSON)
def test_cleaned_json_can_be_stored_and_what_could_is_unchanged(value: Any) -> None:
    cleaned = clean_json(value)
    assert is_storable(json.dumps(cleaned, ensure_ascii=False))
    assert "\\u0000" not in json.dumps(cleaned)
    assert clean_json(cleaned) == cleaned


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_json_that_can_be_stored_stays_as_it_is(value: Any) -> None:
    assert clean_json(value) == json.loads(json.dumps(value).replace("\\u0000", "\\ufffd"))


@pytest.mark.parametrize("length", [TEXT_LIMIT - 1, TEXT_LIMIT])
def test_text_up_to_the_limit_is_kept_whole(length: int) -> None:
    assert clean_text("x" * length) == "x" * length


@pytest.mark.parametrize("length", [TEXT_LIMIT + 1, 10 * TEXT_LIMIT])
def test_longer_text_is_cut_to_the_limit_and_says_how_long_it_was(length: int) -> None:
    cut = clean_text("x" * length)
    assert len(cut) == TEXT_LIMIT
    assert cut.startswith("xxx")
    assert cut.endswith(f" … ({length} characters)")


@given(WILD_TEXT, st.integers(0, 40))
def test_text_is_never_longer_than_the_limit(text: str, limit: int) -> None:
    assert len(clean_text(text, limit)) <= limit
