"""Owns the calls of the API behind the console: signed, with the headers of the contract and no others, either way."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tools.console.answers import SAFE, refusal
from tools.local.http_api import Response
from tools.signing import LOG_IN, Signer, SigningError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from tools.local.http_api import Request

_SENT: Final = frozenset(
    {"accept", "content-type", "idempotency-key", "if-match", "prefer", "x-afu9-sub", "x-request-id"}
)
_RETURNED: Final = frozenset({
    "allow", "apigw-requestid", "cache-control", "content-type", "date", "etag", "idempotency-replayed", "location",
    "retry-after", "x-request-id",
})  # fmt: skip
_LOCAL: Final = frozenset({"127.0.0.1", "localhost"})
_MAX_BYTES: Final = 10 * 1024 * 1024  # API Gateway's limit
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]*")
_EXPIRED: Final = re.compile(r"security token .* (expired|invalid)")


class UpstreamError(ValueError):
    """API_URL cannot be used; the message says why."""


class Upstream:
    """The API at a URL; a path in it comes before that of each call. ``seconds``: for each wait on the network."""

    def __init__(self, url: str, *, seconds: float) -> None:
        """Raises UpstreamError; SigningError where nothing tells the region."""
        parts = _checked(url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._prefix = parts.path.rstrip("/")
        self._parts, self._seconds = parts, seconds
        self._signer = Signer(f"{parts.scheme}://{parts.netloc}")

    def call(self, request: Request) -> Response:
        """The API's answer; or, in its envelope, why there is none and what to do. Waits."""
        headers = _headers_of(request)
        if not all(_PRINTABLE.fullmatch(value) for value in headers.values()):
            return refusal(request, 400, "a header has characters that are not ASCII: such a call cannot be signed")
        target = self._prefix + request.raw_path + (f"?{request.query}" if request.query else "")
        try:
            signed = self._signer.headers(request.method, target, request.body, headers)
            answer = self._send(request.method, target, request.body, signed)
        except SigningError as error:
            return refusal(request, 502, f"the call cannot be signed, {error.found}: {error.do}", "UNAUTHORIZED")
        except TimeoutError:
            return refusal(request, 504, f"{self.url} has not answered in time: look whether the call was done")
        except ssl.SSLCertVerificationError as error:
            return refusal(request, 502, f"{self.url} has no certificate to trust: {error.verify_message}")
        except (OSError, http.client.HTTPException) as error:
            return refusal(request, 502, f"{self.url} cannot be reached ({type(error).__name__}): is API_URL right?")
        return self._explained(request, answer)

    def _send(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> Response:
        connection = self._connection()
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body or method in {"POST", "PUT", "PATCH"}:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            content = response.read(_MAX_BYTES + 1)
            if response.length or len(content) > _MAX_BYTES:  # read() does not mind an end that comes too early
                raise http.client.HTTPException("the answer is not whole, or larger than API Gateway lets it be")
            returned = [(name.lower(), value) for name, value in response.getheaders()]
            kept = [pair for pair in returned if pair[0] in _RETURNED and _PRINTABLE.fullmatch(pair[1])]
            return Response(response.status, (*kept, *SAFE), content)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(self._parts.netloc, timeout=self._seconds)
        return http.client.HTTPConnection(self._parts.netloc, timeout=self._seconds)

    def _explained(self, request: Request, answer: Response) -> Response:
        """What API Gateway refuses has not its functions' form: a client of the API is told what it means here."""
        if answer.status not in {401, 403}:
            return answer
        try:
            said = json.loads(answer.body)
        except ValueError:
            said = {}
        said = said if isinstance(said, dict) else {}
        if said.get("schemaVersion") == "loop.error.v1":
            return answer
        reason = str(said.get("message", "it does not say why"))
        self._signer.forget()
        if _EXPIRED.search(reason):
            return refusal(request, 502, f"the AWS credentials are not valid any more: {LOG_IN}", "UNAUTHORIZED")
        return refusal(
            request,
            answer.status,
            f"API Gateway refused the call ({reason}): the AWS credentials must be valid, of the API's account, and "
            f"allowed to execute-api:Invoke. Else {LOG_IN}",
        )


def _checked(url: str) -> SplitResult:
    example = "https://<id>.execute-api.<region>.amazonaws.com, the stack's output ApiUrl"
    if not url:
        raise UpstreamError(f"API_URL is missing: it is {example}")
    if "@" in url:
        raise UpstreamError(f"API_URL must not have a user in it: it is {example}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for one that is none
    except ValueError as error:
        raise UpstreamError(f"API_URL={url} is no URL ({error}): it is {example}") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise UpstreamError(f"API_URL={url} must begin with https://: calls are signed, and say what issues hold")
    if not parts.hostname or parts.query or parts.fragment or not _PRINTABLE.fullmatch(url):
        raise UpstreamError(f"API_URL={url} must have a host, and no query or fragment: it is {example}")
    return parts


def _headers_of(request: Request) -> dict[str, str]:
    """What of the caller's headers goes on. One that came twice is joined, as API Gateway does, who then refuses it."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        if name in _SENT:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers
