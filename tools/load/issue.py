"""Owns what people do with an issue: what the SQL functions would have written, had they been called in the past.

What each decides and writes is said in migrations/functions/. A load cannot call them: their clock is the database's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from loop_runner.facts import merge_patch
from loop_runner.models import Approval, Issue

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from loop_runner.identity import Identity
    from loop_runner.loops import Loop, Step
    from loop_runner.models import Json
    from tools.load.rows import Past


from tools.load.rows import IssueRow


class PastIssue:
    """An issue, from its registration on. Calls must come in the order of their times."""

    def __init__(self, issue_id: str, loop: Loop, past: Past, *, facts: Json, by: Identity, at: datetime) -> None:
        """As loop_register_issue."""
        self.id = issue_id
        self.loop = loop
        self.past = past
        self.state = loop.initial_state
        self.facts = facts
        self.version = 1
        self.hold: Json | None = None
        self.approval: Json | None = None
        self.approval_requesters: list[Json] = []
        self.failed_attempts = 0
        self.failed_run_id: UUID | None = None
        self.failed_step: int | None = None
        self.idempotency_token: UUID | None = None
        self.token_step: int | None = None
        self.next_attempt_at: datetime | None = None
        self.next_attempt_after: UUID | None = None
        self.next_attempt_sent_at: datetime | None = None
        self._registered_by = by
        self._created_at = self._updated_at = at
        self._seen: Issue | None = None
        past.changed(self)
        self._tell(at, "loop_issue_registered", by, loop=loop.name, state=self.state)

    @property
    def seen(self) -> Issue:
        """The issue as the resolver sees it."""
        if self._seen is None:
            self._seen = Issue(
                id=self.id,
                loop_name=self.loop.name,
                state=self.state,
                facts=self.facts,
                version=self.version,
                hold=self.hold,
                approval=Approval.model_validate(self.approval) if self.approval else None,
                created_at=self._created_at,
                updated_at=self._updated_at,
            )
        return self._seen

    @property
    def row(self) -> IssueRow:
        """The issue as it stands."""
        return IssueRow(
            id=self.id,
            loop_name=self.loop.name,
            state=self.state,
            facts=json.dumps(self.facts),
            version=self.version,
            created_at=self._created_at,
            updated_at=self._updated_at,
            registered_by=self._registered_by.actor,
            registered_principal=self._registered_by.principal,
            hold=json.dumps(self.hold) if self.hold else None,
            failed_attempts=self.failed_attempts,
            failed_run_id=self.failed_run_id,
            approval=json.dumps(self.approval) if self.approval else None,
            approval_requesters=json.dumps(self.approval_requesters),
            idempotency_token=self.idempotency_token,
            next_attempt_at=self.next_attempt_at,
            next_attempt_after=self.next_attempt_after,
            next_attempt_sent_at=self.next_attempt_sent_at,
        )

    def patch_facts(self, patch: Json, by: Identity, at: datetime) -> None:
        """As loop_patch_facts."""
        facts = merge_patch(self.facts, patch)
        if facts != self.facts:
            self.facts = facts
            self.change(at)
            self._tell(at, "loop_facts_changed", by, version=self.version, factKeys=fact_keys(patch))

    def set_hold(self, reason: str, by: Identity, at: datetime, *, hold: bool) -> None:
        """As loop_set_hold."""
        self.hold = {"reason": reason, "by": by.actor, "since": at.isoformat()} if hold else None
        self.next_attempt_sent_at = None
        self.change(at)
        event_type = "loop_issue_held" if hold else "loop_issue_resumed"
        self._tell(at, event_type, by, reason=reason, state=self.state, version=self.version)

    def set_state(self, state: str, reason: str, by: Identity, at: datetime) -> None:
        """As loop_set_state."""
        before, self.state = self.state, state
        self.forget_failures()
        self.forget_plan()
        self.idempotency_token = None
        self.approval_requesters = [*self.approval_requesters, {"actor": by.actor, "principal": by.principal}]
        self.change(at)
        self._tell(at, "loop_state_set", by, reason=reason, stateBefore=before, stateAfter=state, version=self.version)

    def decide(self, step: Step, decision: str, comment: str | None, by: Identity, at: datetime) -> None:
        """As loop_decide; whether these are other eyes is the caller's to see to."""
        told = {
            "decision": decision,
            "actor": by.actor,
            "principal": by.principal,
            "comment": comment,
            "version": self.version,
            "stepNumber": step.number,
        }
        given: Json = {key: value for key, value in told.items() if value is not None}
        self.approval = given | {"at": at.isoformat()}
        self.change_plainly()
        self.past.tell(self.id, at, "loop_approval_decided", given | {"stepType": step.type})

    # ------------------------------------------------------------------------------------------------ means

    def change(self, at: datetime) -> None:
        """State, facts or hold have changed."""
        self.version += 1
        self._updated_at = at
        self.change_plainly()

    def change_plainly(self) -> None:
        """Something else in the row has changed."""
        self.past.changed(self)
        self._seen = None

    def forget_failures(self) -> None:
        """The next attempt of a step is its first."""
        self.failed_attempts, self.failed_run_id, self.failed_step = 0, None, None

    def forget_plan(self) -> None:
        """The issue does not go on by itself."""
        self.next_attempt_at = self.next_attempt_after = None

    def _tell(self, at: datetime, event_type: str, by: Identity, **data: object) -> None:
        self.past.tell(self.id, at, event_type, {"actor": by.actor, "principal": by.principal, **data})


def fact_keys(patch: Json) -> list[str]:
    """As loop_fact_keys."""
    return sorted(patch)[:20]
