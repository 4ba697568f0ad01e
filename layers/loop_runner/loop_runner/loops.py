"""Owns loops as data: one TOML file a loop, validated when it is loaded, loaded once per process."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from loop_runner.conditions import Condition, Gate
from loop_runner.errors import LoopDefinitionError
from loop_runner.retry import ANY_ERROR, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

API_STEP_SECONDS: Final = 24
"""How long a step may take that a call waits for: API Gateway gives up after 30 s."""

LOOP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

State = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class _Definition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
OutcomeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
FactKey = Annotated[str, StringConstraints(pattern=r"^[^.\s]+$", max_length=128)]

LAMBDA_SECONDS: Final = 20
CALLBACK_SECONDS: Final = 3600
LONGEST_LAMBDA_SECONDS: Final = 300
"""What run-worker waits for a function: NAT gateways and endpoints drop a connection that was silent for 350 s."""


class TransitionExecutor(_Definition):
    """The gates hold, the issue moves on."""

    kind: Literal["transition"]


class LambdaExecutor(_Definition):
    """A Lambda function is invoked; what it returns is the outcome. ``function`` is its name without the prefix."""

    kind: Literal["lambda"]
    function: FunctionName


class CallbackExecutor(_Definition):
    """A Lambda function gets a task token; whoever has it tells the outcome, later."""

    kind: Literal["callback"]
    function: FunctionName
    heartbeat_seconds: Annotated[int, Field(ge=1)] | None = None


class ApprovalExecutor(_Definition):
    """A person decides on the issue as it is; with ``four_eyes`` another one than who asked for it."""

    kind: Literal["approval"]
    four_eyes: bool = False


ExecutorDefinition = Annotated[
    TransitionExecutor | LambdaExecutor | CallbackExecutor | ApprovalExecutor, Field(discriminator="kind")
]


class Step(_Definition):
    """A step: it leaves the states ``from``, and completed it moves the issue to ``to``, or where its outcome leads."""

    number: Annotated[int, Field(ge=1, le=10_000)]
    type: State
    from_: Annotated[tuple[State, ...], Field(alias="from", min_length=1, strict=False)]
    to: State
    executor: ExecutorDefinition
    require: Annotated[tuple[Gate, ...], Field(strict=False)] = ()
    skip_if: Annotated[tuple[Condition, ...], Field(min_length=1, strict=False)] | None = None
    outcomes: Annotated[dict[OutcomeName, State], Field(min_length=1)] | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=365 * 86_400)] | None = None
    retry: Annotated[tuple[RetryPolicy, ...], Field(min_length=1, strict=False)] = ()
    estimated_duration_ms: Annotated[int, Field(ge=0)] | None = None

    @property
    def timeout(self) -> int:
        """Seconds that the function, or who has the task token, may take."""
        default = CALLBACK_SECONDS if self.executor.kind == "callback" else LAMBDA_SECONDS
        return self.timeout_seconds or default

    @property
    def targets(self) -> tuple[State, ...]:
        """The states that the step may lead to."""
        return (self.to, *(self.outcomes or {}).values())

    @model_validator(mode="after")
    def _fits_its_executor(self) -> Self:
        executor = self.executor
        if not isinstance(executor, LambdaExecutor | CallbackExecutor):
            for key in ("timeout_seconds", "retry"):
                if getattr(self, key):
                    raise ValueError(f"{key}: goes with the executors lambda and callback, this one is {executor.kind}")
        if isinstance(executor, TransitionExecutor) and self.outcomes:
            raise ValueError("outcomes: a transition has no outcome but the one that `to` names")
        if isinstance(executor, ApprovalExecutor) and set(self.outcomes or {}) - {"rejected"}:
            raise ValueError("outcomes: an approval has the outcome rejected and no other")
        if isinstance(executor, LambdaExecutor) and self.timeout > LONGEST_LAMBDA_SECONDS:
            raise ValueError(f"timeout_seconds: at most {LONGEST_LAMBDA_SECONDS} for a lambda step; use a callback")
        if isinstance(executor, CallbackExecutor) and (executor.heartbeat_seconds or 0) > self.timeout:
            raise ValueError(f"executor.heartbeat_seconds: is longer than the step's timeout, {self.timeout} s")
        if any(ANY_ERROR in policy.error_equals for policy in self.retry[:-1]):
            raise ValueError(f"retry: {ANY_ERROR} is for the last policy, those after it would never match")
        return self


class Loop(_Definition):
    """A loop: exactly one step leaves each state that is not a final one."""

    name: Annotated[str, StringConstraints(pattern=rf"^{LOOP_NAME.pattern}$")]
    initial_state: State
    completed_states: Annotated[tuple[State, ...], Field(min_length=1, strict=False)]
    failed_states: Annotated[tuple[State, ...], Field(strict=False)] = ()
    protected_facts: Annotated[tuple[FactKey, ...], Field(strict=False)] = ()
    auto_advance: bool = False
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

    def step_of(self, number: int | None, type_: str) -> Step | None:
        """The step with this number and type, None where the loop has changed since."""
        return next((step for step in self.steps if (step.number, step.type) == (number, type_)), None)

    def long_states(self, seconds: float) -> list[str]:
        """The states from which a function that may take longer can be next, after skips or at once."""
        return [state for state in sorted(self._leaving) if any(_is_long(s, seconds) for s in self._next_of(state))]

    def states_before(self, function: str) -> list[str]:
        """The states from which a step of this Lambda function can be next, after skips or at once."""
        return [state for state in sorted(self._leaving) if any(_is_of(s, function) for s in self._next_of(state))]

    def _next_of(self, state: str) -> Iterator[Step]:
        step = self._leaving.get(state)
        while step is not None:
            yield step
            step = self._leaving.get(step.to) if step.skip_if else None

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
            *((f"steps.{s.type}.outcomes.{name}", to) for s in self.steps for name, to in (s.outcomes or {}).items()),
        ]:
            if state not in self.states:
                raise ValueError(f"{where}: {state} is undefined, no step leaves it and it is not a final state")
        reached, open_states = {self.initial_state}, [self.initial_state]
        while open_states:
            step = self._leaving.get(open_states.pop())
            new = set(step.targets) - reached if step else set()
            reached |= new
            open_states += new
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


def _is_long(step: Step, seconds: float) -> bool:
    return step.executor.kind == "lambda" and step.timeout > seconds


def _is_of(step: Step, function: str) -> bool:
    return isinstance(step.executor, LambdaExecutor) and step.executor.function == function


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

    def valid(self) -> list[Loop]:
        """Every loop whose file is valid."""
        return [loop for name in self.names() if isinstance(loop := self.get(name), Loop)]

    @cached_property
    def protected_facts(self) -> dict[str, list[str] | None]:
        """By loop: the top-level facts that only steps may write; None where the loop's file is not valid.

        Loops that have none are left out.
        """
        loops = {name: self.get(name) for name in self.names()}
        facts = {name: list(loop.protected_facts) if isinstance(loop, Loop) else None for name, loop in loops.items()}
        return {name: keys for name, keys in facts.items() if keys != []}

    @cached_property
    def long_states(self) -> dict[str, list[str]]:
        """By loop: the states from which a step may be next that the API cannot wait for."""
        states = {loop.name: loop.long_states(API_STEP_SECONDS) for loop in self.valid()}
        return {name: each for name, each in states.items() if each}

    def states_before(self, function: str) -> dict[str, list[str]]:
        """By loop: the states from which a step of this Lambda function can be next."""
        states = {loop.name: loop.states_before(function) for loop in self.valid()}
        return {name: each for name, each in states.items() if each}


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
    problems = {_key_of(problem): problem["msg"].removeprefix("Value error, ") for problem in error.errors()}
    causes = [loc for loc in problems if not any(o[: len(loc)] == loc and len(o) > len(loc) for o in problems)]
    return [f"{'.'.join(map(str, loc))}: {problems[loc]}" if loc else problems[loc] for loc in causes]


def _key_of(problem: ErrorDetails) -> tuple[int | str, ...]:
    """Where in the file it is: an executor's key stands below its kind in pydantic's words only."""
    loc = problem["loc"]
    if problem["type"].startswith("union_tag"):
        return (*loc, "kind")
    return tuple(part for before, part in zip(("", *loc), loc, strict=False) if before != "executor" or part == "kind")
