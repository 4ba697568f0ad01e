"""Owns the queue of run-worker, as the suites of faults see it: what was sent, and a worker that it is delivered to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from functions.run_worker import app as run_worker
from tests.conftest import Context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop_runner.services import Services


@dataclass
class Queue:
    """Stands for the client of SQS; forgets nothing, so that everything can be delivered again."""

    bodies: list[str] = field(default_factory=list)

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        self.bodies += [entry["MessageBody"] for entry in Entries]
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries]}

    def of_issue(self, issue: str) -> list[str]:
        return [body for body in self.bodies if json.loads(body).get("issueId") == issue]


def deliver(services: Services, *bodies: str) -> None:
    """Give the messages to run-worker, in one batch; none of them fails."""
    records = [{"messageId": str(number), "body": body} for number, body in enumerate(bodies)]
    with mock.patch.object(run_worker, "services", return_value=services):
        answer = run_worker.handler({"Records": records}, Context())  # type: ignore[arg-type]
    assert answer == {"batchItemFailures": []}
