"""Owns the work that the pictures show: people, bots and agents on issues of the loops that ship, over HTTP only."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tools.local.client import request
from tools.local.stack import StackError

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_SECONDS: Final = 60

_DELIVERY: Final[tuple[dict[str, Any] | None, ...]] = (
    None,
    None,  # NO_DRAFT
    {"draft": {"committed": True, "status": "valid"}},
    None,
    None,
    None,  # NO_PR_LINKED
    {"pr": {"url": "https://github.com/example/shop/pull/77"}},
    None,
    None,  # NO_REVIEW_APPROVAL
    {"review": {"decision": "approved", "by": "dora"}},
    None,  # CHECKS_PENDING
    {"checks": {"status": "success"}},
    None,
    None,  # PR_NOT_MERGED
    {"pr": {"merged": True}},
    None,
    None,  # NO_DEPLOYMENT_OBSERVATIONS
    {"verdict": "GREEN", "deployment": {"service": "shop"}},
    None,
    {"deployment": {"observedAt": "<now>"}},
    None,
    None,
)
"""What happens to an issue of issue-delivery: a run of its next step, or facts that somebody adds."""

_PEOPLE: Final = ("ann", "bob", "dora", "release-bot")


@dataclass(frozen=True)
class Team:
    """Calls the API of the stack at ``url``; ``world`` is where its step functions act."""

    url: str
    world: Path

    def work(self, seed: int = 7) -> None:
        """A day's work, the same for a seed."""
        chance = random.Random(seed)  # noqa: S311 - the pictures', nobody's secret
        incidents = {f"INC-{number}": self._report(f"INC-{number}", number) for number in range(2037, 2049)}
        agents = [self._hand_over(f"AGENT-{number}", number) for number in range(310, 318)]
        for number in range(401, 425):
            self._deliver(f"SHOP-{number}", calls=chance.randint(2, len(_DELIVERY)), chance=chance)
        self.run("SHOP-424", "ann", dry=True)
        self.hold("SHOP-419", "dora", "Black Friday: nothing goes out before Tuesday")
        for issue_id in incidents:
            self._mitigate(issue_id)
        for number, issue_id in enumerate(agents):
            self._review(issue_id, number)

    # --------------------------------------------------------------------------------------------- calls

    def call(self, method: str, path: str, body: object, actor: str, **headers: str) -> Any:
        """The answer's body. StackError for one that says no."""
        answer = request(self.url, method, f"/api/loop/{path}", body, {"x-afu9-sub": actor, **headers})
        if answer.status >= 400:
            raise StackError(f"{method} {path} was answered with {answer.status}: {answer.body.decode()}")
        return answer.json()

    def register(self, issue_id: str, loop: str, actor: str, **facts: Any) -> str:
        """Register the issue; its id."""
        self.call("PUT", f"issues/{quote(issue_id)}", {"loop": loop, "facts": facts}, actor)
        return issue_id

    def patch(self, issue_id: str, actor: str, facts: Any) -> None:
        """Add facts."""
        stamped = json.loads(json.dumps(facts).replace("<now>", datetime.now(UTC).isoformat()))
        self.call("PATCH", f"issues/{issue_id}", stamped, actor)

    def run(self, issue_id: str, actor: str, *, dry: bool = False) -> Any:
        """Run the next step, or say what would run."""
        return self.call("POST", f"issues/{issue_id}/run-next-step", {"mode": "dryRun" if dry else "execute"}, actor)

    def hold(self, issue_id: str, actor: str, reason: str) -> None:
        """Stop the issue."""
        self.call("POST", f"issues/{issue_id}/hold", {"reason": reason}, actor)

    def decide(self, issue_id: str, actor: str, decision: str, comment: str) -> None:
        """Approve or reject what is next."""
        version = self.issue(issue_id)["version"]
        body = {"decision": decision, "comment": comment}
        self.call("POST", f"issues/{issue_id}/approvals", body, actor, **{"if-match": f'"{version}"'})

    def issue(self, issue_id: str) -> Any:
        """Where it stands."""
        return self.call("GET", f"issues/{issue_id}", None, "ann")

    def wait_for(self, issue_id: str, *states: str) -> None:
        """Until the issue is in one of the states. StackError when that takes too long."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.issue(issue_id)["state"] not in states:
            if time.monotonic() > deadline:
                raise StackError(f"{issue_id} is {self.issue(issue_id)['state']}, it should be {' or '.join(states)}")
            time.sleep(0.05)

    # --------------------------------------------------------------------------------------------- loops

    def _deliver(self, issue_id: str, *, calls: int, chance: random.Random) -> None:
        """An issue of issue-delivery, as far as so many calls bring it."""
        link = f"https://github.com/example/shop/issues/{issue_id.removeprefix('SHOP-')}"
        self.register(issue_id, "issue-delivery", chance.choice(_PEOPLE), githubUrl=link, title="Gift cards")
        for facts in _DELIVERY[:calls]:
            actor = chance.choice(_PEOPLE)
            if facts is None:
                self.run(issue_id, actor)
            else:
                self.patch(issue_id, actor, facts)

    def _report(self, issue_id: str, number: int) -> str:
        """An incident, and its diagnosis in the background, which takes three attempts."""
        services = ("checkout", "search", "payments", "mail")
        facts: dict[str, Any] = {"service": services[number % 4], "severity": "low" if number % 5 == 0 else "high"}
        if number % 3 == 0:
            facts["lastDeployment"] = f"v{number - 1990}"
        self.register(issue_id, "incident-runbook", "pager-bot", **facts)
        self.run(issue_id, "pager-bot")
        return issue_id

    def _mitigate(self, issue_id: str) -> None:
        """The incident, as far as its number says."""
        number = int(issue_id.removeprefix("INC-"))
        self.wait_for(issue_id, "DIAGNOSED")
        is_low = number % 5 == 0
        if number >= 2047:
            self.run(issue_id, "bob")  # nobody has answered the page
            return
        if not is_low:
            self.run(issue_id, "bob")
            page = json.loads((self.world / "pages" / f"{issue_id}.json").read_text())
            failed = {
                "status": "failed",
                "error": {"name": "Pager.Unreachable", "message": "the carrier refused the call"},
            }
            answer = {"taskToken": page["body"]["taskToken"], **failed} if number % 4 == 1 else page["body"]
            self.call("POST", f"runs/{page['url'].split('/')[-2]}/result", answer, "pager-bot")
            if number % 4 == 1:
                return
        else:
            self.run(issue_id, "bob")  # PAGE is skipped, the plan is missing
        if number == 2046:
            return
        self.patch(issue_id, "bob", {"plan": {"action": "rollback" if number % 3 == 0 else "restart"}})
        self.run(issue_id, "bob")  # APPROVAL_REQUIRED
        if number >= 2044:
            return
        self.decide(issue_id, "dora", "approved", "Go ahead, the dashboard agrees")
        for _ in range(3):
            self.run(issue_id, "bob")
        if not is_low and number % 2:
            self.patch(issue_id, "dora", {"postmortem": {"url": f"https://wiki.example.org/{issue_id}"}})
        self.run(issue_id, "dora")

    def _hand_over(self, issue_id: str, number: int) -> str:
        """An issue for the coding agent, which opens a pull request, or gives up what is too large."""
        link = f"https://github.com/example/shop/issues/{number}"
        spec = {"status": "valid", "days": 9 if number % 4 == 3 else 2}
        self.register(
            issue_id, "agent-merge", "ann", githubUrl=link, spec=spec, risk="low" if number % 3 == 0 else "high"
        )
        self.run(issue_id, "ann")
        return issue_id

    def _review(self, issue_id: str, number: int) -> None:
        """The pull request, reviewed and merged, as far as the number says."""
        self.wait_for(issue_id, "IN_REVIEW", "ABANDONED")
        issue = self.issue(issue_id)
        if issue["state"] == "ABANDONED":
            return
        self.run(issue_id, "ann")  # APPROVAL_REQUIRED, or skipped and CHECKS_STALE
        if issue["facts"]["risk"] == "high":
            if number % 4 == 1:
                return
            self.decide(issue_id, "dora", "rejected" if number == 2 else "approved", "Read every line of it")
            self.run(issue_id, "ann")
        if number == 2:
            return
        checks = {"sha": issue["facts"]["pr"]["headSha"], "finishedAt": "<now>"}
        self.patch(issue_id, "ci-bot", {"checks": checks})
        self.run(issue_id, "ann")
