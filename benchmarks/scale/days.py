"""Owns a ledger that grows day by day: one day as ``make load`` plays it, then the same day again, of other issues.

The first day is a load, whose rows are those that the SQL functions would have written (tools/load/). Each later day
is made of it in SQL, with times, ids and versions moved, so that it is as sound, and as large: an issue that comes to
its second day is put back to its beginning first, by the events that people would have left who do so. One issue, the
hot one, has a tenth of each day's runs; the others take turns, a group of them a day.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg

from tools.load.loader import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

HOT: Final = "LOAD-1"
"""The issue with a tenth of all runs."""

_SEED: Final = 0
"""With it the hot issue is of issue-delivery, in which everything can happen within this process."""

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Shape:
    """A day has ``runs`` runs: of the hot issue, and of ``others`` more, of which there are as many ``groups``."""

    runs: int = 10_000
    others: int = 303
    groups: int = 33

    @property
    def issues(self) -> int:
        """All of them."""
        return 1 + self.others * self.groups


# The pattern of a day, in a schema of its own. What names a version says how far it lies behind the issue's first one.
_PATTERN: Final = """
CREATE SCHEMA days;

CREATE FUNCTION days.later(id uuid, ms bigint) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint + ms), 12, '0')
    || translate(substr(id::text, 14), '-', ''))::uuid; -- UUIDs of version 7 begin with their time

CREATE FUNCTION days.other(value text, day integer) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE length(value) WHEN 64 THEN md5(value || day) || md5(day || value) ELSE md5(value || day)::uuid::text END;

CREATE FUNCTION days.told(data jsonb, versions bigint, shift interval) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN data ?| '{version,retryAt,at,since}' THEN data || jsonb_strip_nulls(jsonb_build_object(
    'version', (data -> 'version')::bigint + versions,
    'retryAt', (data ->> 'retryAt')::timestamptz + shift,
    'at', (data ->> 'at')::timestamptz + shift,
    'since', (data ->> 'since')::timestamptz + shift))
    ELSE data END;

CREATE UNLOGGED TABLE days.runs AS
SELECT substr(issue_id, 6)::integer AS number, * FROM loop_runs ORDER BY created_at, id;
CREATE UNLOGGED TABLE days.steps AS
SELECT s.*
FROM loop_run_steps AS s JOIN loop_runs AS r ON r.id = s.run_id
ORDER BY s.created_at, r.created_at, s.step_number;
CREATE UNLOGGED TABLE days.events AS
SELECT substr(issue_id, 6)::integer AS number, event_id, 0 AS place, run_id, event_type, event_data, occurred_at
FROM loop_events
WHERE event_type <> 'loop_issue_registered';

CREATE UNLOGGED TABLE days.issues AS
SELECT
    substr(i.id, 6)::integer AS number, i.*, e.event_data ->> 'state' AS first_state, e.event_id AS first_event_id,
    e.event_data AS registered, 0 AS resets, 0::bigint AS versions
FROM loop_issues AS i
JOIN loop_events AS e ON e.issue_id = i.id AND e.event_type = 'loop_issue_registered';

CREATE TEMPORARY TABLE again AS
SELECT
    number, event_type, event_data, place,
    row_number() OVER (PARTITION BY number ORDER BY place) - count(*) OVER (PARTITION BY number) + 1 AS version
FROM (
    SELECT number, 1 AS place, 'loop_issue_resumed' AS event_type,
        jsonb_build_object('actor', 'ann', 'reason', 'it goes on', 'state', state) AS event_data
    FROM days.issues WHERE hold IS NOT NULL
    UNION ALL
    SELECT number, 2, 'loop_state_set',
        jsonb_build_object('actor', 'ann', 'reason', 'reopened', 'stateBefore', state, 'stateAfter', first_state)
    FROM days.issues WHERE state <> first_state
    UNION ALL
    SELECT number, 3, 'loop_facts_changed',
        jsonb_build_object('actor', 'ann', 'factKeys', jsonb_build_array('draft', 'spec'))
    FROM days.issues
) AS reset;

UPDATE days.issues AS i
SET resets = a.n, versions = i.version - 1 + a.n
FROM (SELECT number, count(*) AS n FROM again GROUP BY number) AS a
WHERE a.number = i.number;

INSERT INTO days.events
SELECT
    a.number, i.first_event_id, a.place, NULL, a.event_type,
    a.event_data || jsonb_build_object('version', a.version), i.created_at
