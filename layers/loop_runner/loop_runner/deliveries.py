"""Owns what a delivery of GitHub's webhook sets going: each issue that waits for its pull request gets a run, once.

The run is queued, not begun here, with the delivery's id as its Idempotency-Key: whatever is lost in between, a
delivery that comes again finds what was queued, and the sweeper sends what was not sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loop_runner.claims import ClaimRequest
from loop_runner.errors import IdempotencyKeyReusedError, LoopConflictError, UnavailableError
from loop_runner.identity import Identity
from loop_runner.models import RunMode
from loop_runner.observability import logger
from loop_runner.preconditions import request_hash

if TYPE_CHECKING:
    from loop_runner.execution import Runner
    from loop_runner.github_events import Delivery
    from loop_runner.issues import Issues

GITHUB: Final = "github"
"""The actor of these runs, no person's name; and the step function whose steps wait for GitHub."""

MAX_LOOKED: Final = 5_000
"""So many issues of a state are looked at, the newest: see docs/adr/0004."""

MAX_RUNS: Final = 100
"""So many issues may wait for the pull requests of one delivery."""

RESEND_SECONDS: Final = (10, 20, 40, 80, 160, 320, 640)
"""When a delivery comes again that met a live run, each after the one before: that may have looked too early."""


def deliver(delivery: Delivery, runner: Runner, issues: Issues, *, lease_ms: int, deadline: float) -> None:
    """Queue a run of each issue that waits for the delivery's pull requests.

    Where a run is live that may have looked before, the delivery is sent again, later. One that has not begun will
    see what has happened: no other is queued. Raises UnavailableError, also where it could not be sent:
    the message comes again then.
    """
    found = issues.find_waiting(delivery, runner.loops.states_before(GITHUB), max_looked=MAX_LOOKED, max_found=MAX_RUNS)
    if found.is_cut:
        logger.warning("not every issue was looked at or queued", extra={"repository": delivery.repository})
    met_live_run = [each for each in found.issue_ids if not _queue(each, delivery, runner, lease_ms, deadline)]
    logger.info("delivered", extra={"issues": found.issue_ids, "again": met_live_run})
    if not met_live_run:
        return
    if delivery.resends >= len(RESEND_SECONDS):
        logger.warning("given up: a run was live each time", extra={"issues": met_live_run})
    elif not runner.messages.send([delivery.again().message()], RESEND_SECONDS[delivery.resends]):
        raise UnavailableError("the delivery could not be sent again")


def _queue(issue_id: str, delivery: Delivery, runner: Runner, lease_ms: int, deadline: float) -> bool:
    """Whether there is a run that looks after the delivery came: this one, its own of before, or one not begun yet."""
    request = ClaimRequest(
        issue_id=issue_id,
        actor=GITHUB,
        request_id=delivery.id,
        mode=RunMode.EXECUTE,
        lease_ms=lease_ms,
        idempotency_key=f"{GITHUB}:{delivery.id}",
        request_hash=request_hash(Identity(GITHUB), delivery.content(), None, is_async=True),
        in_background=True,
    )
    try:
        runner.run_next_step(request, deadline=deadline)
    except IdempotencyKeyReusedError as reused:
        logger.warning("a delivery with this id said something else", extra={"issueId": issue_id, **reused.details})
    except LoopConflictError as conflict:
        return "startBy" in conflict.details
    return True
