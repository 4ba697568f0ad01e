"""Owns the issues: registering, changing, listing, and reading one with the run that owns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, LiteralString, Self, cast
from uuid import UUID

from pydantic import Field

from loop_runner.database import DEPLOYMENT_SECONDS
from loop_runner.errors import (
    ForbiddenError,
    IssueExistsError,
    IssueNotFoundError,
    PayloadTooLargeError,
    PreconditionFailedError,
    UnavailableError,
)
from loop_runner.identity import Identity
from loop_runner.ledger import conflict_of
from loop_runner.loops import ApprovalExecutor
from loop_runner.models import Instant, Issue, Json, LoopStatus, Row, Run, RunStatus
from loop_runner.settings import MAX_FACTS_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from loop_runner.database import Database
    from loop_runner.github_events import Delivery
    from loop_runner.loops import Loop, Step


class LastRun(Row):
    """The last run of an issue that executes, in short."""

    id: Annotated[UUID, Field(serialization_alias="runId")]
    status: RunStatus
    actor: str
    created_at: Instant
    completed_at: Instant | None = None
    lease_expires_at: Instant | None = None
    step: int | None = None
    attempt: int
    loop_status: LoopStatus | None = None
    blocker_code: str | None = None
    error_code: str | None = None
    message: str | None = None


class IssueInList(Row):
    """An issue without its facts, and its last run."""

    id: Annotated[str, Field(serialization_alias="issueId")]
    loop_name: Annotated[str, Field(serialization_alias="loop")]
    state: str
    version: int
    hold: Json | None = None
    next_attempt_at: Instant | None = None
    created_at: Instant
    updated_at: Instant
    last_run: LastRun | None = None


class IssueNow(Row):
    """An issue, the run that owns it, and the database's clock when both were read."""

    issue: Issue
    run: Run | None
    now: Instant

    @classmethod
    def of(cls, answer: Json) -> Self:
        """What loop_get_issue answered."""
        return cls.model_validate(answer)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The newest issues that wait for something; ``is_cut``: there may be more."""

    issue_ids: tuple[str, ...]
    is_cut: bool


class Issues:
    """Reads and writes of loop_issues, one round trip each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self, issue_id: str, loop: Loop, facts: Json, *, actor: str, principal: str | None = None
    ) -> tuple[IssueNow, bool]:
        """Register the issue in the loop's initial state; the issue as it stands, and whether it is new.

        Raises IssueExistsError (with another loop), ForbiddenError (protected facts), PayloadTooLargeError (the facts).
        """
        if protected := sorted(facts.keys() & set(loop.protected_facts)):
            raise _protected(issue_id, protected)
        answer = self._database.call(
            "loop_register_issue",
            {
                "issueId": issue_id,
                "loop": loop.name,
                "state": loop.initial_state,
                "facts": facts,
                "actor": actor,
                "principal": principal,
                "maxBytes": MAX_FACTS_BYTES,
            },
        )
        if answer["outcome"] == "tooLarge":
            raise _too_large(issue_id, answer)
        now = IssueNow.of(answer)
        if now.issue.loop_name != loop.name:
            raise IssueExistsError(
                f"issue {issue_id} is registered with the loop {now.issue.loop_name}; choose another id",
                details={"loop": now.issue.loop_name},
            )
        return now, answer["outcome"] == "registered"

    def patch_facts(
        self,
        issue_id: str,
        patch: Json,
        *,
        actor: str,
        principal: str | None = None,
        if_match: frozenset[int] | None = None,
        protected: Mapping[str, Sequence[str] | None] | None = None,
    ) -> IssueNow:
        """Merge the patch (RFC 7396) into the facts; the issue as it stands then.

        ``protected``: by loop, the top-level facts that only steps may write; None where nobody can say which.
        Raises IssueNotFoundError, PreconditionFailedError (If-Match), ForbiddenError (protected facts),
        PayloadTooLargeError (the facts, in all).
        """
        request: dict[str, object] = {"patch": patch, "maxBytes": MAX_FACTS_BYTES}
        if protected:
            request["protected"] = protected
        return self._change("loop_patch_facts", issue_id, request, Identity(actor, principal), if_match)

    def set_hold(
        self, issue_id: str, *, hold: bool, reason: str, by: Identity, if_match: frozenset[int] | None
    ) -> IssueNow:
        """Hold the issue, or let it go on; what is so already stays.

        Raises IssueNotFoundError, PreconditionFailedError.
        """
        return self._change("loop_set_hold", issue_id, {"hold": hold, "reason": reason}, by, if_match)

    def set_state(
        self, issue_id: str, state: str, *, reason: str, by: Identity, if_match: frozenset[int] | None
    ) -> IssueNow:
        """Put the issue into a state by hand.

        Raises IssueNotFoundError, PreconditionFailedError, LoopConflictError (a run is live).
        """
        return self._change("loop_set_state", issue_id, {"state": state, "reason": reason}, by, if_match)

    def decide(
        self, now: IssueNow, step: Step, *, decision: str, comment: str | None, by: Identity, if_match: frozenset[int]
    ) -> IssueNow:
        """Record a decision on the issue as it was read, for the approval that is next.

        Raises IssueNotFoundError, PreconditionFailedError, ForbiddenError (four eyes).
        """
        request: dict[str, object] = {
            "version": now.issue.version,
            "decision": decision,
            "stepNumber": step.number,
            "stepType": step.type,
            "fourEyes": isinstance(step.executor, ApprovalExecutor) and step.executor.four_eyes,
        }
        if comment is not None:
            request["comment"] = comment
        return self._change("loop_decide", now.issue.id, request, by, if_match)

    def _change(
        self,
        function: LiteralString,
        issue_id: str,
        request: dict[str, object],
        by: Identity,
        if_match: frozenset[int] | None,
    ) -> IssueNow:
        """Call a function that changes one issue; the issue as it stands then."""
        request |= {"issueId": issue_id, "actor": by.actor, "principal": by.principal}
        if if_match is not None:
            request["ifMatch"] = sorted(if_match)
        answer = self._database.call(function, request, repeatable=False)
        match answer["outcome"]:
            case "issueNotFound":
                raise IssueNotFoundError.of(issue_id)
            case "stale":
                raise PreconditionFailedError.of(issue_id, Issue.model_validate(answer["issue"]).version)
            case "conflict":
                raise conflict_of(answer)
            case "protectionUnknown":
                raise UnavailableError(
                    "the loop of the issue is not valid, and says which facts are protected: mend and deploy its file",
                    retry_after_seconds=DEPLOYMENT_SECONDS,
                )
            case "protected":
                raise _protected(issue_id, cast("list[str]", answer["keys"]))
            case "tooLarge":
                raise _too_large(issue_id, answer)
            case "sameEyes":
                raise ForbiddenError(
                    f"four eyes: {answer['actor']} asked for this approval, somebody else must give it"
                )
        return IssueNow.of(answer)

    def list_issues(
        self,
        *,
        loop: str | None = None,
        state: str | None = None,
        limit: int,
        before: tuple[datetime, str] | None = None,
    ) -> list[IssueInList]:
        """At most ``limit`` issues, newest first; ``before``: created_at and id of the issue to go on from."""
        request: dict[str, object] = {"limit": limit}
        request |= {name: text for name, text in (("loop", loop), ("state", state)) if text is not None}
        if before:
            request |= {"beforeAt": before[0].isoformat(), "beforeId": before[1]}
        answer = self._database.call("loop_list_issues", request)
        return [IssueInList.model_validate(issue) for issue in cast("list[Json]", answer["issues"])]

    def find_waiting(
        self, delivery: Delivery, states: Mapping[str, Sequence[str]], *, max_looked: int, max_found: int
    ) -> Waiting:
        """The issues in these states (by loop) that wait for the pull requests of a delivery."""
        request = {"states": states, "maxLooked": max_looked, "maxFound": max_found, **delivery.content()}
        answer = self._database.call("loop_find_waiting", request)
        return Waiting(tuple(cast("list[str]", answer["issues"])), is_cut=bool(answer["isCut"]))

    def get(self, issue_id: str) -> IssueNow:
        """The issue as it stands. Raises IssueNotFoundError."""
        rows = self._database.query("SELECT loop_get_issue(%s) AS answer", [issue_id])
        if rows[0]["answer"] is None:
            raise IssueNotFoundError.of(issue_id)
        return IssueNow.of(rows[0]["answer"])


def _protected(issue_id: str, keys: list[str]) -> ForbiddenError:
    return ForbiddenError(
        f"only steps may write the facts {', '.join(sorted(keys))} of issue {issue_id}: leave them out"
    )


def _too_large(issue_id: str, answer: Json) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"the facts of issue {issue_id} would have {answer['bytes']} bytes, {MAX_FACTS_BYTES} is the most: "
        "keep large things elsewhere and put a link into the facts"
    )
