"""Owns how the function signs in on GitHub: what the secret says, and that nothing of it is ever told."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from github import Auth

from github_steps.outcome import FailedError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNAUTHORIZED: Final = "GitHub.Unauthorized"
HIDDEN: Final = "(hidden)"
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
# https://github.blog/engineering/behind-githubs-new-authentication-token-formats; and JSON web tokens, alone or as an
# installation's since 2026: ghs_, the App's id, _ and one of those.
_LIKE_A_TOKEN: Final = re.compile(r"\b(?:gh[a-z]_|github_pat_)[\w.-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]+")
_SHAPES: Final = '{"token": "…"} or {"appId": …, "installationId": …, "privateKey": "…"}'


class Credentials:
    """A token, or a GitHub App that makes its own for an hour at a time."""

    def __init__(self, text: str) -> None:
        """Read a secret. Raises FailedError, whose message has nothing of it."""
        self._secrets: set[str] = set()
        self.auth = self._token(text.strip()) if not text.lstrip().startswith("{") else self._of_object(text)

    def hide(self, text: str) -> str:
        """The text without what it has of the credentials, or of what looks like some."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return _LIKE_A_TOKEN.sub(HIDDEN, text)

    def __repr__(self) -> str:
        return "Credentials()"

    def _of_object(self, text: str) -> Auth.Auth:
        try:
            secret = json.loads(text)
        except ValueError:
            raise _unusable("is no JSON") from None
        match secret:
            case {"token": str(token)}:
                return self._token(token.strip())
            case {
                "appId": int() | str() as app,
                "installationId": int() | str() as installation,
                "privateKey": str(key),
            }:
                return self._app(str(app), str(installation), key)
            case _:
                raise _unusable("has other keys")

    def _token(self, token: str) -> Auth.Auth:
        if not _TOKEN.fullmatch(token):
            raise _unusable("is no token")
        self._secrets.add(token)
        return Auth.Token(token)

    def _app(self, app: str, installation: str, key: str) -> Auth.Auth:
        if not (app and installation.isascii() and installation.isdigit()):
            raise _unusable("has no number as installationId, or an empty appId")
        self._secrets |= {key, *_lines(key)}
        auth = Auth.AppAuth(app, key)
        try:
            auth.create_jwt()
        except Exception:
            raise _unusable("has no PEM key as privateKey") from None
        return auth.get_installation_auth(int(installation))


def _lines(key: str) -> Iterator[str]:
    """Of a PEM the lines of the key itself."""
    return (line for line in key.split() if len(line) > 16)


def _unusable(reason: str) -> FailedError:
    return FailedError(UNAUTHORIZED, f"the secret of GithubSecretArn {reason}: write {_SHAPES}, or a token alone")


def token_of(auth: Any) -> str:
    """The token that the next request has; an App asks GitHub for a new one where its hour is over."""
    return str(auth.token)
