"""Owns the life of an issue: who asks when for its next step, and what is done about what blocks it.

The resolver says what can run and the outcomes how it ends, as in production; chance says the rest.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from loop_runner import outcomes
from loop_runner.identity import Identity
from loop_runner.resolver import Blocked, Ended, Ready, resolve_next_step
from tools.load.issue import PastIssue
from tools.load.share import Ending
from tools.load.work import Work
from tools.load.world import APPROVERS, REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loop_runner.loops import Loop
    from loop_runner.outcomes import Outcome
    from tools.load.runs import PastCall
    from tools.load.share import Share
    from tools.load.world import World

LAST_OF_ALL: Final = datetime.max.replace(tzinfo=UTC)
"""The turn that comes when all others are over."""

# How often, of a hundred times:
_IS_DRY: Final = 6
_BLOCKED_IS_ASKED_AGAIN: Final = 55
_READY_IS_HELD: Final = 2
_ENDED_IS_REOPENED: Final = 60
_DECISION_IS_NO: Final = 25


class Life:
    """The life of one issue. Between its turns nothing is under way: no live run, no attempt that is planned.

    ``clock`` says the time when the last of all turns are taken.
    """

    def __init__(self, loop: Loop, world: World, share: Share, ending: Ending, clock: Callable[[], datetime]) -> None:
        self._loop, self._world, self._share, self._ending, self._clock = loop, world, share, ending, clock
        self._steps_to_end = steps_to_end(loop)

    def turns(self, issue_id: str) -> Iterator[datetime]:
        """When the next turn is, each time; going on takes it."""
        share, world = self._share, self._world
        is_live = self._ending is Ending.LIVE
        share.runs -= is_live
        yield share.at
        issue = PastIssue(
            issue_id, self._loop, world.past, facts=world.facts_of(self._loop), by=world.caller(), at=share.at
        )
        work = Work(issue, world, share)
        while share.runs:
            share.pause()
            yield share.at
            self._turn(issue, work)
        if is_live:
            yield LAST_OF_ALL
            self._leave_live(issue, work)

    def _turn(self, issue: PastIssue, work: Work) -> None:
        share = self._share
        resolution = self._resolve(issue)
        if share.happens(_IS_DRY):
            work.run_dry(_outcome_of(resolution, issue, dry_run=True), self._world.call())
            return
        while isinstance(resolution, Blocked) and not share.happens(_BLOCKED_IS_ASKED_AGAIN):
            self._clear(issue, resolution)
            share.spend(share.chance.expovariate(1 / 900))
            resolution = self._resolve(issue)
        if isinstance(resolution, Ended) and self._can_reopen and share.happens(_ENDED_IS_REOPENED):
            self._reopen(issue)
        elif isinstance(resolution, Ready) and share.happens(_READY_IS_HELD):
            issue.set_hold(share.chance.choice(REASONS), self._world.caller(), share.at, hold=True)
        else:
            self._run(issue, work, resolution)

    def _run(self, issue: PastIssue, work: Work, resolution: Ready | Blocked | Ended) -> None:
        """Run the next step, and what follows at once."""
        call: PastCall | None = self._world.call()
        while call is not None:
            if isinstance(resolution, Ready):
                work.run(resolution, call)
            else:
                work.run_nothing(_outcome_of(resolution, issue), call)
            call = work.follow_up(call)
            if call is not None:
                resolution = self._resolve(issue)

    def _resolve(self, issue: PastIssue) -> Ready | Blocked | Ended:
        if self._ending is Ending.FINAL:
            self._share.needed = self._steps_to_end[issue.state]
        return resolve_next_step(self._loop, issue.seen, self._share.at)

    # ------------------------------------------------------------------------------------------------ people

    def _clear(self, issue: PastIssue, blocked: Blocked) -> None:
        """Do what the blocker asks for, or something like it."""
        share, blocker = self._share, blocked.blockers[0]
        if issue.hold is not None:
            issue.set_hold("it goes on", self._world.caller(), share.at, hold=False)
        elif blocker.fact is not None:
            body = blocker.call.body
            patch = body if share.is_straight else self._world.patch_of(blocker.fact, body)
            issue.patch_facts(patch, self._world.caller(), share.at)
        elif blocked.step is not None:
            is_no = share.happens(_DECISION_IS_NO)
            comment = share.chance.choice(REASONS) if is_no else None
            by = Identity(share.chance.choice(APPROVERS))
            issue.decide(blocked.step, "rejected" if is_no else "approved", comment, by, share.at)

    @property
    def _can_reopen(self) -> bool:
        return self._ending is not Ending.FINAL or self._share.runs > self._steps_to_end[self._loop.initial_state]

    def _reopen(self, issue: PastIssue) -> None:
        by, share = self._world.caller(), self._share
        issue.set_state(self._loop.initial_state, "reopened", by, share.at)
        share.spend(30)
        issue.patch_facts(self._world.fresh_start(self._loop), by, share.at)

    # ------------------------------------------------------------------------------------------------ the end

    def _leave_live(self, issue: PastIssue, work: Work) -> None:
        """Leave the issue with a run of its loop's first step that is queued, at work, or waits."""
        share, now = self._share, self._clock()
        share.at = max(share.at, now - timedelta(seconds=share.chance.uniform(5, 50)))
        share.end, share.runs = now, 1
        if issue.state != self._loop.initial_state:
            self._reopen(issue)
        while not isinstance(resolution := self._resolve(issue), Ready):
            if isinstance(resolution, Blocked):
                self._clear(issue, resolution)
            else:
                self._reopen(issue)
        work.run_live(resolution, self._world.call())


def _outcome_of(resolution: Ready | Blocked | Ended, issue: PastIssue, *, dry_run: bool = False) -> Outcome:
    """What becomes of a run that executes nothing."""
    match resolution:
        case Blocked() as blocked:
            return outcomes.of_blocked(blocked)
        case Ended() as ended:
            return outcomes.of_ended(ended, issue.seen, dry_run=dry_run)
        case Ready() as ready:
            return outcomes.of_dry_run(ready, issue.seen)


def steps_to_end(loop: Loop) -> dict[str, int]:
    """By state: how many steps lead from it to the end, when each is completed and none is skipped."""
    lengths = dict.fromkeys(loop.final_states, 0)
    while found := {
        state: lengths[step.to] + 1
        for state in loop.states - lengths.keys()
        if (step := loop.step_leaving(state)) is not None and step.to in lengths
    }:
        lengths |= found
    return dict.fromkeys(loop.states, 0) | lengths
