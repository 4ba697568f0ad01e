"""Import cost is latency: the path of a transition imports no SDK, from its event to its answer, in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.conftest import LOOPS, ROOT, event

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import json, sys
from importlib import import_module
from tests.conftest import Context

statuses = []
for module, event in json.loads(sys.stdin.read()):
    answer = import_module(f"functions.{module}.app").handler(event, Context())
    statuses.append(answer["statusCode"])
sdk = sorted(name for name in sys.modules if name.partition(".")[0] in {"boto3", "botocore", "urllib3", "aws_xray_sdk"})
sdk.remove("botocore")  # its empty package, which Powertools looks into
print(json.dumps([statuses, sdk[:3]]), file=sys.stderr)
"""
ISSUE = "/api/loop/issues/A-1"
ANN = {"x-afu9-sub": "ann"}
LAMBDA = """
name = "issue-delivery"
initial_state = "OPEN"
completed_states = ["DONE"]
[[steps]]
number = 1
type = "WORK"
from = ["OPEN"]
to = "DONE"
executor = { kind = "lambda", function = "work" }
"""


def handled(database_url: str, loops: Path, *calls: tuple[str, dict[str, Any]]) -> tuple[list[int], list[str]]:
    """The statuses of these calls in a new process, and what of the SDK it had imported at the end."""
    nowhere = "http://127.0.0.1:9"
    variables = {
        "DATABASE_URL": database_url,
        "LOOPS_DIR": str(loops),
        "TRUST_ACTOR_HEADER": "1",
        "RUN_QUEUE_URL": f"{nowhere}/queue",
        "AWS_ENDPOINT_URL": nowhere,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=variables, input=json.dumps(calls), capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    statuses, sdk = json.loads(done.stderr.splitlines()[-1])
    return statuses, sdk


def run_next_step(**parts: Any) -> tuple[str, dict[str, Any]]:
    return "run_next_step", event("POST", f"{ISSUE}/run-next-step", headers=ANN, **parts)


def register(**facts: Any) -> tuple[str, dict[str, Any]]:
    return "loop_api", event("PUT", ISSUE, {"loop": "issue-delivery", "facts": facts}, headers=ANN)


def test_the_path_of_a_transition_imports_no_sdk(app_database_url: str) -> None:
    calls = [
        register(githubUrl="https://github.com/acme/app/issues/1"),
        run_next_step(),
        run_next_step(body={"mode": "dryRun"}),
        run_next_step(),
        ("loop_api", event("GET", ISSUE, headers=ANN)),
        ("loop_api", event("POST", f"{ISSUE}/hold", {"reason": "audit"}, headers=ANN)),
        ("run_next_step", event("POST", "/api/loop/issues/A-9/run-next-step", headers=ANN)),
    ]
    assert handled(app_database_url, LOOPS, *calls) == ([201, 200, 200, 200, 200, 200, 404], [])


def test_the_path_of_a_lambda_does(app_database_url: str, tmp_path: Path) -> None:
    """So that the test above can fail."""
    (tmp_path / "issue-delivery.toml").write_text(LAMBDA)
    statuses, sdk = handled(app_database_url, tmp_path, register(), run_next_step())
    assert (statuses, sdk) == ([201, 200], ["boto3", "boto3.compat", "boto3.docs"])
