"""Owns loops as data: one TOML file a loop, validated when it is loaded, loaded once per process."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from loop_runner.conditions import Condition, Gate
from loop_runner.errors import LoopDefinitionError

if TYPE_CHECKING:
    from pathlib import Path

LOOP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

State = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class _Definition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ExecutorDefinition(_Definition):
    """How a step is executed. ``transition``: its gates hold, the issue moves on."""

    kind: Literal["transition"]


class Step(_Definition):
    """A step: it leaves the states ``from``, and completed it moves the issue to ``to``."""

    number: Annotated[int, Field(ge=1, le=10_000)]
    type: State
    from_: Annotated[tuple[State, ...], Field(alias="from", min_length=1, strict=False)]
    to: State
    executor: ExecutorDefinition
    require: Annotated[tuple[Gate, ...], Field(strict=False)] = ()
    skip_if: Annotated[tuple[Condition, ...], Field(min_length=1, strict=False)] | None = None
    estimated_duration_ms: Annotated[int, Field(ge=0)] | None = None


class Loop(_Definition):
    """A loop: exactly one step leaves each state that is not a final one."""

    name: Annotated[str, StringConstraints(pattern=rf"^{LOOP_NAME.pattern}$")]
    initial_state: State
    completed_states: Annotated[tuple[State, ...], Field(min_length=1, strict=False)]
    failed_states: Annotated[tuple[State, ...], Field(strict=False)] = ()
    steps: Annotated[tuple[Step, ...], Field(min_length=1, strict=False)]

    _version: str = PrivateAttr(default="")
    _leaving: dict[str, Step] = PrivateAttr(default_factory=dict)

    @property
    def version(self) -> str:
        """Content hash of the file: the first 16 hex digits of its SHA-256."""
        return self._version

    @property
    def states(self) -> frozenset[str]:
        """Every state of the loop."""
        return frozenset(self._leaving) | self.final_states

    @property
    def final_states(self) -> frozenset[str]:
        """The states that no step leaves."""
        return frozenset(self.completed_states) | frozenset(self.failed_states)

    def step_leaving(self, state: str) -> Step | None:
        """The one step that leaves the state; None for a final or an unknown state."""
        return self._leaving.get(state)

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        for name in ("number", "type"):
            value, count = Counter(getattr(step, name) for step in self.steps).most_common(1)[0]
            if count > 1:
                raise ValueError(f"steps: {name} {value!r} is given to more than one step")
        for step in self.steps:
            for state in step.from_:
                if state in self.final_states:
                    raise ValueError(f"steps.{step.type}.from: {state} is a final state, no step leaves it")
                other = self._leaving.setdefault(state, step)
                if other is not step:
                    raise ValueError(f"steps.{step.type}.from: {state} is left by {other.type} already")
        if both := set(self.completed_states) & set(self.failed_states):
            raise ValueError(f"failed_states: {min(both)} is one of completed_states")
        self._check_skips()
        self._check_reachability()
        return self

    def _check_reachability(self) -> None:
        for where, state in [
            ("initial_state", self.initial_state),
            *((f"steps.{s.type}.to", s.to) for s in self.steps),
        ]:
            if state not in self.states:
                raise ValueError(f"{where}: {state} is undefined, no step leaves it and it is not a final state")
        reached, open_states = {self.initial_state}, [self.initial_state]
        while open_states:
            step = self._leaving.get(open_states.pop())
            if step and step.to not in reached:
                reached.add(step.to)
                open_states.append(step.to)
        for state in sorted(self.states - reached - set(self.failed_states)):  # there a person may move an issue
            raise ValueError(f"{state} is unreachable from initial_state {self.initial_state}")

    def _check_skips(self) -> None:
        for start in self._leaving:
            state, seen = start, {start}
            while (step := self._leaving.get(state)) and step.skip_if:
                state = step.to
                if state in seen:
                    raise ValueError(f"steps.{step.type}.skip_if: the skips lead from {state} back to it")
                seen.add(state)


KnownLoop = Loop | LoopDefinitionError | None
"""What a deployment knows of a loop's name: the loop, why its file is not valid, or nothing."""


class LoopCatalog:
    """The loops of a folder, ``<name>.toml`` each, loaded when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loops: dict[str, Loop] = {}

    def names(self) -> list[str]:
        """The names of all loops in the folder."""
        return sorted(path.stem for path in self._folder.glob("*.toml"))

    def get(self, name: str) -> KnownLoop:
        """The loop; None where there is no such file, and the error as a value where the file is not valid."""
        if name not in self._loops:
            path = self._folder / f"{name}.toml"
            if not LOOP_NAME.fullmatch(name) or not path.is_file():
                return None
            try:
                self._loops[name] = load_loop(path)
            except LoopDefinitionError as error:
                return error
        return self._loops[name]


def load_loop(path: Path) -> Loop:
    """Read and validate a loop's file; LoopDefinitionError names file, key and reason."""
    content = path.read_bytes()
    try:
        loop = Loop.model_validate(tomllib.loads(content.decode()))
    except ValidationError as error:
        raise LoopDefinitionError("; ".join(f"{path.name}: {reason}" for reason in _reasons(error))) from None
    except RecursionError:
        raise LoopDefinitionError(f"{path.name}: is nested too deep") from None
    except ValueError as error:  # not TOML, not UTF-8, a number of thousands of digits
        raise LoopDefinitionError(f"{path.name}: {error}") from None
    if loop.name != path.stem:
        raise LoopDefinitionError(f"{path.name}: name: {loop.name!r} is not the file's name")
    loop._version = hashlib.sha256(content).hexdigest()[:16]
    return loop


def _reasons(error: ValidationError) -> list[str]:
    """What is wrong, each with its key; without the complaints about a list that its own items have caused."""
    problems = {problem["loc"]: problem["msg"].removeprefix("Value error, ") for problem in error.errors()}
    causes = [loc for loc in problems if not any(o[: len(loc)] == loc and len(o) > len(loc) for o in problems)]
    return [f"{'.'.join(map(str, loc))}: {problems[loc]}" if loc else problems[loc] for loc in causes]
