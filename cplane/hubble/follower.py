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
    """Reads flows from `position` on; by default those that come from now on.

    `told` is how many of the losses there are told already: more may come while there is no flow.
    """

    def __init__(self, store: FlowStore, position: int | None = None, *, told: int = 0) -> None:
        self._store = store
        self.position = store.ring.written if position is None else position
        self.missed = 0  # flows that were overwritten before they were read
        self.told = told  # losses at the position

    def take(self, most: int) -> Taken:
        """What comes next, up to `most` rows, which stay as they are until somebody else runs."""
        ring = self._store.ring
        losses: list[Loss] = []
        if self.position < ring.oldest:
            if not len(ring):
                return NOTHING  # the first flow that comes says when those are gone that are missing
            count = ring.oldest - self.position
            self.missed += count
            ring.overwritten_unread += count
            self.position, self.told = ring.oldest, 0
            at_ns = int(ring.span(self.position, self.position + 1)["time_ns"][0])
            losses.append(Loss(self.position, LossSource.FLOW_RING, count, at_ns, at_ns))
        here = ring.losses(self.position)
        losses.extend(here[self.told :])
        self.told = len(here)
        stop = min(ring.contiguous(self.position), self.position + most)
        following = ring.next_loss(self.position)
        if following is not None:
            stop = min(stop, following)
        if stop <= self.position:
            return Taken(None, tuple(losses)) if losses else NOTHING
        span = ring.span(self.position, stop)
        self.position, self.told = stop, 0
        return Taken(span, tuple(losses))

    async def wait(self) -> None:
        """Returns when there may be more."""
        if self.position >= self._store.ring.written or not len(self._store.ring):
            await self._store.changed.wait()
