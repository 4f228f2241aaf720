"""The first or the last so many flows of a merged answer. What is no flow does not count."""

from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

import numpy as np

from cplane.hubble.relay.merge import TOGETHER, Merged

HELD_MAX: Final = 64 << 20  # bytes of the last flows; what is beyond is given although it may be too much


class Limit(Protocol):
    """Takes what was merged and gives what the client gets of it: whole messages, one or several in a piece."""

    def take(self, merged: Merged) -> Iterable[bytes]:
        """What can be given now."""
        ...

    def rest(self) -> Iterable[bytes]:
        """What is left to give when nothing more will come."""
        ...

    @property
    def over(self) -> bool:
        """Whether nothing that may still come can be given."""
        ...


class All:
    """Everything."""

    over: Final = False

    def take(self, merged: Merged) -> Iterable[bytes]:
        """All of it."""
        return merged.pieces

    def rest(self) -> Iterable[bytes]:
        """Nothing."""
        return ()


class First:
    """The first `number` flows, and what comes between them."""

    def __init__(self, number: int) -> None:
        assert number > 0, number
        self._left = number

    @property
    def over(self) -> bool:
        """Whether there were as many."""
        return not self._left

    def take(self, merged: Merged) -> Iterable[bytes]:
        """As far as the flow that completes the number."""
        if self.over:
            return ()
        count = int(np.count_nonzero(merged.flows))
        if count < self._left:
            self._left -= count
            return merged.pieces
        last = int(np.flatnonzero(merged.flows)[self._left - 1])
        self._left = 0
        return merged.first(last + 1).pieces

    def rest(self) -> Iterable[bytes]:
        """Nothing."""
        return ()


class Last:
    """The last `number` flows, and everything that is no flow.

    They are held until the end is known. When they are more than `held_max` bytes, the oldest are given at once: so a
    client that asks for more than we hold gets more than it asked for, and never less.
    """

    over: Final = False

    def __init__(self, number: int, held_max: int = HELD_MAX) -> None:
        assert number > 0, number
        self._number, self._held_max = number, held_max
        self._held: deque[tuple[bytes, bool]] = deque()
        self._flows = self._size = 0
        self._full = False

    def take(self, merged: Merged) -> Iterable[bytes]:
        """What is no flow and older than those that are held; flows only when there is no room for them."""
        if self._full:  # an answer with a hole in it would be worse than one that is too long
            return merged.pieces
        for frame, flow in zip(merged.frames, merged.flows.tolist(), strict=True):
            self._held.append((frame, flow))
            self._flows += flow
            self._size += len(frame)
        given = []
        while self._held and (self._flows > self._number or not self._held[0][1]):
            frame, flow = self._held.popleft()
            self._size -= len(frame)
            self._flows -= flow
            if not flow:
                given.append(frame)
        if self._size > self._held_max:
            self._full = True
            given += self._left()
        return _joined(given)

    def rest(self) -> Iterable[bytes]:
        """What is held."""
        return _joined(self._left())

    def _left(self) -> list[bytes]:
        left = [frame for frame, _ in self._held]
        self._held.clear()
        self._flows = self._size = 0
        return left


def _joined(frames: list[bytes]) -> list[bytes]:
    return [b"".join(frames[at : at + TOGETHER]) for at in range(0, len(frames), TOGETHER)]
