"""The day of work that the pictures show: it is one that could have been."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psycopg

from tests.conftest import assert_sound, create_database, drop_database
from tools.local.stack import Stack
from tools.screenshots.day import HOURS, spread
from tools.screenshots.team import Team

if TYPE_CHECKING:
    from psycopg.rows import TupleRow


def one(connection: psycopg.Connection[TupleRow], statement: str) -> TupleRow:
    (row,) = connection.execute(statement).fetchall()
    return row


def test_day_of_work_is_sound_and_lasts_a_day_and_has_something_of_everything(
    server_url: str, migrated_template: str
) -> None:
    url = create_database(server_url, migrated_template)
    with Stack(port=0, database_url=url, environment={"PATH": os.environ["PATH"]}) as stack:
        Team(stack.url, stack.world).work()
        spread(url)
    assert_sound(url)
    with psycopg.connect(url) as connection:
        hours, is_past = one(
            connection,
            """
            SELECT extract(epoch FROM clock_timestamp() - min(created_at)) / 3600, max(created_at) <= clock_timestamp()
            FROM loop_runs
            """,
        )
        statuses, loops, holds = one(
            connection,
            """
            SELECT
                array_agg(DISTINCT r.status), count(DISTINCT i.loop_name),
                count(DISTINCT i.id) FILTER (WHERE hold IS NOT NULL)
            FROM loop_runs AS r
            JOIN loop_issues AS i ON i.id = r.issue_id
            """,
        )
        (late_steps,) = one(
            connection, "SELECT count(*) FROM loop_run_steps WHERE duration_ms > 1000 AND status = 'completed'"
        )
    drop_database(server_url, url)
    assert HOURS / 2 < hours < HOURS + 0.5
    assert is_past
    assert set(statuses) == {"blocked", "completed", "failed", "running"}
    assert (loops, holds) == (3, 1)
    assert late_steps > 10
