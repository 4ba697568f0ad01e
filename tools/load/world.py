"""Owns what a load makes up: people, facts, what comes of step functions, ids and instants. All of it by chance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from loop_runner.identity import Identity
from tools.load.rows import Past
from tools.load.runs import PastCall

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from pydantic import JsonValue

    from loop_runner.loops import Loop, Step
    from loop_runner.models import Json

PEOPLE: Final = ("ann", "ben", "chloe", "dan", "eve", "finn", "gita", "release-bot", "coding-agent", "scheduler")
APPROVERS: Final = ("olga", "pavel", "quinn")
"""They register nothing and run nothing: their eyes are others."""

REASONS: Final = ("waiting for the vendor", "change freeze", "priorities have changed", "asked for by support")
FRONT_END: Final = "arn:aws:iam::123456789012:role/loop-front-end"
FAILURES: Final = (
    ("Lambda.TooManyRequestsException", "Rate exceeded", True),
    ("ConnectionError", "the code host did not answer", False),
    ("KeyError", "'service'", False),
)
"""Of step functions: name, message, and whether nobody knows what came of it."""

_DELEGATED: Final = 20
_WITH_KEY: Final = 15
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

_FACTS: Final[Mapping[str, tuple[JsonValue, ...]]] = {
    "githubUrl": tuple(f"https://github.com/acme/shop/issues/{number}" for number in range(100, 999, 37)),
    "draft": ({"title": "as drafted", "committed": False, "status": "draft"},),
    "pr.url": tuple(f"https://github.com/acme/shop/pull/{number}" for number in range(101, 999, 37)),
    "review.decision": ("approved", "approved", "changes_requested"),
    "checks.status": ("success", "success", "success", "pending", "failure"),
    "verdict": ("GREEN", "GREEN", "RED"),
    "spec.status": ("valid", "valid", "draft"),
    "service": ("checkout", "search", "basket", "mail", "login"),
    "severity": ("high", "high", "low"),
    "plan.action": ("restart", "rollback"),
    "postmortem.url": ("https://wiki.example.com/postmortems/1", "https://wiki.example.com/postmortems/2"),
}
"""What people write into the facts that gates ask for, by path; often, but not always what the gate wants."""


@dataclass
class World:
    """What the issues of a load have in common: chance, the past, and that no two of its runs were created at once."""

    chance: Random
    past: Past = field(default_factory=Past)
    _taken: set[datetime] = field(default_factory=set)

    def happens(self, of_a_hundred: float) -> bool:
        """Whether chance has it."""
        return self.chance.random() * 100 < of_a_hundred

    def new_run(self, at: datetime) -> tuple[UUID, datetime]:
        """The id of a run, a UUID of version 7 (RFC 9562, section 5.7), and when it is created: then, or just after."""
        while at in self._taken:
            at += timedelta(microseconds=1)
        self._taken.add(at)
        milliseconds, chance = (at - _EPOCH) // timedelta(milliseconds=1), self.chance.getrandbits(74)
        return UUID(int=milliseconds << 80 | 7 << 76 | chance >> 62 << 64 | 2 << 62 | chance & (1 << 62) - 1), at

    def forget_before(self, at: datetime) -> None:
        """No run is created before ``at`` any more."""
        self._taken = {taken for taken in self._taken if taken >= at}

    def caller(self) -> Identity:
        """Somebody, at times by way of a front end."""
        return Identity(self.chance.choice(PEOPLE), FRONT_END if self.happens(_DELEGATED) else None)

    def call(self) -> PastCall:
        """Somebody's call to run the next step."""
        has_key = self.happens(_WITH_KEY)
        return PastCall(
            by=self.caller(),
            request_id=str(self.token()),
            lambda_request_id=str(self.token()),
            log_stream=f"[$LATEST]{self.chance.getrandbits(128):032x}",
            idempotency_key=str(self.token()) if has_key else None,
            request_hash=self.token_hash() if has_key else None,
        )

    def call_again(self, call: PastCall) -> PastCall:
        """The call that run-worker makes on its behalf, later."""
        return replace(call, lambda_request_id=str(self.token()), idempotency_key=None, request_hash=None)

    def token(self) -> UUID:
        """A random UUID."""
        return UUID(int=self.chance.getrandbits(128), version=4)

    def token_hash(self) -> str:
        """A SHA-256 of something."""
        return f"{self.chance.getrandbits(256):064x}"

    def teller(self) -> Json:
        """What the row of a step says of who told its outcome."""
        return {"toldBy": self.chance.choice(PEOPLE), "toldId": str(self.token())}

    # ------------------------------------------------------------------------------------------------ facts

    def facts_of(self, loop: Loop) -> Json:
        """What is known of an issue when it is registered."""
        facts: Json = {
            "title": f"{loop.name} {self.chance.randrange(10**6)}",
            "risk": self.chance.choice(["low", "high"]),
        }
        for step in loop.steps[:1]:
            for gate in step.require:
                if "." not in gate.fact and gate.fact in _FACTS and self.happens(60):
                    facts[gate.fact] = self.chance.choice(_FACTS[gate.fact])
        return facts

    def patch_of(self, fact: str, body: Json) -> Json:
        """What somebody writes of a fact that a gate asks for; ``body`` is the patch that the gate suggests."""
        if fact in _FACTS and self.happens(70):
            return _nested(fact, self.chance.choice(_FACTS[fact]))
        return {key: _filled(value) for key, value in body.items()}

    def fresh_start(self, loop: Loop) -> Json:
        """The patch with which an issue begins anew."""
        gates = {gate.fact.partition(".")[0] for step in loop.steps for gate in step.require}
        return {key: None for key in sorted(gates - set(loop.protected_facts)) if self.happens(80)}

    def result_facts(self, step: Step, facts: Json) -> Json:
        """What the step's function adds to the facts, as those in tools/steps/ do."""
        chance = self.chance
        pull: Json = {
            "url": f"https://github.com/acme/shop/pull/{chance.randrange(1000, 9999)}",
            "headSha": f"{chance.getrandbits(160):040x}",
        }
        added: Mapping[str, Json] = {
            "coding-agent": {"pr": pull},
            "merge-pr": {"pr": {"merged": True}},
            "collect-diagnostics": {"diagnosis": {"suspect": chance.choice(["deployment", "load"])}},
            "page-on-call": {"acknowledgedBy": chance.choice(PEOPLE)},
            "apply-mitigation": {"mitigation": facts.get("plan")},
            "verify-recovery": {"recovery": facts.get("mitigation")},
        }
        return added.get(getattr(step.executor, "function", ""), {})


def _filled(value: JsonValue) -> JsonValue:
    """A suggestion, with something where it leaves the value open."""
    if isinstance(value, dict):
        return {key: _filled(part) for key, part in value.items()}
    return "as agreed" if value == "<value>" else value


def _nested(path: str, value: JsonValue) -> Json:
    key, _, rest = path.partition(".")
    return {key: _nested(rest, value) if rest else value}
