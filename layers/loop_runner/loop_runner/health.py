"""Owns the look whether the database can serve: it answers, and its schema is one that this code works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loop_runner.database import DEPLOYMENT_SECONDS
from loop_runner.errors import UnavailableError
from loop_runner.models import Instant, Row
from loop_runner.settings import CODE_VERSION, REQUIRED_SCHEMA

if TYPE_CHECKING:
    from loop_runner.database import Database

_LOOK: Final = """
SELECT current_setting('server_version') AS server_version, clock_timestamp() AS now,
    loop_schema() ->> 'version' AS migration, loop_schema() ->> 'minimumCode' AS minimum_code
"""


class DatabaseHealth(Row):
    """The server, its clock, the newest migration that is applied, and the oldest that this code works with."""

    server_version: str
    now: Instant
    migration: int
    required_migration: int = REQUIRED_SCHEMA


def look_at(database: Database) -> DatabaseHealth:
    """The database as it is. Raises UnavailableError: out of reach, or of another time than this code."""
    row = database.query(_LOOK, [])[0]
    health = DatabaseHealth.model_validate(row)
    if health.migration < REQUIRED_SCHEMA:
        raise UnavailableError(
            f"the schema is at migration {health.migration}, this code needs {REQUIRED_SCHEMA}: "
            'invoke the migrate function with {"action": "apply"}',
            retry_after_seconds=DEPLOYMENT_SECONDS,
        )
    if int(row["minimum_code"]) > CODE_VERSION:
        raise UnavailableError(
            f"the schema needs code of version {row['minimum_code']}, this is {CODE_VERSION}: deploy the functions",
            retry_after_seconds=DEPLOYMENT_SECONDS,
        )
    return health
