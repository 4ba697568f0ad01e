"""Reads from template.yaml what the local stack serves: functions with their environment, routes, schedules and queues.

Only what functions use is resolved, so that the rest of the template may need AWS. Whatever cannot be resolved is an
error that names resource and key; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from tools.local.intrinsics import Intrinsics, TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FUNCTION: Final = "AWS::Serverless::Function"
_LAYER: Final = "AWS::Serverless::LayerVersion"
_ROUTE: Final = "AWS::ApiGatewayV2::Route"
_INTEGRATION: Final = "AWS::ApiGatewayV2::Integration"
_QUEUE: Final = "AWS::SQS::Queue"
_DEFAULT_TIMEOUT: Final = 3  # Lambda's own defaults
_DEFAULT_MEMORY: Final = 128
_DEFAULT_BATCH: Final = 10
_METHODS: Final = frozenset({"ANY", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the HTTP API; ``path`` is None for ``$default``. The method may be ANY."""

    function: str
    method: str
    path: str | None

    @property
    def key(self) -> str:
        """The routeKey of events."""
        return "$default" if self.path is None else f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that invokes a function: ``expression`` is ``rate(…)`` or ``cron(…)``, ``payload`` a fixed event."""

    name: str
    expression: str
    payload: str | None
    enabled: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A queue whose messages invoke a function, ``batch_size`` at most at once; ``partial``: each may fail alone."""

    queue: str
    batch_size: int
    partial: bool


@dataclass(frozen=True, slots=True)
class QueueProperties:
    """A queue; what was received ``max_receives`` times in vain goes to ``dead_letters``, where there are any."""

    name: str
    dead_letters: str | None
    max_receives: int


@dataclass(frozen=True, slots=True)
class Function:
    """What the stack must know of a function. Folders are absolute, the timeout is in seconds, memory in MB.

    ``name`` is its logical id, ``invoked_as`` the name that the template gives it, where it gives one.
    """

    name: str
    module: str
    attribute: str
    code: Path
    layers: tuple[Path, ...]
    timeout: int
    memory: int
    environment: Mapping[str, str]
    routes: tuple[Route, ...]
    schedules: tuple[Schedule, ...]
    sources: tuple[Source, ...] = ()
    invoked_as: str | None = None


class _Loader(yaml.SafeLoader):
    """Reads short tags as what they abbreviate: ``!Ref X`` is ``{"Ref": X}``, ``!Sub X`` is ``{"Fn::Sub": X}``."""


def _construct_short_tag(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)  # noqa: S101  there is no fourth kind
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _construct_short_tag)


def load_functions(path: Path, overrides: Mapping[str, str] | None = None) -> dict[str, Function]:
    """Every function of a template by logical id; ``overrides`` gives parameters and other references their values."""
    return _read(path, overrides).functions()


def load_queues(path: Path, overrides: Mapping[str, str] | None = None) -> dict[str, QueueProperties]:
    """Every queue of a template by logical id, which is its name."""
    return _read(path, overrides).queues()


def load_template(path: Path) -> dict[str, Any]:
    """A template as it stands, short tags written out."""
    try:
        template = yaml.load(path.read_text(), _Loader)  # noqa: S506  a SafeLoader
    except (OSError, yaml.YAMLError) as error:
        raise TemplateError(f"{path} cannot be read: {error}") from error
    if not isinstance(template, dict) or not isinstance(template.get("Resources"), dict):
        raise TemplateError(f"{path} has no Resources: is it a SAM template?")
    return template


def _read(path: Path, overrides: Mapping[str, str] | None) -> _Reader:
    return _Reader(path.parent, load_template(path), overrides or {})


