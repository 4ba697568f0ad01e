"""Owns the metrics: CloudWatch's embedded metric format, one line on standard output for what a call did.

Dimensions are bounded: names of loops and steps, statuses, never an id; ids stand beside them for Logs Insights. The
namespace is that of the stack (POWERTOOLS_METRICS_NAMESPACE). What each means is in docs/operations.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from loop_runner.observability import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def count(metric: Metric, value: int = 1) -> None:
    """Count something that has no dimension."""
    if value:
        metrics = _metrics()
        metrics.add_metric(metric, MetricUnit.Count, value)
        metrics.flush_metrics()


def began(*, took_over: bool, attempt: int, queue_seconds: float | None) -> None:
    """A run begins: in the place of a lost one, as a retry, after a wait in the queue. Most runs are none of it."""
    if not took_over and attempt == 1 and queue_seconds is None:
        return
    metrics = _metrics()
    if took_over:
        metrics.add_metric(Metric.TAKEOVERS, MetricUnit.Count, 1)
        metrics.add_metric(Metric.LOST_RUNS, MetricUnit.Count, 1)
    if attempt > 1:
        metrics.add_metric(Metric.RETRIES, MetricUnit.Count, 1)
    if queue_seconds is not None:
        metrics.add_metric(Metric.QUEUE_AGE, MetricUnit.Seconds, max(0.0, queue_seconds))
    metrics.flush_metrics()


def ended(run: Run, steps: Sequence[RunStep] = ()) -> None:
    """A run has ended: by status, in all and of its loop; and how long its step took."""
    loop = run.loop_name or _UNKNOWN
    metrics = _metrics(run)
    metrics.add_dimension("status", run.status)
    metrics.add_dimensions(loop=loop, status=run.status)
    metrics.add_metric(Metric.RUNS, MetricUnit.Count, 1)
    metrics.flush_metrics()
    executed = next((step for step in steps if step.duration_ms is not None and step.started_at is not None), None)
    if executed is not None and executed.duration_ms is not None:
        metrics = _metrics(run)
        metrics.add_dimension("loop", loop)
        metrics.add_dimension("step", executed.step_type)
        metrics.add_metric(Metric.STEP_DURATION, MetricUnit.Milliseconds, executed.duration_ms)
        metrics.flush_metrics()


def _metrics(run: Run | None = None) -> EphemeralMetrics:
    """A line of metrics with the ids of the log lines around it."""
    metrics = EphemeralMetrics(service=_SERVICE)
    if not metrics.namespace:
        metrics.namespace = _NAMESPACE
    keys = logger.get_current_keys()
    if run is not None:
        keys |= {"runId": str(run.id), "issueId": run.issue_id, "requestId": run.request_id}
    for name in ("requestId", "runId", "issueId", "loop", "step"):
        if keys.get(name):
            metrics.add_metadata(name, keys[name])
    return metrics
