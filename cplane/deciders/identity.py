"""Security identities: which number stands for which labels, and who still needs it."""

from dataclasses import dataclass, field
from typing import Final

from immutables import Map

from cplane.deciders.decider import NOTHING, Decision
from cplane.domain.identity import (
    CLUSTER_MAX,
    CLUSTER_MIN,
    LOCAL_MAX,
    LOCAL_MIN,
    NumericIdentity,
    Reserved,
    is_local,
)
from cplane.domain.labels import RESERVED, LabelSet
from cplane.domain.numbers import next_free
from cplane.errors import Rejected
from cplane.events.envelope import IDENTITY
from cplane.events.identity import IdentityAllocated, IdentityReleased

_RESERVED_BY_KEY: Final = {r.labels.serialise(): NumericIdentity(r.value) for r in Reserved}


class IdentitiesExhausted(Rejected):
    """Every number of the scope stands for something."""

    code = "identity.exhausted"

    def __init__(self, scope: str, held: int) -> None:
        self.scope, self.held = scope, held

    def __str__(self) -> str:
        return (
            f"no identity is free in the {self.scope} scope, {self.held} are in use: "
            f"use fewer distinct sets of identity-relevant labels, or fewer prefixes in policies"
        )


@dataclass(frozen=True, slots=True)
class IdentityState:
    """`labels`: number → label set; `numbers`: identity key → number; `last_*`: the number that was given last."""

    labels: Map[int, LabelSet] = field(default_factory=Map)
    numbers: Map[str, int] = field(default_factory=Map)
    last_cluster: int = CLUSTER_MIN - 1
    last_local: int = LOCAL_MIN - 1

    def find(self, labels: LabelSet) -> NumericIdentity | None:
        """The number that stands for exactly these labels now."""
        key = labels.serialise()
        number = _RESERVED_BY_KEY.get(key)
        if number is None:
            held = self.numbers.get(key)
            number = None if held is None else NumericIdentity(held)
        return number


def allocate(state: IdentityState, labels: LabelSet, *, local: bool) -> tuple[NumericIdentity, Decision]:
    """The number for `labels`, with the event that makes it so where it is new. No labels: `init`."""
    if not labels:
        return NumericIdentity(Reserved.INIT), NOTHING
    held = state.find(labels)
    if held is not None:
        return held, NOTHING
    low, high, last = (
        (LOCAL_MIN, LOCAL_MAX, state.last_local) if local else (CLUSTER_MIN, CLUSTER_MAX, state.last_cluster)
    )
    found = next_free(last, low, high, state.labels)
    if found is None:
        raise IdentitiesExhausted("local" if local else "cluster", high - low + 1)
    number = NumericIdentity(found)
    return number, ((IDENTITY, IdentityAllocated(number=number, labels=labels.texts())),)


def release(state: IdentityState, number: int, users: int) -> Decision:
    """The number is free when nothing uses it any more; reserved ones stay."""
    if users or number not in state.labels:
        return NOTHING
    return ((IDENTITY, IdentityReleased(number=number)),)


def evolve(state: IdentityState, event: IdentityAllocated | IdentityReleased) -> IdentityState:
    """The state after one more fact."""
    number = event.number
    if isinstance(event, IdentityAllocated):
        labels = LabelSet.parse(event.labels, RESERVED)
        local = is_local(NumericIdentity(number))
        return IdentityState(
            state.labels.set(number, labels),
            state.numbers.set(labels.serialise(), number),
            state.last_cluster if local else number,
            number if local else state.last_local,
        )
    held = state.labels.get(number)
    if held is None:
        return state
    numbers = state.numbers.delete(held.serialise())
    return IdentityState(state.labels.delete(number), numbers, state.last_cluster, state.last_local)
