"""What boto3 says to Secrets Manager of its calls: GetSecretValue, in its JSON protocol.

Source: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tools.local.http_api import Request, Response
from tools.local.intrinsics import secret_arn

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = "secretsmanager."


def is_secrets(target: str) -> bool:
    """Whether the header ``x-amz-target`` names a call of Secrets Manager."""
    return target.startswith(_PREFIX)


class SecretsApi:
    """Tells the secrets that there are now, which are known by their name or by the last part of their ARN."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets

    def answer(self, request: Request, target: str) -> Response:
        """Answer one call."""
        call = target.removeprefix(_PREFIX)
        if call != "GetSecretValue":
            return _refusal("UnknownOperationException", f"the local stack knows no {call} of Secrets Manager")
        name = str(json.loads(request.body)["SecretId"]).rpartition(":")[2]
        if name not in self._secrets:
            return _refusal("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
        answer = {"ARN": secret_arn(name), "Name": name, "SecretString": self._secrets[name]}
        return Response.of_json(200, answer)


def _refusal(code: str, message: str) -> Response:
    return Response.of_json(400, {"__type": code, "Message": message})
