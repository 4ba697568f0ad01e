"""Owns the shapes of what the reading routes answer: docs/contracts/loop-api.v1.md as models, strict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self
from uuid import UUID

from pydantic import Field

from loop_runner.contract import Answer
from loop_runner.health import DatabaseHealth
from loop_runner.issues import IssueInList
from loop_runner.loops import CallbackExecutor, LambdaExecutor
from loop_runner.models import (
    Approval,
    Event,
    Instant,
    Issue,
    Json,
    NextCall,
    NextStep,
    Run,
    RunStatus,
    RunWithSteps,
)
from loop_runner.resolver import Blocked, Ended, next_step_after, resolve_next_step, run_next_step_of
from loop_runner.stats import Stats

if TYPE_CHECKING:
    from datetime import datetime

    from loop_runner.conditions import Condition
    from loop_runner.loops import KnownLoop, Loop, Step
    from loop_runner.resolver import Resolution


LEFT_OUT: Final = Field(exclude_if=lambda value: value is None)
"""For what is left out where there is none, in answers that include nulls, too."""


class LiveRun(Answer):
    """The run that owns an issue now."""

    run_id: UUID
    status: RunStatus
    actor: str
    started_at: Instant | None = None
    lease_expires_at: Instant | None = None

    @classmethod
    def of(cls, run: Run) -> Self:
        """The run as its issue shows it."""
        return cls(
            run_id=run.id,
            status=run.status,
            actor=run.actor,
            started_at=run.started_at,
            lease_expires_at=run.lease_expires_at,
        )


class UnmetGate(Answer):
    """What keeps the next step from running, and the call that clears it; a gate's names its fact.

    The message ends with the call. What stands in <> is the caller's to fill in.
    """

    blocker: str
    fact: str | None = None
    message: str
    call: NextCall


class LoopStep(Answer):
    """A step of a loop; conditions are as its file has them."""

    step_number: int
    step_type: str
    from_: Annotated[tuple[str, ...], Field(alias="from")]
    to: str
    outcomes: Annotated[dict[str, str] | None, LEFT_OUT] = None
    executor: str
    timeout_seconds: Annotated[int | None, LEFT_OUT] = None
    gates: tuple[Json, ...]
    skip_if: Annotated[tuple[Json, ...] | None, LEFT_OUT] = None

    @classmethod
    def of(cls, step: Step) -> Self:
        """The step as its file has it."""
        return cls(
            step_number=step.number,
            step_type=step.type,
            from_=step.from_,
            to=step.to,
            outcomes=step.outcomes,
            executor=step.executor.kind,
            timeout_seconds=step.timeout if isinstance(step.executor, LambdaExecutor | CallbackExecutor) else None,
            gates=tuple(map(_as_in_file, step.require)),
            skip_if=tuple(map(_as_in_file, step.skip_if)) if step.skip_if else None,
        )


def _as_in_file(condition: Condition) -> Json:
    return condition.model_dump(mode="json", by_alias=True, exclude_none=True)


class LoopDefinition(Answer):
    """A loop that is deployed; ``version`` is the content hash that its runs carry."""

    loop: str
    version: str
    initial_state: str
    completed_states: tuple[str, ...]
    failed_states: tuple[str, ...]
    protected_facts: tuple[str, ...]
    auto_advance: bool
    steps: tuple[LoopStep, ...]

    @classmethod
    def of(cls, loop: Loop) -> Self:
        """The loop as its file has it."""
        return cls(
            loop=loop.name,
            version=loop.version,
            initial_state=loop.initial_state,
            completed_states=loop.completed_states,
            failed_states=loop.failed_states,
            protected_facts=loop.protected_facts,
            auto_advance=loop.auto_advance,
            steps=tuple(map(LoopStep.of, sorted(loop.steps, key=lambda step: step.number))),
        )


class InvalidLoop(Answer):
    """A loop whose file is not valid; ``error`` names file, key and reason."""

    loop: str
    error: str


class LoopList(Answer):
    """Answer of GET loops: those of this deployment, by name, all of them."""

    omits_null: ClassVar[bool] = False
    schema_version: Literal["loop.loops.v1"] = "loop.loops.v1"
    items: tuple[LoopDefinition | InvalidLoop, ...]
    next_cursor: None = None


class IssueAnswer(Answer):
    """Answer of every route that reads or changes one issue."""

    schema_version: Literal["loop.issue.v1"] = "loop.issue.v1"
    issue_id: str
    loop: str
    state: str
    version: int
    facts: Json
    hold: Json | None = None
    approval: Approval | None = None
    live_run: LiveRun | None = None
    next_step: NextStep | None = None
    unmet_gates: tuple[UnmetGate, ...]
    next_attempt_at: Instant | None = None
    next_call: NextCall | None = None

    @classmethod
    def of(cls, issue: Issue, live_run: Run | None, loop: KnownLoop, now: datetime) -> Self:
        """The issue as it stands, with what the next run would do; ``now`` is the database's clock."""
        resolution = resolve_next_step(loop, issue, now)
        blockers = resolution.blockers if isinstance(resolution, Blocked) else ()
        return cls(
            issue_id=issue.id,
            loop=issue.loop_name,
            state=issue.state,
            version=issue.version,
            facts=issue.facts,
            hold=issue.hold and {**issue.hold, "state": issue.state},
            approval=issue.approval if issue.approval and issue.approval.version == issue.version else None,
            live_run=LiveRun.of(live_run) if live_run else None,
            next_step=next_step_after(loop, issue, now),
            unmet_gates=tuple(
                UnmetGate(blocker=blocker.code, fact=blocker.fact, message=blocker.message, call=blocker.call)
                for blocker in blockers
            ),
            next_attempt_at=issue.next_attempt_at,
            next_call=None if live_run else _next_call(resolution, issue),
        )