FROM again AS a JOIN days.issues AS i USING (number);

CREATE INDEX ON days.issues (number);
ANALYZE days.issues; ANALYZE days.runs; ANALYZE days.steps; ANALYZE days.events;
"""

# The groups that come later are registered on the first day, and lie still until theirs.
_REGISTER: Final = """
WITH registered AS (
    INSERT INTO loop_issues (id, loop_name, state, facts, created_at, updated_at, registered_by, registered_principal)
    SELECT
        'LOAD-' || number + others * turn, loop_name, first_state,
        jsonb_build_object('title', facts -> 'title', 'risk', facts -> 'risk'),
        created_at + turn * interval '1 millisecond', created_at + turn * interval '1 millisecond',
        registered_by, registered_principal
    FROM days.issues
    CROSS JOIN (SELECT %(others)s::integer AS others) AS shape
    CROSS JOIN generate_series(1, %(groups)s - 1) AS turn
    WHERE number > 1
    ORDER BY created_at, turn
    RETURNING id, created_at
)
INSERT INTO loop_events (issue_id, event_type, event_data, occurred_at)
SELECT r.id, 'loop_issue_registered', i.registered, r.created_at
FROM registered AS r
JOIN days.issues AS i ON i.number = (substr(r.id, 6)::integer - 2) %% %(others)s + 2
ORDER BY r.created_at, r.id
"""

_TURN: Final = """
CREATE TEMPORARY TABLE turn ON COMMIT DROP AS
SELECT
    number,
    'LOAD-' || CASE number WHEN 1 THEN 1 ELSE number + %(others)s * (%(day)s %% %(groups)s) END AS issue_id,
    CASE number WHEN 1 THEN %(day)s ELSE %(day)s / %(groups)s END > 0 AS is_again,
    versions * CASE number WHEN 1 THEN %(day)s ELSE %(day)s / %(groups)s END AS versions
FROM days.issues
"""
_MOVED: Final = {
    "issue_id": "t.issue_id",
    "id": "days.later(d.id, %(ms)s)",
    "retry_of": "days.later(d.retry_of, %(ms)s)",
    "run_id": "days.later(d.run_id, %(ms)s)",
    "issue_version": "d.issue_version + t.versions",
    "lease_token": "days.other(d.lease_token::text, %(day)s)::uuid",
    "event_data": "days.told(d.event_data, t.versions, %(shift)s)",
    **{
        name: f"days.other(d.{name}, %(day)s)"
        for name in ("request_id", "idempotency_key", "request_hash", "lambda_request_id", "task_token_hash")
    },
}
"""What becomes of a column on another day; a time moves with the day, everything else stays."""

_PLACE_ISSUES: Final = """
UPDATE loop_issues AS i
SET state = d.state,
    facts = d.facts,
    version = d.version + t.versions,
    hold = days.told(d.hold, 0, %(shift)s),
    failed_attempts = d.failed_attempts,
    failed_run_id = days.later(d.failed_run_id, %(ms)s),
    approval = days.told(d.approval, t.versions, %(shift)s),
    approval_requesters = d.approval_requesters,
    idempotency_token = days.later(d.idempotency_token, %(ms)s),
    updated_at = d.updated_at + %(shift)s
