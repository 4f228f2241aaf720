"""Which events somebody wants to see."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import msgspec

from cplane.events.envelope import Envelope
from cplane.events.objects import object_of


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Events behind `after`, up to and with `to` (None: the last), about this object, this kind of them, by this actor.

    What is empty does not matter. `last`: only so many of them, the last ones; None: all.
    """

    after: int = 0
    to: int | None = None
    object: str = ""
    kind: str = ""
    actor: str = ""
    last: int | None = None

    def selects(self, entries: Iterable[Envelope]) -> list[int]:
        """Their positions among these, which are in order."""
        found = [one.position for one in entries if self._fits(one)]
        return found if self.last is None else found[max(0, len(found) - self.last) :]

    def _fits(self, one: Envelope) -> bool:
        name = object_of(one.event)
        return (
            self.after < one.position
            and (self.to is None or one.position <= self.to)
            and self.object in {"", name}
            and self.kind in {"", name.partition(" ")[0]}
            and self.actor in {"", one.actor}
        )


class Listing:
    """The positions of a few events by what they are about and by whom, for questions that are asked again and again.

    Equal to `Wanted.selects` of the same events, which are in order.
    """

    def __init__(self, entries: Iterable[Envelope]) -> None:
        self._all: list[int] = []
        self._by: dict[tuple[str, str], list[int]] = {}
        for one in entries:
            name = object_of(one.event)
            self._all.append(one.position)
            for place in (("object", name), ("kind", name.partition(" ")[0]), ("actor", one.actor)):
                self._by.setdefault(place, []).append(one.position)

    def find(self, wanted: Wanted) -> list[int]:
        """The positions of those that are wanted, in order."""
        places = (("object", wanted.object), ("kind", wanted.kind), ("actor", wanted.actor))
        lists: list[Sequence[int]] = [self._by.get(place, ()) for place in places if place[1]]
        fewest, *others = sorted(lists, key=len) or [self._all]
        end = len(fewest) if wanted.to is None else bisect_right(fewest, wanted.to)
        found = list(fewest[bisect_right(fewest, wanted.after) : end])
        for other in others:
            found = sorted({*found} & {*other})
        return found if wanted.last is None else found[max(0, len(found) - wanted.last) :]
