"""Many streams that are each in order of time become one. Pure: the time is told, nothing is waited for here.

As long as every source has messages, the merge is exact: what is not later than the end of what each source has given
so far can go. A source that has none is waited for, but not for ever:

- for the drain timeout, and while following, when more than `window` messages are held for its sake, only for a moment;
- not at all once that has passed, until it sends again.

A source's messages keep their order, whatever times they claim; times after the present count as the present. One that
claims to live so far in the past that others do not get their turn loses its right to be waited for. So every source
gets on, whatever the others do.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.hubble.relay.scan import Batch

_NS: Final = 1_000_000_000
_MOMENT_NS: Final = 50_000_000
_FOREVER: Final = (1 << 63) - 1
TOGETHER: Final = 256  # messages in one piece
_STARVING_FOLLOWER: Final = 10  # drain timeouts
_STARVING_READER: Final = 60  # of the past, in which a source with more of it is legitimately behind the others


_Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How long others wait. `follow`: messages come as they happen; `history`: but those of the past come first."""

    window: int = 100
    drain_ns: int = _NS
    follow: bool = False
    history: bool = True


class Merged(NamedTuple):
    """Messages in order; `flows` says which of them are flows.

    Each is of one of `parts`, `which` says of which, and lies there from a place in `starts` to one in `stops`.
    """

    parts: list[bytes]
    which: _Places
    starts: _Places
    stops: _Places
    flows: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """How many they are."""
        return len(self.flows)

    def first(self, count: int) -> "Merged":
        """The first `count` of them."""
        return Merged(self.parts, self.which[:count], self.starts[:count], self.stops[:count], self.flows[:count])

    @property
    def frames(self) -> list[bytes]:
        """One by one."""
        return self._cut(self.which, self.starts, self.stops)

    @property
    def pieces(self) -> Iterator[bytes]:
        """The same bytes, several messages in a piece. They are cut when it is asked for, so they stay in the cache."""
        apart = (self.starts[1:] != self.stops[:-1]) | (self.which[1:] != self.which[:-1])
        # messages that lie behind each other already are one
        first, last = np.concatenate(((True,), apart)), np.concatenate((apart, (True,)))
        which, starts, stops = self.which[first], self.starts[first], self.stops[last]
        for at in range(0, len(which), TOGETHER):
            some = slice(at, at + TOGETHER)
            yield b"".join(self._cut(which[some], starts[some], stops[some]))

    def _cut(self, which: _Places, starts: _Places, stops: _Places) -> list[bytes]:
        parts = self.parts
        places = zip(which.tolist(), starts.tolist(), stops.tolist(), strict=True)
        return [parts[part][start:stop] for part, start, stop in places]


@dataclass(slots=True)
class _Source:
    """What one source has given and has not been passed on."""

    asked_ns: int  # since when it has had nothing, or since when its messages have waited for their turn
    batches: deque[Batch] = field(default_factory=deque)
    at: int = 0  # in the first batch
    size: int = 0  # bytes
    count: int = 0
    last_ns: int = 0  # time of its newest message
    heard: bool = False
    closed: bool = False
    behind: bool = False  # lost its right to be waited for

    @property
    def reach_ns(self) -> int:
        """Nothing before this time will come behind its first batch."""
        if self.closed and len(self.batches) <= 1:
            return _FOREVER
        return int(self.batches[0].times[-1]) if self.batches else self.last_ns

    def due(self, horizon_ns: int) -> int:
        """How far its first batch may go."""
        return int(np.searchsorted(self.batches[0].times, horizon_ns, "right")) if self.batches else 0

    def advance(self, stop: int) -> None:
        """The first batch has gone up to there."""
        self.count -= stop - self.at
        self.at = stop
        if stop == len(self.batches[0].times):
            self.size -= self.batches.popleft().size
            self.at = 0


