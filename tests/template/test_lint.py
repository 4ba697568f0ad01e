"""cfn-lint on what CloudFormation gets: SAM's translation, and what becomes of that in enough deployments for any two
conditions to hold in each way in which they do. `make check` has it look at the source.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from tests.template.deployment import SAM, Deployment, covering, translated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_translation_and_what_becomes_of_it_have_no_finding(tmp_path: Path, count: Callable[[str, int], None]) -> None:
    deployments = [Deployment(parameters).as_template() for parameters in covering()]
    for number, template in enumerate([translated(), *deployments]):
        (tmp_path / f"{number}.json").write_text(json.dumps(template, indent=1))
    files = sorted(tmp_path.glob("*.json"))
    done = subprocess.run([SAM / "cfn-lint", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    count("templates that cfn-lint passed", len(files))
