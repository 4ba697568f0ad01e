"""GitHub's deliveries through HTTP, queue and worker of a local stack: an issue goes on by itself when GitHub tells."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import assert_sound, create_database, drop_database
from tests.sample_events import SECRET
from tests.stack_client import ENDED, Issue, wait_until
from tests.webhook_client import deliver
from tools.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.local.client import Answer

LOOP = """
name = "pull"
initial_state = "OPEN"
completed_states = ["CLOSED"]
auto_advance = true
[[steps]]
number = 1
type = "REVIEW"
from = ["OPEN"]
to = "REVIEWED"
executor = { kind = "lambda", function = "github" }
[[steps]]
number = 2
type = "CLOSE"
from = ["REVIEWED"]
to = "CLOSED"
executor = { kind = "transition" }
"""
STEP = """
import os, time
from pathlib import Path

def handler(event, context):
    world = Path(os.environ["WORLD_DIR"])
    with (world / f"{event['issueId']}.calls").open("a") as calls:
        calls.write(event["actor"] + "\\n")
    while (world / f"{event['issueId']}.wait").exists():
        time.sleep(0.05)
    if (world / f"{event['issueId']}.approved").exists():
        return {"status": "completed"}
    return {"status": "blocked", "blocker": {"code": "NO_REVIEW_APPROVAL", "message": "nobody has approved"}}
"""
"""Stands for the step function github: approved is what the test's world says is."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The loop, its step, and what the functions log."""
    folder = tmp_path_factory.mktemp("webhook")
    (folder / "loops").mkdir()
    (folder / "loops" / "pull.toml").write_text(LOOP)
    (folder / "steps" / "github").mkdir(parents=True)
    (folder / "steps" / "github" / "app.py").write_text(STEP)
    return folder


@pytest.fixture(scope="module")
def stack(server_url: str, migrated_template: str, folder: Path) -> Iterator[Stack]:
    url = create_database(server_url, migrated_template)
    environment = {
        "PATH": os.environ["PATH"],
        "LOOPS_DIR": str(folder / "loops"),
        "STEPS_DIR": str(folder / "steps"),
        "GITHUB_WEBHOOK_SECRET": SECRET,
    }
    with Stack(port=0, database_url=url, environment=environment, log_file=folder / "log") as stack:
        yield stack
        assert_sound(url)
        assert SECRET not in (folder / "log").read_text()
    drop_database(server_url, url)


class PullRequest(Issue):
    """An issue with a pull request of its own, and what GitHub delivers of it."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack.url, f"GH-{uuid4().hex[:8]}")
        self.deliveries: list[str] = []
        self.stack, self.repository = stack, f"octo/{uuid4().hex[:8]}"
        self.register("pull", prUrl=f"https://github.com/{self.repository}/pull/7")

    def world(self, name: str) -> Path:
        return self.stack.world / f"{self.id}.{name}"

    def approve(self) -> None:
        self.world("approved").touch()

    def deliver(self, delivery: str | None = None, secret: str = SECRET) -> Answer:
        delivery = delivery or str(uuid4())
        self.deliveries.append(delivery)
        payload = {
            "action": "submitted",
            "pull_request": {"number": 7},
            "repository": {"id": 1, "full_name": self.repository},
        }
        return deliver(self.url, "pull_request_review", payload, delivery=delivery, secret=secret)

    def told(self) -> list[dict[str, Any]]:
        """The runs of deliveries, oldest first."""
        return [run for run in self.runs() if run["requestId"] in self.deliveries]

    def is_at_rest(self) -> bool:
        """Whether no run is under way, and no message for one."""
        return all(run["status"] in ENDED for run in self.runs()) and not self.get().get("nextAttemptAt")

    def looks(self) -> list[str]:
        """Who had the step look, in order."""
        return self.world("calls").read_text().splitlines() if self.world("calls").exists() else []


@pytest.fixture
def issue(stack: Stack) -> PullRequest:
    return PullRequest(stack)


def test_approval_on_github_lets_the_issue_go_on_by_itself_to_its_end(issue: PullRequest) -> None:
    assert issue.run()["blocker"]["code"] == "NO_REVIEW_APPROVAL"
    issue.approve()
    answer = issue.deliver()
    assert (answer.status, answer.json()["passedOn"]) == (202, True)
    issue.wait_for_state("CLOSED")
    wait_until(issue.is_at_rest)
    runs = issue.runs()
    assert [(run["actor"], run["status"]) for run in runs] == [
        ("ann", "blocked"),
        ("github", "completed"),
        ("github", "completed"),
    ]
    assert runs[1]["requestId"] == issue.deliveries[0]
    assert "principal" not in runs[1] or runs[1]["principal"] is None, "never a person"
    started = [event["eventData"] for event in issue.events() if event["eventType"] == "loop_run_queued"]
    assert [set(data) for data in started] == [{"actor", "attempt", "state"}]


def test_what_is_not_signed_sets_nothing_going(issue: PullRequest) -> None:
    assert issue.deliver(secret="another").status == 401
    issue.deliver()
    wait_until(lambda: issue.looks() and issue.is_at_rest())
    assert [run["requestId"] for run in issue.runs()] == [issue.deliveries[1]]


def test_a_delivery_runs_once_however_often_github_sends_it(issue: PullRequest) -> None:
    delivery = str(uuid4())
    for _ in range(3):
        assert issue.deliver(delivery).status == 202
    wait_until(lambda: issue.looks() and issue.is_at_rest())
    marker = str(uuid4())
    issue.deliver(marker)  # passed on after them
    wait_until(lambda: any(run["requestId"] == marker for run in issue.runs()))
    wait_until(issue.is_at_rest)
    assert [run["requestId"] for run in issue.told()] == [delivery, marker]
    assert issue.looks() == ["github", "github"]


def test_a_delivery_that_comes_while_a_run_looks_comes_again(issue: PullRequest, folder: Path) -> None:
    """What happens after a run has looked, and before it says so, is seen by the run of the delivery."""
    issue.world("wait").touch()
    issue.queue({"prefer": "respond-async"})
    wait_until(issue.looks)
    issue.deliver()
    wait_until(lambda: f'"again":["{issue.id}"]' in (folder / "log").read_text())
    issue.world("wait").unlink()
    wait_until(issue.is_at_rest)
    assert [run["status"] for run in issue.runs()] == ["blocked"]
    issue.approve()
    issue.wait_for_state("CLOSED")
    assert issue.looks() == ["ann", "github"]


def test_deliveries_of_many_pull_requests_at_once_let_each_issue_go_on(stack: Stack) -> None:
    issues = [PullRequest(stack) for _ in range(10)]
    for each in issues:
        each.approve()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(PullRequest.deliver, issues * 3))
    assert {answer.status for answer in answers} == {202}
    for each in issues:
        each.wait_for_state("CLOSED")
        assert each.looks() == ["github"], "the step that leaves OPEN completed once"


def test_no_payload_and_no_secret_is_in_a_row(stack: Stack, issue: PullRequest) -> None:
    issue.deliver()
    wait_until(lambda: issue.looks() and issue.is_at_rest())
    with psycopg.connect(stack.database_url) as connection:
        tables = ("loop_runs", "loop_run_steps", "loop_events")
        rows = [str(row) for table in tables for row in connection.execute(f"SELECT * FROM {table}").fetchall()]
    assert any(issue.deliveries[0] in row for row in rows)
    for canary in (SECRET, issue.repository, "submitted", "sha256="):
        assert not any(canary in row for row in rows), canary
