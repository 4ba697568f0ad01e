"""Owns the judgement: what callers were told is held against the ledger, and the ledger against its rules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from loop_runner.audit import audit
from loop_runner.contract import RunNextStepResponse
from loop_runner.models import Run, RunStep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tools.soak.caller import Told

_NO_REQUEST = UUID(int=0)


def violations(url: str, told: Iterable[Told]) -> list[str]:
    """Each thing that is not as it must be, in words."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        runs = {row["id"]: Run.model_validate(row) for row in connection.execute("SELECT * FROM loop_runs")}
        steps: dict[UUID, list[RunStep]] = {}
        for row in connection.execute("SELECT * FROM loop_run_steps ORDER BY run_id, step_number"):
            steps.setdefault(row["run_id"], []).append(RunStep.model_validate(row))
        issues = {row["id"]: row for row in connection.execute("SELECT * FROM loop_issues")}
        patches = {
            (row["issue_id"], row["version"])
            for row in connection.execute(
                "SELECT issue_id, (event_data ->> 'version')::int AS version FROM loop_events"
                " WHERE event_type = 'loop_facts_changed' AND run_id IS NULL"
            )
        }
        expired = connection.execute(
            "SELECT id FROM loop_runs WHERE mode = 'execute' AND status IN ('pending', 'running')"
            " AND lease_expires_at < clock_timestamp()"
        ).fetchall()
    found = [f"run {row['id']}: its lease is over and nobody has ended it" for row in expired]
    keys: dict[tuple[str, str], str] = {}
    for each in told:
        if each.issue_id not in issues:
            found.append(f"issue {each.issue_id}: was registered, is not there")
        if each.version is not None and (each.issue_id, each.version) not in patches:
            found.append(f"issue {each.issue_id}: was patched to version {each.version}, no event says so")
        if each.run_id is not None:
            found += _of_run(each, runs.get(UUID(each.run_id)), steps.get(UUID(each.run_id), []))
            if each.key is not None and keys.setdefault((each.issue_id, each.key), each.run_id) != each.run_id:
                found.append(f"issue {each.issue_id}: key {each.key} stands for two runs")
    found += [
        f"audit {finding['rule']}: {finding['violations']} of {finding['table']}, {', '.join(finding['ids'][:5])}"
        for finding in audit(url)
        if finding["violations"]
    ]
    return found


def _of_run(told: Told, run: Run | None, steps: list[RunStep]) -> list[str]:
    """Whether the run is in the ledger as its caller was told; one that waited then may have gone on since."""
    if run is None:
        return [f"run {told.run_id}: was told with {told.status}, is not there"]
    answer = json.loads(told.answer)
    if answer.get("stepExecuted", {}).get("status") == "running":
        return []
    recorded: Any = json.loads(RunNextStepResponse.of(run, steps, _NO_REQUEST).model_dump_json(exclude_none=True))
    del recorded["requestId"]
    if recorded != answer:
        return [f"run {told.run_id}: was told {answer}, is recorded as {recorded}"]
    return []
