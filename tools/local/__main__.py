"""The commands of the local stack; ``make demo``, ``make dev`` and ``make sql`` run them."""

from __future__ import annotations

import argparse
import os
import sys

import psycopg

from tools.local.binaries import PostgresError
from tools.local.demo import run_demo
from tools.local.demo_checks import DemoError
from tools.local.dev import run_dev, run_sql
from tools.local.intrinsics import TemplateError
from tools.local.settings import SettingsError
from tools.local.stack import StackError


def main() -> int:
    """Run one command; exit status 1 with a message when it cannot do what it is for."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.local",
        description="The whole system on this machine, without Docker or AWS.",
        epilog="Environment: DATABASE_URL replaces the embedded server, PORT the port (3000), LOOPS_DIR the folder of"
        " loops, STEPS_DIR that of step functions; TRUST_ACTOR_HEADER=0 turns the x-afu9-sub header's local trust off.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="start, run a step, show its rows, kill a run, show its recovery, end")
    commands.add_parser("dev", help="serve until Ctrl-C, data kept in .local/")
    commands.add_parser("sql", help="psql on the running dev stack's database")
    command = parser.parse_args().command
    try:
        return {"demo": run_demo, "dev": run_dev, "sql": run_sql}[command]()
    except (DemoError, PostgresError, SettingsError, StackError, TemplateError) as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # `... | head`: nobody reads on, and Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except psycopg.OperationalError as error:
        print(f"error: the database cannot be reached: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
