"""Loops are data: a valid file is a loop, anything else is an error that names file, key and reason."""

from __future__ import annotations

import hashlib
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from loop_runner.errors import LoopDefinitionError
from loop_runner.loops import Loop, LoopCatalog, load_loop
from tests.conftest import LOOPS
from tests.unit.strategies import loops

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
name = "small"
initial_state = "A"
completed_states = ["C"]
"""
ONE = """
[[steps]]
number = 1
type = "ONE"
from = ["A"]
to = "B"
executor = { kind = "transition" }
"""
TWO = """
[[steps]]
number = 2
type = "TWO"
from = ["B"]
to = "C"
executor = { kind = "transition" }
"""
VALID = HEAD + ONE + TWO


def write(folder: Path, text: str | bytes, name: str = "small") -> Path:
    path = folder / f"{name}.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_valid_file_is_a_loop_named_and_versioned_by_it(tmp_path: Path) -> None:
    loop = load_loop(write(tmp_path, VALID))
    assert (loop.name, loop.initial_state) == ("small", "A")
    assert (sorted(loop.states), sorted(loop.final_states)) == (["A", "B", "C"], ["C"])
    assert [(step.number, step.type, step.to) for step in loop.steps] == [(1, "ONE", "B"), (2, "TWO", "C")]
    assert loop.version == hashlib.sha256(VALID.encode()).hexdigest()[:16]


def test_the_version_changes_with_any_byte_of_the_file(tmp_path: Path) -> None:
    assert load_loop(write(tmp_path, VALID)).version != load_loop(write(tmp_path, f"{VALID}# words\n")).version


def test_a_state_named_twice_is_left_once(tmp_path: Path) -> None:
    loop = load_loop(write(tmp_path, VALID.replace('from = ["A"]', 'from = ["A", "A"]')))
    assert loop.step_leaving("A") is loop.steps[0]
    assert loop.step_leaving("C") is None
    assert loop.step_leaving("nowhere") is None


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        pytest.param('name = "small"', 'name = "small"\ncolour = 1', "colour", "not permitted", id="unknown key"),
        pytest.param("number = 1", "number = 1\nnote = 1", "steps.0.note", "not permitted", id="unknown key of a step"),
        pytest.param('{ kind = "transition" }', '{ kind = "transition", x = 1 }', "steps.0.executor.x", "not permitted",
                     id="unknown key of an executor"),
        pytest.param('name = "small"', "", "name", "required", id="no name"),
        pytest.param('initial_state = "A"', "", "initial_state", "required", id="no initial state"),
        pytest.param('initial_state = "A"', 'initial_state = "Z"', "initial_state", "Z is undefined",
                     id="undefined initial state"),
        pytest.param('to = "B"', 'to = "Z"', "steps.ONE.to", "Z is undefined", id="undefined state"),
        pytest.param('from = ["A"]', 'from = ["A", "Y"]', "initial_state", "Y is unreachable", id="unreachable state"),
        pytest.param('completed_states = ["C"]', 'completed_states = ["C", "D"]', "initial_state", "D is unreachable",
                     id="unreachable final state"),
        pytest.param('completed_states = ["C"]', "completed_states = []", "completed_states", "at least 1",
                     id="no final state"),
        pytest.param('completed_states = ["C"]', 'completed_states = ["C"]\nfailed_states = ["C"]', "failed_states",
                     "C is one of completed_states", id="a state that is success and failure"),
        pytest.param("number = 2", "number = 1", "steps: number", "1 is given to more than one step",
                     id="duplicate number"),
        pytest.param('type = "TWO"', 'type = "ONE"', "steps: type", "'ONE' is given to more than one step",
                     id="duplicate type"),
        pytest.param('from = ["B"]', 'from = ["A", "B"]', "steps.TWO.from", "A is left by ONE already",
                     id="two steps leave one state"),
        pytest.param('from = ["B"]', 'from = ["B", "C"]', "steps.TWO.from", "C is a final state",
                     id="a step leaves a final state"),
        pytest.param("number = 1", "number = 0", "steps.0.number", "greater than or equal to 1", id="number 0"),
        pytest.param("number = 1", 'number = "1"', "steps.0.number", "integer", id="number as text"),
        pytest.param("number = 1", "number = true", "steps.0.number", "integer", id="number as bool"),
        pytest.param('to = "B"', 'to = "B C"', "steps.0.to", "match pattern", id="a state with a space"),
        pytest.param('from = ["A"]', 'from = "A"', "steps.0.from", "tuple", id="from as text"),
        pytest.param('from = ["A"]', "from = []", "steps.0.from", "at least 1", id="from nowhere"),
        pytest.param('executor = { kind = "transition" }', "", "steps.0.executor", "required", id="no executor"),
        pytest.param('kind = "transition"', 'kind = "shell"', "steps.0.executor.kind", "transition",
                     id="unknown kind of executor"),
        pytest.param('to = "B"', 'to = "B"\nskip_if = []', "steps.0.skip_if", "at least 1", id="skip on nothing"),
        pytest.param('to = "B"', 'to = "B"\nrequire = [{ fact = "a..b", blocker = "X" }]', "steps.0.require.0.fact",
                     "match pattern", id="bad path"),
        pytest.param('to = "B"', 'to = "B"\nrequire = [{ fact = "a", is = "x", min = 1, blocker = "X" }]',
                     "steps.0.require.0", "give one of is, in", id="two operators"),
        pytest.param('to = "B"', 'to = "B"\nrequire = [{ fact = "a", equals = 1, blocker = "X" }]',
                     "steps.0.require.0.equals", "not permitted", id="unknown operator"),
        pytest.param('to = "B"', 'to = "B"\nrequire = [{ fact = "a", is = nan, blocker = "X" }]', "steps.0.require.0",
                     "nan and inf", id="nan"),
        pytest.param('to = "B"', 'to = "B"\nrequire = [{ fact = "a", is = 2026-11-24, blocker = "X" }]',
                     "steps.0.require.0.is", "valid", id="a date of TOML is no JSON"),
        pytest.param('to = "B"', 'to = "B"\nrequire = [{ fact = "a" }]', "steps.0.require.0.blocker", "required",
                     id="no blocker"),
        pytest.param('to = "B"', 'to = "B"\nrequire = [{ fact = "a", blocker = "no a" }]', "steps.0.require.0.blocker",
                     "match pattern", id="bad blocker"),
        pytest.param('to = "B"', 'to = "B"\nskip_if = [{ fact = "a", blocker = "X" }]', "steps.0.skip_if.0.blocker",
                     "not permitted", id="a skip does not block"),
        pytest.param('name = "small"', 'name = "other"', "name", "'other' is not the file's name", id="another name"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_loop_is_an_error_with_file_key_and_reason(
    tmp_path: Path, old: str, new: str, key: str, reason: str
) -> None:
    assert old in VALID
    with pytest.raises(LoopDefinitionError) as caught:
        load_loop(write(tmp_path, VALID.replace(old, new, 1)))
    assert caught.value.message.startswith("small.toml: ")
    assert key in caught.value.message
    assert reason in caught.value.message


def test_no_steps_are_no_loop(tmp_path: Path) -> None:
    with pytest.raises(LoopDefinitionError, match=r"^small\.toml: steps: "):
        load_loop(write(tmp_path, HEAD))
    with pytest.raises(LoopDefinitionError, match=r"^small\.toml: steps: "):
        load_loop(write(tmp_path, f"{HEAD}steps = []\n"))


def test_every_error_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(LoopDefinitionError) as caught:
        load_loop(write(tmp_path, VALID.replace("number = 1", "number = 0").replace('"B"', '"B C"')))
    assert {"number", "to", "from"} <= set(caught.value.message.replace(":", ".").split("."))


def test_steps_that_skip_each_other_in_a_circle_are_refused_as_that(tmp_path: Path) -> None:
    skips = 'skip_if = [{ fact = "no" }]\n'
    text = HEAD + ONE + skips + TWO.replace('"C"', '"A"') + skips
    with pytest.raises(LoopDefinitionError, match=r"^small\.toml: .*skip_if: the skips lead from"):
        load_loop(write(tmp_path, text))


def test_a_failed_state_needs_no_step_that_leads_to_it(tmp_path: Path) -> None:
    """It is optional, and every step leads to one state: only a person moves an issue there (POST …/state)."""
    failed = VALID.replace("[[steps]]", 'failed_states = ["ABANDONED"]\n[[steps]]', 1)
    loop = load_loop(write(tmp_path, failed))
    assert "ABANDONED" in loop.final_states


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("name = ", id="bad TOML"),
        pytest.param("[[steps]\n", id="bad table"),
        pytest.param('name = "a"\nname = "b"\n', id="a key twice"),
        pytest.param(VALID.replace("small", "sm\xe4ll").encode("latin-1"), id="not UTF-8"),
        pytest.param(f"{VALID}\0", id="NUL"),
        pytest.param(VALID.encode("utf-16"), id="UTF-16"),
        pytest.param(f"{HEAD}steps = {'1' * 5000}", id="a number of thousands of digits"),
        pytest.param(f"{HEAD}steps = {'[' * 20_000}", id="nested without end"),
    ],
)
def test_a_file_that_is_no_toml_is_an_error_with_its_name(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(LoopDefinitionError, match=r"^small\.toml: ."):
        load_loop(write(tmp_path, content))


@given(loops())
def test_exactly_one_step_leaves_each_state_that_is_not_final(loop: Loop) -> None:
    for state in loop.states:
        leaving = [step for step in loop.steps if state in step.from_]
        assert len(leaving) == (state not in loop.final_states)
        assert loop.step_leaving(state) is (leaving[0] if leaving else None)


# --- steps that are executed elsewhere

LAMBDA = VALID.replace('{ kind = "transition" }', '{ kind = "lambda", function = "work" }', 1)
CALLBACK = VALID.replace(
    '{ kind = "transition" }', '{ kind = "callback", function = "ask", heartbeat_seconds = 60 }', 1
)
APPROVAL = VALID.replace('{ kind = "transition" }', '{ kind = "approval" }', 1)
RETRY = '[[steps.retry]]\nErrorEquals = ["Busy"]\n'


def with_step(text: str, lines: str) -> str:
    """With these lines in the first step."""
    return text.replace('to = "B"\n', f'to = "B"\n{lines}\n', 1)


def with_policy(lines: str) -> str:
    """With a retry policy of the first step."""
    return LAMBDA.replace(TWO, f"[[steps.retry]]\n{lines}\n{TWO}")


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        pytest.param(with_step(VALID, "timeout_seconds = 5"), "steps.0: timeout_seconds",
                     "goes with the executors lambda and callback, this one is transition",
                     id="timeout of a transition"),
        pytest.param(with_step(APPROVAL, "timeout_seconds = 5"), "steps.0: timeout_seconds", "this one is approval",
                     id="timeout of an approval"),
        pytest.param(VALID.replace(TWO, RETRY + TWO), "steps.0: retry", "this one is transition",
                     id="retry of a transition"),
        pytest.param(APPROVAL.replace(TWO, RETRY + TWO), "steps.0: retry", "this one is approval",
                     id="retry of an approval"),
        pytest.param(with_step(LAMBDA, "timeout_seconds = 0"), "steps.0.timeout_seconds", "greater than or equal to 1",
                     id="no time"),
        pytest.param(with_step(LAMBDA, "timeout_seconds = 1.5"), "steps.0.timeout_seconds", "integer",
                     id="half a second"),
        pytest.param(with_step(LAMBDA, "timeout_seconds = 301"), "steps.0: timeout_seconds",
                     "at most 300 for a lambda step; use a callback", id="a lambda that the worker cannot wait for"),
        pytest.param(with_step(CALLBACK, "timeout_seconds = 31536001"), "steps.0.timeout_seconds",
                     "less than or equal to 31536000", id="more than a year"),
        pytest.param(with_step(CALLBACK, "timeout_seconds = 59"), "steps.0: executor.heartbeat_seconds",
                     "is longer than the step's timeout, 59 s", id="a heartbeat after the end"),
        pytest.param(CALLBACK.replace("heartbeat_seconds = 60", "heartbeat_seconds = 0"),
                     "steps.0.executor.heartbeat_seconds", "greater than or equal to 1", id="no heartbeat"),
        pytest.param(LAMBDA.replace('function = "work"', 'function = "work", heartbeat_seconds = 1'),
                     "steps.0.executor.heartbeat_seconds", "not permitted", id="heartbeats of a lambda"),
        pytest.param(LAMBDA.replace(', function = "work"', ""), "steps.0.executor.function", "required",
                     id="a lambda without a function"),
        pytest.param(CALLBACK.replace('function = "ask", ', ""), "steps.0.executor.function", "required",
                     id="a callback without a function"),
        pytest.param(LAMBDA.replace('"work"', '"arn:aws:lambda:eu-west-1:1:function:work"'),
                     "steps.0.executor.function", "match pattern", id="a function by its ARN"),
        pytest.param(LAMBDA.replace('"work"', f'"{"w" * 65}"'), "steps.0.executor.function", "match pattern",
                     id="a function of a long name"),
        pytest.param(APPROVAL.replace('"approval"', '"approval", four_eyes = 2'), "steps.0.executor.four_eyes",
                     "boolean", id="as many eyes"),
        pytest.param(APPROVAL.replace('"approval"', '"approval", function = "x"'), "steps.0.executor.function",
                     "not permitted", id="a function that approves"),
        pytest.param(with_step(VALID, 'outcomes = { gone = "C" }'), "steps.0: outcomes",
                     "a transition has no outcome but the one that `to` names", id="outcomes of a transition"),
        pytest.param(with_step(APPROVAL, 'outcomes = { rejected = "C", later = "A" }'), "steps.0: outcomes",
                     "an approval has the outcome rejected and no other", id="another outcome of an approval"),
        pytest.param(with_step(LAMBDA, "outcomes = {}"), "steps.0.outcomes", "at least 1", id="no outcomes"),
        pytest.param(with_step(LAMBDA, 'outcomes = { gone = "Z" }'), "steps.ONE.outcomes.gone", "Z is undefined",
                     id="an outcome to nowhere"),
        pytest.param(with_step(LAMBDA, 'outcomes = { "to do" = "C" }'), "steps.0.outcomes.to do.[key]", "match pattern",
                     id="an outcome with a space"),
        pytest.param(with_step(LAMBDA, 'outcomes = ["C"]'), "steps.0.outcomes", "dictionary", id="a list of outcomes"),
        pytest.param(with_policy('ErrorEquals = ["States.ALL"]\n[[steps.retry]]\nErrorEquals = ["Busy"]'),
                     "steps.0: retry", "States.ALL is for the last policy, those after it would never match",
                     id="a policy that never matches"),
        pytest.param(with_policy('ErrorEquals = ["States.ALL", "Busy"]'), "steps.0.retry.0: ErrorEquals",
                     "States.ALL stands alone", id="any error and another"),
        pytest.param(with_policy("MaxAttempts = 1"), "steps.0.retry.0.ErrorEquals", "required", id="no errors"),
        pytest.param(with_policy("ErrorEquals = []"), "steps.0.retry.0.ErrorEquals", "at least 1", id="empty errors"),
        pytest.param(with_policy('ErrorEquals = ["A"]\nIntervalSeconds = 0'), "steps.0.retry.0.IntervalSeconds",
                     "greater than or equal to 1", id="no interval"),
        pytest.param(with_policy('ErrorEquals = ["A"]\nMaxAttempts = -1'), "steps.0.retry.0.MaxAttempts",
                     "greater than or equal to 0", id="fewer than no retries"),
        pytest.param(with_policy('ErrorEquals = ["A"]\nBackoffRate = 0.5'), "steps.0.retry.0.BackoffRate",
                     "greater than or equal to 1", id="a shrinking delay"),
        pytest.param(with_policy('ErrorEquals = ["A"]\nBackoffRate = nan'), "steps.0.retry.0.BackoffRate",
                     "greater than or equal to 1", id="a rate that is no number"),
        pytest.param(with_policy('ErrorEquals = ["A"]\nMaxDelaySeconds = 99999999'), "steps.0.retry.0.MaxDelaySeconds",
                     "less than or equal to 31622400", id="more than a year of delay"),
        pytest.param(with_policy('ErrorEquals = ["A"]\nJitterStrategy = "HALF"'), "steps.0.retry.0.JitterStrategy",
                     "'FULL' or 'NONE'", id="half a jitter"),
        pytest.param(with_policy('ErrorEquals = ["A"]\nmax_attempts = 1'), "steps.0.retry.0.max_attempts",
                     "not permitted", id="a key in another spelling"),
        pytest.param(VALID.replace("initial_state", 'protected_facts = ["pr.url"]\ninitial_state', 1),
                     "protected_facts.0", "match pattern", id="a path of protected facts"),
        pytest.param(VALID.replace("initial_state", 'protected_facts = "pr"\ninitial_state', 1), "protected_facts",
                     "tuple", id="protected facts as text"),
        pytest.param(VALID.replace("initial_state", "auto_advance = 1\ninitial_state", 1), "auto_advance", "boolean",
                     id="auto_advance as a number"),
    ],
)  # fmt: skip
def test_what_an_executor_does_not_have_is_an_error_with_file_key_and_reason(
    tmp_path: Path, text: str, key: str, reason: str
) -> None:
    with pytest.raises(LoopDefinitionError) as caught:
        load_loop(write(tmp_path, text))
    assert caught.value.message.startswith(f"small.toml: {key}: ")
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (LAMBDA, 20),
        (with_step(LAMBDA, "timeout_seconds = 300"), 300),
        (CALLBACK, 3600),
        (with_step(CALLBACK, "timeout_seconds = 60"), 60),
        (with_step(CALLBACK, "timeout_seconds = 31536000"), 31_536_000),
    ],
)
def test_a_step_that_is_executed_elsewhere_has_its_time(tmp_path: Path, text: str, seconds: int) -> None:
    assert load_loop(write(tmp_path, text)).steps[0].timeout == seconds


def test_a_state_that_only_an_outcome_leads_to_is_reachable(tmp_path: Path) -> None:
    text = with_step(LAMBDA, 'outcomes = { again = "A", gone = "D" }').replace('["C"]', '["C", "D"]', 1)
    loop = load_loop(write(tmp_path, text))
    assert loop.steps[0].targets == ("B", "A", "D")
    assert loop.final_states == {"C", "D"}


def test_the_states_from_which_a_long_step_may_be_next_are_known(tmp_path: Path) -> None:
    skips = 'skip_if = [{ fact = "no" }]'
    long = LAMBDA.replace(TWO, TWO.replace('"transition"', '"lambda", function = "slow"') + "timeout_seconds = 25\n")
    for text, states in [
        (LAMBDA, []),
        (with_step(LAMBDA, "timeout_seconds = 24"), []),
        (with_step(LAMBDA, "timeout_seconds = 25"), ["A"]),
        (with_step(CALLBACK, "timeout_seconds = 3600"), []),
        (long, ["B"]),
        (with_step(long, skips), ["A", "B"]),
    ]:
        write(tmp_path, text)
        assert LoopCatalog(tmp_path).long_states == ({"small": states} if states else {})


def test_the_protected_facts_of_each_loop_are_known(tmp_path: Path) -> None:
    write(tmp_path, VALID)
    write(
        tmp_path, VALID.replace('"small"', '"other"\nprotected_facts = ["pr", "a b"]', 1).replace("a b", "b"), "other"
    )
    write(tmp_path, "name =", "broken")
    protected = LoopCatalog(tmp_path).protected_facts
    assert protected == {"other": ["pr", "b"], "broken": None}, "which those of a broken loop are, nobody knows"


def test_a_step_is_found_by_number_and_type(tmp_path: Path) -> None:
    loop = load_loop(write(tmp_path, VALID))
    assert loop.step_of(2, "TWO") is loop.steps[1]
    assert loop.step_of(1, "TWO") is None
    assert loop.step_of(None, "TWO") is None


# --- the folder


def test_a_catalog_knows_the_loops_of_its_folder_by_name(tmp_path: Path) -> None:
    write(tmp_path, VALID)
    write(tmp_path, VALID.replace("small", "other"), "other")
    (tmp_path / "notes.md").touch()
    catalog = LoopCatalog(tmp_path)
    assert catalog.names() == ["other", "small"]
    small = catalog.get("small")
    assert isinstance(small, Loop)
    assert small.name == "small"
    assert catalog.get("small") is small


@pytest.mark.parametrize("name", ["", "none", "../small", "small.toml", "/etc/passwd", "a\0b", "SMALL", "x" * 65, "-a"])
def test_a_name_that_is_no_loops_has_none(tmp_path: Path, name: str) -> None:
    write(tmp_path, VALID)
    folder = tmp_path / "inner"
    folder.mkdir()
    assert LoopCatalog(folder).get(name) is None


def test_a_catalog_without_a_folder_is_empty(tmp_path: Path) -> None:
    catalog = LoopCatalog(tmp_path / "none")
    assert catalog.names() == []
    assert catalog.get("small") is None


def test_a_broken_file_is_an_error_each_time_until_it_is_mended(tmp_path: Path) -> None:
    write(tmp_path, "name =")
    catalog = LoopCatalog(tmp_path)
    for _ in range(2):
        assert isinstance(catalog.get("small"), LoopDefinitionError)
    write(tmp_path, VALID)
    assert isinstance(catalog.get("small"), Loop)


# --- the loop that is shipped

GATES: list[tuple[str, str, list[tuple[dict[str, Any], str]]]] = [
    ("CREATED", "S1_PICK_ISSUE", [({"fact": "githubUrl"}, "NO_GITHUB_LINK")]),
    ("PICKED", "S2_SPEC_READY", [
        ({"fact": "draft"}, "NO_DRAFT"),
        ({"fact": "draft.committed", "is": True}, "NO_COMMITTED_DRAFT"),
        ({"fact": "draft.status", "is": "valid"}, "DRAFT_INVALID"),
    ]),
    ("SPEC_READY", "S3_IMPLEMENT_PREP", []),
    ("IMPLEMENTING_PREP", "S4_REVIEW", [({"fact": "pr.url"}, "NO_PR_LINKED")]),
    ("REVIEW_READY", "S5_MERGE", [
        ({"fact": "review.decision"}, "NO_REVIEW_APPROVAL"),
        ({"fact": "review.decision", "is": "approved"}, "CHANGES_REQUESTED"),
        ({"fact": "checks.status"}, "CHECKS_PENDING"),
        ({"fact": "checks.status", "in": ["success"]}, "CHECKS_FAILED"),
    ]),
    ("DONE", "S6_DEPLOYMENT_OBSERVE", [({"fact": "pr.merged", "is": True}, "PR_NOT_MERGED")]),
    ("OBSERVED", "S7_VERIFY_GATE", [
        ({"fact": "deployment.observedAt"}, "NO_DEPLOYMENT_OBSERVATIONS"),
        ({"fact": "deployment.observedAt", "max_age_seconds": 86_400}, "STALE_EVIDENCE"),
        ({"fact": "verdict", "is": "GREEN"}, "NO_GREEN_VERDICT"),
    ]),
    ("VERIFIED", "S8_CLOSE", []),
]  # fmt: skip
"""The table of design section 6, in order."""


def test_the_shipped_loop_is_the_table_of_the_design() -> None:
    loop = load_loop(LOOPS / "issue-delivery.toml")
    assert (loop.initial_state, loop.completed_states, loop.failed_states) == ("CREATED", ("CLOSED",), ())
    assert [step.number for step in loop.steps] == list(range(1, 9))
    following = [state for state, _, _ in GATES[1:]] + ["CLOSED"]
    for step, (state, name, gates), to in zip(loop.steps, GATES, following, strict=True):
        assert (step.from_, step.type, step.to) == ((state,), name, to)
        found = [
            gate.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"message", "blocker"})
            for gate in step.require
        ]
        assert found == [condition for condition, _ in gates]
        assert [gate.blocker for gate in step.require] == [blocker for _, blocker in gates]


def test_the_shipped_loop_skips_its_first_step_only_and_only_for_a_draft() -> None:
    first, *others = load_loop(LOOPS / "issue-delivery.toml").steps
    assert first.skip_if
    assert [condition.model_dump(by_alias=True, exclude_none=True) for condition in first.skip_if] == [
        {"fact": "draft"}
    ]
    assert all(step.skip_if is None for step in others)


def test_no_gate_of_the_delivery_from_github_reads_what_a_caller_may_write() -> None:
    loop = load_loop(LOOPS / "github-delivery.toml")
    read = {
        condition.fact.partition(".")[0] for step in loop.steps for condition in (*step.require, *(step.skip_if or ()))
    }
    assert read
    assert read <= set(loop.protected_facts)


def test_every_shipped_file_is_a_valid_loop() -> None:
    for name in LoopCatalog(LOOPS).names():
        loop = LoopCatalog(LOOPS).get(name)
        assert isinstance(loop, Loop)
        assert tomllib.loads((LOOPS / f"{name}.toml").read_text())["name"] == loop.name
