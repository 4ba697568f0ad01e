"""Owns what a deployment decides: read once, lazily, from the environment that template.yaml gives, and passed down."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from loop_runner.errors import ConfigurationError
from loop_runner.rds_token import with_token

if TYPE_CHECKING:
    from collections.abc import Mapping

CODE_VERSION: Final = 1
"""Grows when the code needs a schema to know; the schema's minimumCode refuses older code."""

REQUIRED_SCHEMA: Final = 105
"""The newest migration that this code relies on."""

LEASE_GRACE_MS: Final = 5_000
"""A lease outlives its invocation by this much, so that no takeover meets a process that still lives."""

ANSWER_RESERVE_SECONDS: Final = 0.5
"""An invocation stops waiting, for whatever it is, this long before Lambda would end it: time to say so."""

FINISH_RESERVE_SECONDS: Final = 3.0
"""A step must have ended this long before that, so that its outcome can be recorded; a quarter of a short time."""

START_BY_SECONDS: Final = 600
"""A background run that has not begun by then is ended; its message was sent again five times meanwhile."""

MAX_BODY_BYTES: Final = 64 * 1024
MAX_FACTS_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says. ``database_url`` is a libpq URI; ``retention_days`` 0 keeps finished runs for ever."""

    database_url: str
    loops_dir: Path
    migrations_dir: Path
    signs_in_with_iam: bool = False
    master_secret_arn: str = ""
    actor_delegates: frozenset[str] = frozenset()
    allowed_actors: frozenset[str] = frozenset()
    trust_actor_header: bool = False
    retention_days: int = 0
    run_queue_url: str = ""
    step_function_prefix: str = ""
    openapi_file: Path = Path("/opt/openapi.json")
    log_group: str = ""
    region: str = ""

    def url_to_connect(self) -> str:
        """``database_url`` for a connection that is made now: where IAM decides, with a new token as its password.

        Raises ConfigurationError.
        """
        return with_token(self.database_url) if self.signs_in_with_iam else self.database_url

    def log_url(self, log_stream: str | None) -> str | None:
        """Where the console of AWS shows a log stream of this deployment; None where there is none."""
        if not (self.log_group and self.region and log_stream):
            return None
        group, stream = (
            quote(quote(name, safe=""), safe="").replace("%", "$") for name in (self.log_group, log_stream)
        )
        host = f"https://{self.region}.console.aws.amazon.com/cloudwatch/home?region={self.region}"
        return f"{host}#logsV2:log-groups/log-group/{group}/log-events/{stream}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings; ConfigurationError names a variable that is missing."""
        url = environment.get("DATABASE_URL", "")
        if not url:
            raise ConfigurationError("DATABASE_URL is not set: give the function the database's libpq URI")
        auth = environment.get("DATABASE_AUTH", "")
        if auth not in {"", "iam"}:
            raise ConfigurationError("DATABASE_AUTH must be iam, or empty where DATABASE_URL has the password")
        retention = environment.get("RETENTION_DAYS") or "0"
        if not (retention.isascii() and retention.isdigit() and len(retention) <= 5):
            raise ConfigurationError(
                "RETENTION_DAYS is not a number of days: give 0 to keep finished runs, or 1 to 99999"
            )
        return cls(
            database_url=url,
            loops_dir=Path(environment.get("LOOPS_DIR", "/opt/loops")),
            migrations_dir=Path(environment.get("MIGRATIONS_DIR", "/opt/migrations")),
            signs_in_with_iam=auth == "iam",
            master_secret_arn=environment.get("MASTER_SECRET_ARN", ""),
            actor_delegates=_names(environment.get("ACTOR_DELEGATES", "")),
            allowed_actors=_names(environment.get("ALLOWED_ACTORS", "")),
            trust_actor_header=environment.get("TRUST_ACTOR_HEADER", "").lower() in {"1", "true"},
            retention_days=int(retention),
            run_queue_url=environment.get("RUN_QUEUE_URL", ""),
            step_function_prefix=environment.get("STEP_FUNCTION_PREFIX", ""),
            openapi_file=Path(environment.get("OPENAPI_FILE", "/opt/openapi.json")),
            log_group=environment.get("AWS_LAMBDA_LOG_GROUP_NAME", ""),
            region=environment.get("AWS_REGION", ""),
        )


def _names(text: str) -> frozenset[str]:
    """Of a list with commas."""
    return frozenset(filter(None, map(str.strip, text.split(","))))
