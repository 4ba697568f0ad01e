"""Owns the callers: each drives issues of the loops that ship over HTTP, as people, bots and agents do, at random.

Whatever they are told with 2xx is kept, to be held against the ledger at the end.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tools.local.client import Answer, request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ACTORS: Final = ("ann", "bob", "cem", "dora")
ISSUES_OF_A_CALLER: Final = 3
CALLS_OF_AN_ISSUE: Final = 60
"""After that an issue is left alone and another one is registered: some wait for somebody who does not come."""

_EXPECTED: Final = frozenset({200, 201, 202, 409, 412})
_FAULTS: Final = frozenset({500, 503})


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller was told with 2xx: of a run its answer without the request's id, of a patch the new version."""

    issue_id: str
    run_id: str | None = None
    status: int = 200
    answer: str = ""
    key: str | None = None
    version: int | None = None
    note: str | None = None


@dataclass
class Record:
    """What all callers did and were told. ``wrong`` are answers that nobody should get.

    When calls were ``lost`` with their process, or the database ``unavailable``, on time.monotonic.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    requests: int = 0
    told: list[Told] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    unavailable: list[float] = field(default_factory=list)

    def add(self, told: Told | None = None, wrong: str | None = None, requests: int = 0) -> None:
        """Keep what a caller was told, or what was wrong, and count."""
        with self.lock:
            self.requests += requests
            if told is not None:
                self.told.append(told)
            if wrong is not None:
                self.wrong.append(wrong)


def _facts(loop: str, chance: random.Random) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    if loop == "agent-merge":
        return {
            "githubUrl": f"https://example.org/acme/app/issues/{chance.randrange(10**9)}",
            "spec": {"status": "valid", "days": chance.choice([1, 1, 1, 9])},
            "risk": chance.choice(["low", "high"]),
        }
    if loop == "incident-runbook":
        return {
            "service": chance.choice(["shop", "search"]),
            "severity": chance.choice(["low", "high"]),
            "plan": {"action": "restart"},
            "postmortem": {"url": "https://example.org/p"},
        }
    return {
        "githubUrl": "https://example.org/acme/app/issues/1",
        "draft": {"committed": True, "status": "valid"},
        "pr": {"url": "https://example.org/pr/1", "merged": True},
        "review": {"decision": "approved"},
        "checks": {"status": "success"},
        "deployment": {"observedAt": now},
        "verdict": "GREEN",
    }


class Caller(threading.Thread):
    """Calls until ``stop`` is set."""

    def __init__(self, number: int, url: str, record: Record, stop: threading.Event) -> None:
        super().__init__(name=f"caller {number}", daemon=True)
        self._chance = random.Random(number)  # noqa: S311
        self._url, self._record, self._stop_event = url, record, stop
        self._issues: list[tuple[str, int]] = []

    def run(self) -> None:
        """Keep a few issues going. What breaks here is wrong, too."""
        try:
            while not self._stop_event.is_set():
                if len(self._issues) < ISSUES_OF_A_CALLER:
                    self._register()
                    continue
                position = self._chance.randrange(len(self._issues))
                issue_id, calls = self._issues[position]
                is_over = self._act(issue_id)
                if is_over or calls >= CALLS_OF_AN_ISSUE:
                    self._issues.pop(position)
                else:
                    self._issues[position] = (issue_id, calls + 1)
        except Exception as error:
            self._record.add(wrong=f"{self.name} ended: {error!r}")

    def _register(self) -> None:
        issue_id = f"SOAK-{uuid.uuid4()}"
        loop = self._chance.choice(["issue-delivery", "issue-delivery", "agent-merge", "incident-runbook"])
        facts = _facts(loop, self._chance)
        while not self._stop_event.is_set():
            answer = self._call("PUT", f"/api/loop/issues/{issue_id}", {"loop": loop, "facts": facts})
            if answer is not None and answer.status in {200, 201}:
                self._record.add(Told(issue_id))
                self._issues.append((issue_id, 0))
                return
            time.sleep(0.1)

    def _act(self, issue_id: str) -> bool:
        """Do one thing to an issue; whether it has come to its end."""
        path = f"/api/loop/issues/{issue_id}"
        acts: list[tuple[int, Callable[[], bool]]] = [
            (60, lambda: self._run(issue_id, path)),
            (8, lambda: self._patch(issue_id, path)),
            (4, lambda: self._run(issue_id, path, {"mode": "dryRun"})),
            (10, lambda: self._look(path)),
            (4, lambda: self._cancel(path)),
            (3, lambda: self._hold(path)),
        ]
        return self._chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()

    def _run(self, issue_id: str, path: str, body: object = None) -> bool:
        headers: dict[str, str] = {}
        key = f"key-{uuid.uuid4()}" if self._chance.random() < 0.4 else None
        if key:
            headers["idempotency-key"] = key
        if self._chance.random() < 0.08:
            headers["prefer"] = "respond-async"
        blocked, is_over, actor = None, False, self._chance.choice(ACTORS)
        for _ in range(self._chance.choice([1, 1, 2, 3]) if key else 1):
            if self._stop_event.is_set():
                break
            answer = self._call("POST", f"{path}/run-next-step", body, headers, actor)
            if answer is None or answer.status not in {200, 202}:
                continue
            content = answer.json()
            del content["requestId"]
            text = json.dumps(content, sort_keys=True)
            self._record.add(Told(issue_id, content["runId"], answer.status, text, key))
            blocked = content.get("blocker", {}).get("code")
            is_over = content["loopStatus"] == "completed" and not body
        if blocked in {"APPROVAL_REQUIRED", "APPROVAL_REJECTED"}:
            self._decide(path)
        elif blocked in {"CHECKS_STALE", "STALE_EVIDENCE"}:
            self._check(issue_id, path)
        elif blocked == "ON_HOLD":
            self._call("POST", f"{path}/resume", {"reason": "go on"})
        return is_over

    def _patch(self, issue_id: str, path: str, patch: dict[str, Any] | None = None) -> bool:
        note = uuid.uuid4().hex
        answer = self._call("PATCH", path, {"note": note, **(patch or {})})
        if answer is not None and answer.status == 200:
            self._record.add(Told(issue_id, version=answer.json()["version"], note=note))
        return False

    def _look(self, path: str) -> bool:
        self._call("GET", path)
        self._call("GET", f"{path}/runs?limit=5")
        self._call("GET", f"{path}/events?limit=5")
        return False

    def _decide(self, path: str) -> None:
        answer = self._call("GET", path)
        if answer is not None and answer.status == 200:
            headers = {"if-match": answer.headers["etag"]}
            decision = self._chance.choice(["approved", "approved", "approved", "rejected"])
            self._call("POST", f"{path}/approvals", {"decision": decision}, headers, actor="eve")

    def _check(self, issue_id: str, path: str) -> None:
        answer = self._call("GET", path)
        if answer is not None and answer.status == 200 and "pr" in answer.json()["facts"]:
            checks = {"sha": answer.json()["facts"]["pr"]["headSha"], "finishedAt": datetime.now(UTC).isoformat()}
            self._patch(issue_id, path, {"checks": checks})

    def _cancel(self, path: str) -> bool:
        answer = self._call("GET", path)
        live = answer.json().get("liveRun") if answer is not None and answer.status == 200 else None
        if live:
            self._call("POST", f"/api/loop/runs/{live['runId']}/cancel", {"reason": "not any more"})
        return False

    def _hold(self, path: str) -> bool:
        self._call("POST", f"{path}/hold", {"reason": "wait"})
        self._call("POST", f"{path}/resume", {"reason": "go on"})
        return False

    def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        actor: str | None = None,
    ) -> Answer | None:
        """Make a call; None where its answer was lost. An answer that nobody should get is kept as wrong."""
        who = actor or self._chance.choice(ACTORS)
        try:
            answer = request(self._url, method, path, body, {"x-afu9-sub": who, **(headers or {})}, timeout=40)
        except (OSError, http.client.HTTPException) as error:
            self._record.add(wrong=f"{method} {path}: {error!r}", requests=1)
            return None
        wrong = None
        if answer.status in _FAULTS:
            wrong = self._fault(method, path, answer)
            time.sleep(0.05)
        elif answer.status not in _EXPECTED:
            wrong = f"{method} {path}: {answer.status} {answer.body!r}"
        self._record.add(wrong=wrong, requests=1)
        return answer

    def _fault(self, method: str, path: str, answer: Answer) -> str | None:
        """A killed process is API Gateway's own 500 or 503; a database that is away our 503, with when to come back."""
        content = answer.json()
        if "error" not in content and "message" in content:
            self._record.lost.append(time.monotonic())
        elif content["error"]["code"] == "UNAVAILABLE" and "retry-after" in answer.headers:
            self._record.unavailable.append(time.monotonic())
        else:
            return f"{method} {path}: {answer.status} {answer.body!r}"
        return None
