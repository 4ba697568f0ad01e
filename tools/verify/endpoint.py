"""Calls of the API, as a caller of its deployment makes them: with the local header, or signed with AWS SigV4."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from tools.local.client import request
from tools.local.sample import ACTOR
from tools.signing import Signer, SigningError
from tools.verify.report import Difference, Mismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT_SECONDS: Final = 35.0  # API Gateway gives up after 30


@dataclass(frozen=True, slots=True)
class Reply:
    """What was asked, under which request id, and the answer's parts."""

    call: str
    request_id: str
    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]

    def expect_status(self, status: int, do: str) -> None:
        """Mismatch unless the answer has this status."""
        if self.status != status:
            found = f"{self.status} {json.dumps(self.body, ensure_ascii=False)}"
            if self.status >= 500:
                do = f"read the functions' log, locally .local/functions.log, for request id {self.request_id}"
            raise Mismatch(f"answers {self.status}", Difference(self.call, str(status), found, do))


class Endpoint:
    """The API below a base URL. One on https is a deployment, whose calls are signed; any other is a local stack."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.is_deployed = urlsplit(url).scheme == "https"
        self._prefix = urlsplit(self.url).path
        self._signer: Signer | None = None

    def call(self, method: str, path: str, body: object = None, *, has_identity: bool = True) -> Reply:
        """Make a call. Raises OSError, http.client.HTTPException; Mismatch where the answer is not the API's."""
        request_id = str(uuid4())
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-request-id": request_id}
        if has_identity and self.is_deployed:
            headers = self._signed(method, path, content, headers)
        elif has_identity:
            headers["x-afu9-sub"] = ACTOR
        answer = request(self.url, method, self._prefix + path, content or None, headers, timeout=_TIMEOUT_SECONDS)
        value = None
        with suppress(ValueError):
            value = answer.json()
        if not isinstance(value, dict):
            do = f"see what serves {self.url}: this is not the API"
            found = f"{answer.status} {answer.body[:100]!r}"
            raise Mismatch("the answer is of another form", Difference(f"{method} {path}", "a JSON object", found, do))
        return Reply(f"{method} {path}", request_id, answer.status, answer.headers, value)

    def _signed(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        try:
            self._signer = self._signer or Signer(self.url)
            return self._signer.headers(method, path, body, headers)
        except SigningError as error:
            raise Mismatch("cannot be signed", Difference("", "AWS credentials", error.found, error.do)) from error
