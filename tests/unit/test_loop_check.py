"""``make loop-check``: what is wrong with a loop, what it looks like, and which way an issue goes in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.loops import Loop, load_loop
from loop_runner.resolver import Blocked, Ended, Ready, resolve_next_step
from tests.conftest import LOOPS, ROOT
from tests.unit.strategies import FACTS, NOW, issue, loops
from tools.loop_check import LoopCheckError, draw, read_facts, read_loops, report, way

if TYPE_CHECKING:
    from pathlib import Path

    from loop_runner.models import Json

REPAIR = """
name = "repair"
initial_state = "OPEN"
completed_states = ["CLOSED"]
failed_states = ["GIVEN_UP"]

[[steps]]
number = 1
type = "LOOK"
from = ["OPEN", "in-doubt"]
to = "FOUND"
outcomes = { nothing = "CLOSED", hopeless = "GIVEN_UP" }
executor = { kind = "lambda", function = "look" }

[[steps]]
number = 2
type = "MEND"
from = ["FOUND"]
to = "note"
skip_if = [{ fact = "mended", is = true }]
require = [
  { fact = "owner", blocker = "NO_OWNER", message = "Say who mends it" },
  { fact = "risk", in = ["low", "high"], blocker = "NO_RISK" },
]
executor = { kind = "callback", function = "mend" }

[[steps]]
number = 3
type = "CHECK"
from = ["note"]
to = "CHECKED"
outcomes = { rejected = "in-doubt" }
executor = { kind = "approval", four_eyes = true }

