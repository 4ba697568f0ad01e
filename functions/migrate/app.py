"""The migrate function: {"action": "plan" | "apply" | "verify" | "audit"}.

A refused or failed migration fails the invocation; what verify and audit find is their answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loop_runner import migrations
from loop_runner.audit import audit
from loop_runner.errors import InvalidRequestError
from loop_runner.observability import logger
from loop_runner.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools.utilities.typing import LambdaContext


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Do what ``action`` says; a LoopError, as MigrationError is one, fails the invocation and says why."""
    settings = Settings.from_environment()
    url, folder = settings.url_to_connect(), settings.migrations_dir
    action = event.get("action")
    logger.structure_logs(append=False)
    logger.append_keys(action=action, lambdaRequestId=context.aws_request_id)
    match action:
        case "plan":
            answer: dict[str, Any] = {"files": dict(migrations.plan(url, folder))}
        case "apply":
            answer = {"applied": migrations.apply(url, folder)}
        case "verify":
            problems = migrations.verify(url, folder)
            answer = {"ok": not problems, "problems": problems}
        case "audit":
            rules = audit(url)
            answer = {"ok": not any(rule["violations"] for rule in rules), "rules": rules}
        case _:
            raise InvalidRequestError(
                'the event must be {"action": "plan"}, {"action": "apply"}, {"action": "verify"} or {"action": "audit"}'
            )
    logger.info("answered", extra=answer)
    return {"schemaVersion": "loop.migrate.v1", "action": action, **answer}
