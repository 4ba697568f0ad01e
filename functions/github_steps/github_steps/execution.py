"""Owns one execution: from the event to the answer, whatever goes wrong, signed in with the secret of now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from github_steps.code_host import ANSWER_SECONDS, CodeHost
from github_steps.credentials import UNAUTHORIZED, Credentials
from github_steps.faults import NotSignedInError, RefusedError
from github_steps.outcome import BlockedError, FailedError
from github_steps.settings import GithubSettings
from github_steps.steps import STEPS
from loop_runner.errors import ConfigurationError
from loop_runner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from github_steps.outcome import Completed, Json

_RESERVE_SECONDS = 1.0
"""To say what became of it."""


class Access:
    """The settings, the secret and the way to GitHub, kept by the process; an App's token lives for an hour."""

    def __init__(self, settings: GithubSettings, secret: Secret) -> None:
        self.settings = settings
        self._secret = secret
        self._host: CodeHost | None = None

    @classmethod
    def from_environment(cls) -> Access:
        """As the deployment says. Raises ConfigurationError."""
        settings = GithubSettings.from_environment()
        return cls(settings, Secret(settings.secret_arn))

    def host(self, *, anew: bool = False) -> CodeHost:
        """GitHub, signed in; ``anew``: with the secret as it is now. Raises ConfigurationError, FailedError."""
        if self._host is None or anew:
            self._host = None
            text = self._secret.text(older_than_seconds=0 if anew else None)
            self._host = CodeHost(self.settings.api_url, Credentials(text))
        return self._host


def execute(event: Mapping[str, Any], access: Access, seconds: float) -> Json:
    """The answer to the event of a step function, within so many seconds."""
    deadline = time.monotonic() + seconds - ANSWER_SECONDS - _RESERVE_SECONDS
    try:
        return _execute(event, access, deadline).answer()
    except (BlockedError, FailedError) as end:
        return end.answer()
    except ConfigurationError as error:
        return FailedError(UNAUTHORIZED, error.message).answer()


def _execute(event: Mapping[str, Any], access: Access, deadline: float) -> Completed:
    """A call that GitHub answers with 401 was not carried out: the step begins anew, once, with the secret of now."""
    step = STEPS.get(event["step"]["type"])
    if step is None:
        raise FailedError("GitHub.UnknownStep", f"there is no {event['step']['type']}, but {', '.join(STEPS)}")
    for anew in (False, True):
        host = access.host(anew=anew)
        host.deadline = deadline
        try:
            host.sign_in()
            return step(event["facts"], host, access.settings)
        except NotSignedInError as refused:
            last = refused
        except RefusedError as refused:
            raise FailedError("GitHub.UnexpectedAnswer", str(refused)) from None
    raise FailedError(UNAUTHORIZED, f"GitHub does not take the token of the secret ({last}): write a valid one into it")
