"""Owns conditions: data about facts, total and fail closed. A missing value or one of another type never holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from loop_runner.sanitize import is_storable

if TYPE_CHECKING:
    from loop_runner.models import Json


def _storable(value: str | float) -> str | float:
    if isinstance(value, str) and not is_storable(value):
        raise ValueError("has a NUL, which cannot be stored")
    return value


_Storable = AfterValidator(_storable)
FactPath = Annotated[str, StringConstraints(pattern=r"^[^.\s]+(\.[^.\s]+)*$", max_length=256), _Storable]
Scalar = Annotated[str | bool | int | float, Field(union_mode="left_to_right"), _Storable]

CLOCK_SKEW: Final = timedelta(seconds=60)
"""How far ahead of the database's clock a fact's time may be; further is not evidence of anything."""


class Condition(BaseModel):
    """One condition on the facts: ``fact`` is a dotted path; without an operator it must be present and not empty."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    fact: FactPath
    is_: Annotated[Scalar | None, Field(alias="is")] = None
    in_: Annotated[tuple[Scalar, ...] | None, Field(alias="in", min_length=1, strict=False)] = None
    min: int | float | None = None
    max: int | float | None = None
    same_as: FactPath | None = None
    max_age_seconds: Annotated[int, Field(gt=0, le=100 * 366 * 86_400)] | None = None

    @model_validator(mode="after")
    def _one_operator(self) -> Self:
        operators = [self.is_, self.in_, self.same_as, self.max_age_seconds]
        between = self.min is not None or self.max is not None
        if sum(operator is not None for operator in operators) + between > 1:
            raise ValueError("give one of is, in, min and max, same_as, max_age_seconds")
        numbers = [self.is_, self.min, self.max, *(self.in_ or ())]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ValueError("nan and inf are not numbers of JSON")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is greater than max: nothing is between them")
        if self.same_as and f"{self.fact}.".startswith(f"{self.same_as}."):
            raise ValueError("same_as leads through fact: a value is not a part of itself")
        if self.same_as and f"{self.same_as}.".startswith(f"{self.fact}."):
            raise ValueError("fact leads through same_as: a value is not a part of itself")
        return self

    def holds(self, facts: Json, now: datetime) -> bool:
        """Whether the condition holds; ``now`` is the database's clock, aware."""
        value = fact_at(facts, self.fact)
        if self.is_ is not None:
            return same(value, self.is_)
        if self.in_ is not None:
            return any(same(value, item) for item in self.in_)
        if self.same_as is not None:
            return not is_empty(value) and same(value, fact_at(facts, self.same_as))
        if self.max_age_seconds is not None:
            return _is_recent(value, now, timedelta(seconds=self.max_age_seconds))
        if self.min is not None or self.max is not None:
            return _is_between(value, self.min, self.max)
        return not is_empty(value)

    @property
    def wanted(self) -> str:
        """What the condition asks of its fact, in words."""
        if self.is_ is not None:
            return f"must be {json.dumps(self.is_)}"
        if self.in_ is not None:
            return f"must be one of {', '.join(json.dumps(item) for item in self.in_)}"
        if self.same_as is not None:
            return f"must be present and the same as {self.same_as}"
        if self.max_age_seconds is not None:
            return f"must be a time with a zone, at most {self.max_age_seconds} s old"
        if self.min is not None or self.max is not None:
            bounds = [f"at least {self.min}"] * (self.min is not None) + [f"at most {self.max}"] * (
                self.max is not None
            )
            return f"must be a number, {' and '.join(bounds)}"
        return "must be present and not empty"

    def satisfying_patch(self, facts: Json, now: datetime) -> Json:
        """A merge patch of the facts with which the condition holds, for messages: people put their own value in."""
        value: JsonValue = "<value>"
        if self.is_ is not None:
            value = self.is_
        elif self.in_ is not None:
            value = self.in_[0]
        elif self.same_as is not None:
            other = fact_at(facts, self.same_as)
            value = other if not is_empty(other) else value
        elif self.max_age_seconds is not None:
            value = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        elif self.min is not None or self.max is not None:
            value = self.min if self.min is not None else self.max
        patch = _nested(self.fact, _patch_to(value, fact_at(facts, self.fact)))
        if self.same_as is not None and is_empty(fact_at(facts, self.same_as)):
            patch = _merged(patch, _nested(self.same_as, value))
        return patch


class Gate(Condition):
    """A condition of a step: where it does not hold, the run is blocked with this code."""

    blocker: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
    message: Annotated[str, StringConstraints(min_length=1, max_length=500), _Storable] | None = None


def fact_at(facts: JsonValue, path: str) -> JsonValue:
    """The value at a dotted path; None where there is none."""
    for key in path.split("."):
        if not isinstance(facts, Mapping):
            return None
        facts = facts.get(key)
    return facts


def is_empty(value: JsonValue) -> bool:
    """Null, blank text, an empty list or object. False and 0 are values."""
    match value:
        case None:
            return True
        case str():
            return not value.strip()
        case list() | dict():
            return not value
        case _:
            return False


def same(left: JsonValue, right: JsonValue) -> bool:  # noqa: PLR0911  (one return a case)
    """Equality as JSON has it: true is not 1, 1 is 1.0, null is the same as nothing."""
    match left, right:
        case (None, _) | (_, None):
            return False
        case (bool(), bool()) | (str(), str()):
            return left == right
        case (bool(), _) | (_, bool()):
            return False
        case int(), int():
            return left == right
        case (int() | float(), int() | float()):
            return _as_double(left) == _as_double(right)
        case list(), list():
            return len(left) == len(right) and all(map(_same_or_null, left, right))
        case dict(), dict():
            return left.keys() == right.keys() and all(_same_or_null(left[key], right[key]) for key in left)
        case _:
            return False


def _same_or_null(left: JsonValue, right: JsonValue) -> bool:
    return (left is None and right is None) or same(left, right)


def _is_between(value: JsonValue, least: float | None, most: float | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    number = _as_double(value)
    return (least is None or number >= _as_double(least)) and (most is None or number <= _as_double(most))


def _is_recent(value: JsonValue, now: datetime, age: timedelta) -> bool:
    if not isinstance(value, str):
        return False
    try:
        instant = datetime.fromisoformat(value)
        return instant.tzinfo is not None and -CLOCK_SKEW <= now - instant <= age
    except (ValueError, OverflowError):
        return False


def _as_double(number: float) -> float:
    """The number as JSON's readers have it (RFC 8259, section 6): PostgreSQL writes 1e23 out as an integer."""
    try:
        return float(number)
    except OverflowError:
        return math.copysign(math.inf, number > 0 or -1)


def _patch_to(wanted: JsonValue, before: JsonValue) -> JsonValue:
    """The merge patch that makes ``wanted`` of ``before``: an object's other members go."""
    if not isinstance(wanted, dict) or not isinstance(before, dict):
        return wanted
    gone: Json = dict.fromkeys(before.keys() - wanted.keys())
    return gone | {key: _patch_to(value, before.get(key)) for key, value in wanted.items()}


def _nested(path: str, value: JsonValue) -> Json:
    first, *rest = path.split(".")
    return {first: _nested(".".join(rest), value) if rest else value}


def _merged(left: Json, right: Json) -> Json:
    merged = dict(left)
    for key, value in right.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
