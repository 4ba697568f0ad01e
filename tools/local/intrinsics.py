"""Evaluates the intrinsic functions of CloudFormation that do not need CloudFormation.

A reference to a resource is its logical id, an attribute ``<logical id>.<attribute>``, the ARN of a function or queue
one of the account 123456789012: enough for code that only passes them on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"

_PSEUDO: Final = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/local/local",
    "AWS::StackName": "local",
    "AWS::URLSuffix": "amazonaws.com",
}
_NO_VALUE: Final = object()
_VARIABLE: Final = re.compile(r"\$\{(!?)([^}]+)\}")


class TemplateError(ValueError):
    """The template cannot be read; the message names resource and key."""


class Intrinsics:
    """Resolves values of one template; ``overrides`` wins over parameters' defaults and over logical ids."""

    def __init__(self, template: Mapping[str, Any], overrides: Mapping[str, str]) -> None:
        self._parameters: Mapping[str, Any] = template.get("Parameters") or {}
        self._resources: Mapping[str, Any] = template.get("Resources") or {}
        self._conditions: Mapping[str, Any] = template.get("Conditions") or {}
        self._mappings: Mapping[str, Any] = template.get("Mappings") or {}
        self._overrides = overrides
        self._functions: Mapping[str, Callable[[Any, str], Any]] = {
            "Ref": self._ref,
            "Condition": self.condition,
            "Fn::And": lambda of, where: all(self._boolean(part, where) for part in of),
            "Fn::Equals": lambda of, where: self._text(of[0], where) == self._text(of[1], where),
            "Fn::FindInMap": self._find_in_map,
            "Fn::GetAtt": self._get_att,
            "Fn::If": lambda of, where: self._resolve(of[1] if self.condition(of[0], where) else of[2], where),
            "Fn::Join": lambda of, where: of[0].join(str(part) for part in self._resolve(of[1], where)),
            "Fn::Not": lambda of, where: not self._boolean(of[0], where),
            "Fn::Or": lambda of, where: any(self._boolean(part, where) for part in of),
            "Fn::Select": lambda of, where: self._resolve(of[1], where)[int(self._resolve(of[0], where))],
            "Fn::Split": lambda of, where: self._text(of[1], where).split(of[0]),
            "Fn::Sub": self._sub,
        }

    def resolve(self, value: object, where: str) -> Any:
        """The value with every function evaluated; AWS::NoValue is None. ``where`` names resource and key in errors."""
        resolved = self._resolve(value, where)
        return None if resolved is _NO_VALUE else resolved

    def condition(self, name: str, where: str) -> bool:
        """Whether a condition of the template holds."""
        if name not in self._conditions:
            raise TemplateError(f"{where}: there is no condition {name}")
        return self._boolean(self._conditions[name], f"{where}: condition {name}")

    def _resolve(self, value: object, where: str) -> Any:
        if isinstance(value, list):
            return [part for item in value if (part := self._resolve(item, where)) is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, of),) = value.items()
            if function in self._functions:
                try:
                    return self._functions[function](of, where)
                except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                    if isinstance(error, TemplateError):
                        raise
                    raise TemplateError(f"{where}: {function} of {of!r} is malformed ({error})") from error
            if str(function).startswith("Fn::"):
                raise TemplateError(f"{where}: {function} is not supported locally")
        parts = {key: self._resolve(item, where) for key, item in value.items()}
        return {key: part for key, part in parts.items() if part is not _NO_VALUE}

    def _text(self, value: object, where: str) -> str:
        resolved = self._resolve(value, where)
        return str(resolved).lower() if isinstance(resolved, bool) else str(resolved)

    def _boolean(self, value: object, where: str) -> bool:
        return self._text(value, where).lower() == "true"

    def _ref(self, name: str, where: str) -> object:
        if name in self._overrides:
            return self._overrides[name]
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name == "AWS::NoValue":
            return _NO_VALUE
        if name in self._parameters:
            if "Default" not in self._parameters[name]:
                raise TemplateError(f"{where}: parameter {name} has no default: give it a value")
            return self._parameters[name]["Default"]
        if name in self._resources:
            return name
        raise TemplateError(f"{where}: there is neither a parameter nor a resource {name}")

    def _get_att(self, of: list[str], where: str) -> str:
        name, attribute = of[0], ".".join(of[1:])
        if f"{name}.{attribute}" in self._overrides:
            return self._overrides[f"{name}.{attribute}"]
        if name not in self._resources:
            raise TemplateError(f"{where}: there is no resource {name}")
        make_arn = _ARNS.get(str(self._resources[name].get("Type"))) if attribute == "Arn" else None
        if make_arn is not None:
            return make_arn(name)
        return f"{name}.{attribute}"

    def _find_in_map(self, of: list[object], where: str) -> object:
        mapping, first, second = (self._text(part, where) for part in of)
        return self._resolve(self._mappings[mapping][first][second], where)

    def _sub(self, of: str | list[Any], where: str) -> str:
        text, variables = (of, {}) if isinstance(of, str) else of

        def replace(match: re.Match[str]) -> str:
            is_literal, name = match.groups()
            if is_literal:
                return f"${{{name}}}"
            if name in variables:
                return self._text(variables[name], where)
            if "." in name:
                return self._get_att(name.split("."), where)
            return self._text({"Ref": name}, where)

        return _VARIABLE.sub(replace, text)


def function_arn(name: str) -> str:
    """ARN of a function of the local stack."""
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


def queue_arn(name: str) -> str:
    """ARN of a queue of the local stack."""
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def secret_arn(name: str) -> str:
    """ARN of a secret of the local stack."""
    return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}"


_ARNS: Final[Mapping[str, Callable[[str], str]]] = {
    "AWS::Serverless::Function": function_arn,
    "AWS::SQS::Queue": queue_arn,
}
