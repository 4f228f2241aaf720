"""Selectors: which identities a rule is about, by their labels or by the prefix they stand for.

Requirements are canonical (sorted, no duplicates), so selectors that mean the same in the same words are equal, and
what follows from a selector is computed and kept once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from cplane.domain.cidr import Prefix, cidr_of_key, contains
from cplane.domain.labels import ANY, CIDR, LabelSet


class Operator(StrEnum):
    """How a requirement judges the values under its key."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(NamedTuple):
    """One condition on the labels `source:key`; `any` as the source reads the key of every source."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: LabelSet) -> bool:
        """Whether it holds; NotIn also holds where the key is absent."""
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
