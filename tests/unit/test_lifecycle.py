"""Which way runs and steps may go (design, section 4, rule 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from loop_runner.lifecycle import (
    RUN_TRANSITIONS,
    STEP_TRANSITIONS,
    TERMINAL_RUN,
    TERMINAL_STEP,
    sources_of_run,
    sources_of_step,
)
from loop_runner.models import RunStatus, StepStatus

if TYPE_CHECKING:
    from enum import StrEnum

Transitions = Mapping[Any, frozenset[Any]]
LIFECYCLES = [
    pytest.param(RUN_TRANSITIONS, TERMINAL_RUN, RunStatus, id="run"),
    pytest.param(STEP_TRANSITIONS, TERMINAL_STEP, StepStatus, id="step"),
]


def test_a_run_goes_only_where_the_design_says() -> None:
    assert {str(source): sorted(targets) for source, targets in RUN_TRANSITIONS.items() if targets} == {
        "pending": ["cancelled", "failed", "running"],
        "running": ["blocked", "cancelled", "completed", "failed"],
    }


def test_a_step_goes_where_a_run_goes_or_is_skipped() -> None:
    assert {str(source): sorted(targets) for source, targets in STEP_TRANSITIONS.items() if targets} == {
        "pending": ["cancelled", "failed", "running", "skipped"],
        "running": ["blocked", "cancelled", "completed", "failed"],
    }


@pytest.mark.parametrize(("transitions", "terminal", "statuses"), LIFECYCLES)
def test_every_status_has_its_ways(transitions: Transitions, terminal: frozenset[Any], statuses: type[StrEnum]) -> None:
    assert set(transitions) == set(statuses)
    assert frozenset().union(*transitions.values()) <= set(statuses)


@pytest.mark.parametrize(("transitions", "terminal", "statuses"), LIFECYCLES)
def test_nothing_leads_out_of_a_terminal_status(
    transitions: Transitions, terminal: frozenset[Any], statuses: type[StrEnum]
) -> None:
    assert terminal == set(statuses) - {"pending", "running"}
    assert all(not transitions[status] for status in terminal)


@pytest.mark.parametrize(("transitions", "terminal", "statuses"), LIFECYCLES)
def test_every_open_status_can_end_and_none_comes_back(
    transitions: Transitions, terminal: frozenset[Any], statuses: type[StrEnum]
) -> None:
    for start in set(statuses) - terminal:
        reached, ahead = set(), list(transitions[start])
        while ahead:
            status = ahead.pop()
            if status not in reached:
                reached.add(status)
                ahead.extend(transitions[status])
        assert reached & terminal
        assert start not in reached


@pytest.mark.parametrize("target", RunStatus)
def test_the_sources_of_a_run_status_are_its_transitions_read_backwards(target: RunStatus) -> None:
    assert {(source, target) for source in sources_of_run(target)} == {
        (source, to) for source, targets in RUN_TRANSITIONS.items() for to in targets if to is target
    }


@pytest.mark.parametrize("target", StepStatus)
def test_the_sources_of_a_step_status_are_its_transitions_read_backwards(target: StepStatus) -> None:
    assert {(source, target) for source in sources_of_step(target)} == {
        (source, to) for source, targets in STEP_TRANSITIONS.items() for to in targets if to is target
    }


def test_nothing_becomes_pending_again() -> None:
    assert sources_of_run(RunStatus.PENDING) == []
    assert sources_of_step(StepStatus.PENDING) == []
