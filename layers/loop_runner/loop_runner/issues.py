"""Owns the issues: registering, patching facts, and reading one with the run that owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from loop_runner.errors import IssueExistsError, IssueNotFoundError, PayloadTooLargeError, PreconditionFailedError
from loop_runner.models import Issue, Run
from loop_runner.settings import MAX_FACTS_BYTES

if TYPE_CHECKING:
    from datetime import datetime

    from loop_runner.database import Database
    from loop_runner.loops import Loop
    from loop_runner.models import Json

_GET_ISSUE = """
SELECT to_jsonb(i) AS issue, to_jsonb(r) AS run, clock_timestamp() AS now
FROM loop_issues AS i
LEFT JOIN loop_runs AS r
    ON r.issue_id = i.id AND r.mode = 'execute' AND r.status IN ('pending', 'running')
WHERE i.id = %(issue_id)s
"""


class IssueNow(NamedTuple):
    """An issue, the run that owns it, and the database's clock when both were read."""

    issue: Issue
    live_run: Run | None
    now: datetime


class Issues:
    """Reads and writes of loop_issues."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, issue_id: str, loop: Loop, facts: Json, *, actor: str, principal: str | None = None) -> bool:
        """Register the issue in the loop's initial state; whether it is new.

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
        issue = Issue.model_validate(answer["issue"])
        if issue.loop_name != loop.name:
            raise IssueExistsError(
                f"issue {issue_id} is registered with the loop {issue.loop_name}; choose another id",
                details={"loop": issue.loop_name},
            )
        return answer["outcome"] == "registered"

    def patch_facts(
        self,
        issue_id: str,
        patch: Json,
        *,
        actor: str,
        principal: str | None = None,
        if_match: frozenset[int] | None = None,
    ) -> Issue:
        """Merge the patch (RFC 7396) into the facts.

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
        answer = self._database.call("loop_patch_facts", request)
        match answer["outcome"]:
            case "issueNotFound":
                raise IssueNotFoundError.of(issue_id)
            case "stale":
                raise PreconditionFailedError.of(issue_id, Issue.model_validate(answer["issue"]).version)
            case "tooLarge":
                raise _too_large(issue_id, answer)
        return Issue.model_validate(answer["issue"])

    def get(self, issue_id: str) -> IssueNow:
        """The issue as it stands. Raises IssueNotFoundError."""
        rows = self._database.query(_GET_ISSUE, {"issue_id": issue_id})
        if not rows:
            raise IssueNotFoundError.of(issue_id)
        row = rows[0]
        run = Run.model_validate(row["run"]) if row["run"] else None
        return IssueNow(Issue.model_validate(row["issue"]), run, cast("datetime", row["now"]))


def _too_large(issue_id: str, answer: Json) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"the facts of issue {issue_id} would have {answer['bytes']} bytes, {MAX_FACTS_BYTES} is the most: "
        "keep large things elsewhere and put a link into the facts"
    )
