"""Owns when a failed step is tried again: policies with the fields of Amazon States Language, pure.

Source: https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT: Final = "States.Timeout"
HEARTBEAT_TIMEOUT: Final = "States.HeartbeatTimeout"
LEASE_EXPIRED: Final = "LEASE_EXPIRED"
ANY_ERROR: Final = "States.ALL"
ANY_BUT_TIMEOUT: Final = "States.TaskFailed"

LONGEST_DELAY_SECONDS: Final = 31_622_400
"""A year and a day: what Amazon States Language allows for MaxDelaySeconds, and no delay is longer."""

ErrorName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class RetryPolicy(BaseModel):
    """After which errors, how often and with which delays a step is tried again."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    error_equals: Annotated[tuple[ErrorName, ...], Field(alias="ErrorEquals", min_length=1, strict=False)]
    interval_seconds: Annotated[int, Field(alias="IntervalSeconds", ge=1, le=99_999_999)] = 1
    max_attempts: Annotated[int, Field(alias="MaxAttempts", ge=0, le=99_999_999)] = 3
    backoff_rate: Annotated[int | float, Field(alias="BackoffRate", ge=1, le=1e6, allow_inf_nan=False)] = 2.0
    max_delay_seconds: Annotated[int | None, Field(alias="MaxDelaySeconds", ge=1, le=LONGEST_DELAY_SECONDS)] = None
    jitter_strategy: Annotated[Literal["FULL", "NONE"], Field(alias="JitterStrategy")] = "NONE"

    @model_validator(mode="after")
    def _stands_alone(self) -> Self:
        if ANY_ERROR in self.error_equals and len(self.error_equals) > 1:
            raise ValueError(f"ErrorEquals: {ANY_ERROR} stands alone")
        return self

    def matches(self, error: str) -> bool:
        """Whether the policy is for this error; a missed heartbeat is a timeout, too."""
        is_timeout = error in {TIMEOUT, HEARTBEAT_TIMEOUT}
        return any(
            name in {error, ANY_ERROR}
            or (name == TIMEOUT and is_timeout)
            or (name == ANY_BUT_TIMEOUT and not is_timeout)
            for name in self.error_equals
        )

    def delay_seconds(self, attempt: int, chance: float) -> float:
        """The delay after this failed attempt, from 1; ``chance`` from 0 to 1 is used for full jitter."""
        longest = min(self.max_delay_seconds or LONGEST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
        try:
            delay = min(self.interval_seconds * float(self.backoff_rate) ** (attempt - 1), longest)
        except OverflowError:
            delay = longest
        return delay * chance if self.jitter_strategy == "FULL" else delay


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after ``seconds``; None: the policy has been used up, the next attempt counts anew."""

    seconds: float | None


def retry_after(
    policies: Sequence[RetryPolicy], error: str, attempt: int, chance: float | None = None, at_least: float = 0.0
) -> Retry | None:
    """What the first policy that matches says of the failed ``attempt``, from 1; None where none matches.

    ``at_least``: how many seconds the failed step asked for; MaxDelaySeconds does not shorten them.
    """
    policy = next((policy for policy in policies if policy.matches(error)), None)
    if policy is None:
        return None
    if attempt > policy.max_attempts:
        return Retry(None)
    delay = policy.delay_seconds(attempt, random.random() if chance is None else chance)  # noqa: S311
    return Retry(max(delay, at_least))
