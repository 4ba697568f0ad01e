"""Owns who goes first on the machine: what is measured, where we may say so, so that others on it do not decide.

Linux lets root run processes in real time (SCHED_RR): whatever else wants to run on their core waits.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def raised() -> Iterator[bool]:
    """Go first, and so does what is started within; whether that is so."""
    if not hasattr(os, "sched_setscheduler"):
        yield False
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *before)
