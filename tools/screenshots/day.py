"""Owns the day over which the work is spread: it was done in seconds, and is moved to when it could have been.

The rows stay sound: what happened in an issue keeps its order, what lives now is left alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

Row: TypeAlias = dict[str, Any]
Connection: TypeAlias = psycopg.Connection[Row]

HOURS: Final = 23.0

_SECONDS: Final = {
    "DIAGNOSE": (6, 45),
    "PAGE": (50, 600),
    "MITIGATE": (2, 14),
    "VERIFY": (1, 6),
    "IMPLEMENT": (400, 4200),
    "MERGE": (1, 4),
}
"""How long a step takes, from and to; every other one is a matter of milliseconds."""

_QUICK: Final = (0.002, 0.03)
_LIVE: Final = {"pending", "running"}
_RUN_TIMES: Final = ("started_at", "completed_at", "queued_at", "sent_at", "lease_expires_at", "cancel_requested_at")
_STEP_TIMES: Final = ("created_at", "started_at", "completed_at", "timeout_at")


@dataclass
class _Moment:
    """A run with its steps and events, or an event of no run; ``seconds`` is how long it shall have taken."""

    at: datetime
    run: Row | None = None
    steps: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    seconds: float = 0.001

    @property
    def is_live(self) -> bool:
        return self.run is not None and self.run["status"] in _LIVE

    @property
    def is_retry(self) -> bool:
        return self.run is not None and self.run["retry_of"] is not None


def spread(database_url: str, seed: int = 7) -> None:
    """Move what has ended into the last HOURS; as a superuser, since what has ended is immutable."""
    chance = random.Random(seed)  # noqa: S311 - nobody's secret
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for issue in connection.execute("SELECT *, clock_timestamp() AS now FROM loop_issues ORDER BY id").fetchall():
            moments = _moments(connection, issue["id"], chance)
            _move(connection, issue, moments, _starts(moments, issue["now"], chance))
        for table in ("loop_runs", "loop_run_steps"):
            connection.execute(f"UPDATE {table} SET duration_ms = loop_duration_ms(started_at, completed_at)")


def _starts(moments: list[_Moment], now: datetime, chance: random.Random) -> list[datetime]:
    """When each moment shall begin: the later ones first, with pauses that fit into the day."""
    last = moments[-1]
    end = last.at if last.is_live else now - timedelta(hours=HOURS * 0.7 * chance.random() ** 2)
    pauses = [chance.expovariate(1) * (40 if moment.run else 200) + 2 for moment in moments]
    room = HOURS * 3600 - (now - end).total_seconds() - sum(moment.seconds for moment in moments)
    stretch = min(chance.uniform(1, 30), 0.9 * room / sum(pauses))
    starts = []
    for moment, pause, next_one in reversed(list(zip(moments, pauses, [*moments[1:], None], strict=True))):
        if not moment.is_live:
            is_retried = next_one is not None and next_one.is_retry
            end -= timedelta(seconds=moment.seconds + (chance.uniform(2, 9) if is_retried else pause * stretch))
        starts.append(end)
    return starts[::-1]


def _moments(connection: Connection, issue_id: str, chance: random.Random) -> list[_Moment]:
    """What happened in the issue, in order."""
    runs = connection.execute("SELECT * FROM loop_runs WHERE issue_id = %s", [issue_id]).fetchall()
    of_runs = {run["id"]: _Moment(run["created_at"], run=run) for run in runs}
    others = []
    for step in connection.execute(
        "SELECT * FROM loop_run_steps WHERE run_id = ANY(%s) ORDER BY step_number", [list(of_runs)]
    ).fetchall():
        of_runs[step["run_id"]].steps.append(step)
    for event in connection.execute(
        "SELECT * FROM loop_events WHERE issue_id = %s ORDER BY event_id", [issue_id]
    ).fetchall():
        if event["run_id"]:
            of_runs[event["run_id"]].events.append(event)
        else:
            others.append(_Moment(event["occurred_at"], events=[event]))
    moments = sorted([*of_runs.values(), *others], key=lambda moment: moment.at)
    for moment in moments:
        if moment.run:
            executed = [step["step_type"] for step in moment.steps if step["started_at"]]
            moment.seconds = chance.uniform(*(_SECONDS.get(executed[0], _QUICK) if executed else _QUICK))
    return moments


def _move(connection: Connection, issue: Row, moments: list[_Moment], starts: list[datetime]) -> None:
    """Put each moment of the issue where it shall begin, and the issue to where they are."""
    for moment, start, next_start in zip(moments, starts, [*starts[1:], None], strict=True):
        if moment.is_live:
            continue
        if moment.run:
            _move_run(connection, moment, start, next_start)
        else:
            _set(connection, "loop_events", "event_id", moment.events[0], {"occurred_at": start})
    hold = issue["hold"] and Jsonb({**issue["hold"], "since": starts[-1].isoformat()})
    times = {"created_at": starts[0], "updated_at": starts[-1], "hold": hold}
    _set(connection, "loop_issues", "id", issue, times)


def _move_run(connection: Connection, moment: _Moment, start: datetime, next_start: datetime | None) -> None:
    """Up to its start the run is shifted, from there it is stretched; it is retried when the next moment begins."""
    run = moment.run or {}
    made: datetime = run["created_at"]
    begun: datetime = run["started_at"] or made
    factor: float = moment.seconds / max((run["completed_at"] - begun).total_seconds(), 1e-6)

    def moved(at: datetime | None) -> datetime | None:
        return at and start + (min(at, begun) - made) + max(at - begun, timedelta()) * factor

    times: Row = {"created_at": start} | {name: moved(run[name]) for name in _RUN_TIMES}
    if run["retry_at"]:
        times["retry_at"] = next_start
    _set(connection, "loop_runs", "id", run, times)
    for step in moment.steps:
        times = {name: moved(step[name]) for name in _STEP_TIMES}
        _set(connection, "loop_run_steps", "id", step, times)
    for event in moment.events:
        times = {"occurred_at": moved(event["occurred_at"])}
        if event["event_type"] == "loop_retry_planned" and next_start:
            times["event_data"] = Jsonb({**event["event_data"], "retryAt": next_start.isoformat()})
        _set(connection, "loop_events", "event_id", event, times)


def _set(connection: Connection, table: str, key: str, row: Row, values: Row) -> None:
    columns = ", ".join(f"{name} = %s" for name in values)
    connection.execute(f"UPDATE {table} SET {columns} WHERE {key} = %s", [*values.values(), row[key]])
