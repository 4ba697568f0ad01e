"""docs/scale.md says what the results of `make bench-scale` say, and nothing else."""

from __future__ import annotations

import json
import re

from benchmarks.scale import page


def test_the_page_is_what_the_results_say() -> None:
    text = page.PAGE.read_text()
    assert text == page.render(text, json.loads(page.RESULT.read_text())), "run: python -m benchmarks.scale.page"
    assert sorted(re.findall(r"<!-- scale: (\S+) -->", text)) == sorted(page.PARTS)


def test_the_results_are_of_every_call_at_every_level() -> None:
    result = json.loads(page.RESULT.read_text())
    assert result["issues"] == 10_000
    assert [level["runs"] for level in result["levels"]][:2] == [10_000, 1_000_000]
    for level in result["levels"]:
        assert all(call["large"]["n"] >= 5 for call in level["calls"] if call["kind"] in {"read", "write"})
    assert {goal["bound"] for goal in result["goals"]} == {1.5}
