"""Owns the issues: registering, patching facts, and reading one with the run that owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from loop_runner.errors import IssueExistsError, IssueNotFoundError, PayloadTooLargeError, PreconditionFailedError
from loop_runner.models import Instant, Issue, Row, Run
from loop_runner.settings import MAX_FACTS_BYTES

if TYPE_CHECKING:
    from loop_runner.database import Database
    from loop_runner.loops import Loop
    from loop_runner.models import Json


class IssueNow(Row):
    """An issue, the run that owns it, and the database's clock when both were read."""

    issue: Issue
    run: Run | None
    now: Instant

    @classmethod
    def of(cls, answer: Json) -> Self:
        """What loop_get_issue answered."""
        return cls.model_validate(answer)


class Issues:
    """Reads and writes of loop_issues, one round trip each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self, issue_id: str, loop: Loop, facts: Json, *, actor: str, principal: str | None = None
    ) -> tuple[IssueNow, bool]:
        """Register the issue in the loop's initial state; the issue as it stands, and whether it is new.

        Raises IssueExistsError (with another loop), PayloadTooLargeError (the facts).
        """
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
    ) -> IssueNow:
        """Merge the patch (RFC 7396) into the facts; the issue as it stands then.

        Raises IssueNotFoundError, PreconditionFailedError (If-Match), PayloadTooLargeError (the facts, in all).
        """
        request: dict[str, object] = {
            "issueId": issue_id,
            "patch": patch,
            "actor": actor,
            "principal": principal,
            "maxBytes": MAX_FACTS_BYTES,
        }
        if if_match is not None:
            request["ifMatch"] = sorted(if_match)
        answer = self._database.call("loop_patch_facts", request, repeatable=False)
        match answer["outcome"]:
            case "issueNotFound":
                raise IssueNotFoundError.of(issue_id)
            case "stale":
                raise PreconditionFailedError.of(issue_id, Issue.model_validate(answer["issue"]).version)
            case "tooLarge":
                raise _too_large(issue_id, answer)
        return IssueNow.of(answer)

    def get(self, issue_id: str) -> IssueNow:
        """The issue as it stands. Raises IssueNotFoundError."""
        rows = self._database.query("SELECT loop_get_issue(%s) AS answer", [issue_id])
        if rows[0]["answer"] is None:
            raise IssueNotFoundError.of(issue_id)
        return IssueNow.of(rows[0]["answer"])


def _too_large(issue_id: str, answer: Json) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"the facts of issue {issue_id} would have {answer['bytes']} bytes, {MAX_FACTS_BYTES} is the most: "
        "keep large things elsewhere and put a link into the facts"
    )
