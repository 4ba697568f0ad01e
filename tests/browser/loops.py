"""Loops that a stack of these tests has beside those of the project and of own_stack.py."""

from __future__ import annotations

from typing import Final

LONG_STATE: Final = "S" * 63
"""With one more letter it is as long as a state can be."""

LONG_LOOP: Final = "long-" + "n" * 59

_REVIEWED = """
name = "reviewed"
initial_state = "OPEN"
completed_states = ["DONE"]
failed_states = ["REFUSED"]

[[steps]]
number = 1
type = "REVIEW"
from = ["OPEN"]
to = "DONE"
outcomes = { rejected = "REFUSED" }
executor = { kind = "approval" }
"""

_LONG = f"""
name = "{LONG_LOOP}"
initial_state = "{LONG_STATE}A"
completed_states = ["{LONG_STATE}C"]
failed_states = ["{LONG_STATE}D"]

[[steps]]
number = 1
type = "T{LONG_STATE}"
from = ["{LONG_STATE}A"]
to = "{LONG_STATE}B"
outcomes = {{ {"o" * 64} = "{LONG_STATE}D" }}
require = [{{ fact = "{"f" * 128}", blocker = "{"B" * 64}", message = "{"m" * 200}" }}]
executor = {{ kind = "callback", function = "worker" }}

[[steps]]
number = 10000
type = "U{LONG_STATE}"
from = ["{LONG_STATE}B"]
to = "{LONG_STATE}C"
skip_if = [{{ fact = "{"g" * 128}" }}]
executor = {{ kind = "transition" }}
"""

_CONSTRUCTOR = """
name = "constructor"
initial_state = "constructor"
completed_states = ["toString"]

[[steps]]
number = 1
type = "hasOwnProperty"
from = ["constructor"]
to = "toString"
executor = { kind = "lambda", function = "worker" }
"""

BROWSER_LOOPS: Final = {"reviewed": _REVIEWED, "constructor": _CONSTRUCTOR, LONG_LOOP: _LONG}
