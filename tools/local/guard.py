"""Runs one server as a child and ends it when the process that started the guard dies, however that dies.

A script of its own (standard library only): a death signal of Linux is bound to the *thread* that forked, and code
between fork and exec is not safe in a process with threads; here there is one thread, which lives as long as the
server. Elsewhere than on Linux the pipe alone does it.

The pipe is standard input. The letter ``s`` ends the server; end of file without it means that the owner died: then
the server ends as well, and the folder of ``--remove`` with it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 15.0


def die_with_parent(number: int) -> None:
    """Ask Linux for signal ``number`` when the thread that forked this process ends. To be called after setuid."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def drop_privileges(uid: int, gid: int) -> None:
    """Become the given user for good."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def end(server: subprocess.Popen[bytes]) -> None:
    """Ask for PostgreSQL's fast shutdown; what does not follow is shut down at once, then killed."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        server.send_signal(number)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def main() -> int:
    """Run the server to its end; its exit status is the guard's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--remove")
    parser.add_argument("--folder", default="/")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if options.uid is not None:
        drop_privileges(options.uid, options.gid)
    server = subprocess.Popen(
        options.command,
        stdin=subprocess.DEVNULL,
        cwd=options.folder,
        preexec_fn=lambda: die_with_parent(signal.SIGQUIT),  # noqa: PLW1509  one thread: safe here
    )
    owner_died = threading.Event()

    def watch() -> None:
        if os.read(0, 1) != b"s":
            owner_died.set()
        end(server)

    threading.Thread(target=watch, daemon=True).start()
    status = server.wait()
    if owner_died.is_set() and options.remove:
        shutil.rmtree(options.remove, ignore_errors=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
