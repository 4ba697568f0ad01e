"""Owns what pages are looked at with: issues and runs as every page has words for them, hard to show ones too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg

from tests.browser.loops import LONG_LOOP
from tests.conftest import ACTOR
from tests.stack_client import Issue, ok

if TYPE_CHECKING:
    from tools.local.stack import Stack

HEBREW: Final = "\N{RIGHT-TO-LEFT OVERRIDE}" + "שלום עולם " * 40
UNBROKEN: Final = "W" * 500
MARKUP: Final = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&amp;"

PICKED: Final[dict[str, Any]] = {"githubUrl": "https://github.com/acme/app/issues/1"}
"""Facts with which the first step of issue-delivery runs, and no other."""

DRAFT: Final[dict[str, Any]] = {"draft": {"committed": True, "status": "valid"}}
"""Facts with which it is skipped, and the next two run."""

WAITS: Final[dict[str, Any]] = {"do": "answer", "answer": {}}
"""Facts with which a callback step of own_stack.py waits for its outcome."""
NATIVE: Final[dict[str, Any]] = {"status": "failed", "error": {"name": "constructor", "message": "__proto__"}}
"""What a step answers whose error is called like something that every object of a browser has."""


def change_rows(stack: Stack, statement: str, *parameters: object) -> None:
    """Change rows as no call can."""
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("SET LOCAL session_replication_role = replica")  # the rules of the lifecycle do not look
        connection.execute(statement, parameters)


def multiply_run(stack: Stack, run_id: str, count: int) -> None:
    """As if there had been so many more runs like this one, one a second before it."""
    change_rows(
        stack,
        """
        INSERT INTO loop_runs
        SELECT (jsonb_populate_record(run, jsonb_build_object(
            'id', gen_random_uuid(), 'created_at', run.created_at - number * interval '1 second'))).*
        FROM loop_runs AS run, generate_series(1, %s) AS number
        WHERE run.id = %s
        """,
        count,
        run_id,
    )


class Cases:
    """Makes each situation once: ``routes`` has the page of each by its name."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.routes: dict[str, str] = {
            "overview": "",
            "overview of a week": "?window=7d",
            "issues": "issues",
            "issues with filters": "issues?loop=plain&state=OPEN",
            "issues, none": "issues?state=NO_SUCH_STATE",
            "runs": "runs",
            "runs with filters": "runs?status=failed%2Cblocked&loop=plain&actor=ann&since=2026-01-01T00%3A00Z",
            "runs, none": "runs?actor=nobody-at-all",
            "nowhere": "no/such/page",
        }
        self._issues()
        self._runs()
        self._hard_to_show()

    def _new(self, name: str, loop: str, /, *, issue_id: str | None = None, actor: str = ACTOR, **facts: Any) -> Issue:
        issue = Issue(self._stack.url, issue_id or f"C-{uuid4().hex[:12]}", actor)
        issue.register(loop, **facts)
        self.routes[f"issue, {name}"] = f"issues/{issue.id}"
        return issue

    def _run_route(self, name: str, run_id: str) -> None:
        self.routes[f"run, {name}"] = f"runs/{run_id}"

    def _issues(self) -> None:
        self._new("new", "issue-delivery")
        on_its_way = self._new("on its way", "issue-delivery", **PICKED, **DRAFT)
        for _ in range(3):  # the last one is blocked
            on_its_way.run()
        held = self._new("held", "agent-merge", **PICKED, spec={"status": "valid"})
        ok(held.call("POST", f"{held.path}/hold", {"reason": "Wait for the release"}))
        self._new("waits for approval", "reviewed").run()
        decided = self._new("decided", "reviewed")
        ok(decided.decide("approved", actor="bea", comment="Looks good"))
        done = self._new("done", "plain")
        done.run()
        self._new("retry planned", "retried", do="fail", name="Late").run()

    def _runs(self) -> None:
        completed = self._new("of a completed run", "issue-delivery", **DRAFT)
        self._run_route("completed", completed.run()["runId"])
        self._run_route(
            "dry", ok(completed.call("POST", f"{completed.path}/run-next-step", {"mode": "dryRun"}))["runId"]
        )
        self._run_route("blocked", completed.run()["runId"])
        failed = self._new("of a failed run", "plain", do="raise")
        self._run_route("failed", failed.run()["runId"])
        live = self._new("live", "handed", **WAITS)
        self._run_route("live", live.run()["runId"])
        cancelled = self._new("of a cancelled run", "handed", **WAITS)
        run_id = cancelled.run()["runId"]
        cancelled.cancel(run_id)
        self._run_route("cancelled", run_id)
        queued = self._new("of a queued run", "long")
        run_id = queued.queue()
        queued.wait_for_end(run_id)
        self._run_route("queued", run_id)

    def _hard_to_show(self) -> None:
        native = self._new(
            "named like what objects have", "constructor", do="answer", answer=NATIVE, __proto__={"toString": 1}
        )
        self._run_route("named like what objects have", native.run()["runId"])
        long = self._new(
            "long names",
            LONG_LOOP,
            issue_id=f"L{uuid4().hex}".ljust(128, "x"),
            actor="n" * 256,
            **{"f" * 128: "W" * 300},
        )
        self._run_route("long names", long.run()["runId"])
        loopless = self._new("unknown loop", "plain")
        loopless.run()
        change_rows(self._stack, "UPDATE loop_issues SET loop_name = 'gone' WHERE id = %s", loopless.id)
        lost = self._new("unknown state", "plain")
        lost.run()
        change_rows(self._stack, "UPDATE loop_issues SET state = %s WHERE id = %s", "Z" * 64, lost.id)
        large = self._new("large facts", "plain")
        for each in range(5):
            large.patch(**{f"k{each}": UNBROKEN * 80})
        for name, text in {"right to left": HEBREW, "unbroken": UNBROKEN, "markup": MARKUP}.items():
            error = {"name": text[:128], "message": (text * 8)[:4000]}
            issue = self._new(
                name, "plain", do="answer", answer={"status": "failed", "error": error}, **{text[:60]: text}
            )
            ok(issue.call("POST", f"{issue.path}/hold", {"reason": text[:500]}))
            ok(issue.call("POST", f"{issue.path}/resume", {"reason": text[:500]}))
            self._run_route(name, issue.run()["runId"])
            ok(issue.call("POST", f"{issue.path}/hold", {"reason": text[:500]}))
