"""Owns the metrics: CloudWatch's embedded metric format, one line on standard output for what a call did.

Dimensions are bounded: names of loops and steps, statuses, never an id; ids stand beside them for Logs Insights. The
namespace is that of the stack (POWERTOOLS_METRICS_NAMESPACE). What each means is in docs/operations.md.

The line is made here and not by Powertools: a run would be two lines of it, one for each set of dimensions, and take a
fifth more of the CPU (docs/performance.md).
"""

from __future__ import annotations

import json
import os
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from loop_runner.observability import logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loop_runner.models import Run, RunStep

_SERVICE: Final = "loop-runner"
_NAMESPACE: Final = "LoopRunner"
_UNKNOWN: Final = "unknown"


class Metric(StrEnum):
    """The names of the metrics."""

    RUNS = "Runs"
    STEP_DURATION = "StepDuration"
    RETRIES = "Retries"
    CONFLICTS = "Conflicts"
    TAKEOVERS = "Takeovers"
    LOST_RUNS = "LostRuns"
    QUEUE_AGE = "QueueAge"


_UNITS: Final = {Metric.STEP_DURATION: "Milliseconds", Metric.QUEUE_AGE: "Seconds"}
"""Of those that do not count."""


def count(metric: Metric, value: int = 1) -> None:
    """Count something that has no dimension."""
    if value:
        _write({metric: value}, [_directive([metric], ["service"])])


def began(*, took_over: bool, attempt: int, queue_seconds: float | None) -> None:
    """A run begins: in the place of a lost one, as a retry, after a wait in the queue. Most runs are none of it."""
    values: dict[Metric, float] = {}
    if took_over:
        values |= {Metric.TAKEOVERS: 1, Metric.LOST_RUNS: 1}
    if attempt > 1:
        values[Metric.RETRIES] = 1
    if queue_seconds is not None:
        values[Metric.QUEUE_AGE] = max(0.0, queue_seconds)
    if values:
        _write(values, [_directive(list(values), ["service"])])


def ended(run: Run, steps: Sequence[RunStep] = ()) -> None:
    """A run has ended: by status, in all and of its loop; and how long its step took."""
    properties: dict[str, Any] = {
        "requestId": run.request_id,
        "runId": str(run.id),
        "issueId": run.issue_id,
        "loop": run.loop_name or _UNKNOWN,
        "status": run.status,
    }
    values: dict[Metric, float] = {Metric.RUNS: 1}
    directives = [_directive([Metric.RUNS], ["status", "service"], ["loop", "status"])]
    executed = next((step for step in steps if step.duration_ms is not None and step.started_at is not None), None)
    if executed is not None and executed.duration_ms is not None:
        properties["step"] = executed.step_type
        values[Metric.STEP_DURATION] = executed.duration_ms
        directives.append(_directive([Metric.STEP_DURATION], ["loop", "step", "service"]))
    _write(values, directives, properties)


def _directive(metrics: Sequence[Metric], *dimensions: Sequence[str]) -> dict[str, Any]:
    """Metrics that have the same sets of dimensions (the format's MetricDirective)."""
    return {
        "Namespace": os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or _NAMESPACE,
        "Dimensions": dimensions,
        "Metrics": [{"Name": metric, "Unit": _UNITS.get(metric, "Count")} for metric in metrics],
    }


def _write(
    values: Mapping[Metric, float],
    directives: Sequence[Mapping[str, Any]],
    properties: Mapping[str, Any] | None = None,
) -> None:
    """Write a line with the ids of the log lines around it; ``properties`` go before those."""
    keys = logger.get_current_keys()
    line: dict[str, Any] = {
        "_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": directives},
        **{name: keys[name] for name in ("requestId", "runId", "issueId", "loop", "step") if keys.get(name)},
        **(properties or {}),
        "service": _SERVICE,
        **{str(metric): value for metric, value in values.items()},
    }
    print(json.dumps(line, separators=(",", ":")))  # noqa: T201  standard output is where CloudWatch reads it
