"""Owns who may use the console's server: the browser in which the printed URL was opened, from our own pages. Pure.

Any page that a browser has open, and any user of the machine, can reach 127.0.0.1. The token is for users, the cookie
for our pages; Host is for names that others make point here, Origin for pages of other ports, which share cookies.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from tools.local.http_api import Request

_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Guard:
    """Knows the port that is served, and the token of this start."""

    port: int
    token: str

    @property
    def url(self) -> str:
        """What lets a browser in."""
        return f"http://127.0.0.1:{self.port}/console?token={self.token}"

    @property
    def cookie(self) -> str:
        """Set-Cookie. Browsers send cookies to every port of a host: the name tells ours."""
        return f"{self._cookie_name}={self.token}; Path=/; HttpOnly; SameSite=Strict"

    @property
    def mark(self) -> str:
        """Set-Cookie for the page to read: its calls are signed, it need not ask who calls. It lets nobody in."""
        return f"signed_{self.port}=1; Path=/; SameSite=Strict"

    @property
    def _cookie_name(self) -> str:
        return f"loop-console-{self.port}"

    def opens(self, request: Request) -> bool:
        """Whether this is the printed URL, and nobody else's guess at it."""
        return self._is_token(parse_qs(request.query).get("token", [""])[0])

    def refuses_address(self, request: Request) -> Refusal | None:
        """Why the request is not meant for us; None when it is."""
        hosts = [value for name, value in request.headers if name == "host"]
        names = [f"127.0.0.1:{self.port}", f"localhost:{self.port}"]
        if len(hosts) != 1 or hosts[0] not in names:
            return Refusal(421, f"this is http://{names[0]} and no other: open the URL that make console has printed")
        origins = [value for name, value in request.headers if name == "origin"]
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return Refusal(403, "a page of somebody else's may not call this")
        return None

    def refuses_caller(self, request: Request) -> Refusal | None:
        """Why the request is not answered though it came to the right address; None when it is."""
        headers = dict(request.headers)
        if not self._is_token(self._cookie_of(headers.get("cookie", ""))):
            return Refusal(
                403, "open the URL that make console has printed: it lets this browser in, until the next start"
            )
        is_from_us = "origin" in headers or headers.get("sec-fetch-site") == "same-origin"
        if request.method not in _READS and not is_from_us:
            return Refusal(403, "only pages of the console may change anything")
        return None

    def _cookie_of(self, header: str) -> str:
        pairs = (part.strip().partition("=") for part in header.split(";"))  # other ports' may be of any form
        return next((value for name, _, value in pairs if name == self._cookie_name), "")

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())
