"""A process may be killed at any point: nothing is lost, nothing happens twice, and the issue goes on.

Whoever comes next recovers: the caller who got no answer and repeats its call, or the sweep.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loop_runner import background
from loop_runner.executors.protocol import Completed, Failed
from loop_runner.models import RunStatus
from tests.conftest import ACTOR, Answer, Client
from tests.crash.crashes import (
    Scenario,
    assert_survives_a_crash_at_any_point,
    the_caller_repeats_its_call,
    the_sweep_comes_by,
)
from tests.crash.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from loop_runner.executors.protocol import StepCall
    from tests.crash.crashes import Crashes, Recover


def fails(_call: StepCall, _client: Client) -> Failed:
    return Failed("Trial.Broken", "it did not work")


def breaks(_call: StepCall, _client: Client) -> Completed:
    raise RuntimeError("a bug")


# --- before


def at_its_end(trial: Trial) -> None:
    trial.register()
    trial.go_to_the_end()


def with_a_lost_run(trial: Trial) -> None:
    trial.register()
    trial.claim("ben")
    trial.expire()


def beside_two_with_lost_runs(trial: Trial) -> None:
    for number in (1, 2):
        with_a_lost_run(replace(trial, issue=f"{trial.issue}-{number}"))
    with_a_lost_run(trial)


def at_its_end_long_ago(trial: Trial) -> None:
    at_its_end(trial)
    columns = {
        "loop_runs WHERE issue_id = %s": ("created_at", "started_at", "completed_at"),
        "loop_run_steps WHERE run_id IN (SELECT id FROM loop_runs WHERE issue_id = %s)": (
            "created_at",
            "started_at",
            "completed_at",
        ),
        "loop_events WHERE issue_id = %s": ("occurred_at",),
    }
    for rows, times in columns.items():
        table, _, condition = rows.partition(" ")
        trial.sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        earlier = ", ".join(f"{time} = {time} - interval '3 days'" for time in times)
        trial.sql(f"UPDATE {table} SET {earlier} {condition}", trial.issue)
        trial.sql(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    trial.purged |= {str(run["id"]) for run in trial.runs()}


# --- calls


def run_if_match(trial: Trial, client: Client) -> Answer:
    return trial.run(client, headers={"if-match": '"1"'})


def run_dry(trial: Trial, client: Client) -> Answer:
    return trial.run(client, "dryRun")


def run_dry_with_key(trial: Trial, client: Client) -> Answer:
    return trial.run_with_key(client, "dryRun")


def sweep(trial: Trial, client: Client) -> None:
    trial.sweep(client.services)


def purge(trial: Trial, client: Client) -> None:
    trial.sweep(client.services, retention_days=1)


def keep_a_run_by_hand(trial: Trial, client: Client) -> None:
    store = client.services.runs
    run = store.create_run(issue_id=trial.issue, actor=ACTOR, request_id="r")
    store.update_run_status(run.id, RunStatus.RUNNING)
    store.create_step(run.id, step_number=1, step_type="ASK")
    store.update_run_status(run.id, RunStatus.BLOCKED)


# --- after


def key_stands_for_one_run(mode: str) -> Callable[[Trial], None]:
    """That of the process which died, where it had claimed the issue; and the same one ever after."""

    def check(trial: Trial) -> None:
        told = {trial.run_with_key(None, mode).json["runId"] for _ in range(2)}
        assert told == {str(run["id"]) for run in trial.runs() if run["idempotency_key"]}
        assert len(told) == 1

    return check


def issue_is_registered_once(trial: Trial) -> None:
    trial.register()
    assert [event["event_type"] for event in trial.events()] == ["loop_issue_registered"]


def version_has_grown_by_one_at_most(trial: Trial) -> None:
    assert trial.row()["version"] in {1, 2}


def purged_runs_left_nothing(trial: Trial) -> None:
    assert {event["run_id"] for event in trial.events()} - {None} == {run["id"] for run in trial.runs()}


SCENARIOS = [
    Scenario("a step completes", Trial.run),
    Scenario("a step completes after a skipped one", Trial.run, facts={"small": True, "ready": True}),
    Scenario("the run is blocked", Trial.run, facts={"small": True}),
    Scenario("the step fails", Trial.run, execute=fails),
    Scenario("the executor breaks", Trial.run, execute=breaks),
    Scenario("the issue has ended", Trial.run, before=at_its_end),
    Scenario("a dry run", run_dry),
    Scenario("an Idempotency-Key", Trial.run_with_key, after=key_stands_for_one_run("execute")),
    Scenario("a dry run with a key", run_dry_with_key, after=key_stands_for_one_run("dryRun")),
    Scenario("If-Match", run_if_match, after=version_has_grown_by_one_at_most),
    Scenario("a takeover", Trial.run, before=with_a_lost_run),
    Scenario(
        "a takeover with a key", Trial.run_with_key, before=with_a_lost_run, after=key_stands_for_one_run("execute")
    ),
    Scenario("a sweep of several", sweep, before=beside_two_with_lost_runs),
    Scenario("a purge", purge, before=at_its_end_long_ago, after=purged_runs_left_nothing),
    Scenario("PUT", Trial.register, before=lambda _: None, after=issue_is_registered_once),
    Scenario("PATCH", lambda t, client: t.call(client, "PATCH", body={"x": 1}), after=version_has_grown_by_one_at_most),
    Scenario("a run kept by hand", keep_a_run_by_hand),
]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a sweep and a purge of a few runs are of several statements."""
    monkeypatch.setattr(background, "SWEEP_BATCH", 2)
    monkeypatch.setattr(background, "PURGE_BATCH", 1)


@pytest.mark.parametrize("recover", [the_caller_repeats_its_call, the_sweep_comes_by])
@pytest.mark.parametrize("crashes", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"), indirect=True)
def test_process_killed_at_any_point_loses_nothing_and_repeats_nothing(
    crashes: Crashes, recover: Recover, audit: Callable[[], None], count: Callable[[str, int], None]
) -> None:
    assert_survives_a_crash_at_any_point(crashes, recover, audit, count)