def _next_call(resolution: Resolution, issue: Issue) -> NextCall | None:
    """The call to go on with; None where nothing is left to run."""
    match resolution:
        case Blocked(blockers=(blocker, *_)):
            return blocker.call
        case Ended(skipped=()):
            return None
        case _:
            return run_next_step_of(issue)


class IssueInFull(IssueAnswer):
    """Answer of GET issue: with its loop, where it is asked for, deployed and valid."""

    loop_definition: LoopDefinition | None = None


class RunAnswer(RunWithSteps):
    """Answer of the routes that change a run: the row, in camelCase, nulls included, with its steps."""

    schema_version: Literal["loop.run.v1"] = "loop.run.v1"

    @classmethod
    def of(cls, run: RunWithSteps) -> Self:
        """The run's row and steps as they are."""
        return cls(**dict(run))


class RunInFullAnswer(RunAnswer):
    """Answer of GET run: with its events, newest first, the run that retried it, and where its log lines are."""

    events: tuple[Event, ...]
    retried_by: UUID | None
    log_url: str | None


class IssueList(Answer):
    """A page of issues, newest first."""

    omits_null: ClassVar[bool] = False
    schema_version: Literal["loop.issues.v1"] = "loop.issues.v1"
    items: tuple[IssueInList, ...]
    next_cursor: str | None


class RunList(Answer):
    """A page of runs, newest first."""

    omits_null: ClassVar[bool] = False
    schema_version: Literal["loop.runs.v1"] = "loop.runs.v1"
    items: tuple[Run, ...]
    next_cursor: str | None


class EventList(Answer):
    """A page of events, newest first."""

    omits_null: ClassVar[bool] = False
    schema_version: Literal["loop.events.v1"] = "loop.events.v1"
    items: tuple[Event, ...]
    next_cursor: str | None


class HealthAnswer(Answer):
    """Answer of GET health: the function runs; the database was not asked."""

    schema_version: Literal["loop.health.v1"] = "loop.health.v1"
    status: Literal["ok"] = "ok"


class DeepHealthAnswer(Answer):
    """Answer of GET health/deep: the database answers, and its schema is one that this code works with."""

    schema_version: Literal["loop.deepHealth.v1"] = "loop.deepHealth.v1"
    status: Literal["ok"] = "ok"
    database: DatabaseHealth


class StatsAnswer(Stats):
    """Answer of GET stats, nulls included."""

    schema_version: Literal["loop.stats.v1"] = "loop.stats.v1"
