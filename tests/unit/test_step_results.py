"""What a step function is given and may answer: strict, and any answer at all is a result or says why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.results import Blocked, Completed, Failed, read_result
from tests.unit.strategies import JSON

RESULTS: list[tuple[dict[str, Any], Any]] = [
    ({"status": "completed"}, Completed()),
    ({"status": "completed", "facts": None, "outcome": None, "message": None}, Completed()),
    ({"status": "completed", "facts": {"a": None}}, Completed({"a": None})),
    ({"status": "completed", "outcome": "x", "message": ""}, Completed({}, "x", "")),
    ({"status": "blocked", "blocker": {"code": "A_1", "message": "m"}}, Blocked("A_1", "m")),
    ({"status": "failed", "error": {"name": "Agent.Busy", "message": ""}}, Failed("Agent.Busy", "")),
    (
        {"status": "failed", "error": {"name": "Limit", "message": "m", "retryAfterSeconds": 61.5}},
        Failed("Limit", "m", retry_after_seconds=61.5),
    ),
    ({"status": "failed", "error": {"name": "N", "message": "", "retryAfterSeconds": None}}, Failed("N", "")),
]
REFUSED: list[tuple[Any, str]] = [
    (None, "dictionary"),
    ([], "dictionary"),
    ("completed", "dictionary"),
    ({}, "status"),
    ({"status": "COMPLETED"}, "status"),
    ({"status": ["completed"]}, "status"),
    ({"status": "skipped"}, "status"),
    ({"status": "completed", "error": None}, "completed.error"),
    ({"status": "completed", "taskToken": "x"}, "completed.taskToken"),
    ({"status": "completed", "facts": "a"}, "completed.facts"),
    ({"status": "completed", "facts": []}, "completed.facts"),
    ({"status": "completed", "outcome": ""}, "completed.outcome"),
    ({"status": "completed", "outcome": "x" * 65}, "completed.outcome"),
    ({"status": "completed", "message": 1}, "completed.message"),
    ({"status": "completed", "message": "x" * 4001}, "completed.message"),
    ({"status": "blocked"}, "blocked.blocker"),
    ({"status": "blocked", "blocker": "NO"}, "blocked.blocker"),
    ({"status": "blocked", "blocker": {"code": "NO"}}, "blocked.blocker.message"),
    ({"status": "blocked", "blocker": {"code": "NO", "message": ""}}, "blocked.blocker.message"),
    ({"status": "blocked", "blocker": {"code": "no", "message": "m"}}, "blocked.blocker.code"),
    ({"status": "blocked", "blocker": {"code": "N" * 65, "message": "m"}}, "blocked.blocker.code"),
    ({"status": "blocked", "blocker": {"code": "NO\n", "message": "m"}}, "blocked.blocker.code"),
    ({"status": "blocked", "blocker": {"code": "NO", "message": "m", "x": 1}}, "blocked.blocker.x"),
    ({"status": "failed"}, "failed.error"),
    ({"status": "failed", "error": {"name": "N"}}, "failed.error.message"),
    ({"status": "failed", "error": {"name": "", "message": "m"}}, "failed.error.name"),
    ({"status": "failed", "error": {"name": "N" * 129, "message": "m"}}, "failed.error.name"),
    ({"status": "failed", "error": {"name": 1, "message": "m"}}, "failed.error.name"),
    ({"status": "failed", "error": {"name": "N", "message": "m"}, "facts": {}}, "failed.facts"),
    ({"status": "failed", "error": {"name": "N", "message": "m", "retryAfterSeconds": -1}}, "retryAfterSeconds"),
    ({"status": "failed", "error": {"name": "N", "message": "m", "retryAfterSeconds": "9"}}, "retryAfterSeconds"),
    ({"status": "failed", "error": {"name": "N", "message": "m", "retryAfterSeconds": True}}, "retryAfterSeconds"),
    ({"status": "failed", "error": {"name": "N", "message": "m", "retryAfterSeconds": 31622401}}, "retryAfterSeconds"),
]


@pytest.mark.parametrize(("answer", "result"), RESULTS)
def test_each_form_of_an_answer_is_its_result(answer: dict[str, Any], result: object) -> None:
    assert read_result(answer) == result


@pytest.mark.parametrize(("answer", "key"), REFUSED, ids=[str(answer)[:50] for answer, _ in REFUSED])
def test_anything_else_is_refused_and_its_key_named(answer: Any, key: str) -> None:
    with pytest.raises(ValueError, match=key.replace(".", r"\.")) as refused:
        read_result(answer)
    assert type(refused.value) is ValueError


def test_a_refusal_names_every_key_and_no_value() -> None:
    with pytest.raises(ValueError, match=r"blocker\.code: .*; blocked\.blocker\.message: ") as refused:
        read_result({"status": "blocked", "blocker": {"code": "secret", "message": ["secret"]}})
    assert "secret" not in str(refused.value)


def test_a_refusal_is_of_bounded_length() -> None:
    with pytest.raises(ValueError, match="more_0: ") as refused:
        read_result({"status": "completed", **{f"more_{number}": 1 for number in range(1000)}})
    assert len(str(refused.value)) <= 1000


STATUSES = st.sampled_from(["completed", "blocked", "failed"]) | JSON
ANSWERS = JSON | st.fixed_dictionaries(
    {"status": STATUSES},
    optional={
        "facts": JSON,
        "outcome": JSON,
        "message": JSON,
        "blocker": JSON | st.fixed_dictionaries({"code": JSON | st.just("NO"), "message": JSON}),
        "error": JSON | st.fixed_dictionaries({"name": JSON, "message": JSON}),
    },
)


@given(ANSWERS)
def test_any_answer_at_all_is_a_result_or_is_refused(answer: Any) -> None:
    try:
        result = read_result(answer)
    except ValueError:
        return
    assert isinstance(answer, dict)
    match result:
        case Completed():
            assert answer["status"] == "completed"
            assert set(answer) <= {"status", "facts", "outcome", "message"}
            assert result == Completed(answer.get("facts") or {}, answer.get("outcome"), answer.get("message"))
        case Blocked():
            assert answer == {"status": "blocked", "blocker": {"code": result.code, "message": result.message}}
        case Failed():
            assert answer == {"status": "failed", "error": {"name": result.code, "message": result.message}}
            assert not result.is_unknown
