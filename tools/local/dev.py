"""``dev``: the stack kept open for a developer, with its data in .local/; ``sql``: a prompt on its database."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from loop_runner.errors import LoopDefinitionError
from loop_runner.loops import LoopCatalog
from tools.local.binaries import PostgresError, wheel_bin
from tools.local.sample import ACTOR, read_sample, register_sample_issue
from tools.local.settings import ROOT, LocalSettings
from tools.local.stack import Stack, StackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StopRequestedError(BaseException):
    """Ctrl-C or SIGTERM: unwinds whatever is going on, the start included."""


def _stop(_number: int, _frame: object) -> NoReturn:
    for number in _STOP_SIGNALS:  # what is being ended now must not be interrupted
        signal.signal(number, signal.SIG_IGN)
    raise _StopRequestedError


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_dev(root: Path = ROOT) -> int:
    """Serve until Ctrl-C or SIGTERM; exit status 0. The password is in the ready line and in no other output."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop)
    local = root / ".local"
    log_file = local / "functions.log"
    try:
        settings = LocalSettings.from_environment(os.environ, root)
        loops = _check_loops(settings.loops)
        stack = Stack(
            root=root,
            data_folder=local / "postgres",
            world_folder=local / "world",
            log_file=log_file,
            progress=lambda line: _say(f"==> {line}"),
            on_access=_say,
        )
        with stack, _published_url(local / "database-url", stack.database_url):
            _register_sample(stack, root, settings, loops)
            _say(
                f"==> what the functions log: {log_file.relative_to(root)}; a prompt on the rows: make sql; Ctrl-C ends"
            )
            print(f"ready {stack.url} DATABASE_URL={stack.database_url}", flush=True)
            while True:
                time.sleep(3600)
    except _StopRequestedError:
        _say("==> stopped")
        return 0


def _check_loops(folder: Path) -> list[str]:
    """Load every loop, as the functions will; their names. StackError says what is not valid: file, key and reason."""
    catalog = LoopCatalog(folder)
    loops = {name: catalog.get(name) for name in catalog.names()}
    if not loops:
        raise StackError(f"there is no loop in {folder}: LOOPS_DIR names a folder of TOML files, one a loop")
    errors = [loop.message for loop in loops.values() if isinstance(loop, LoopDefinitionError)]
    errors += [
        f"{name}.toml: a loop's name has small letters, digits and hyphens only"
        for name, loop in loops.items()
        if loop is None
    ]
    if errors:
        raise StackError("\n       ".join(errors))
    return list(loops)


def _register_sample(stack: Stack, root: Path, settings: LocalSettings, loops: list[str]) -> None:
    """Give a database without issues its first one, and say what to call."""
    if settings.trust_actor_header not in {"1", "true"}:
        _say("==> TRUST_ACTOR_HEADER=0: no call has an identity here, every one but GET /api/health is 401")
        return
    sample = read_sample(root)
    if sample["loop"] not in loops:
        _say(f"==> loops in {settings.loops}: {', '.join(loops)}. Register an issue:")
        body = json.dumps({"loop": loops[0]})
        _say(f"    curl -X PUT {stack.url}/api/loop/issues/TEST-1 -H 'x-afu9-sub: {ACTOR}' -d '{body}'")
        return
    with psycopg.connect(stack.database_url) as connection:
        row = connection.execute("SELECT EXISTS (SELECT FROM loop_issues)").fetchone()
    if row is not None and not row[0]:
        register_sample_issue(stack.url, root)
        _say(f"==> registered issue {sample['issueId']}")
    _say("==> run its next step:")
    _say(f"    curl -X POST {stack.url}/api/loop/issues/{sample['issueId']}/run-next-step -H 'x-afu9-sub: {ACTOR}'")


@contextlib.contextmanager
def _published_url(path: Path, url: str) -> Iterator[None]:
    """Keep the URL for ``sql`` while we run; whether we do is told by a lock on the file, which goes with us."""
    with _open_private(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another stack of this folder, on a database of its own, was first
            yield
            return
        file.truncate(0)
        file.write(url)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _open_private(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+")


def run_sql(root: Path = ROOT) -> NoReturn:
    """Become psql on DATABASE_URL, or on the running dev stack's database."""
    url = os.environ.get("DATABASE_URL") or published_database_url(root)
    parts: dict[str, Any] = dict(conninfo_to_dict(url))
    password = parts.pop("password", None)
    environment = dict(os.environ)
    if password is not None:  # not an argument: those can be seen by every user
        environment["PGPASSWORD"] = str(password)
    psql = _psql()
    sys.stdout.flush()
    strict = [] if sys.stdin.isatty() else ["--set", "ON_ERROR_STOP=1"]  # a script's exit status counts
    os.execve(psql, [psql, *strict, make_conninfo(**parts)], environment)


def published_database_url(root: Path = ROOT) -> str:
    """URL of the running dev stack's database. StackError where none runs."""
    path = root / ".local" / "database-url"
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read()
    raise StackError("the local stack does not run: start it with make dev, or give a DATABASE_URL")


def _psql() -> str:
    with contextlib.suppress(PostgresError):
        candidate = wheel_bin() / "psql"
        if os.access(candidate, os.X_OK):
            return str(candidate)
    found = shutil.which("psql")
    if found is None:
        raise PostgresError("there is no psql: run make, or install PostgreSQL's client programs")
    return found
