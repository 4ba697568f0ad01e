"""Owns reading JSON that others wrote: strict, and such that PostgreSQL can store it."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from loop_runner.errors import InvalidRequestError
from loop_runner.sanitize import is_storable

MAX_DEPTH: Final = 32


def parse_json(content: bytes) -> Any:
    """Strict JSON (RFC 8259) that PostgreSQL can store; blank is {}.

    InvalidRequestError for anything else, also for NaN, Infinity, a key given twice, NUL, a lone surrogate and for more
    than 32 levels.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError("the body is not valid UTF-8") from None
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_keys)
    except InvalidRequestError:
        raise
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError:  # an integer of thousands of digits
        raise InvalidRequestError("the body has a number that is too long") from None
    _check_storable(value, MAX_DEPTH)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"the body is not JSON: {name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidRequestError("the body has a number that is too large")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise InvalidRequestError("the body has an object with the same key twice")
    return value


def _check_storable(value: Any, depth: int) -> None:
    if depth < 0:
        raise _too_deep()
    if isinstance(value, str):
        if not is_storable(value):
            raise InvalidRequestError("the body has text with NUL or a lone surrogate, which cannot be stored")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_storable(key, depth)
            _check_storable(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth - 1)


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(f"the body is nested more than {MAX_DEPTH} levels deep")
