"""``make load``: fill the database of the running ``make dev``, or that of DATABASE_URL."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING

import psycopg

from loop_runner.errors import LoopError
from loop_runner.observability import logger
from tools.load.database import LoadError
from tools.load.loader import load
from tools.local.dev import published_database_url
from tools.local.stack import StackError

if TYPE_CHECKING:
    from tools.load.loader import Progress

_REPORT_SECONDS = 5.0


class _Reporter:
    """Says on standard error how far it has come, now and then."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._said_at = 0.0

    def __call__(self, done: Progress) -> None:
        if time.monotonic() - self._said_at < _REPORT_SECONDS and done.runs < self._runs:
            return
        self._said_at = time.monotonic()
        rate = done.runs / done.seconds
        left = (self._runs - done.runs) / rate if rate else 0.0
        print(
            f"==> {done.runs:,} of {self._runs:,} runs, {done.rows:,} rows, {rate:,.0f} runs/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def main() -> int:
    """Load; exit status 1 with a message where nothing could be."""
    logger.setLevel(logging.CRITICAL)  # what fails is told below
    try:
        issues, runs = _number("ISSUES", 10_000), _number("RUNS", 1_000_000)
        days, seed = _number("DAYS", 90), _number("SEED", 0)
        url = os.environ.get("DATABASE_URL") or published_database_url()
        done = load(
            url,
            issues=issues,
            runs=runs,
            days=days,
            seed=seed,
            beside_others=os.environ.get("FORCE") == "1",
            report=_Reporter(runs),
        )
    except KeyboardInterrupt:
        print("stopped: what was written is a sound ledger; make load again adds to it", file=sys.stderr)
        return 130
    except (LoadError, LoopError, StackError, psycopg.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"loaded {issues:,} issues with {done.runs:,} runs, {done.rows:,} rows, in {done.seconds:.0f} s")
    return 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        raise LoadError(f"{name}={text} is not a whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
