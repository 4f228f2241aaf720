"""What a benchmark found: numbers beside those of a peer, as a table for people and as JSON for machines."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final

CILIUM: Final = "cilium 1.17, measured earlier"
"""A peer that is not in this run: cilium-agent 1.17-dev with etcd on a machine of the same kind."""

_COLUMNS: Final = ("name", "value", "unit", "peer", "peer's value", "ratio", "aim")
_RIGHT: Final = frozenset({1, 4, 5})


class WrongError(Exception):
    """What was measured is not what should have been: the number would lie."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a value should be: at most or at least `limit`."""

    limit: float
    at_most: bool

    def holds(self, value: float) -> bool:
        """Whether the value is as it should be."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


def at_most(limit: float) -> Aim:
    """Less is better, and this is good enough."""
    return Aim(limit, at_most=True)


def at_least(limit: float) -> Aim:
    """More is better, and this is good enough."""
    return Aim(limit, at_most=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One number. `peer_value` is in the same unit; a result without a peer stands for itself."""

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    aim: Aim | None = None

    @property
    def suite(self) -> str:
        """What stands before the dot of the name."""
        return self.name.partition(".")[0]

    @property
    def ratio(self) -> float | None:
        """The value by the peer's; None without a peer."""
        return self.value / self.peer_value if self.peer_value else None


def ratio_result(name: str, ratios: Sequence[float], peer: str, aim: Aim | None = None) -> Result:
    """The median of what rounds found for ours by the peer's, which is 1 by definition."""
    return Result(name=name, value=median(ratios), unit="ratio", peer=peer, peer_value=1.0, aim=aim)


def spread(values: Sequence[float], unit: str) -> str:
    """How the values lie, in words, for the progress lines."""
    if len(values) < 2:
        return f"{number(values[0])} {unit}"
    tenths = quantiles(values, n=10, method="inclusive")
    return f"median {number(median(values))} {unit}, 10–90 %: {number(tenths[0])}–{number(tenths[-1])} ({len(values)})"


def number(value: float) -> str:
    """Three digits that count; large numbers whole, in groups."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def to_json(results: Iterable[Result]) -> str:
    """A list of objects, one for each result, with null for what there is not."""
    rows = [
        {
            "suite": one.suite,
            "name": one.name,
            "value": one.value,
            "unit": one.unit,
            "peer": one.peer or None,
            "peer_value": one.peer_value,
            "ratio": one.ratio,
        }
        for one in results
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def table(results: Iterable[Result]) -> str:
    """Every result in a line, in columns."""
    rows = [_COLUMNS, *map(_row, results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in _RIGHT else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def missed(results: Iterable[Result]) -> list[str]:
    """Names of the results that are not as they should be."""
    return [one.name for one in results if one.aim is not None and not one.aim.holds(one.value)]


def _row(one: Result) -> tuple[str, ...]:
    return (
        one.name,
        number(one.value),
        one.unit,
        one.peer,
        "" if one.peer_value is None else number(one.peer_value),
        "" if one.ratio is None else f"{one.ratio:.2f}",
        "" if one.aim is None else f"{'✓' if one.aim.holds(one.value) else '✗'} {one.aim}",
    )
