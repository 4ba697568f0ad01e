"""Owns what a deployment decides about GitHub: where it is, which repositories may be touched, how to merge."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from loop_runner.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

MERGE_METHODS: Final = ("merge", "squash", "rebase")
_ALLOWED: Final = re.compile(r"[A-Za-z0-9_-]+/(\*|[A-Za-z0-9._-]+)")


@dataclass(frozen=True, slots=True)
class GithubSettings:
    """What the environment says. ``repositories``: ``owner/name`` or ``owner/*``, in small letters.

    ``environment``: of which deployments count; empty, of all.
    """

    secret_arn: str
    api_url: str
    repositories: frozenset[str]
    merge_method: str
    environment: str

    def allows(self, repository: str) -> bool:
        """Whether the token may be used on this repository: the caller of a step names it."""
        name = repository.lower()
        return name in self.repositories or f"{name.partition('/')[0]}/*" in self.repositories

    @property
    def web_url(self) -> str:
        """What the addresses of pull requests begin with: the API's address without ``api.`` and without its path."""
        parts = urlsplit(self.api_url)
        return f"{parts.scheme}://{parts.netloc.lower().removeprefix('api.')}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> GithubSettings:
        """Read the settings; ConfigurationError names the variable and says what to give it."""
        secret_arn = environment.get("GITHUB_SECRET_ARN", "")
        if not secret_arn:
            raise ConfigurationError("GITHUB_SECRET_ARN is not set: give the function the secret of GitHub's token")
        api_url = environment.get("GITHUB_API_URL", "").rstrip("/") or "https://api.github.com"
        parts = urlsplit(api_url)
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.query:
            raise ConfigurationError(
                "GITHUB_API_URL is no address: give https://HOST/api/v3, or nothing for github.com"
            )
        repositories = frozenset(filter(None, map(str.strip, environment.get("GITHUB_REPOSITORIES", "").split(","))))
        for each in repositories:
            if not _ALLOWED.fullmatch(each):
                raise ConfigurationError(f"GITHUB_REPOSITORIES has {each!r}: give owner/name or owner/*, with commas")
        merge_method = environment.get("GITHUB_MERGE_METHOD") or "squash"
        if merge_method not in MERGE_METHODS:
            raise ConfigurationError(f"GITHUB_MERGE_METHOD must be one of {', '.join(MERGE_METHODS)}")
        return cls(
            secret_arn=secret_arn,
            api_url=api_url,
            repositories=frozenset(map(str.lower, repositories)),
            merge_method=merge_method,
            environment=environment.get("GITHUB_ENVIRONMENT", "production"),
        )
