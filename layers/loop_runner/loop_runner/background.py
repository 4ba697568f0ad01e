"""Owns what happens without a caller: queued runs and planned attempts begin, lost runs end, old ones go."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from loop_runner import metrics
from loop_runner.claims import ClaimRequest, NotPlanned
from loop_runner.deliveries import deliver
from loop_runner.errors import InvalidRequestError, IssueNotFoundError, LoopConflictError
from loop_runner.github_events import Delivery
from loop_runner.messages import LONGEST_DELAY_SECONDS, of_attempt, of_run
from loop_runner.models import RunMode
from loop_runner.observability import logger
from loop_runner.strict_json import parse_json

if TYPE_CHECKING:
    from loop_runner.execution import Runner
    from loop_runner.issues import Issues
    from loop_runner.ledger import Ledger
    from loop_runner.messages import Messages

SWEEPER: Final = "run-sweeper"
"""Who ended a run, in events."""

SWEEP_BATCH: Final = 50
DUE_BATCH: Final = 500
PURGE_BATCH: Final = 500
RESEND_AFTER_SECONDS: Final = 60
MAX_SENDS: Final = 6
"""The first message of a queued run, and five more."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """Where and for how long a worker runs."""

    lease_ms: int
    deadline: float
    lambda_request_id: str | None = None
    log_stream: str | None = None


def work(runner: Runner, issues: Issues, body: str, invocation: Invocation) -> None:
    """Do what one message says, once, however often and in whatever order messages come.

    What is not there to do any more is no error. Raises InvalidRequestError for what is no message of ours, and what
    Runner.begin and go_on, and deliver raise: then the message comes again.
    """
    message = parse_json(body.encode("utf-8", "replace"))
    try:
        if "delivery" in message:
            delivery = Delivery.of_message(message)
        else:
            issue_id, run_id, after = (str(message.get(key, "")) for key in ("issueId", "runId", "after"))
            delivery, wanted = None, UUID(run_id or after)
    except (AttributeError, KeyError, TypeError, ValueError):
        forms = "{issueId, runId}, {issueId, after} or {delivery, repository, …}"
        raise InvalidRequestError(f"the message is none of ours: {forms}") from None
    if delivery:
        logger.append_keys(delivery=str(delivery.id))
        deliver(delivery, runner, issues, lease_ms=invocation.lease_ms, deadline=invocation.deadline)
        return
    logger.append_keys(issueId=issue_id)
    request = ClaimRequest(
        issue_id=issue_id,
        actor="",  # who asked for it says the ledger
        request_id="",
        mode=RunMode.EXECUTE,
        lease_ms=invocation.lease_ms,
        lambda_request_id=invocation.lambda_request_id,
        log_stream=invocation.log_stream,
    )
    try:
        if run_id:
            done = runner.begin(request, wanted, deadline=invocation.deadline)
        else:
            done = runner.go_on(request, wanted, deadline=invocation.deadline)
    except (IssueNotFoundError, LoopConflictError) as gone:
        logger.info("nothing to do", extra={"reason": gone.code})
        return
    if not isinstance(done, NotPlanned):
        return
    logger.info("nothing to do any more", extra={"seconds": done.seconds})
    if done.seconds is not None:  # delivered too early
        runner.messages.send([of_attempt(issue_id, after)], min(done.seconds, LONGEST_DELAY_SECONDS))


def sweep(ledger: Ledger, messages: Messages, *, retention_days: int, deadline: float) -> dict[str, int]:
    """End the runs whose lease is over; send messages for what is due; delete what ended ``retention_days`` ago.

    In batches, each a transaction of its own, while there are any and until ``deadline`` on time.monotonic; what is
    left is the next sweep's. 0 days: nothing is deleted. Returns how many: {ended, sent, purged}.
    """
    done = {"ended": 0, "sent": 0, "purged": 0}
    is_more = True
    while is_more and time.monotonic() < deadline:
        ended = ledger.sweep(max_runs=SWEEP_BATCH, ended_by=SWEEPER)
        for run in ended:
            ids = {"runId": str(run.id), "issueId": run.issue_id, "requestId": run.request_id, "loop": run.loop_name}
            logger.warning("ended a lost run", extra={**ids, "code": run.error_code})
            metrics.ended(run)
        metrics.count(metrics.Metric.LOST_RUNS, len(ended))
        done["ended"] += len(ended)
        is_more = len(ended) == SWEEP_BATCH
    if time.monotonic() < deadline:
        due = ledger.take_due(max_items=DUE_BATCH, resend_after_seconds=RESEND_AFTER_SECONDS, max_sends=MAX_SENDS)
        attempts, runs = (cast("list[dict[str, Any]]", due[key]) for key in ("attempts", "runs"))
        done["sent"] = messages.send(
            [of_attempt(each["issueId"], each["after"]) for each in attempts]
            + [of_run(each["issueId"], each["runId"]) for each in runs]
        )
    is_more = retention_days > 0
    while is_more and time.monotonic() < deadline:
        purged = ledger.purge(older_than_days=retention_days, max_runs=PURGE_BATCH)
        done["purged"] += purged
        is_more = purged == PURGE_BATCH
    return done