FROM days.issues AS d
JOIN turn AS t USING (number)
WHERE i.id = t.issue_id
"""


_BEGIN: Final = ("SET LOCAL session_replication_role = replica", "SET LOCAL work_mem = '64MB'", _TURN)
_SOURCES: Final = {
    "loop_runs": "days.runs AS d JOIN turn AS t USING (number) ORDER BY d.created_at, d.id",
    "loop_run_steps": "days.steps AS d",
    "loop_events": "days.events AS d JOIN turn AS t USING (number)"
    " WHERE t.is_again OR d.place = 0 ORDER BY d.event_id, d.place",
}


# What was there before somebody measured, and how it comes back: the next day goes on where the last one ended.
_KEEP: Final = """
CREATE UNLOGGED TABLE days.kept AS SELECT * FROM loop_issues;
ANALYZE days.kept;
CREATE UNLOGGED TABLE days.kept_until AS SELECT max(event_id) AS event_id FROM loop_events;
"""
_RESTORE: Final = """
SET LOCAL session_replication_role = replica;
DELETE FROM loop_run_steps AS s USING loop_runs AS r WHERE r.id = s.run_id AND r.created_at > '{end}';
DELETE FROM loop_runs WHERE created_at > '{end}';
DELETE FROM loop_events WHERE event_id > (SELECT event_id FROM days.kept_until);
DELETE FROM loop_issues AS i USING days.kept AS k WHERE k.id = i.id AND k.updated_at <> i.updated_at;
DELETE FROM loop_issues AS i WHERE NOT EXISTS (SELECT FROM days.kept AS k WHERE k.id = i.id);
INSERT INTO loop_issues SELECT * FROM days.kept ON CONFLICT DO NOTHING;
DROP TABLE days.kept, days.kept_until;
"""


class Days:
    """The days of the ledger in the migrated, empty database at ``url``, a superuser's, from ``first`` on."""

    def __init__(self, url: str, first: datetime, shape: Shape) -> None:
        """Play the first day."""
        self._set(url, first, shape, 1)
        load(url, issues=1 + shape.others, runs=shape.runs, days=1, until=first + _DAY, seed=_SEED, live_issues=0)
        with psycopg.connect(url) as connection:
            connection.execute(_PATTERN)
            connection.execute(_REGISTER, {"others": shape.others, "groups": shape.groups})

    def _set(self, url: str, first: datetime, shape: Shape, played: int) -> None:
        self.url, self.first, self.played, self._shape = url, first, played, shape

    @classmethod
    def of(cls, url: str, first: datetime, shape: Shape, played: int = 1) -> Self:
        """The days of a database in which so many have been played."""
        days = cls.__new__(cls)
        days._set(url, first, shape, played)
        return days

    def copied(self, url: str) -> Self:
        """The same days in a copy of the database, to go on there."""
        return self.of(url, self.first, self._shape, self.played)

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return self.played * self._shape.runs

    @property
    def end(self) -> datetime:
        """When the last day was over."""
        return self.first + self.played * _DAY

    @property
    def first_issues(self) -> list[str]:
        """The issues that had runs on the first day, but the hot one."""
        return [f"LOAD-{number + 2}" for number in range(self._shape.others)]

    def grow(self, runs: int, report: Callable[[int, float], None] = lambda _runs, _seconds: None) -> None:
        """Let days pass until there are so many runs; ``report`` hears of runs and seconds after each.

        Two connections write at once, to tables of their own: what is between them is bound by no key meanwhile.
        """
        days = range(self.played, -(-runs // self._shape.runs))
        started, done = time.monotonic(), [0, 0]

        def write(writer: int, *tables: str) -> None:
            with psycopg.connect(self.url) as connection:
                statements = [*_BEGIN, *(_insertion(connection, table) for table in tables)]
                for day in days:
                    for statement in statements:
                        connection.execute(statement, self._values(day))
                    connection.commit()
                    done[writer] += 1
                    if done[writer] == min(done):
                        report(min(done) * self._shape.runs, time.monotonic() - started)

        with ThreadPoolExecutor(2) as pool:
            writers = [
                pool.submit(write, 0, "loop_issues", "loop_runs"),
                pool.submit(write, 1, "loop_run_steps", "loop_events"),
            ]
            for writer in writers:
                writer.result()
        self.played += len(days)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever is written meanwhile is taken out at the end, so that the days can go on."""
        with psycopg.connect(self.url) as connection:
            connection.execute(_KEEP)
        yield
        with psycopg.connect(self.url) as connection:
            connection.execute(_RESTORE.format(end=self.end.isoformat()))

    def _values(self, day: int) -> dict[str, Any]:
        return {
            "others": self._shape.others,
            "groups": self._shape.groups,
            "day": day,
            "shift": day * _DAY,
            "ms": day * _DAY // timedelta(milliseconds=1),
        }


def _insertion(connection: psycopg.Connection[Any], table: str) -> str:
    """What moves the rows of a table to another day; ids that are the database's to give, it gives."""
    if table == "loop_issues":
        return _PLACE_ISSUES
    columns = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = %s AND is_identity = 'NO'"
        " AND (table_name, column_name) <> ('loop_run_steps', 'id')"
        " ORDER BY ordinal_position",
        [table],
    ).fetchall()
    moved = [
        _MOVED.get(name, f"d.{name} + %(shift)s" if kind == "timestamp with time zone" else f"d.{name}")
        for name, kind in columns
    ]
    names = ", ".join(name for name, _ in columns)
    return f"INSERT INTO {table} ({names}) SELECT {', '.join(moved)} FROM {_SOURCES[table]}"
