"""How every version of an event that was ever released is read: as the version that is written now.

A released version is never edited. What replaces it is a class of its own in the catalogue, under the next number, and
the old one is retired: the class that reads its bytes, and a pure function that makes the next version of what it read.
So a change of an event costs one such pair, however many versions there are before it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

Version: TypeAlias = tuple[str, int]
"""The name of an event on the wire, and the number of its version."""

Read: TypeAlias = Callable[[bytes], Any]  # Any: an event, of the class that the catalogue names
"""From an event's JSON to the event, as its newest version. Raises msgspec.MsgspecError, and UnicodeError."""


class Retired(NamedTuple):
    """A version that is written no more: what reads it, and what makes the next version of that."""

    cls: type[msgspec.Struct]
    upcast: Callable[[Any], msgspec.Struct]  # Any: of that class


def readers(catalog: Mapping[Version, type[Any]], retired: Mapping[Version, Retired]) -> dict[Version, Read]:
    """How each version is read. `catalog` has the newest of every event, and `retired` all that were before it."""
    found: dict[Version, Read] = {
        version: msgspec.json.Decoder(cls, strict=True).decode for version, cls in catalog.items()
    }
    assert len(catalog) == len({name for name, _ in catalog}), "an event has one version that is written"
    for name, number in sorted(retired, reverse=True):
        old = retired[name, number]
        read = msgspec.json.Decoder(old.cls, strict=True).decode
        assert (name, number + 1) in found, f"{name} {number} is retired, and nothing follows it"
        found[name, number] = _upcasting(read, old.upcast, _following(name, number + 1, retired))
    return found


def _following(name: str, number: int, retired: Mapping[Version, Retired]) -> list[Callable[[Any], Any]]:
    """What makes the newest version of one."""
    steps = []
    while (name, number) in retired:
        steps.append(retired[name, number].upcast)
        number += 1
    return steps


def _upcasting(read: Read, upcast: Callable[[Any], Any], others: list[Callable[[Any], Any]]) -> Read:
    def upcasting(data: bytes) -> Any:  # noqa: ANN401  # as Read
        event = upcast(read(data))
        for step in others:
            event = step(event)
        return event

    return upcasting
