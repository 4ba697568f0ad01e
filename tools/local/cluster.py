"""The files of one PostgreSQL server: data, password, log, and the lock that keeps a second server off them.

Files live in a *home* folder: a temporary one that goes with the server, or a kept one. Where PostgreSQL's user cannot
reach a kept home, the data alone lie in a folder of root's, and belong to the home as long as its password is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from tools.local.binaries import Account, PostgresError, reachable, shared_folder

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG_LINES: Final = 15
_LOG_BYTES: Final = 16 * 1024


class Cluster:
    """Created if need be when constructed, and held until ``close()``; no server that was left behind uses it."""

    def __init__(
        self,
        *,
        bin_folder: Path,
        major: int,
        account: Account | None,
        folder: Path | None,
        progress: Callable[[str], None],
    ) -> None:
        self._bin = bin_folder
        self._major = major
        self._account = account
        self._progress = progress
        self.is_ephemeral = folder is None
        self._held = ExitStack()
        with ExitStack() as held:
            if folder is None:
                self.home = _new_temporary_folder(account)
                held.callback(shutil.rmtree, self.home, ignore_errors=True)
                self.data = self.home / "data"
            else:
                self.home = folder.resolve()
                self.home.mkdir(parents=True, exist_ok=True)
                held.enter_context(_lock_folder(self.home))
                self.data = _kept_data_folder(self.home, account)
            self.log = held.enter_context(_open_log(self.home / "server.log"))
            if self.is_ephemeral and account is not None:  # so that the guard can remove it after our death
                os.chown(self.home, account.uid, account.gid)
            self.password = self._prepare_data()
            self._held = held.pop_all()

    def close(self) -> None:
        """Let go of the files; ephemeral ones are removed. To be called after the server's end."""
        self._held.close()

    def _prepare_data(self) -> str:
        """Create the data if there are none; return the superuser's password."""
        kept_password = self.home / "password"
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            if not kept_password.exists():
                raise PostgresError(f"{kept_password} is missing: remove {self.home} to start anew")
            found = version_file.read_text().strip()
            if found != str(self._major):
                raise PostgresError(
                    f"the data in {self.home} are of PostgreSQL {found}, this is PostgreSQL {self._major}:"
                    " remove the folder to start anew"
                )
            self._end_orphan()
            return kept_password.read_text().strip()
        self._progress(f"creating a PostgreSQL {self._major} database")
        password = secrets.token_urlsafe(24)
        if not self.is_ephemeral:
            _write_private(kept_password, password)
        unfinished = self.data.with_name(f"unfinished-{self.data.name}")  # half a database must not look like one
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self.data.with_name("initdb-password")
        _write_private(password_file, password)
        if self._account is not None:
            os.chown(unfinished, self._account.uid, self._account.gid)
            os.chown(password_file, self._account.uid, self._account.gid)
        command = [str(self._bin / "initdb"), "-D", str(unfinished), "-U", "postgres", f"--pwfile={password_file}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        try:
            self._run([*command, "--no-sync"] if self.is_ephemeral else command)
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(self.data)
        return password

    def _run(self, command: list[str]) -> None:
        account = self._account
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                cwd="/",
                env=server_environment(),
                start_new_session=True,
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else [],
                check=False,
            )
        except OSError as error:
            raise PostgresError(f"{command[0]} cannot be run: {error}") from error
        if done.returncode != 0:
            raise self.failure(f"{Path(command[0]).name} failed with status {done.returncode}")

    def postmaster_pid(self) -> int | None:
        """The pid that the data say a server has."""
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def _end_orphan(self) -> None:
        """End a server that was left behind on our data (we hold the lock: it belongs to nobody), or its stale file."""
        pid = self.postmaster_pid()
        if pid is None:
            return
        command = _command_of(pid)
        if command is None:
            return  # PostgreSQL sees for itself that the file is stale
        if "postgres" not in command or str(self.data) not in command:
            (self.data / "postmaster.pid").unlink(missing_ok=True)  # the pid is another process's by now
            return
        self._progress("ending a PostgreSQL server that was left behind")
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            for _ in range(100):
                if _command_of(pid) is None:
                    return
                time.sleep(0.1)
        raise PostgresError(f"a PostgreSQL server (pid {pid}) uses {self.data} and does not end: kill -9 {pid}")

    def log_size(self) -> int:
        """Bytes in the log so far."""
        return os.fstat(self.log.fileno()).st_size

    def log_since(self, position: int) -> str:
        """What was logged after ``position``."""
        return os.pread(self.log.fileno(), _LOG_BYTES, position).decode(errors="replace")

    def failure(self, what: str) -> PostgresError:
        """An error that shows the end of the log and says what to do."""
        lines = self.log_since(max(0, self.log_size() - _LOG_BYTES)).splitlines()[-_LOG_LINES:]
        advice = "" if self.is_ephemeral else f"\nIf it does not go away, remove {self.home} to start anew."
        return PostgresError("\n  ".join([f"{what}. The end of its log:", *(lines or ["(empty)"])]) + advice)


def server_environment() -> dict[str, str]:
    """Nothing of ours but what finds programs: PGDATA, PGPORT or a locale of the caller would change the server."""
    return {name: value for name, value in os.environ.items() if name in {"PATH", "TMPDIR", "LD_LIBRARY_PATH"}} | {
        "LC_ALL": "C"
    }


def _new_temporary_folder(account: Account | None) -> Path:
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108
    parent = next((folder for folder in candidates if folder.is_dir() and reachable(folder, account)), None)
    if parent is None:
        raise PostgresError("the user nobody can reach no temporary folder: set TMPDIR")
    return Path(tempfile.mkdtemp(prefix="loop-runner-postgres-", dir=parent))


def _kept_data_folder(home: Path, account: Account | None) -> Path:
    """Where the data of ``home`` lie: within it, or, where the server's user cannot reach it, in a folder of root's.

    Data elsewhere belong to ``home`` only as long as its password is there: removing ``home`` starts anew.
    """
    if account is None:
        return home / "data"
    home.chmod(0o711)
    if reachable(home, account):
        return home / "data"
    elsewhere = shared_folder() / f"data-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"
    if not (home / "password").exists():
        shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir(mode=0o711, exist_ok=True)
    (home / "data-is-elsewhere.txt").write_text(f"PostgreSQL runs as nobody, who cannot come here: see {elsewhere}\n")
    return elsewhere / "data"


def _lock_folder(home: Path) -> IO[str]:
    """Hold the folder for this process; the lock goes with the process."""
    lock = (home / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise PostgresError(
            f"another local stack uses the database in {home}: stop it, or give this one a DATABASE_URL"
        ) from None
    return lock


def _open_log(path: Path) -> IO[bytes]:
    path.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
    return os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")


def _command_of(pid: int) -> str | None:
    """The command line of a living process, None when there is none."""
    if Path("/proc/self/cmdline").exists():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        return line.replace(b"\0", b" ").decode(errors="replace") or None  # a zombie has an empty one
    done = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
