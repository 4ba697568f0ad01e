"""``make console``: serve the console of the API at API_URL on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from tools.console.guard import Guard
from tools.console.server import UPSTREAM_SECONDS, make_server
from tools.console.upstream import Upstream, UpstreamError
from tools.local.settings import SettingsError, read_port
from tools.local.stack import StackError, listen
from tools.signing import SigningError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT: Final = 3030


class _StopRequestedError(BaseException):
    """Ctrl-C or SIGTERM."""


def _stop(_number: int, _frame: object) -> NoReturn:
    raise _StopRequestedError


def serve(environment: Mapping[str, str]) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises UpstreamError, SigningError, SettingsError, StackError."""
    upstream = Upstream(environment.get("API_URL", ""), seconds=UPSTREAM_SECONDS)
    port = read_port(environment)
    with listen(DEFAULT_PORT if port is None else port) as listener:
        guard = Guard(listener.getsockname()[1], secrets.token_urlsafe(32))
        print(f"console of {upstream.url}: {guard.url}", flush=True)
        make_server(guard, upstream, seconds=UPSTREAM_SECONDS).run(sockets=[listener])


def main() -> int:
    """Exit status 1 with a message where it cannot be served."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        serve(os.environ)
    except _StopRequestedError:
        pass
    except (SettingsError, SigningError, StackError, UpstreamError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
