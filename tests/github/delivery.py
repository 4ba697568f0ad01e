"""Owns an issue of the loop github-delivery with its pull request: driven over HTTP, its world set by the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from tests.stack_client import Issue, error_of, wait_until

if TYPE_CHECKING:
    from tests.github.fake import FakeGithub
    from tests.github.world import PullRequest
    from tools.local.stack import Stack

LOOP: Final = "github-delivery"
SOON: Final = timedelta(seconds=15)
"""Attempts that are due within it are waited for."""

BEYOND_THE_MERGE: Final = {"DONE", "OBSERVED", "VERIFIED", "CLOSED"}


class Delivery(Issue):
    """The issue is registered with the address of the pull request. ``go`` calls and waits until it goes no further."""

    def __init__(self, stack: Stack, github: FakeGithub, pull: PullRequest, **facts: Any) -> None:
        super().__init__(stack.url, f"GH-{uuid4().hex[:8]}")
        self.stack, self.github, self.pull = stack, github, pull
        self.pull_url = github.pull_url(pull)
        self.register(LOOP, **({"prUrl": self.pull_url} | facts))

    def make_ready(self) -> None:
        """Approved, with a check and a status that succeeded: it may be merged."""
        self.pull.approve("bob")
        self.pull.check("build")
        self.pull.status("lint")

    def go(self) -> dict[str, Any]:
        """Run the next step, and those after it that run by themselves; the last run, with its steps."""
        self.run()
        wait_until(self._rests)
        return self.last_run()

    def last_run(self) -> dict[str, Any]:
        return self.run_of(self.runs()[-1]["runId"])

    def blocker(self) -> tuple[str, str]:
        """Code and message of what the issue stops at."""
        run = self.go()
        assert run["status"] == "blocked", run
        return run["blockerCode"], run["message"]

    def failure(self) -> tuple[str, str]:
        """Code and message of the error that the issue stops at."""
        run = self.go()
        assert run["status"] == "failed", run
        return run["errorCode"], run["errorMessage"]

    def _rests(self) -> bool:
        """Whether nothing is at work, and nothing follows by itself within seconds."""
        issue = self.get()  # first: what begins after it shows in the runs
        last = self.runs()[-1]
        if last["status"] == "failed" and "nextAttemptAt" in issue:
            return datetime.fromisoformat(issue["nextAttemptAt"]) > datetime.now(UTC) + SOON
        return "liveRun" not in issue and (last["status"] in {"blocked", "failed"} or last["loopStatus"] == "completed")

    def rest(self) -> None:
        """Let no attempt begin any more: it would meet what the next test does to GitHub."""
        held = self.call("POST", f"{self.path}/hold", {"reason": "the test is over"})
        assert held.status == 200 or error_of(held) == (409, "ISSUE_FINISHED")
        wait_until(lambda: "liveRun" not in self.get())

    def errors(self) -> list[str]:
        """Of the runs that failed."""
        return [run["errorCode"] for run in self.runs() if run["status"] == "failed"]

    @property
    def state(self) -> str:
        return str(self.get()["state"])

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.get()["facts"]
        return facts

    def assert_merged_once_if_at_all(self) -> None:
        """At most one merge; exactly one of the head that was asked for, where the issue says that it was merged."""
        assert len(self.pull.merges) == (1 if self.state in BEYOND_THE_MERGE else len(self.pull.merges) and 1)
        for merge in self.pull.merges:
            if merge.by.startswith("loop-runner"):
                assert merge.asked == merge.head, "a merge names the head that was checked"
