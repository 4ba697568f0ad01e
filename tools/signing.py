"""Owns AWS Signature Version 4 for the API: calls are signed with the credentials that the AWS CLI would use."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_IN: Final = (
    "log in (aws sso login), name another profile in AWS_PROFILE, or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


class SigningError(Exception):
    """A call cannot be signed: what there is instead of credentials, or of a region, and what to do."""

    def __init__(self, found: str, do: str) -> None:
        super().__init__(f"{found}: {do}")
        self.found = found
        self.do = do


class Signer:
    """Signs calls of the API at ``url``, from any thread. Credentials stay in here and are renewed in time."""

    def __init__(self, url: str) -> None:
        """SigningError where nothing tells the region."""
        self._origin, self._lock, self._session = url, threading.Lock(), _new_session()
        host = urlsplit(url).hostname or ""
        _, _, rest = host.partition(".execute-api.")
        region = rest.partition(".")[0] or os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        if not region:
            raise SigningError("no AWS region is known", "name that of the API in AWS_REGION")
        self._region = region

    def headers(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers and the signature's; ``target`` is path and query as they are sent. Raises SigningError."""
        from botocore.auth import SigV4Auth  # noqa: PLC0415  only deployments need it, and its import takes a while
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415

        path, mark, query = target.partition("?")
        request = AWSRequest(method, self._origin + path + mark + _canonical(query), headers=dict(headers), data=body)
        SigV4Auth(self._credentials(), "execute-api", self._region).add_auth(request)
        return {name.lower(): value for name, value in request.headers.items()}

    def forget(self) -> None:
        """Look for credentials anew: those that there are were refused."""
        with self._lock:
            self._session = _new_session()

    def _credentials(self) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            with self._lock:
                credentials = self._session.get_credentials()
                frozen = credentials and credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:  # its message may hold what a credential_process has printed
            self.forget()
            raise SigningError(f"no AWS credentials are to be had ({type(error).__name__})", LOG_IN) from error
        if not frozen:
            self.forget()
            raise SigningError("there are no AWS credentials", LOG_IN)
        return frozen


def _new_session() -> Any:
    from botocore.session import Session  # noqa: PLC0415

    return Session()


def _canonical(query: str) -> str:
    """The query, encoded as AWS encodes what it has decoded; botocore signs it as it stands, but for the order."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    return "&".join(f"{_encoded(name)}={_encoded(value)}" for name, _, value in pairs)


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.replace("+", " ")), safe="-_.~")
