"""Owns who is calling: the authorizer's word where there is one; the header alone only where it is trusted, locally."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from loop_runner.errors import ForbiddenError, InvalidRequestError, UnauthorizedError
from loop_runner.sanitize import is_storable

if TYPE_CHECKING:
    from loop_runner.settings import Settings

ACTOR_HEADER: Final = "x-afu9-sub"
_MAX_LENGTH: Final = 256


@dataclass(frozen=True, slots=True)
class Identity:
    """The actor of a call; ``principal`` is who authenticated, where that is somebody else."""

    actor: str
    principal: str | None = None


def identify(context: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> Identity:
    """The identity of an API Gateway call (payload 2.0): requestContext and headers, names in lower case.

    JWT: the ``sub`` claim, the header is ignored. IAM: the principal; the header's person only where the principal is
    one of the delegates. No authorizer: the header's person, only where the settings trust it. Where the settings list
    actors, it must be one of them; a role stands for its sessions.
    Raises UnauthorizedError, ForbiddenError, InvalidRequestError (the header twice, or not a name).
    """
    identity = _authenticated(context, headers, settings)
    if settings.allowed_actors and not _is_listed(identity.actor, settings.allowed_actors):
        raise ForbiddenError(
            f"{identity.actor} is not one of this deployment's actors: whoever operates it adds to AllowedActors"
        )
    return identity


def _authenticated(context: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> Identity:
    authorizer = context.get("authorizer")
    if authorizer is None:
        person = _person(headers)
        if person is not None and not settings.trust_actor_header:
            raise UnauthorizedError(
                f"the header {ACTOR_HEADER} alone is not trusted here: call with AWS SigV4 or a token"
            )
        if person is None:
            raise UnauthorizedError
        return Identity(person)
    if not isinstance(authorizer, Mapping):
        raise UnauthorizedError
    if jwt := authorizer.get("jwt"):
        subject = _text(_text_map(jwt).get("claims"), "sub")
        if subject is None:
            raise UnauthorizedError("the token has no sub claim")
        return Identity(subject)
    principal = _text(authorizer.get("iam"), "userArn")
    if principal is None:
        raise UnauthorizedError
    person = _person(headers)
    if person is None:
        return Identity(principal)
    if not _is_listed(principal, settings.actor_delegates):
        raise ForbiddenError(f"{principal} may not name a person in {ACTOR_HEADER}: leave the header out")
    return Identity(person, principal)


def _person(headers: Mapping[str, str]) -> str | None:
    """Who the header names. API Gateway joins repeated headers with a comma: a comma is a header given twice."""
    person = headers.get(ACTOR_HEADER, "").strip()
    if not person:
        return None
    if "," in person:
        raise InvalidRequestError(f"the header {ACTOR_HEADER} must be given once and hold no comma")
    if len(person) > _MAX_LENGTH or not person.isprintable() or not is_storable(person):
        raise InvalidRequestError(
            f"the header {ACTOR_HEADER} must be printable text of at most {_MAX_LENGTH} characters"
        )
    return person


def _is_listed(name: str, listed: frozenset[str]) -> bool:
    """Whether it is one of these, or a session of a role that is. A session's ARN does not have the role's path."""
    return name in listed or _role_of(name) in {re.sub(r":role/.+/", ":role/", each) for each in listed}


def _role_of(arn: str) -> str:
    """The role of an assumed role's session (arn:aws:sts::ID:assumed-role/NAME/SESSION); other ARNs as they are."""
    prefix, separator, name = arn.partition(":assumed-role/")
    if not separator:
        return arn
    return f"{prefix.replace(':sts:', ':iam:')}:role/{name.split('/')[0]}"


def _text(values: object, key: str) -> str | None:
    value = _text_map(values).get(key)
    return value if isinstance(value, str) and value.strip() and len(value) <= 2048 and is_storable(value) else None


def _text_map(values: object) -> Mapping[str, object]:
    return values if isinstance(values, Mapping) else {}
