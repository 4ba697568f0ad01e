"""Owns the file of measured rows, and what is made of them: medians, spreads, ratios within a repeat."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from tools.local.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

RESULTS: Final = ROOT / "benchmarks" / "results" / "bench.json"


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the repeats, with the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of one value or more."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])

    def text(self, digits: int = 2) -> str:
        """As tables have it."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.most:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run of `make bench` has measured, as its file has it."""

    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path = RESULTS) -> Self:
        """From its file."""
        return cls(json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Into its file, a row a line: so that a difference can be read."""
        parts = []
        for key, value in self.content.items():
            if isinstance(value, list):
                rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value)
                parts.append(f" {json.dumps(key)}: [\n{rows}\n ]")
            else:
                parts.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{\n" + ",\n".join(parts) + "\n}\n")

    def part(self, name: str) -> list[dict[str, Any]]:
        """The rows of a part; none where it was not measured."""
        rows: list[dict[str, Any]] = self.content.get(name, [])
        return rows

    def cost(self, engine: str) -> dict[str, Any] | None:
        """What one operation of an engine costs; None where it was not measured."""
        return next((row for row in self.part("costs") if row["engine"] == engine), None)

    def speeds(
        self, engine: str, field: str, *, clients: int = 1, delay_ms: int = 0, part: str = "speeds"
    ) -> dict[int, float]:
        """A field of an engine's rows under these conditions, by repeat."""
        wanted = (engine, clients, delay_ms)
        return {
            row["repeat"]: row[field]
            for row in self.part(part)
            if (row["engine"], row["clients"], row["delay_ms"]) == wanted
        }

    def ratio(self, engine: str, other: str, **conditions: Any) -> Spread | None:
        """How many times as many operations an engine does in a second as another one, each repeat by itself."""
        ours, others = (self.speeds(name, "ops_per_second", **conditions) for name in (engine, other))
        ratios = [ours[repeat] / others[repeat] for repeat in ours if repeat in others]
        return Spread.of(ratios) if ratios else None
