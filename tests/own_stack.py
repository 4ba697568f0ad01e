"""A local stack with loops and a step function of the tests' own: the issue's facts say what its step does."""

from __future__ import annotations

import json
import os
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import create_database, drop_database
from tools.local import scheduler
from tools.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKER = """
    import json, os, time
    from pathlib import Path
    from urllib.request import Request, urlopen

    def handler(event, context):
        issue, facts, world = event["issueId"], event["facts"], Path(os.environ["WORLD_DIR"])
        with (world / f"{issue}.calls").open("a") as calls:
            calls.write(json.dumps(event) + "\\n")
        match facts.get("do"):
            case "crash":
                os._exit(1)
            case "sleep":
                time.sleep(5)
            case "raise":
                raise LookupError("there is no such pull request")
            case "fail":
                return {"status": "failed", "error": {"name": facts["name"], "message": "not now"}}
            case "fail twice" if event["attempt"] < 3:
                return {"status": "failed", "error": {"name": facts["name"], "message": "not now"}}
            case "block":
                return {"status": "blocked", "blocker": {"code": "NO_WINDOW", "message": "Wait for the window"}}
            case "answer":
                return facts["answer"]
            case "not json":
                return {1, 2}
            case "6 MB":
                return {"status": "completed", "message": "x" * 6_000_000}
            case "over 6 MB":
                return {"status": "completed", "message": "x" * 7_000_000}
            case "many facts":
                return {"status": "completed", "facts": {"large": "x" * 300_000}}
            case "tell at once":
                path = f"/api/loop/runs/{event['runId']}/result"
                body = json.dumps({"taskToken": event["taskToken"], "status": "completed", "facts": {"told": True}})
                request = Request(os.environ["LOOP_API_URL"] + path, body.encode(), {"x-afu9-sub": "worker"})
                return {"told": urlopen(request).status}
            case "wait":
                while not (world / f"{issue}.go").exists():
                    time.sleep(0.02)
        return {"status": "completed", "facts": {"doneBy": event["runId"]}}
"""

BROKEN = """
    import no_such_module
"""


def loop(
    name: str, executor: str = '{ kind = "lambda", function = "worker" }', *, step: str = "", more: str = ""
) -> str:
    """A loop of one step, WORK, that leads from OPEN to DONE."""
    return f"""
name = "{name}"
initial_state = "OPEN"
completed_states = ["DONE"]

[[steps]]
number = 1
type = "WORK"
from = ["OPEN"]
to = "DONE"
executor = {executor}
{step}
{more}
"""


RETRY = """
[[steps.retry]]
ErrorEquals = ["Soon", "LEASE_EXPIRED"]
IntervalSeconds = 1
BackoffRate = 1

[[steps.retry]]
ErrorEquals = ["Late"]
IntervalSeconds = 3600
"""

AUTO = """
name = "auto"
initial_state = "OPEN"
completed_states = ["DONE"]
auto_advance = true

[[steps]]
number = 1
type = "PREPARE"
from = ["OPEN"]
to = "PREPARED"
executor = { kind = "lambda", function = "worker" }

[[steps]]
number = 2
type = "WORK"
from = ["PREPARED"]
to = "WORKED"
timeout_seconds = 60
executor = { kind = "lambda", function = "worker" }

[[steps]]
number = 3
type = "FINISH"
from = ["WORKED"]
to = "DONE"
require = [{ fact = "ready", blocker = "NOT_READY" }]
executor = { kind = "transition" }
"""

LOOPS = {
    "auto": AUTO,
    "plain": loop("plain"),
    "short": loop("short", step="timeout_seconds = 1"),
    "long": loop("long", step="timeout_seconds = 60", more=RETRY),
    "retried": loop("retried", more=RETRY),
    "handed": loop("handed", '{ kind = "callback", function = "worker" }'),
    "unanswered": loop("unanswered", '{ kind = "callback", function = "worker" }', step="timeout_seconds = 1"),
    "silent": loop("silent", '{ kind = "callback", function = "worker", heartbeat_seconds = 1 }'),
} | {
    name: loop(name, f'{{ kind = "lambda", function = "{name}" }}')
    for name in ("busy", "slow", "broken", "no-such-function")
}
"""``busy`` is throttled, ``slow`` has a second, ``broken`` cannot be imported, ``no-such-function`` is not there."""


@contextmanager
def own_stack(
    server_url: str, template: str, folder: Path, environment: dict[str, str] | None = None, **options: Any
) -> Iterator[Stack]:
    """A stack on a database of its own with these loops and functions, in the folder. Tests sweep, no schedule does."""
    for name, toml in LOOPS.items():
        (folder / "loops").mkdir(exist_ok=True)
        (folder / "loops" / f"{name}.toml").write_text(toml)
    for name, code in {"worker": WORKER, "busy": WORKER, "slow": WORKER, "broken": BROKEN}.items():
        (folder / "steps" / name).mkdir(parents=True)
        (folder / "steps" / name / "app.py").write_text(textwrap.dedent(code))
    url = create_database(server_url, template)
    variables = {"LOOPS_DIR": str(folder / "loops"), "STEPS_DIR": str(folder / "steps"), "PATH": os.environ["PATH"]}
    given: dict[str, Any] = {"throttled": {"busy"}, "timeouts": {"slow": 1}} | options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "LONGEST_SECONDS", 3600.0)
        with Stack(port=0, database_url=url, environment=variables | (environment or {}), **given) as stack:
            yield stack
    drop_database(server_url, url)


def calls_of(stack: Stack, issue_id: str) -> list[dict[str, Any]]:
    """The events that the issue's steps were executed with, in order."""
    path = stack.world / f"{issue_id}.calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def let_go(stack: Stack, issue_id: str) -> None:
    """End the step of an issue whose step waits."""
    (stack.world / f"{issue_id}.go").touch()
