"""A reader of the ring that nobody waits for: it goes on by position, and what it missed is told."""

from typing import Final, NamedTuple

from cplane.hubble.ring import Loss, LossSource, Span
from cplane.hubble.store import FlowStore


class Taken(NamedTuple):
    """The next rows (maybe none), and what is missing just before them."""

    span: Span | None
    losses: tuple[Loss, ...] = ()


NOTHING: Final = Taken(None)


class Follower:
    """Reads flows from `position` on; by default those that come from now on."""

    def __init__(self, store: FlowStore, position: int | None = None) -> None:
        self._store = store
        self.position = store.ring.written if position is None else position
        self.missed = 0  # flows that were overwritten before they were read
        self._told = -1  # position whose losses were told

    def take(self, most: int) -> Taken:
        """What comes next, up to `most` rows, which stay as they are until somebody else runs."""
        ring = self._store.ring
        losses: list[Loss] = []
        if self.position < ring.oldest:
            count = ring.oldest - self.position
            self.missed += count
            ring.overwritten_unread += count
            self.position = ring.oldest
            at_ns = int(ring.span(self.position, self.position + 1)["time_ns"][0])
            losses.append(Loss(self.position, LossSource.FLOW_RING, count, at_ns, at_ns))
        if self._told != self.position:
            self._told = self.position
            losses.extend(ring.losses(self.position))
        stop = min(ring.contiguous(self.position), self.position + most)
        following = ring.next_loss(self.position)
        if following is not None:
            stop = min(stop, following)
        if stop <= self.position:
            return Taken(None, tuple(losses)) if losses else NOTHING
        span = ring.span(self.position, stop)
        self.position = stop
        return Taken(span, tuple(losses))

    async def wait(self) -> None:
        """Returns when there may be more."""
        if self.position >= self._store.ring.written:
            await self._store.changed.wait()
