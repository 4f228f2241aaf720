"""Selectors: which identities a rule is about, by their labels or by the prefix they stand for.

Requirements are canonical (sorted, no duplicates), so selectors that mean the same in the same words are equal, and
what follows from a selector is computed and kept once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from cplane.domain.cidr import Prefix, cidr_of_key, contains
from cplane.domain.labels import ANY, CIDR, LabelSet

_NAME: Final = r"[A-Za-z0-9_./:$-]+"
_REQUIREMENT: Final = re.compile(
    rf"(?P<absent>!)?\s*(?P<key>{_NAME})\s*"
    r"(?:(?P<equals>==?|!=)\s*(?P<value>[^\s,()!=<>]*)|(?P<order>[<>])\s*(?P<bound>[^\s,()!=<>]*)"
    r"|\b(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?"
)
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_BOUND: Final = re.compile("[0-9]+")
_INT64: Final = (1 << 63) - 1
_DIGITS: Final = len(str(_INT64)) + 1  # with a sign; longer texts are not read


class Operator(StrEnum):
    """How a requirement judges the values under its key."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GREATER = "Gt"  # these two have selectors that are written as text, those of policies have not
    LESS = "Lt"


IN_DOCUMENTS: Final = (Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.DOES_NOT_EXIST)
"""What a `matchExpressions` may say."""


class Requirement(NamedTuple):
    """One condition on the labels `source:key`; `any` as the source reads the key of every source."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: LabelSet) -> bool:
        """Whether it holds; NotIn also holds where the key is absent. What is no number is neither more nor less."""
        held = labels.values(self.source, self.key) if self.source != CIDR else _within(self.key, labels)
        match self.operator:
            case Operator.IN:
                return any(value in self.values for value in held)
            case Operator.NOT_IN:
                return not any(value in self.values for value in held)
            case Operator.EXISTS:
                return bool(held)
            case Operator.DOES_NOT_EXIST:
                return not held
            case Operator.GREATER | Operator.LESS:
                sign, bound = 1 if self.operator is Operator.GREATER else -1, int(self.values[0])
                return any(number is not None and sign * (number - bound) > 0 for number in map(_integer, held))

    @property
    def is_indexed(self) -> bool:
        """Whether only labels of exactly this key can meet it: a prefix is met by every prefix in it."""
        return self.source != CIDR

    def __str__(self) -> str:
        name = self.key if self.source == ANY else f"{self.source}:{self.key}"
        match self.operator:
            case Operator.IN if len(self.values) == 1:
                return f"{name}={self.values[0]}"
            case Operator.IN | Operator.NOT_IN:
                word = "in" if self.operator is Operator.IN else "notin"
                return f"{name} {word} ({','.join(self.values)})"
            case Operator.EXISTS:
                return name
            case Operator.DOES_NOT_EXIST:
                return f"!{name}"
            case Operator.GREATER | Operator.LESS:
                return f"{name}{'>' if self.operator is Operator.GREATER else '<'}{self.values[0]}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements hold. Without any, everything is selected: `is_wildcard`."""

    requirements: tuple[Requirement, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "requirements", tuple(sorted(set(self.requirements))))
        object.__setattr__(self, "_hash", hash(self.requirements))

    @classmethod
    def of(cls, requirements: Iterable[Requirement]) -> "LabelSelector":
        """The selector with these requirements, in any order."""
        return cls(tuple(requirements))

    @property
    def is_wildcard(self) -> bool:
        """Whether it selects everything, the world and the host included."""
        return not self.requirements

    def matches(self, labels: LabelSet) -> bool:
        """Whether it selects an identity with these labels."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements) or "{}"


@dataclass(frozen=True, slots=True)
class CidrSelector:
    """Identities outside the cluster whose prefix lies in `prefix`, and in none of `excepts`.

    An identity inside the cluster has no prefix, so this never selects one.
    """

    prefix: Prefix
    excepts: tuple[Prefix, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = sorted(set(self.excepts), key=lambda p: (int(p.network_address), p.prefixlen))
        object.__setattr__(self, "excepts", tuple(ordered))
        object.__setattr__(self, "_hash", hash((self.prefix, self.excepts)))

    def matches(self, prefix: Prefix | None) -> bool:
        """Whether it selects an identity that stands for `prefix`; None stands for no prefix."""
        if prefix is None or not contains(self.prefix, prefix):
            return False
        return not any(contains(hole, prefix) for hole in self.excepts)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return ",".join((str(self.prefix), *(f"!{hole}" for hole in self.excepts)))


Selector = LabelSelector | CidrSelector


def _within(key: str, labels: LabelSet) -> tuple[str, ...]:
    """The values of labels that name a prefix in the one that `key` names."""
    outer = cidr_of_key(key)
    if outer is None:
        return ()
    return tuple(
        label.value
        for label in labels
        if label.source == CIDR and (inner := cidr_of_key(label.key)) is not None and contains(outer, inner)
    )


def _integer(text: str) -> int | None:
    """What a label's value counts as; None for what is no number of 64 bits."""
    if len(text) > _DIGITS or _INTEGER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if -_INT64 - 1 <= number <= _INT64 else None


def parse_selector(text: str) -> LabelSelector:
    """A selector in Kubernetes' grammar; a key is `key` (of any source) or `source:key`. Raises ValueError."""
    requirements = []
    at = 0
    while text[at:].strip():
        match = _REQUIREMENT.match(text, at + len(text[at:]) - len(text[at:].lstrip()))
        rest = text[match.end() :].lstrip() if match else ""
        if match is None or (rest and not rest.startswith(",")) or rest == ",":
            raise ValueError(f"{text!r} is not a label selector; write key=value, key in (a,b), key>1, key, !key")
        requirements.append(_requirement(text, match))
        at = len(text) - len(rest) + 1 if rest else len(text)
    return LabelSelector.of(requirements)


def _requirement(text: str, match: re.Match[str]) -> Requirement:
    source, colon, key = match["key"].partition(":")
    if not colon:
        source, key = ANY, match["key"]
    if not key or not source:
        raise ValueError(f"{text!r}: {match['key']!r} has no key or no source")
    if match["absent"]:
        if match["equals"] or match["set"] or match["order"]:
            raise ValueError(f"{text!r}: '!' is followed by a key alone")
        return Requirement(source, key, Operator.DOES_NOT_EXIST)
    if match["equals"]:
        operator = Operator.NOT_IN if match["equals"] == "!=" else Operator.IN
        return Requirement(source, key, operator, (match["value"],))
    if match["order"]:
        if _BOUND.fullmatch(match["bound"]) is None or _integer(match["bound"]) is None:
            raise ValueError(f"{text!r}: {match['bound']!r} is not a number, which '{match['order']}' compares with")
        operator = Operator.GREATER if match["order"] == ">" else Operator.LESS
        return Requirement(source, key, operator, (match["bound"],))
    if match["set"]:
        operator = Operator.IN if match["set"] == "in" else Operator.NOT_IN
        return Requirement(source, key, operator, tuple(sorted(v.strip() for v in match["values"].split(","))))
    return Requirement(source, key, Operator.EXISTS)
