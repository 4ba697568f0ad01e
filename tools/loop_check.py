"""Owns ``make loop-check``: validates loops, draws them, and says which way an issue with given facts would go."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loop_runner.errors import InvalidRequestError, LoopDefinitionError
from loop_runner.loops import ApprovalExecutor, CallbackExecutor, LambdaExecutor, Loop, LoopCatalog
from loop_runner.models import Approval, Issue, Json
from loop_runner.resolver import Blocked, Blocker, Ended, resolve_next_step
from loop_runner.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loop_runner.loops import Step

ROOT: Final = Path(__file__).resolve().parents[1]

_RESERVED: Final = frozenset(
    {
        "accdescr", "acctitle", "class", "classdef", "click", "default", "direction", "end", "fork", "hide", "href",
        "join", "note", "root", "root_end", "root_start", "scale", "state", "style",
    }
)  # fmt: skip
"""What a state of a mermaid diagram cannot be called, in any case; nor may its name have a hyphen."""


class LoopCheckError(Exception):
    """What was asked for cannot be done; the message says what to mend."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of an issue's way: what happens in ``state``, and where that leads; None where the way ends.

    ``blockers``: the gates that are not met.
    """

    state: str
    happens: str
    to: str | None = None
    blockers: tuple[Blocker, ...] = ()


def read_loops(folder: Path, name: str | None = None) -> list[Loop]:
    """The loops of the folder, or the one of this name. LoopCheckError names file, key and reason of what is wrong."""
    if not folder.is_dir():
        raise LoopCheckError(f"LOOPS_DIR={folder} is not a folder")
    catalog = LoopCatalog(folder)
    names = catalog.names()
    if not names:
        raise LoopCheckError(f"there is no loop in {folder}: LOOPS_DIR names a folder of TOML files, one a loop")
    if name is not None and name not in names:
        raise LoopCheckError(f"LOOP={name} is not in {folder}; there are: {', '.join(names)}")
    found = {each: catalog.get(each) for each in names if name in {None, each}}
    errors = [loop.message for loop in found.values() if isinstance(loop, LoopDefinitionError)]
    errors += [
        f"{each}.toml: a loop's name has small letters, digits and hyphens only"
        for each, loop in found.items()
        if loop is None
    ]
    if errors:
        raise LoopCheckError("\n".join(errors))
    return [loop for loop in found.values() if isinstance(loop, Loop)]


def read_facts(path: Path) -> Json:
    """The facts of a file: a JSON object as the API takes it. LoopCheckError says what is wrong with it."""
    try:
        facts = parse_json(path.read_bytes())
    except OSError as error:
        raise LoopCheckError(f"FACTS={path} cannot be read: {error.strerror}") from None
    except InvalidRequestError as error:
        raise LoopCheckError(f"FACTS={path}: {error.message.replace('the body', 'the file')}") from None
    if not isinstance(facts, dict):
        raise LoopCheckError(f'FACTS={path}: the facts of an issue are a JSON object, for example {{"risk": "low"}}')
    return facts


# ------------------------------------------------------------------------------------------------------ drawing


def draw(loop: Loop) -> str:
    """The loop as a mermaid state diagram: an arrow for each way that a step may go, final states lead out."""
    names = _names(loop)
    lines = [f'state "{state}" as {name}' for state, name in names.items() if state != name]
    lines.append(f"[*] --> {names[loop.initial_state]}")
    for step in loop.steps:
        for state in dict.fromkeys(step.from_):
            lines += [f"{names[state]} --> {names[to]}: {label}" for to, label in _ways(step)]
    lines += [f"{names[state]} --> [*]" for state in loop.completed_states]
    lines += [f"{names[state]} --> [*]: failed" for state in loop.failed_states]
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in lines)])


def _ways(step: Step) -> Iterator[tuple[str, str]]:
    kind = step.executor.kind
    yield step.to, step.type if kind == "transition" else f"{step.type} ({kind})"
    if step.skip_if:
        yield step.to, f"{step.type} skipped"
    for outcome, to in (step.outcomes or {}).items():
        yield to, f"{step.type} {outcome}"


def _names(loop: Loop) -> dict[str, str]:
    """By state, what the diagram calls it: itself, where mermaid can read that."""
    names: dict[str, str] = {}
    for number, state in enumerate(sorted(loop.states), 1):
        alias = f"s{number}"
        while alias in loop.states:
            alias += "_"
        names[state] = alias if "-" in state or state.lower() in _RESERVED else state
    return names


# ---------------------------------------------------------------------------------------------------------- way


def way(loop: Loop, state: str, facts: Json, now: datetime) -> Iterator[Leg]:
    """The way of an issue with these facts, as if every step that is executed elsewhere completed with its ``to``.

    It ends where gates are not met, in a final state, or where it would come back to a state that it has left.
    """
    seen: set[str] = set()
    while state not in seen:
        leg = _leg(loop, state, facts, now)
        yield leg
        if leg.to is None:
            return
        seen.add(state)
        state = leg.to
    yield Leg(state, "the way comes back here: only other facts, or another outcome, lead out")


def _leg(loop: Loop, state: str, facts: Json, now: datetime) -> Leg:
    step = loop.step_leaving(state)
    if step is None:
        return Leg(state, f"the end: {'completed' if state in loop.completed_states else 'failed'}")
    resolution = resolve_next_step(loop, _issue(loop, step, state, facts, now), now)
    if isinstance(resolution, Ended) or resolution.step is not step:
        return Leg(state, f"{step.type} → {step.to}, skipped", step.to)
    if isinstance(resolution, Blocked):
        return Leg(state, f"{step.type} is blocked", blockers=resolution.blockers)
    return Leg(state, f"{step.type} → {step.to}{_decision(step)}", step.to)


def _decision(step: Step) -> str:
    """Who decides whether the step leads to its ``to``, where it is not the gates alone."""
    match step.executor:
        case LambdaExecutor(function=function):
            who = f"the function {function} completes it"
        case CallbackExecutor(function=function):
            who = f"who has the task token given to {function} completes it"
        case ApprovalExecutor(four_eyes=four_eyes):
            who = f"somebody {'else ' if four_eyes else ''}approves"
        case _:
            return ""
    others = "".join(f", or {name} → {to}" for name, to in (step.outcomes or {}).items())
    return f", if {who}{others}"


def _issue(loop: Loop, step: Step, state: str, facts: Json, now: datetime) -> Issue:
    """An issue for whose step there is an approval: who decides is for the way to say, not what."""
    approval = Approval(decision="approved", actor="", at=now, version=1, step_number=step.number)
    return Issue(
        id="{issueId}", loop_name=loop.name, state=state, facts=facts, version=1, approval=approval,
        created_at=now, updated_at=now,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- command


def report(environment: Mapping[str, str], now: datetime) -> str:
    """What the command prints. LoopCheckError says what is wrong with the loops or with what was asked for."""
    folder = Path(environment.get("LOOPS_DIR") or ROOT / "loops")
    loops = read_loops(folder, environment.get("LOOP") or None)
    file, state = environment.get("FACTS"), environment.get("STATE")
    if not file and not state:
        return "\n".join(f"## {loop.name}\n\n```mermaid\n{draw(loop)}\n```\n" for loop in loops)
    facts = read_facts(Path(file)) if file else {}
    known = [loop for loop in loops if not state or state in loop.states]
    if not known:
        states = "; ".join(f"{loop.name} has {', '.join(sorted(loop.states))}" for loop in loops)
        raise LoopCheckError(f"STATE={state} is a state of no loop here: {states}")
    return "\n".join(_told(loop, state or loop.initial_state, facts, now) for loop in known)


def _told(loop: Loop, state: str, facts: Json, now: datetime) -> str:
    legs = list(way(loop, state, facts, now))
    width = max(len(leg.state) for leg in legs)
    lines = [f"{loop.name}, from {state}:", ""]
    for leg in legs:
        lines.append(f"  {leg.state:<{width}}  {leg.happens}")
        lines += [f"  {'':<{width}}  - {blocker.code}: {blocker.message}" for blocker in leg.blockers]
    return "\n".join([*lines, ""])


def main() -> int:
    """Print the report; exit status 1 with the reasons where there is none."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # facts and messages may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(report(os.environ, datetime.now(UTC)), end="")
    except LoopCheckError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
