"""Owns one client of an engine, in a process of its own: what it does in a while, how long each took, the CPU it took.

    python -m benchmarks.client ENGINE URL          # prepares the database
    python -m benchmarks.client ENGINE URL NAME

Says ``ready`` when it is connected. Each line on standard input is JSON: what its ids begin with, and for how many
seconds or operations it is to operate. It is warm when it says so, begins with another line, and then says what it
measured as JSON. It disconnects when standard input ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.engines import ENGINES

if TYPE_CHECKING:
    from benchmarks.engines import Operation

WARM_UP: Final = 20
"""Operations before the first that counts: connections, caches, statements that the server has planned."""


def measure(
    operate: Operation, first: int, *, seconds: float | None = None, operations: int | None = None
) -> dict[str, Any]:
    """Operate for so long, or so often: seconds each one took, in all, and of CPU in every thread of this process."""
    latencies: list[float] = []
    number = first
    cpu = time.process_time()
    began = now = time.perf_counter()
    until = began + seconds if seconds is not None else float("inf")
    last = first + operations if operations is not None else sys.maxsize
    while now < until and number < last:
        operate(number)
        number += 1
        before, now = now, time.perf_counter()
        latencies.append(now - before)
    return {"latencies": latencies, "seconds": now - began, "cpu_seconds": time.process_time() - cpu}


def main() -> None:
    """Be a client."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client")
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("url")
    parser.add_argument("name", nargs="?", help="of the client; without it the database is prepared")
    options = parser.parse_args()
    with Path(os.devnull).open("wb") as nowhere, os.fdopen(os.dup(1), "w") as said:
        os.dup2(nowhere.fileno(), 1)  # what is logged is written, as it is on Lambda, and read by nobody
        parts = ENGINES[options.engine].parts()
        if options.name is None:
            parts.prepare(options.url)
            return
        with parts.connected(options.url, options.name) as operation:
            print("ready", file=said, flush=True)
            for line in sys.stdin:
                asked = json.loads(line)
                operate = operation(asked.pop("prefix"))
                for number in range(WARM_UP):
                    operate(number)
                print("warm", file=said, flush=True)
                sys.stdin.readline()
                print(json.dumps(measure(operate, WARM_UP, **asked)), file=said, flush=True)


if __name__ == "__main__":
    main()
