"""The server of the wheel: started, restarted, killed, left behind; as root and where its user cannot go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tools.local import binaries
from tools.local.binaries import Account, PostgresError, reachable, wheel_bin
from tools.local.postgres import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL changes its user only for root")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Root's folder for what lies outside a checkout, one for each test."""
    folder = Path(tempfile.mkdtemp(prefix="loop-runner-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    monkeypatch.setattr(binaries, "_SHARED_FOLDERS", (folder,))
    yield folder
    shutil.rmtree(folder)


def value(url: str, expression: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT {expression}").fetchone()
    assert row is not None
    return row[0]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> None:
    for _ in range(1000):
        if not is_running(pid):
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} still runs")


def test_server_restarts_on_its_port_and_recovers_from_a_kill() -> None:
    said: list[str] = []
    with Server(progress=said.append) as server:
        assert "starting" in said[-1]
        assert value(server.url, "current_setting('listen_addresses')") == "127.0.0.1"
        assert value(server.url, "current_setting('client_connection_check_interval')") == "1s"
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept (x int)")
        url = server.url
        server.restart()
        assert server.url == url
        assert value(url, "to_regclass('kept') IS NOT NULL")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        server.restart()
        assert value(url, "to_regclass('kept') IS NOT NULL")
        copy = server.create_database("copy", template="postgres")
        assert value(copy, "current_database()") == "copy"
        assert value(copy, "to_regclass('kept') IS NOT NULL")
        home = Path(str(value(url, "current_setting('data_directory')"))).parent
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url, password="guessed")
    assert not home.exists()
    server.stop()


def test_kept_folder_has_one_server_and_keeps_its_data(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    with Server(folder=folder) as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept (x int)")
        assert (folder / "password").stat().st_mode & 0o777 == 0o600
        assert value(server.url, "current_setting('fsync')") == "on"
        with pytest.raises(PostgresError, match="another local stack uses the database"):
            Server(folder=folder)
    with Server(folder=folder) as server:
        assert value(server.url, "to_regclass('kept') IS NOT NULL")
    shutil.rmtree(folder)
    with Server(folder=folder) as server:
        assert not value(server.url, "to_regclass('kept') IS NOT NULL"), "removing the folder starts anew"


OWNER = """
import sys, time
from pathlib import Path
from tools.local import binaries
from tools.local.postgres import Server
binaries._SHARED_FOLDERS = (Path(sys.argv[1]),)
server = Server(folder=Path(sys.argv[2]) if sys.argv[2] else None)
print(server._cluster.postmaster_pid(), server._guard.pid, server._cluster.data, server.url, flush=True)
time.sleep(600)
"""


def start_owner(shared: Path, folder: str) -> tuple[subprocess.Popen[str], int, int, Path]:
    """A process that has a server, the pids of server and guard, and the server's folder."""
    command = [sys.executable, "-c", OWNER, str(shared), folder]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout is not None
    with owner.stdout:
        server, guard, data, _ = owner.stdout.readline().split()
    return owner, int(server), int(guard), Path(data)


@on_linux
def test_server_and_its_data_go_with_an_owner_that_is_killed(shared: Path) -> None:
    owner, server, guard, data = start_owner(shared, "")
    assert data.exists() or os.geteuid() != 0
    owner.kill()
    owner.wait()
    wait_for_end(server)
    wait_for_end(guard)
    assert not data.parent.exists()


@on_linux
def test_server_dies_with_its_guard(shared: Path) -> None:
    owner, server, guard, data = start_owner(shared, "")
    os.kill(guard, signal.SIGKILL)
    wait_for_end(server)
    owner.kill()
    owner.wait()
    shutil.rmtree(data.parent)


@on_linux
def test_server_that_was_left_behind_is_ended_by_the_next_start(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    owner, server, guard, _ = start_owner(shared, str(folder))
    os.kill(guard, signal.SIGSTOP)  # a guard that cannot do its duty
    owner.kill()
    owner.wait()
    assert is_running(server)
    said: list[str] = []
    with Server(folder=folder, progress=said.append) as successor:
        assert value(successor.url, "1") == 1
    assert "ending a PostgreSQL server that was left behind" in said
    os.kill(guard, signal.SIGKILL)
    wait_for_end(server)


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 - 3], ids=["of another process", "of none"])
def test_stale_pid_file_does_not_stop_the_next_start(tmp_path: Path, pid: int) -> None:
    folder = tmp_path / "postgres"
    with Server(folder=folder) as server:
        data = Path(str(value(server.url, "current_setting('data_directory')")))
    (data / "postmaster.pid").write_text(f"{pid}\n{data}\n1700000000\n5432\n\n127.0.0.1\n")
    if os.geteuid() == 0:
        os.chown(data / "postmaster.pid", data.stat().st_uid, data.stat().st_gid)
    with Server(folder=folder) as server:
        assert value(server.url, "1") == 1


def test_data_of_another_version_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    with Server(folder=folder) as server:
        data = Path(str(value(server.url, "current_setting('data_directory')")))
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match=r"of PostgreSQL 9, this is PostgreSQL \d+: remove the folder"):
        Server(folder=folder)


