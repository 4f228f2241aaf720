"""Everything that observers read: the ring, its tables, and the signal that there is more."""

from collections.abc import Iterable
from typing import Final

import anyio

from cplane.hubble.attribution import NO_POLICY, Attribution
from cplane.hubble.endpoint import NO_LINK, NOBODY, EndpointMeta, Link
from cplane.hubble.ids import FlowIds
from cplane.hubble.interned import Interned
from cplane.hubble.ring import Array, FlowRing

_HOUR_NS: Final = 3600 * 1_000_000_000
_NAMESPACES_MAX: Final = 16_384


class Namespaces:
    """Which namespaces were seen in flows of the last hour; beyond 16,384 the longest unseen is forgotten."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}

    def saw(self, ends: Iterable[EndpointMeta], at_ns: int) -> None:
        """Flows with these ends were recorded."""
        for end in ends:
            if end.namespace:
                key = (end.cluster, end.namespace)
                self._seen.pop(key, None)  # the order of the dictionary is that of the last sight
                self._seen[key] = at_ns
        while len(self._seen) > _NAMESPACES_MAX:
            del self._seen[next(iter(self._seen))]

    def recent(self, now_ns: int) -> list[tuple[str, str]]:
        """(cluster, namespace), sorted; older ones are forgotten."""
        self._seen = {key: at for key, at in self._seen.items() if at >= now_ns - _HOUR_NS}
        return sorted(self._seen)


class Signal:
    """Wakes everybody who waits for the next change, with one event however many there are."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Who waits goes on."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Returns at the next `notify`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class FlowStore:
    """The flows of one node. `seed` (32 hexadecimal digits) makes uuids; `capacity` is a power of two."""

    def __init__(self, *, cluster: str, node: str, seed: str, capacity: int = 1 << 18) -> None:
        self.cluster = cluster
        self.node_name = f"{cluster}/{node}"
        self.ring = FlowRing(capacity)
        self.ids = FlowIds(seed)
        self.endpoints: Interned[EndpointMeta] = Interned(NOBODY)
        self.links: Interned[Link] = Interned(NO_LINK)
        self.attributions: Interned[Attribution] = Interned(NO_POLICY)
        self.namespaces = Namespaces()
        self.changed = Signal()

    @property
    def generation(self) -> tuple[int, int, int]:
        """Changes when a number in a column may mean something else."""
        return self.endpoints.generation, self.links.generation, self.attributions.generation

    def append(self, batch: dict[str, Array]) -> None:
        """The rows of `batch` are in the ring; `changed` is left to the caller, once for many batches."""
        self.ring.append(batch)

    def collect(self) -> bool:
        """Whether numbers were freed. Only between batches: a batch in the making has numbers of its own."""
        before = self.generation
        if self.endpoints.is_full:
            self.endpoints.collect((self.ring.live("src_meta"), self.ring.live("dst_meta")))
        if self.links.is_full:
            self.links.collect((self.ring.live("link"),))
        if self.attributions.is_full:
            self.attributions.collect((self.ring.live("attribution"),))
        return self.generation != before
