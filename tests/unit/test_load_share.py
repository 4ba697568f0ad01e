"""An issue's share of a load: whatever happens, time goes on and not beyond the end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tools.load.share import Share

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
SECONDS = st.floats(0, 10_000)


@given(
    st.integers(0, 2**32),
    st.floats(0.001, 100_000),
    st.integers(0, 50),
    st.lists(st.tuples(st.sampled_from(["pause", "spend", "compute", "wait", "run"]), SECONDS, st.floats(-1000, 1000))),
)
def test_time_never_goes_back_nor_beyond_the_end(
    seed: int, length: float, runs: int, acts: list[tuple[str, float, float]]
) -> None:
    share = Share(Random(seed), BEGIN, BEGIN + timedelta(seconds=length), runs)
    for act, seconds, ahead in acts:
        before = share.at
        longest, until = timedelta(seconds=seconds), share.at + timedelta(seconds=ahead)
        if act == "run":
            share.runs -= share.runs > 0
        elif act == "wait" and share.has_room(until, longest):
            share.wait(until, longest)
            assert share.at >= until
        elif act == "spend":
            share.spend(seconds)
        elif act == "pause" and share.runs:
            share.pause()
        elif act == "compute":
            share.compute()
        assert before <= share.at <= share.end


def test_nothing_happens_that_need_not_where_each_run_is_needed() -> None:
    share = Share(Random(0), BEGIN, BEGIN + timedelta(days=1), runs=3, needed=3)
    assert not any(share.happens(100) for _ in range(100))
    share.runs = 4
    assert share.happens(100)