def test_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    with Server(folder=folder) as server:
        data = Path(str(value(server.url, "current_setting('data_directory')")))
    (data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match=r"(?s)did not start.*no_such_setting.*remove"):
        Server(folder=folder)


@as_root
def test_wheel_that_the_servers_user_cannot_reach_is_copied_once(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = wheel_bin().parents[1]
    site = tmp_path / "site"
    tmp_path.chmod(0o700)
    shutil.copytree(wheel_bin().parent, site / package.name / wheel_bin().parent.name)
    (site / package.name / "__init__.py").write_text("raise AssertionError('imported')\n")
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, site / libraries.name)
    monkeypatch.syspath_prepend(site)
    said: list[str] = []
    for _ in range(2):
        with Server(progress=said.append) as server:
            assert value(server.url, "1") == 1
    assert sum("copying" in line for line in said) == 1
    (copy,) = shared.iterdir()
    assert copy.stat().st_uid == 0
    for path in (copy, *copy.rglob("*")):
        assert path.is_symlink() or not path.stat().st_mode & 0o022, f"only root may write to {path}"


@as_root
def test_shared_folder_that_another_user_could_have_filled_is_refused(shared: Path) -> None:
    shared.chmod(0o777)
    with pytest.raises(PostgresError, match="none of"):
        binaries.shared_folder()
    shared.chmod(0o755)
    os.chown(shared, 65534, 65534)
    with pytest.raises(PostgresError, match="none of"):
        binaries.shared_folder()


def test_reachable_needs_every_folder_above(tmp_path: Path) -> None:
    stranger = Account(uid=2**31 - 7, gid=2**31 - 7)
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer").chmod(0o700)
    assert reachable(Path("/"), stranger)
    assert not reachable(inner, stranger)
    assert reachable(inner, None)


@pytest.mark.parametrize("folder", ["/usr/lib/postgresql/15/bin"])
def test_another_postgresql_can_be_used(folder: str) -> None:
    if not Path(folder).exists():
        pytest.skip(f"{folder} is not installed")
    with Server(bin_folder=Path(folder)) as server:
        assert str(value(server.url, "current_setting('server_version')")).startswith("15")


def test_folder_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PostgresError, match="there is no initdb in"):
        Server(bin_folder=tmp_path)


def test_command_runs_with_the_servers_url_and_gives_its_status() -> None:
    code = textwrap.dedent("""
        import os, psycopg, sys
        with psycopg.connect(os.environ["TEST_DATABASE_URL"]) as connection:
            sys.exit(connection.execute("SELECT 40 + 2").fetchone()[0])
    """)
    command = [sys.executable, "-m", "tools.local.postgres", "run", "--", sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 42
