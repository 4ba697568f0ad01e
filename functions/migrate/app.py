"""The migrate function: {"action": "plan" | "apply" | "verify" | "audit"}, and CloudFormation's custom resource.

A refused or failed migration fails the invocation; what verify and audit find is their answer. CloudFormation is
answered in any case.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from loop_runner import custom_resource, migrations
from loop_runner.audit import audit
from loop_runner.bootstrap import bootstrap, is_let_in
from loop_runner.errors import InvalidRequestError, MasterUserError
from loop_runner.observability import logger
from loop_runner.settings import ANSWER_RESERVE_SECONDS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools.utilities.typing import LambdaContext


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Do what ``action`` says; a LoopError, as MigrationError is one, fails the invocation and says why."""
    logger.structure_logs(append=False)
    logger.append_keys(lambdaRequestId=context.aws_request_id)
    if custom_resource.is_request(event):
        logger.append_keys(action=event["RequestType"])
        return custom_resource.handle(event, context, lambda deadline: _apply(Settings.from_environment(), deadline))
    action = event.get("action")
    logger.append_keys(action=action)
    settings = Settings.from_environment()
    folder = settings.migrations_dir
    match action:
        case "plan":
            answer: dict[str, Any] = {"files": dict(migrations.plan(settings.url_to_connect(), folder))}
        case "apply":
            deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - ANSWER_RESERVE_SECONDS
            answer = {"applied": _apply(settings, deadline)}
        case "verify":
            problems = migrations.verify(settings.url_to_connect(), folder)
            answer = {"ok": not problems, "problems": problems}
        case "audit":
            rules = audit(settings.url_to_connect())
            answer = {"ok": not any(rule["violations"] for rule in rules), "rules": rules}
        case _:
            raise InvalidRequestError(
                'the event must be {"action": "plan"}, {"action": "apply"}, {"action": "verify"} or {"action": "audit"}'
            )
    logger.info("answered", extra=answer)
    return {"schemaVersion": "loop.migrate.v1", "action": action, **answer}


def _apply(settings: Settings, deadline: float) -> list[str]:
    """Bring the database to this release; one that the stack has made gets its roles first.

    Once there are roles that IAM lets in, the master user who made them may be kept out: PostgreSQL takes whoever
    administers a member of rds_iam for a member, too, and members are asked for a token. The owner goes on then.
    """
    if settings.master_secret_arn:
        try:
            bootstrap(settings.database_url, settings.master_secret_arn, settings.migrations_dir, deadline)
        except MasterUserError as error:
            if not is_let_in(settings.url_to_connect(), deadline):
                raise
            logger.warning("the roles are there and stay as they are", extra={"reason": error.message})
    return migrations.apply(settings.url_to_connect(), settings.migrations_dir, deadline=deadline)
