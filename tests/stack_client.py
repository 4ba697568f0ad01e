"""Drives issues over HTTP on a local stack, as any caller does."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tests.conftest import ACTOR
from tools.local.client import request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.local.client import Answer

PATIENCE_SECONDS = 60
ENDED = {"completed", "failed", "blocked", "cancelled"}


class Issue:
    """One issue of a stack; ``actor`` calls unless another one is named."""

    def __init__(self, url: str, issue_id: str, actor: str = ACTOR) -> None:
        self.url = url
        self.id = issue_id
        self.path = f"/api/loop/issues/{issue_id}"
        self.actor = actor

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        actor: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        return request(self.url, method, path, body, {"x-afu9-sub": actor or self.actor, **(headers or {})})

    def register(self, loop: str, **facts: Any) -> None:
        answer = self.call("PUT", self.path, {"loop": loop, "facts": facts})
        assert answer.status == 201, answer.body

    def patch(self, **facts: Any) -> dict[str, Any]:
        return ok(self.call("PATCH", self.path, facts))

    def get(self) -> dict[str, Any]:
        return ok(self.call("GET", self.path))

    def run(self, actor: str | None = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Run the next step within the call; the answer."""
        return ok(self.call("POST", f"{self.path}/run-next-step", {}, actor=actor, headers=headers))

    def queue(self, headers: dict[str, str] | None = None) -> str:
        """Run the next step, which is long or asked to be so, in the background; the run's id."""
        answer = self.call("POST", f"{self.path}/run-next-step", {}, headers=headers)
        assert answer.status == 202, answer.body
        run_id: str = answer.json()["runId"]
        assert answer.headers["location"] == f"/api/loop/runs/{run_id}"
        return run_id

    def decide(self, decision: str, *, actor: str, headers: dict[str, str] | None = None, **body: Any) -> Answer:
        """Decide on the issue as it is now."""
        headers = {"if-match": f'"{self.get()["version"]}"'} if headers is None else headers
        return self.call("POST", f"{self.path}/approvals", {"decision": decision, **body}, actor=actor, headers=headers)

    def run_of(self, run_id: str) -> dict[str, Any]:
        return ok(self.call("GET", f"/api/loop/runs/{run_id}"))

    def cancel(self, run_id: str, reason: str = "not any more") -> Answer:
        return self.call("POST", f"/api/loop/runs/{run_id}/cancel", {"reason": reason})

    def runs(self) -> list[dict[str, Any]]:
        """Every run, oldest first, without its steps."""
        return list(reversed(ok(self.call("GET", f"{self.path}/runs?limit=100"))["items"]))

    def events(self) -> list[dict[str, Any]]:
        """Every event, oldest first."""
        return list(reversed(ok(self.call("GET", f"{self.path}/events?limit=100"))["items"]))

    def wait_for_end(self, run_id: str) -> dict[str, Any]:
        wait_until(lambda: self.run_of(run_id)["status"] in ENDED)
        return self.run_of(run_id)

    def wait_for_state(self, state: str) -> dict[str, Any]:
        wait_until(lambda: self.get()["state"] == state)
        return self.get()


def ok(answer: Answer) -> dict[str, Any]:
    """The body of an answer that says yes."""
    assert answer.status == 200, (answer.status, answer.body)
    body: dict[str, Any] = answer.json()
    return body


def error_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json()["error"]["code"]


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.02)


def as_json(value: object) -> str:
    return json.dumps(value)
