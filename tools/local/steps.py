"""Step functions by convention: each folder ``<name>/app.py`` with a ``handler`` is a Lambda function of that name.

Modules beside these folders are there for all of them, as from a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loop_runner.loops import LambdaExecutor, LoopCatalog
from tools.local.template import Function

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_SECONDS: Final = 30
_MEMORY: Final = 512


def step_functions(folder: Path, loops: Path) -> dict[str, Function]:
    """The functions of the folder by name. Each may run as long as the longest step of the loops that invokes it."""
    steps = [step for loop in LoopCatalog(loops).valid() for step in loop.steps]
    longest: dict[str, int] = {}
    for step in steps:
        if isinstance(step.executor, LambdaExecutor):
            name = step.executor.function
            longest[name] = max(longest.get(name, TIMEOUT_SECONDS), step.timeout)
    return {
        path.parent.name: Function(
            name=path.parent.name,
            module="app",
            attribute="handler",
            code=path.parent,
            layers=(folder,),
            timeout=longest.get(path.parent.name, TIMEOUT_SECONDS),
            memory=_MEMORY,
            environment={},
            routes=(),
            schedules=(),
        )
        for path in sorted(folder.glob("*/app.py"))
    }