[[steps]]
number = 4
type = "CLOSE"
from = ["CHECKED"]
to = "CLOSED"
executor = { kind = "transition" }
"""
ARROW = re.compile(r"^ {4}(\S+) --> (\S+?)(?:: (.+))?$")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "repair.toml").write_text(REPAIR)
    return tmp_path


@pytest.fixture
def repair(folder: Path) -> Loop:
    return load_loop(folder / "repair.toml")


def told(folder: Path, facts: Json | None = None, **environment: str) -> str:
    """The report on the folder; with ``facts`` as FACTS."""
    if facts is not None:
        (folder / "facts.json").write_text(json.dumps(facts))
        environment["FACTS"] = str(folder / "facts.json")
    return report({"LOOPS_DIR": str(folder), **environment}, NOW)


def lines_of(folder: Path, facts: Json, **environment: str) -> list[str]:
    """What happens, state by state, without the columns."""
    return [" ".join(line.split()) for line in told(folder, facts, **environment).splitlines()[2:]]


# --- drawing


def test_a_loop_is_drawn_with_its_states_steps_outcomes_skips_and_ends(repair: Loop) -> None:
    assert draw(repair).splitlines() == [
        "stateDiagram-v2",
        '    state "in-doubt" as s6',
        '    state "note" as s7',
        "    [*] --> OPEN",
        "    OPEN --> FOUND: LOOK (lambda)",
        "    OPEN --> CLOSED: LOOK nothing",
        "    OPEN --> GIVEN_UP: LOOK hopeless",
        "    s6 --> FOUND: LOOK (lambda)",
        "    s6 --> CLOSED: LOOK nothing",
        "    s6 --> GIVEN_UP: LOOK hopeless",
        "    FOUND --> s7: MEND (callback)",
        "    FOUND --> s7: MEND skipped",
        "    s7 --> CHECKED: CHECK (approval)",
        "    s7 --> s6: CHECK rejected",
        "    CHECKED --> CLOSED: CLOSE",
        "    CLOSED --> [*]",
        "    GIVEN_UP --> [*]: failed",
    ]


def test_the_name_of_a_drawn_state_is_no_other_states() -> None:
    text = REPAIR.replace('"CHECKED"', '"s4"').replace('"FOUND"', '"s5"')
    loop = Loop.model_validate(tomllib.loads(text))
    aliases = re.findall(r'state "(\S+)" as (\S+)', draw(loop))
    assert [state for state, _ in aliases] == ["in-doubt", "note"]
    assert len({*loop.states, *(alias for _, alias in aliases)}) == len(loop.states) + 2


@given(loops())
def test_each_way_out_of_each_state_is_drawn_once_and_no_other(loop: Loop) -> None:
    arrows = [match.groups() for line in draw(loop).splitlines()[1:] if (match := ARROW.match(line))]
    ways = [
        (state, to, label)
        for step in loop.steps
        for state in step.from_
        for to, label in [
            (step.to, step.type if step.executor.kind == "transition" else f"{step.type} ({step.executor.kind})"),
            *([(step.to, f"{step.type} skipped")] if step.skip_if else []),
            *((to, f"{step.type} {name}") for name, to in (step.outcomes or {}).items()),
        ]
    ]
    ends: list[tuple[str, str, str | None]] = [(state, "[*]", None) for state in loop.completed_states]
    ends += [(state, "[*]", "failed") for state in loop.failed_states]
    assert sorted(arrows, key=str) == sorted([("[*]", loop.initial_state, None), *ways, *ends], key=str)


@pytest.mark.parametrize("name", [path.stem for path in sorted(LOOPS.glob("*.toml"))])
def test_the_page_of_a_shipped_loop_shows_it_as_it_is_drawn(name: str) -> None:
    page = (ROOT / f"docs/loops/{name}.md").read_text()
    assert f"```mermaid\n{draw(load_loop(LOOPS / f'{name}.toml'))}\n```\n" in page


def test_every_loop_of_the_folder_is_drawn_or_the_one_that_is_named(folder: Path) -> None:
    (folder / "other.toml").write_text(REPAIR.replace('"repair"', '"other"'))
    assert re.findall(r"^## (\S+)\n\n```mermaid\nstate[^`]*\n```$", told(folder), re.MULTILINE) == ["other", "repair"]
    assert re.findall(r"^## (\S+)", told(folder, LOOP="repair"), re.MULTILINE) == ["repair"]


# --- the way


def test_the_way_shows_skips_decisions_of_others_and_the_end(folder: Path) -> None:
    assert lines_of(folder, {"mended": True}) == [
        "OPEN LOOK → FOUND, if the function look completes it, or nothing → CLOSED, or hopeless → GIVEN_UP",
        "FOUND MEND → note, skipped",
        "note CHECK → CHECKED, if somebody else approves, or rejected → in-doubt",
        "CHECKED CLOSE → CLOSED",
        "CLOSED the end: completed",
    ]


def test_the_way_ends_at_gates_that_are_not_met_with_what_would_satisfy_each(folder: Path) -> None:
    call = "To go on: PATCH /api/loop/issues/{issueId}"
    assert lines_of(folder, {"risk": "none"}, STATE="FOUND") == [
        "FOUND MEND is blocked",
        f'- NO_OWNER: Say who mends it. {call} {{"owner":"<value>"}}',
        f'- NO_RISK: the fact risk must be one of "low", "high". {call} {{"risk":"low"}}',
    ]
    assert lines_of(folder, {"risk": "low", "owner": "ann"}, STATE="FOUND")[0] == (
        "FOUND MEND → note, if who has the task token given to mend completes it"
    )


def test_the_way_from_a_failed_state_is_its_end(folder: Path) -> None:
    assert lines_of(folder, {}, STATE="GIVEN_UP") == ["GIVEN_UP the end: failed"]


def test_a_way_that_goes_round_says_so_and_ends(folder: Path) -> None:
    (folder / "repair.toml").write_text(
        REPAIR.replace('to = "CHECKED"', 'to = "in-doubt"').replace('rejected = "in-doubt"', 'rejected = "CHECKED"')
    )
    found = lines_of(folder, {"mended": True})
    assert [line.split()[0] for line in found] == ["OPEN", "FOUND", "note", "in-doubt", "FOUND"]
    assert "comes back here" in found[-1]


def test_a_state_is_taken_from_those_loops_that_have_it(folder: Path) -> None:
    (folder / "other.toml").write_text(REPAIR.replace('"repair"', '"other"').replace('"CHECKED"', '"SEEN"'))
    assert "other, from" not in told(folder, STATE="CHECKED")
    assert "repair, from CHECKED:" in told(folder, STATE="CHECKED")
    with pytest.raises(LoopCheckError, match=r"^STATE=CHECKED is a state of no loop here: other has CLOSED, "):
        told(folder, STATE="CHECKED", LOOP="other")


@st.composite
def loops_and_states(draw: st.DrawFn) -> tuple[Loop, str]:
    loop = draw(loops())
    return loop, draw(st.sampled_from(sorted(loop.states)))


@given(loops_and_states(), FACTS)
def test_the_way_is_the_one_that_the_resolver_takes(found: tuple[Loop, str], facts: Json) -> None:
    loop, start = found
    legs = list(way(loop, start, facts, NOW))
    assert [leg.state for leg in legs] == [start, *(leg.to for leg in legs[:-1])]
    assert legs[-1].to is None
    resolution = resolve_next_step(loop, issue(start, facts), NOW)
    if isinstance(resolution, Blocked) and resolution.step and resolution.blockers[0].code == "APPROVAL_REQUIRED":
        approved = issue(start, facts, approval="approved", approved_step=resolution.step.number)
        resolution = resolve_next_step(loop, approved, NOW)
    passed = len(resolution.skipped) if isinstance(resolution, Ready | Ended) else 0
    if isinstance(resolution, Blocked):
        passed = next(number for number, leg in enumerate(legs) if leg.to is None or "skipped" not in leg.happens)
        assert [blocker.code for blocker in legs[passed].blockers] == [blocker.code for blocker in resolution.blockers]
    assert all(leg.happens.endswith(", skipped") for leg in legs[:passed])
    assert not legs[passed].happens.endswith(", skipped")
    if isinstance(resolution, Ready):
        assert legs[passed].happens.startswith(f"{resolution.step.type} → {resolution.step.to}")
    if isinstance(resolution, Ended):
        assert (legs[passed].state, legs[passed].happens) == (resolution.state, f"the end: {resolution.loop_status}")


# --- what cannot be done


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"[", "the file is not JSON: Expecting value at line 1", id="no JSON"),
        pytest.param(b'{"a": NaN}', "the file is not JSON: NaN is no JSON number", id="NaN"),
        pytest.param(b'{"a": 1, "a": 2}', "the file has an object with the same key twice", id="a key twice"),
        pytest.param(b"\xff", "the file is not valid UTF-8", id="not UTF-8"),
        pytest.param(b"[1]", "the facts of an issue are a JSON object", id="a list"),
        pytest.param(b"null", "the facts of an issue are a JSON object", id="null"),
    ],
)
def test_a_file_that_holds_no_facts_is_an_error_with_its_name(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "facts.json").write_bytes(content)
    with pytest.raises(LoopCheckError, match=f"^FACTS={tmp_path}/facts.json: {re.escape(reason)}"):
        read_facts(tmp_path / "facts.json")


def test_a_file_of_facts_that_cannot_be_read_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(LoopCheckError, match=f"^FACTS={tmp_path}/none.json cannot be read: No such file"):
        read_facts(tmp_path / "none.json")
    with pytest.raises(LoopCheckError, match=f"^FACTS={tmp_path} cannot be read: Is a directory"):
        read_facts(tmp_path)


def test_every_file_that_is_no_loop_is_named_with_key_and_reason(folder: Path) -> None:
    (folder / "a.toml").write_text(REPAIR.replace('"repair"', '"a"').replace("number = 4", "number = 0"))
    (folder / "b.toml").write_text("name =")
    (folder / "C.toml").write_text(REPAIR.replace('"repair"', '"C"'))
    with pytest.raises(LoopCheckError) as caught:
        read_loops(folder)
    a, b, c = str(caught.value).splitlines()
    assert a.startswith("a.toml: steps.3.number: ")
    assert b.startswith("b.toml: ")
    assert c == "C.toml: a loop's name has small letters, digits and hyphens only"
    assert [loop.name for loop in read_loops(folder, "repair")] == ["repair"]


def test_a_folder_without_loops_and_a_loop_that_it_lacks_are_errors(folder: Path) -> None:
    with pytest.raises(LoopCheckError, match=r"^LOOP=none is not in \S+; there are: repair$"):
        read_loops(folder, "none")
    with pytest.raises(LoopCheckError, match=r"^LOOPS_DIR=\S+/none is not a folder$"):
        read_loops(folder / "none")
    (folder / "repair.toml").unlink()
    with pytest.raises(LoopCheckError, match=r"^there is no loop in "):
        read_loops(folder)


def test_the_command_ends_with_1_and_its_reasons_where_something_is_wrong(folder: Path) -> None:
    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.loop_check"]
        return subprocess.run(
            command, cwd=ROOT, env={"LOOPS_DIR": str(folder)}, capture_output=True, text=True, encoding="utf-8",
            check=False, timeout=60,
        )  # fmt: skip

    done = check()
    assert (done.returncode, done.stderr, done.stdout) == (0, "", told(folder))
    (folder / "repair.toml").write_text(REPAIR.replace("number = 4", "number = 0"))
    done = check()
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: repair\.toml: steps\.3\.number: .*\n", done.stderr)
