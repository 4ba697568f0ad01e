"""Owns ``lambda`` and ``callback``: invoking a step function, and what its answer means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from loop_runner.aws import client, exceptions
from loop_runner.errors import InvalidRequestError
from loop_runner.executors.protocol import Failed, Waiting
from loop_runner.results import INVALID_STEP_RESULT, read_result
from loop_runner.retry import TIMEOUT
from loop_runner.strict_json import parse_json

if TYPE_CHECKING:
    from loop_runner.executors.protocol import StepCall
    from loop_runner.results import Result

MAX_ANSWER_BYTES: Final = 512 * 1024
"""More than the facts of an issue may have is no answer of a step."""

_LOST_WITH_THE_PROCESS: Final = ("Runtime.", "Sandbox.", "Extension.")


def invoke(call: StepCall, /) -> Result:
    """Invoke the step's function and wait for what it returns, which is the outcome."""
    answer = _invoke(call)
    return answer if isinstance(answer, Failed) else _read(answer)


def hand_over(call: StepCall, /) -> Result | Waiting:
    """Invoke the step's function with a task token. An answer with a ``status`` is the outcome already."""
    answer = _invoke(call)
    if isinstance(answer, Failed):
        return answer
    try:
        value = parse_json(answer)
    except InvalidRequestError:
        return Waiting()
    return _read(answer) if isinstance(value, dict) and "status" in value else Waiting()


def _invoke(call: StepCall) -> bytes | Failed:
    """What the function answered, or why it did not."""
    boto = exceptions()
    try:
        response = client("lambda", read_seconds=int(call.seconds) + 5).invoke(
            FunctionName=call.function, Payload=json.dumps(call.event()).encode()
        )
        answer: bytes = response["Payload"].read(MAX_ANSWER_BYTES + 1)
        answer += response["Payload"].read(1)  # at the end: botocore looks then whether all has come
    except boto.ReadTimeoutError:
        return Failed(TIMEOUT, f"{call.function} did not answer in time", is_unknown=True)
    except boto.ClientError as error:
        said = error.response.get("Error", {})
        reason = f"{call.function}: {said.get('Message') or error}"
        return Failed(f"Lambda.{said.get('Code', 'Unknown')}", reason, is_unknown=True)
    except boto.BotoCoreError as error:
        return Failed("Lambda.SdkClientException", f"{call.function} cannot be reached: {error}", is_unknown=True)
    if "FunctionError" in response:
        return _function_error(call.function, answer)
    if len(answer) > MAX_ANSWER_BYTES:
        return Failed(INVALID_STEP_RESULT, f"{call.function} answered with more than {MAX_ANSWER_BYTES} bytes")
    return answer


def _read(answer: bytes) -> Result:
    try:
        return read_result(parse_json(answer))
    except (InvalidRequestError, ValueError) as error:
        return Failed(INVALID_STEP_RESULT, f"the function's answer is no step result: {error}")


def _function_error(function: str, answer: bytes) -> Failed:
    """An error that the function did not handle: failed with its type as name."""
    try:
        error = json.loads(answer)
    except (ValueError, RecursionError):
        error = {}
    error = error if isinstance(error, dict) else {}
    name = str(error.get("errorType") or "Lambda.Unknown")[:128]
    is_unknown = name.startswith(_LOST_WITH_THE_PROCESS) or name == "Lambda.Unknown"
    return Failed(name, f"{function}: {error.get('errorMessage') or 'it gave no reason'}", is_unknown=is_unknown)
