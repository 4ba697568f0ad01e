"""Owns how the runs of an issue go: queued, lost, taken over, cancelled, failed, tried again. Chance says which."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from loop_runner import outcomes
from loop_runner.background import SWEEPER
from loop_runner.loops import API_STEP_SECONDS, CallbackExecutor, LambdaExecutor
from loop_runner.outcomes import Visit
from loop_runner.resolver import next_step
from loop_runner.results import Blocked, Completed, Failed
from loop_runner.retry import HEARTBEAT_TIMEOUT, LEASE_EXPIRED, TIMEOUT, retry_after
from loop_runner.settings import START_BY_SECONDS
from tools.load.runs import Lease, PastRuns
from tools.load.world import FAILURES, REASONS

if TYPE_CHECKING:
    from uuid import UUID

    from loop_runner.loops import Step
    from loop_runner.outcomes import Outcome
    from loop_runner.resolver import Ready
    from loop_runner.results import Result
    from tools.load.issue import PastIssue
    from tools.load.rows import RunRow
    from tools.load.runs import PastCall
    from tools.load.share import Share
    from tools.load.world import World

_API_LEASE: Final = timedelta(seconds=34)
_WORKER_LEASE: Final = timedelta(seconds=365)
_START_BY: Final = timedelta(seconds=START_BY_SECONDS)
_A_MINUTE: Final = timedelta(seconds=60)
_A_MOMENT: Final = timedelta(seconds=1)

# How often, of a hundred times:
_IS_ASYNC: Final = 4
_IS_LOST: Final = 3
_IS_TAKEN_OVER: Final = 50
_IS_CANCELLED: Final = 3
_FAILS_UNEXPECTEDLY: Final = 4
_TIMES_OUT: Final = 8
_FAILS: Final = 20
_BLOCKS: Final = 3
_ENDS_OTHERWISE: Final = 15
_RETRY_IS_CANCELLED: Final = 5


class Work:
    """The runs of one issue. After each one is over, or lost, or planned again: ``follow_up`` says what comes of it."""

    def __init__(self, issue: PastIssue, world: World, share: Share) -> None:
        self._issue, self._world, self._share = issue, world, share
        self._runs = PastRuns(issue)
        self._lost: RunRow | None = None

    def run(self, ready: Ready, call: PastCall) -> None:
        """Run the step that is ready."""
        run = self._begin(call, ready.step)
        if run is None:
            return
        if isinstance(ready.step.executor, LambdaExecutor | CallbackExecutor):
            self._start(ready, run)
            self._end_elsewhere(ready, run)
        else:
            self._end_here(ready, run)

    def run_nothing(self, outcome: Outcome, call: PastCall) -> None:
        """A run that executes no step: it is blocked, or nothing is left to run."""
        run = self._claim(call, _API_LEASE)
        self._share.compute()
        self._runs.finish(run, self._of_loop(outcome), self._share.at)

    def run_dry(self, outcome: Outcome, call: PastCall) -> None:
        """A dry run."""
        run_id = self._new_run()
        begun = self._share.at
        self._share.compute()
        self._runs.record_dry_run(run_id, call, self._of_loop(outcome), begun, self._share.at)

    def run_live(self, ready: Ready, call: PastCall) -> None:
        """A run that is queued, is at work, or waits."""
        if not isinstance(ready.step.executor, LambdaExecutor):
            self._start(ready, self._claim(call, _API_LEASE))
            return
        run = self._claim(call, _START_BY, is_queued=True)
        if self._share.happens(50):
            self._share.spend(1)
            self._runs.begin(run, self._world.call(), self._lease(_WORKER_LEASE), self._share.at)
            self._start(ready, run)

    def follow_up(self, call: PastCall) -> PastCall | None:
        """The call that follows at once, a takeover or the attempt that is planned; None: nothing is under way."""
        planned_at = self._issue.next_attempt_at
        if self._lost is not None:
            return self._world.call()
        if planned_at is None:
            return None
        if self._share.has_room(planned_at, _A_MOMENT) and not self._share.happens(_RETRY_IS_CANCELLED):
            self._share.wait(planned_at, _A_MOMENT)
            return self._world.call_again(call)
        self._share.spend(1)
        self._runs.cancel_retry(self._world.caller(), self._reason(), self._share.at)
        return None

    # ------------------------------------------------------------------------------------------------ begin

    def _new_run(self) -> UUID:
        self._share.runs -= 1
        run_id, self._share.at = self._world.new_run(self._share.at)
        return run_id

    def _claim(self, call: PastCall, lease: timedelta, *, is_queued: bool = False) -> RunRow:
        """Claim the issue; a lost run is taken over."""
        run_id = self._new_run()
        lost, self._lost = self._lost, None
        if lost is not None:
            self._runs.expire(lost, call.by.actor, self._share.at)
        return self._runs.claim(run_id, call, self._lease(lease), self._share.at, is_queued=is_queued)

    def _begin(self, call: PastCall, step: Step) -> RunRow | None:
        """A run that has begun; None: it was queued, and never did."""
        is_long = isinstance(step.executor, LambdaExecutor) and step.timeout > API_STEP_SECONDS
        if self._lost is None and self._issue.next_attempt_at is not None:
            return self._claim(call, _WORKER_LEASE)
        if not is_long and not self._share.happens(_IS_ASYNC):
            return self._claim(call, _API_LEASE)
        run = self._claim(call, _START_BY, is_queued=True)
        if self._is_lost(run, _IS_LOST):
            return None
        self._share.spend(self._share.chance.expovariate(4))
        if self._share.happens(_IS_CANCELLED):
            self._runs.cancel(run, self._world.caller(), self._reason(), self._share.at, ends_at=self._share.at)
            return None
        self._runs.begin(run, self._world.call(), self._lease(_WORKER_LEASE), self._share.at)
        return run

    def _start(self, ready: Ready, run: RunRow) -> None:
        """Begin the step elsewhere."""
        step = ready.step
        is_callback = isinstance(step.executor, CallbackExecutor)
        codes = (LEASE_EXPIRED, TIMEOUT, HEARTBEAT_TIMEOUT) if is_callback else (LEASE_EXPIRED,)
        retries = {code: retry_after(step.retry, code, run.attempt, self._share.chance.random()) for code in codes}
        self._share.compute()
        self._runs.start_step(
            run,
            ready,
            self._share.at,
            retry_if_lost={code: retry.seconds for code, retry in retries.items() if retry},
            token_hash=self._world.token_hash() if is_callback else None,
            heartbeat_seconds=getattr(step.executor, "heartbeat_seconds", None),
        )
        if is_callback:
            self._share.spend(0.5)
            message = f"{step.type} waits for its outcome: POST /api/loop/runs/{run.id}/result"
            self._runs.park(run, message, next_step(step), self._share.at)

    # ------------------------------------------------------------------------------------------------ end

    def _is_lost(self, run: RunRow, of_a_hundred: float) -> bool:
        """Whether nobody records how the run ends: when its lease is over the next caller does, or the sweeper."""
        lease = run.lease_expires_at or self._share.at
        if not self._share.happens(of_a_hundred) or not self._share.has_room(lease, _A_MINUTE):
            return False
        self._share.wait(lease, _A_MINUTE)
        if self._share.happens(_IS_TAKEN_OVER):
            self._lost = run
        else:
            self._runs.expire(run, SWEEPER, self._share.at)
        return True

    def _end_here(self, ready: Ready, run: RunRow) -> None:
        visit, approval = self._visit(ready, run), self._issue.approval
        if self._is_lost(run, _IS_LOST):
            return
        self._share.compute()
        outcome = outcomes.of_unexpected_error()
        if not self._share.happens(_FAILS_UNEXPECTEDLY):
            is_rejected = approval is not None and approval["decision"] == "rejected"
            outcome = outcomes.of_result(Completed(outcome="rejected" if is_rejected else None), visit)
        self._runs.finish(run, outcome, self._share.at)

    def _end_elsewhere(self, ready: Ready, run: RunRow) -> None:
        step, share = ready.step, self._share
        is_callback = isinstance(step.executor, CallbackExecutor)
        visit = self._visit(replace(ready, skipped=()), run)
        if self._is_lost(run, _TIMES_OUT if is_callback else _IS_LOST):
            return
        outcome = outcomes.of_result(self._result(step), visit)
        if is_callback:
            share.spend(share.chance.lognormvariate(6, 1) % (0.9 * step.timeout))
            self._runs.beat(run, share.at)
        else:
            share.spend(share.chance.lognormvariate(0, 1) % (0.9 * min(step.timeout, API_STEP_SECONDS)))
        if share.happens(_IS_CANCELLED):
            asked_at = share.at
            share.compute()
            by, why = self._world.caller(), self._reason()
            if is_callback:
                self._runs.cancel(run, by, why, asked_at, ends_at=asked_at)
            else:
                self._runs.cancel(run, by, why, asked_at, ends_at=share.at, outcome=outcome)
            return
        told = self._world.teller() if is_callback else None
        share.compute()
        self._runs.finish(run, outcome, share.at, told)

    def _result(self, step: Step) -> Result:
        """What the step function says."""
        chance = self._share.chance
        if self._share.happens(_FAILS):
            own = [
                (name, "not now", False) for each in step.retry for name in each.error_equals if "States." not in name
            ]
            name, message, is_unknown = chance.choice([*own, *own, *FAILURES])
            return Failed(name, message, is_unknown=is_unknown)
        if self._share.happens(_BLOCKS):
            return Blocked("NOT_NOW", "The other side is closed for maintenance")
        if step.outcomes and self._share.happens(_ENDS_OTHERWISE):
            return Completed(outcome=chance.choice(list(step.outcomes)))
        return Completed(self._world.result_facts(step, self._issue.facts))

    def _visit(self, ready: Ready, run: RunRow) -> Visit:
        issue, share = self._issue, self._share
        jitter = share.chance.random()
        return Visit(issue.loop, ready.step, issue.seen, share.at, run.attempt, ready.skipped, jitter)

    def _of_loop(self, outcome: Outcome) -> Outcome:
        return replace(outcome, loop_version=self._issue.loop.version)

    def _lease(self, length: timedelta) -> Lease:
        return Lease(self._world.token(), length)

    def _reason(self) -> str:
        return self._share.chance.choice(REASONS)
