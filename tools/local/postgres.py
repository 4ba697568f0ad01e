"""A PostgreSQL server of one's own, on 127.0.0.1 with a random password: ``with Server() as server: server.url``.

The server never outlives the process that started it (guard.py), and a folder of data never has two servers.

    python -m tools.local.postgres run [--bin DIR] -- COMMAND...

runs COMMAND with TEST_DATABASE_URL pointing at a new, empty server and returns its exit status.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psycopg
from psycopg import sql

from tools.local.binaries import PostgresError, major_version, unprivileged_account, usable_bin
from tools.local.cluster import Cluster, server_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_GUARD: Final = Path(__file__).with_name("guard.py")
_READY_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 60.0


def _silent(_message: str) -> None: ...


class Server:
    """One PostgreSQL server, running from construction to ``stop()``.

    Without ``folder`` its data are ephemeral: fast rather than durable, removed when it stops. With ``folder`` they are
    kept there, with the password beside them in a file that only its owner reads. ``options`` of the server go before
    ours. ``progress`` hears of long steps.
    """

    def __init__(
        self,
        *,
        bin_folder: Path | None = None,
        folder: Path | None = None,
        options: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = _silent,
    ) -> None:
        self._progress = progress
        self._given_options = options or {}
        self._account = unprivileged_account()
        self._bin = usable_bin(bin_folder, self._account, progress)
        self._major = major_version(self._bin)
        self._guard: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._port_is_known = False  # from the first start on users hold URLs
        self._cluster = Cluster(
            bin_folder=self._bin, major=self._major, account=self._account, folder=folder, progress=progress
        )
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1; the same after a restart."""
        return self._port

    @property
    def url(self) -> str:
        """libpq URI of the superuser in database ``postgres``."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """libpq URI of the superuser in another database."""
        return f"postgresql://postgres:{self._cluster.password}@127.0.0.1:{self._port}/{database}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, a copy of ``template`` (which nobody may be connected to) if given, and return its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template or "template1")
        )
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)
        return self.url_of(name)

    def restart(self) -> None:
        """Stop in an orderly way, breaking every connection, and start again on the same port."""
        self._end()
        self._start()

    def kill(self) -> None:
        """End every server process at once, as in a crash, and leave it dead; ``restart()`` recovers from the log."""
        pid = self._cluster.postmaster_pid()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
        self._end()

    def stop(self) -> None:
        """Stop for good; remove ephemeral data. May be called again."""
        self._end()
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------------ data

    def _start(self) -> None:
        self._progress(f"starting PostgreSQL {self._major}")
        for _attempt in range(5):
            self._port = self._port or _free_port()
            mark = self._cluster.log_size()
            self._guard = self._spawn()
            if self._is_ready():
                return
            self._end()
            reason = self._cluster.log_since(mark)
            if "could not bind" in reason:  # somebody was faster; a restart keeps its port and waits for it
                self._port = self._port if self._port_is_known else 0
            elif "pre-existing shared memory block" not in reason:  # processes of a killed server end within a moment
                break
            time.sleep(0.5)
        raise self._cluster.failure("PostgreSQL did not start")

    def _spawn(self) -> subprocess.Popen[bytes]:
        guard = [sys.executable, "-I", "-S", str(_GUARD)]
        if self._account is not None:
            guard += ["--uid", str(self._account.uid), "--gid", str(self._account.gid)]
        if self._cluster.is_ephemeral:
            guard += ["--remove", str(self._cluster.home)]
        options = [f"{name}={value}" for name, value in self._options().items()]
        server = [str(self._bin / "postgres"), "-D", str(self._cluster.data)]
        return subprocess.Popen(
            [*guard, "--", *server, *(word for option in options for word in ("-c", option))],
            stdin=subprocess.PIPE,
            stdout=self._cluster.log,
            stderr=self._cluster.log,
            env=server_environment(),
            start_new_session=True,  # Ctrl-C is for us: the server stops after those who use it
        )

    def _options(self) -> dict[str, str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "cluster_name": "loop-runner-local",
        }
        if self._cluster.is_ephemeral:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        if self._major >= 14:  # else a killed client's statement would go on waiting for its lock
            options["client_connection_check_interval"] = "1000"
        return {**options, **self._given_options}

    def _is_ready(self) -> bool:
        """Wait for a real connection. False when the server ended instead; an error when it is not ours."""
        deadline = time.monotonic() + _READY_SECONDS
        while self._guard is not None and self._guard.poll() is None:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise self._cluster.failure(
                        f"the password in {self._cluster.home / 'password'} is not the server's"
                    ) from error
                if time.monotonic() > deadline:
                    raise self._cluster.failure(
                        f"PostgreSQL was not ready after {_READY_SECONDS:.0f} s: {error}"
                    ) from error
                time.sleep(0.03)
            else:
                self._port_is_known = True
                return True
        return False

    def _end(self) -> None:
        """End the guard and with it the server; nothing when it does not run."""
        guard, self._guard = self._guard, None
        if guard is None or guard.stdin is None:
            return
        with suppress(BrokenPipeError):
            os.write(guard.stdin.fileno(), b"s")
        guard.stdin.close()
        try:
            guard.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(arguments: list[str] | None = None) -> int:
    """Run a command with a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m tools.local.postgres")
    run = parser.add_subparsers(required=True, metavar="run").add_parser(
        "run", help="run COMMAND with TEST_DATABASE_URL set to a new server's superuser URL"
    )
    run.add_argument("--bin", type=Path, help="bin folder of another PostgreSQL than the wheel's")
    run.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args(arguments)
    try:
        with Server(bin_folder=options.bin, progress=lambda line: print(f"==> {line}", file=sys.stderr)) as server:
            environment = os.environ | {"TEST_DATABASE_URL": server.url}
            try:
                command = subprocess.Popen(options.command, env=environment)
            except OSError as error:
                print(f"{options.command[0]} cannot be run: {error}", file=sys.stderr)
                return 127
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to the command as well
            signal.signal(signal.SIGTERM, lambda *_: command.terminate())
            status = command.wait()
            return status if status >= 0 else 128 - status
    except PostgresError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
