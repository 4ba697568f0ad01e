"""``demo``: one run and the rows it left, then a run that is killed in the middle and what becomes of it.

What is shown is checked: an answer that differs from its rows, or a recovery other than told, is exit status 1.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, LiteralString
from urllib.parse import quote

import psycopg
from psycopg.rows import DictRow, dict_row

from tools.local.client import Answer, request
from tools.local.demo_checks import DemoError, compare, expect, new_database, text, texts
from tools.local.printer import Printer
from tools.local.sample import register_sample_issue
from tools.local.settings import ROOT, LocalSettings
from tools.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

_FUNCTION: Final = "RunNextStepFunction"
_TIMEOUT: Final = 3
_PATIENCE_SECONDS: Final = 60.0
_DRAFT: Final = {"draft": {"committed": True, "status": "valid"}}


def run_demo(root: Path = ROOT) -> int:
    """Show everything on a stack of its own, which leaves nothing behind; exit status 0."""
    printer = Printer()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))  # unwinds: no process and no file is left behind
    settings = LocalSettings.from_environment(os.environ, root)
    with contextlib.ExitStack() as cleanup:
        log = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="loop-runner-demo-"))) / "functions.log"
        own_database = settings.database_url and cleanup.enter_context(new_database(settings.database_url))
        stack = Stack(
            root=root,
            port=settings.port or 0,
            database_url=own_database,
            log_file=log,
            timeouts={_FUNCTION: _TIMEOUT},
            progress=lambda line: printer.progress(f"{line} ..."),
        )
        printer.title("The loop runner on this machine: API Gateway, Lambda, PostgreSQL; no Docker, no AWS")
        try:
            with stack, psycopg.connect(stack.database_url, autocommit=True, row_factory=dict_row) as database:
                _Demo(stack, database, printer, root).run()
        except KeyboardInterrupt:
            return 130
        except Exception:
            _show_log(log)
            raise
    return 0


def _show_log(log: Path) -> None:
    """On a failure, what the functions printed of it, before their log goes."""
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if '"level":"INFO"' not in line]
        if lines:
            print("What the functions logged of it:", *lines[-10:], sep="\n  ", file=sys.stderr)


class _Demo:
    """One showing, step by step."""

    def __init__(self, stack: Stack, database: psycopg.Connection[DictRow], printer: Printer, root: Path) -> None:
        self._stack = stack
        self._database = database
        self._printer = printer
        self._root = root
        self._event: Mapping[str, Any] = json.loads((root / "events" / "run-next-step.json").read_text())
        self._path = quote(self._event["rawPath"])
        self._issue_id = ""

    def run(self) -> None:
        out = self._printer
        version = self._row("SELECT current_setting('server_version') AS version")["version"]
        files = self._row("SELECT count(*) AS files FROM schema_migrations")["files"]
        out.line(f"{self._stack.url}, PostgreSQL {version}, {files} migrations applied by MigrateFunction")
        self._register()
        self._show_run()
        self._show_recovery()
        out.title("What to try next")
        out.table([["make dev", "the same stack, kept open on http://127.0.0.1:3000"],
                   ["make sql", "a prompt on its rows, while it runs"],
                   ["README.md", "the lifecycle, the API, loops of your own, how to deploy"]])  # fmt: skip

    # ------------------------------------------------------------------------------------------------ one run

    def _register(self) -> None:
        self._issue_id, answer = register_sample_issue(self._stack.url, self._root)
        issue = answer.json()
        self._printer.title("1. Register an issue: events/sample-issue.json")
        stands = f"state {issue['state']}, next step {issue['nextStep']['stepType']}"
        self._printer.line(f"PUT /api/loop/issues/{self._issue_id} -> {answer.status}, {stands}")

    def _show_run(self) -> None:
        out = self._printer
        out.title("2. Run its next step: events/run-next-step.json")
        out.line(f"{self._event['requestContext']['http']['method']} {self._path}")
        answer = self._run_next_step()
        expect("status of the answer", 200, answer.status)
        body = answer.json()
        out.json(body)
        out.title("3. The rows that it left in PostgreSQL")
        run = self._row("SELECT * FROM loop_runs WHERE id = %s", body["runId"])
        steps = self._rows("SELECT * FROM loop_run_steps WHERE run_id = %s ORDER BY step_number", body["runId"])
        columns = ["status", "started_at", "completed_at", "duration_ms"]
        out.table(
            [
                ["", "loop_runs", *["loop_run_steps" for _ in steps]],
                ["run id", str(run["id"]), *[str(step["run_id"]) for step in steps]],
                ["issue, step", run["issue_id"], *[f"{step['step_number']} {step['step_type']}" for step in steps]],
                *[[name, *[text(row[name]) for row in (run, *steps)]] for name in columns],
            ],
            has_head=True,
        )
        out.line()
        events = self._rows(
            "SELECT event_type, occurred_at, run_id FROM loop_events WHERE issue_id = %s ORDER BY event_id",
            self._issue_id,
        )
        out.table([["loop_events", "occurred_at", "run_id"], *map(texts, events)], has_head=True)
        compare(body, run, steps, events)
        out.good("run id, status, times and duration are the same in the answer and in the rows")

    # ------------------------------------------------------------------------------------------------ recovery

    def _show_recovery(self) -> None:
        out = self._printer
        out.title("4. Kill a run in the middle")
        template_timeout = self._stack.functions[_FUNCTION].timeout
        out.line(
            f"A run's lease outlives its function's timeout, {_TIMEOUT} s here ({template_timeout} s in template.yaml)."
        )
        patched = self._call("PATCH", f"/api/loop/issues/{quote(self._issue_id)}", _DRAFT)
        expect("status of PATCH", 200, patched.status)
        before = self._issue()
        out.line(f"PATCH the facts that {before['state']} waits for: {json.dumps(_DRAFT)}")
        lost, answer = self._lose_a_run()
        out.line(f"the caller got {answer.status} {answer.body.decode()}; the row is still there:")
        out.table([["loop_runs", "status", "lease_expires_at"], texts(lost)], has_head=True)
        expect("status of the killed call", 500, answer.status)

        out.title("5. Call again: while the lease lasts, nobody else may run it")
        conflict = self._run_next_step()
        error = conflict.json().get("error", {})
        details = error.get("details", {})
        out.line(f"{conflict.status} {error.get('code')}, held by run {details.get('runId')}")
        out.line(f"leaseExpiresAt {details.get('leaseExpiresAt')}")
        expect("second call", [409, "LOOP_CONFLICT"], [conflict.status, error.get("code")])
        expect(
            "holder", [str(lost["id"]), text(lost["lease_expires_at"])], [details["runId"], details["leaseExpiresAt"]]
        )
        self._wait_for_end_of_lease(lost["id"])

        out.title("6. Call again: the lost run is ended, a new one does the step, once")
        answer = self._run_next_step()
        expect("third call", 200, answer.status)
        out.line(f"{answer.status}: {answer.json().get('message')}")
        self._check_recovery(lost, answer.json()["runId"], before)

    def _lose_a_run(self) -> tuple[DictRow, Answer]:
        """Kill the process of a run that has begun and cannot record its end; the run and the caller's answer."""
        with ThreadPoolExecutor(1) as caller, psycopg.connect(self._stack.database_url) as blocker:
            blocker.execute("LOCK TABLE loop_run_steps IN EXCLUSIVE MODE")
            self._printer.line("another session holds LOCK TABLE loop_run_steps: the run cannot record its end")
            call: Future[Answer] = caller.submit(self._run_next_step)
            session = self._wait_for(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            run = self._row(
                "SELECT id, status, lease_expires_at FROM loop_runs WHERE issue_id = %s AND status = 'running'",
                self._issue_id,
            )
            pids = self._stack.busy_pids(_FUNCTION)
            expect("busy processes of the function", 1, len(pids))
            self._printer.line(f"run {run['id']} is running: kill -9 {pids[0]}, the function's process")
            os.kill(pids[0], signal.SIGKILL)
            self._wait_for(
                "SELECT 1 AS is_gone WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", session["pid"]
            )
        return self._row("SELECT id, status, lease_expires_at FROM loop_runs WHERE id = %s", run["id"]), call.result()

    def _wait_for_end_of_lease(self, run_id: object) -> None:
        left = self._row(
            "SELECT ceil(extract(epoch FROM lease_expires_at - clock_timestamp()))::int AS seconds"
            " FROM loop_runs WHERE id = %s",
            run_id,
        )["seconds"]
        self._printer.progress(f"waiting {max(0, left)} s for the lease to end ...")
        self._wait_for("SELECT 1 FROM loop_runs WHERE id = %s AND lease_expires_at < clock_timestamp()", run_id)

    def _check_recovery(self, lost: DictRow, new_run_id: str, before: DictRow) -> None:
        out = self._printer
        runs = self._rows(
            "SELECT id, status, error_code, state_before, state_after FROM loop_runs"
            " WHERE issue_id = %s AND id IN (%s, %s) ORDER BY created_at",
            self._issue_id, lost["id"], new_run_id,
        )  # fmt: skip
        out.table(
            [["loop_runs", "status", "error_code", "state_before", "state_after"], *map(texts, runs)], has_head=True
        )
        after = self._issue()
        executed = self._rows(
            "SELECT run_id, step_type FROM loop_run_steps JOIN loop_runs ON loop_runs.id = run_id"
            " WHERE issue_id = %s AND loop_run_steps.status = 'completed' AND state_before = %s",
            self._issue_id, before["state"],
        )  # fmt: skip
        ends = [[str(run["id"]), run["status"], run["error_code"]] for run in runs]
        expect(
            "ends of the two runs",
            [[str(lost["id"]), "failed", "LEASE_EXPIRED"], [new_run_id, "completed", None]],
            ends,
        )
        expect("runs that did the step", [new_run_id], [str(step["run_id"]) for step in executed])
        expect("version of the issue", before["version"] + 1, after["version"])
        expect("state of the issue", runs[-1]["state_after"], after["state"])
        moved = f"{before['state']} -> {after['state']}, version {before['version']} -> {after['version']}"
        out.good(f"nothing hangs and nothing happened twice: {moved}")

    # ------------------------------------------------------------------------------------------------ means

    def _run_next_step(self) -> Answer:
        """What the event stands for, as a request."""
        skipped = {"host", "content-length"}
        headers = {name: value for name, value in self._event["headers"].items() if name not in skipped}
        body = self._event.get("body") or ""
        content = base64.b64decode(body) if self._event.get("isBase64Encoded") else body.encode()
        method = self._event["requestContext"]["http"]["method"]
        query = self._event.get("rawQueryString")
        path = f"{self._path}?{query}" if query else self._path
        return request(self._stack.url, method, path, content, headers)

    def _call(self, method: str, path: str, body: object) -> Answer:
        return request(self._stack.url, method, path, body, {"x-afu9-sub": self._event["headers"]["x-afu9-sub"]})

    def _issue(self) -> DictRow:
        return self._row("SELECT state, version FROM loop_issues WHERE id = %s", self._issue_id)

    def _rows(self, statement: LiteralString, *parameters: object) -> list[DictRow]:
        return self._database.execute(statement, parameters).fetchall()

    def _row(self, statement: LiteralString, *parameters: object) -> DictRow:
        rows = self._rows(statement, *parameters)
        expect(f"rows of {statement}", 1, len(rows))
        return rows[0]

    def _wait_for(self, statement: LiteralString, *parameters: object) -> DictRow:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            rows = self._rows(statement, *parameters)
            if rows:
                return rows[0]
            time.sleep(0.02)
        raise DemoError(f"waited {_PATIENCE_SECONDS:.0f} s in vain for: {statement}")