class _Reader:
    """One template being read."""

    def __init__(self, root: Path, template: Mapping[str, Any], overrides: Mapping[str, str]) -> None:
        self._root = root
        self._resources: Mapping[str, Any] = template["Resources"]
        self._globals: Mapping[str, Any] = (template.get("Globals") or {}).get("Function") or {}
        self._intrinsics = Intrinsics(template, overrides)

    def functions(self) -> dict[str, Function]:
        routes = [self._route(name, own) for name, own in self._created(_ROUTE)]
        return {name: self._function(name, own, routes) for name, own in self._created(_FUNCTION)}

    def queues(self) -> dict[str, QueueProperties]:
        return {name: self._queue(name, own) for name, own in self._created(_QUEUE)}

    def _created(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Logical ids and properties of the resources of a type whose condition holds."""
        return [
            (name, resource.get("Properties") or {})
            for name, resource in self._resources.items()
            if resource.get("Type") == kind and self._is_created(name, resource)
        ]

    def _queue(self, name: str, own: Mapping[str, Any]) -> QueueProperties:
        where = f"{name}: RedrivePolicy"
        policy = self._intrinsics.resolve(own.get("RedrivePolicy"), where)
        if policy is None:
            return QueueProperties(name, None, 0)
        try:
            target, receives = str(policy["deadLetterTargetArn"]), int(policy["maxReceiveCount"])
        except (KeyError, TypeError, ValueError):
            raise TemplateError(f"{where} must have a deadLetterTargetArn and a maxReceiveCount") from None
        return QueueProperties(name, self._queue_of(target, where), receives)

    def _queue_of(self, arn: str, where: str) -> str:
        name = arn.rpartition(":")[2]
        if (self._resources.get(name) or {}).get("Type") != _QUEUE:
            raise TemplateError(f"{where}: {arn!r} is not the ARN of a queue of this template")
        return name

    def _is_created(self, name: str, resource: Mapping[str, Any]) -> bool:
        return "Condition" not in resource or self._intrinsics.condition(resource["Condition"], f"{name}: Condition")

    def _function(self, name: str, own: Mapping[str, Any], routes: list[Route]) -> Function:
        handler = self._property(name, own, "Handler")
        module, _, attribute = str(handler or "").rpartition(".")
        if not module:
            raise TemplateError(
                f'{name}: Handler is {handler!r}: it must name module and function, as "app.handler" does'
            )
        layers = [*self._list(self._globals.get("Layers"), name), *self._list(own.get("Layers"), name)]
        events = dict(self._events(name, own))
        schedules = [self._schedule(name, event, event_of) for event, event_of in events.items()]
        sources = [self._source(name, event, event_of) for event, event_of in events.items()]
        return Function(
            name=name,
            module=module,
            attribute=attribute,
            code=self._folder(self._property(name, own, "CodeUri"), f"{name}: CodeUri"),
            layers=tuple(folder for layer in layers if (folder := self._layer(layer, f"{name}: Layers")) is not None),
            timeout=self._number(name, own, "Timeout", _DEFAULT_TIMEOUT),
            memory=self._number(name, own, "MemorySize", _DEFAULT_MEMORY),
            environment=self._environment(name, own),
            routes=tuple(route for route in routes if route.function == name),
            schedules=tuple(filter(None, schedules)),
            sources=tuple(filter(None, sources)),
            invoked_as=self._property(name, own, "FunctionName"),
        )

    def _property(self, name: str, own: Mapping[str, Any], key: str) -> Any:
        return self._intrinsics.resolve(own.get(key, self._globals.get(key)), f"{name}: {key}")

    def _number(self, name: str, own: Mapping[str, Any], key: str, default: int) -> int:
        value = self._property(name, own, key)
        try:
            return default if value is None else int(value)
        except (TypeError, ValueError):
            raise TemplateError(f"{name}: {key} is {value!r}: it must be a whole number") from None

    def _list(self, value: object, name: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise TemplateError(f"{name}: Layers must be a list")
        return value

    def _layer(self, layer: object, where: str) -> Path | None:
        """The folder of a layer of this template; None for one that is named by its ARN."""
        reference = self._intrinsics.resolve(layer, where)
        resource = self._resources.get(reference) if isinstance(reference, str) else None
        if resource is None or resource.get("Type") != _LAYER:
            return None
        where = f"{reference}: ContentUri"
        return self._folder(
            self._intrinsics.resolve((resource.get("Properties") or {}).get("ContentUri"), where), where
        )

    def _folder(self, value: object, where: str) -> Path:
        folder = self._root / str(value)
        if value is None or not folder.is_dir():
            raise TemplateError(f"{where} is {value!r}: there is no such folder in {self._root}")
        return folder.resolve()

    def _environment(self, name: str, own: Mapping[str, Any]) -> dict[str, str]:
        variables: dict[str, str] = {}
        for properties in (self._globals, own):
            for key, value in ((properties.get("Environment") or {}).get("Variables") or {}).items():
                where = f"{name}: Environment.Variables.{key}"
                resolved = self._intrinsics.resolve(value, where)
                if isinstance(resolved, dict | list):
                    raise TemplateError(f"{where} is not a text")
                if resolved is None:  # AWS::NoValue takes one of the globals away
                    variables.pop(key, None)
                else:
                    variables[key] = str(resolved).lower() if isinstance(resolved, bool) else str(resolved)
        return variables

    def _events(self, name: str, own: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for event_name, event in (own.get("Events") or {}).items():
            if not isinstance(event, dict) or "Type" not in event:
                raise TemplateError(f"{name}: Events.{event_name} has no Type")
            yield event_name, event

    def _route(self, name: str, own: Mapping[str, Any]) -> Route:
        key = str(self._intrinsics.resolve(own.get("RouteKey"), f"{name}: RouteKey"))
        function = self._function_of(name, own)
        if key == "$default":
            return Route(function, "ANY", None)
        method, _, path = key.partition(" ")
        if method not in _METHODS or not path.startswith("/"):
            raise TemplateError(f"{name}: RouteKey is {key!r}: it must be $default, or a method and a path with a /")
        return Route(function, method, path)

    def _function_of(self, name: str, own: Mapping[str, Any]) -> str:
        """The function that a route's integration invokes."""
        target = str(self._intrinsics.resolve(own.get("Target"), f"{name}: Target"))
        integration = self._resources.get(target.removeprefix("integrations/")) or {}
        if integration.get("Type") != _INTEGRATION:
            raise TemplateError(f"{name}: Target is {target!r}: it must be integrations/ and one of this template")
        where = f"{target}: IntegrationUri"
        arn = str(self._intrinsics.resolve((integration.get("Properties") or {}).get("IntegrationUri"), where))
        function = arn.rpartition(":")[2]
        if (self._resources.get(function) or {}).get("Type") != _FUNCTION:
            raise TemplateError(f"{where} is {arn!r}: it must be the ARN of a function of this template")
        return function

    def _schedule(self, name: str, event_name: str, event: Mapping[str, Any]) -> Schedule | None:
        if event["Type"] not in {"Schedule", "ScheduleV2"}:
            return None
        where = f"{name}: Events.{event_name}"
        properties = event.get("Properties") or {}
        key = "Schedule" if event["Type"] == "Schedule" else "ScheduleExpression"
        expression = self._intrinsics.resolve(properties.get(key), f"{where}.{key}")
        if not isinstance(expression, str):
            raise TemplateError(f"{where}.{key} is {expression!r}: it must be rate(…) or cron(…)")
        payload = self._intrinsics.resolve(properties.get("Input"), f"{where}.Input")
        state = self._intrinsics.resolve(properties.get("State", "ENABLED"), f"{where}.State")
        enabled = self._intrinsics.resolve(properties.get("Enabled", True), f"{where}.Enabled")
        is_enabled = state == "ENABLED" and str(enabled).lower() == "true"
        return Schedule(event_name, expression, None if payload is None else str(payload), is_enabled)

    def _source(self, name: str, event_name: str, event: Mapping[str, Any]) -> Source | None:
        if event["Type"] != "SQS":
            return None
        where = f"{name}: Events.{event_name}"
        properties = event.get("Properties") or {}
        queue = self._queue_of(str(self._intrinsics.resolve(properties.get("Queue"), f"{where}.Queue")), where)
        types = self._intrinsics.resolve(properties.get("FunctionResponseTypes"), f"{where}.FunctionResponseTypes")
        size = self._number(f"{name}: Events.{event_name}", properties, "BatchSize", _DEFAULT_BATCH)
        return Source(queue, size, "ReportBatchItemFailures" in (types or []))