class Merge:
    """The sources of one call.

    Times named `now_ns` are of a clock that never steps, and stands still while nobody reads what is merged.
    """

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._sources: dict[Hashable, _Source] = {}
        self._held = 0
        factor = _STARVING_FOLLOWER if waiting.follow else _STARVING_READER
        self._starving_ns = factor * max(waiting.drain_ns, _MOMENT_NS)
        self.left_behind = 0  # sources that lost their right to be waited for

    def __len__(self) -> int:
        """Sources that are open, or have messages."""
        return len(self._sources)

    @property
    def held(self) -> int:
        """Messages that are held."""
        return self._held

    def size(self, source: Hashable) -> int:
        """Bytes that are held of a source."""
        found = self._sources.get(source)
        return found.size if found is not None else 0

    def knows(self, source: Hashable) -> bool:
        """Whether the source is open, or has messages."""
        return source in self._sources

    def newest_ns(self, source: Hashable) -> int:
        """Time of the newest message of a source that is known."""
        return self._sources[source].last_ns

    def open(self, source: Hashable, now_ns: int) -> None:
        """There is a source that will send."""
        assert source not in self._sources, f"{source!r} is open already"
        self._sources[source] = _Source(now_ns)

    def push(self, source: Hashable, batch: Batch, now_ns: int, present_ns: int) -> None:
        """The source has sent; `present_ns` is UTC."""
        found = self._sources[source]
        assert not found.closed, f"{source!r} is closed"
        # one without a time is of the time of that before it
        times = np.maximum.accumulate(np.clip(batch.times, found.last_ns, max(present_ns, found.last_ns)))
        if not found.batches:
            found.asked_ns = now_ns
        found.heard = True
        found.last_ns = int(times[-1])
        found.batches.append(batch._replace(times=times))
        found.size += batch.size
        found.count += len(times)
        self._held += len(times)

    def close(self, source: Hashable) -> None:
        """The source will send no more; what it sent is still given."""
        found = self._sources[source]
        found.closed = True
        if not found.batches:
            del self._sources[source]

    def take(self, now_ns: int) -> Merged | None:
        """What may go now; None: nothing."""
        if not self._held:
            return None
        self._leave_behind(now_ns)
        horizon = min((s.reach_ns for s in self._sources.values() if self._counts(s, now_ns)), default=_FOREVER)
        due = [(source, one, stop) for source, one in self._sources.items() if (stop := one.due(horizon)) > one.at]
        if not due:
            return None
        merged = _in_order([(one.batches[0], one.at, stop) for _, one, stop in due])
        self._held -= len(merged)
        for source, one, stop in due:
            one.advance(stop)
            one.asked_ns = now_ns
            if one.closed and not one.batches:
                del self._sources[source]
        return merged

    def deadline_ns(self, now_ns: int) -> int | None:
        """When `take` may give something although nothing happens until then; None: never."""
        if not self._held:
            return None
        return min(one.asked_ns + self._patience_ns(one) + 1 for one in self._waited_for(now_ns))

    def _waited_for(self, now_ns: int) -> Iterable[_Source]:
        return (one for one in self._sources.values() if one.batches or self._counts(one, now_ns))

    def _patience_ns(self, one: _Source) -> int:
        """How long the others wait for an empty one, or a full one for the others."""
        if one.batches:
            return self._starving_ns
        waiting = self._waiting
        if waiting.follow and self._held > waiting.window and (one.heard or not waiting.history):
            return min(_MOMENT_NS, waiting.drain_ns)
        return waiting.drain_ns

    def _counts(self, one: _Source, now_ns: int) -> bool:
        """Whether others wait for what it will send."""
        return not one.behind and (bool(one.batches) or now_ns - one.asked_ns <= self._patience_ns(one))

    def _leave_behind(self, now_ns: int) -> None:
        """Who keeps others from their turn for too long is not waited for any more."""
        starving = [
            int(one.batches[0].times[one.at])
            for one in self._sources.values()
            if one.batches and now_ns - one.asked_ns > self._starving_ns
        ]
        if not starving:
            return
        for one in self._sources.values():
            if not one.behind and one.reach_ns < max(starving):
                one.behind = True
                self.left_behind += 1


def _in_order(parts: list[tuple[Batch, int, int]]) -> Merged:
    """The parts (batch, start, stop), by time; what is of one time stays in the order of the parts."""
    which = np.repeat(np.arange(len(parts)), [stop - start for _, start, stop in parts])
    starts = np.concatenate([batch.bounds[start:stop] for batch, start, stop in parts])
    stops = np.concatenate([batch.bounds[start + 1 : stop + 1] for batch, start, stop in parts])
    flows = np.concatenate([batch.flows[start:stop] for batch, start, stop in parts])
    data = [batch.data for batch, _, _ in parts]
    if len(parts) == 1:
        return Merged(data, which, starts, stops, flows)
    order = np.concatenate([batch.times[start:stop] for batch, start, stop in parts]).argsort(kind="stable")
    return Merged(data, which[order], starts[order], stops[order], flows[order])
