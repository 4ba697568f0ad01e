"""Owns what happens without a caller: ending lost runs, deleting old ones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from loop_runner.observability import logger

if TYPE_CHECKING:
    from loop_runner.ledger import Ledger

SWEEPER: Final = "run-sweeper"
"""Who ended a run, in events."""

SWEEP_BATCH: Final = 50
PURGE_BATCH: Final = 500


def sweep(ledger: Ledger, *, retention_days: int, deadline: float) -> dict[str, int]:
    """End the runs whose lease is over; delete those that ended more than ``retention_days`` ago, 0 for none.

    In batches, each a transaction of its own, while there are any and until ``deadline`` on time.monotonic; what is
    left is the next sweep's. Returns how many: {ended, purged}.
    """
    done = {"ended": 0, "purged": 0}
    is_more = True
    while is_more and time.monotonic() < deadline:
        ended = ledger.sweep(max_runs=SWEEP_BATCH, ended_by=SWEEPER)
        for run_id in ended:
            logger.warning("ended a lost run", extra={"runId": str(run_id)})
        done["ended"] += len(ended)
        is_more = len(ended) == SWEEP_BATCH
    is_more = retention_days > 0
    while is_more and time.monotonic() < deadline:
        purged = ledger.purge(older_than_days=retention_days, max_runs=PURGE_BATCH)
        done["purged"] += purged
        is_more = purged == PURGE_BATCH
    return done
