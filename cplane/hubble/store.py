"""Everything that observers read: the ring, its tables, and the signal that there is more."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Generic, Protocol, TypeVar

from cplane.hubble.attribution import NO_POLICY, Attribution
from cplane.hubble.detail import NO_DETAIL, Detail
from cplane.hubble.endpoint import NO_LINK, NOBODY, EndpointMeta, Link
from cplane.hubble.ids import FlowIds
from cplane.hubble.interned import Interned
from cplane.hubble.payloads import PayloadRing, Payloads
from cplane.hubble.ring import Array, FlowRing, LossSource
from cplane.hubble.signal import Signal
from cplane.pb.flow import flow_pb2

T = TypeVar("T")

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


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """Values that rows name by number: which ones, in which columns, and of which type."""

    values: Interned[T]
    columns: tuple[str, ...]
    kind: type[T]

    def collect(self, ring: FlowRing) -> None:
        """Numbers that no row has are free."""
        self.values.collect(part for name in self.columns for part in ring.live(name))


class Keeper(Protocol):
    """What lets a store outlive its process; `cplane.hubble.kept.Kept` fits."""

    kernel_lost: int  # the kernel's count of lost records, as far as they are told

    @property
    def works(self) -> bool:
        """Whether flows are kept; if not, they are in memory until the end."""
        ...

    def prepare(self, count: int) -> None:
        """All that rows name is kept, and the next `count` of them will be."""
        ...

    def tidy(self) -> None:
        """Values that no row names are kept no longer."""
        ...

    def close(self) -> None:
        """Everything is kept, whatever happens to the machine. No row may come after this."""
        ...


class FlowStore:
    """The flows of one node. `seed` (32 hexadecimal digits) makes uuids; `capacity` is a power of two.

    `ring` is given where there are flows already, or where positions do not begin at 0.
    """

    def __init__(
        self, *, cluster: str, node: str, seed: str, capacity: int = 1 << 18, ring: FlowRing | None = None
    ) -> None:
        self.cluster = cluster
        self.node_name = f"{cluster}/{node}"
        self.seed = seed
        self.ring = FlowRing(capacity) if ring is None else ring
        self.ids = FlowIds(seed)
        self.endpoints: Interned[EndpointMeta] = Interned(NOBODY)
        self.links: Interned[Link] = Interned(NO_LINK)
        self.attributions: Interned[Attribution] = Interned(NO_POLICY)
        self.details: Interned[Detail] = Interned(NO_DETAIL)
        self.payloads: Payloads = PayloadRing()
        self.tables: Mapping[str, Table[Any]] = {  # Any: each has values of its own type
            "endpoints": Table(self.endpoints, ("src_meta", "dst_meta"), EndpointMeta),
            "links": Table(self.links, ("link",), Link),
            "attributions": Table(self.attributions, ("attribution",), Attribution),
            "details": Table(self.details, ("detail",), Detail),
        }
        self.namespaces = Namespaces()
        self.node_labels: tuple[str, ...] = ()  # texts in Hubble's form, sorted; set before the first flow is told
        self.changed = Signal()
        self.keeper: Keeper | None = None
        self._absence: tuple[int, int] | None = None  # flows lost and since when, until the first flow says to when

    @property
    def generation(self) -> tuple[int, ...]:
        """Changes when a number in a column may mean something else."""
        return tuple(table.values.generation for table in self.tables.values())

    def payload(self, detail: int, cookie: int) -> bytes:
        """A part of an encoded `flow.Flow`: the request of the row with these numbers; nothing where it has none."""
        request = self.details[detail].request
        if request is None:
            return b""
        held = self.payloads.at(request.base | cookie)
        return _gone(request.type, request.record) if held is None else held

    def resume(self, kernel_lost: int) -> None:
        """An observer is there again, and the kernel has counted so many lost records until now.

        Before the first flow from now on there will be a loss: nobody knows what passed meanwhile, only what the
        kernel counted. A count that went back belongs to another ring, and started from 0.
        """
        if self.keeper is None:
            return
        before, self.keeper.kernel_lost = self.keeper.kernel_lost, kernel_lost
        if len(self.ring):
            last = self.ring.span(self.ring.written - 1, self.ring.written)
            missed = kernel_lost - before if kernel_lost >= before else kernel_lost
            self._absence = (missed, int(last["time_ns"][0]))

    def lose(self, count: int, first_ns: int, last_ns: int, *, kernel_lost: int) -> None:
        """The kernel could not write `count` records before the next flow; its counter is at `kernel_lost` now."""
        self.ring.add_loss(LossSource.KERNEL_RING, count, first_ns, last_ns)
        if self.keeper is not None:
            self.keeper.kernel_lost = kernel_lost

    def append(self, batch: dict[str, Array]) -> None:
        """The rows of `batch` are in the ring; `changed` is left to the caller, once for many batches."""
        if self._absence is not None and len(batch["time_ns"]):
            (count, since_ns), self._absence = self._absence, None
            self.ring.add_loss(LossSource.UNKNOWN, count, since_ns, max(since_ns, int(batch["time_ns"][0])))
        if self.keeper is not None:
            self.keeper.prepare(len(batch["time_ns"]))
        self.ring.append(batch)

    def collect(self) -> bool:
        """Whether numbers were freed. Only between batches: a batch in the making has numbers of its own."""
        full = [table for table in self.tables.values() if table.values.is_full]
        for table in full:
            table.collect(self.ring)
        if full and self.keeper is not None:
            self.keeper.tidy()
        return bool(full)


@lru_cache(maxsize=64)
def _gone(kind: int, record: str) -> bytes:
    """What is left to say of a request that is not there any more."""
    flow = flow_pb2.Flow()
    flow.l7.type = kind  # type: ignore[assignment]  # enumerations are open
    if record:
        getattr(flow.l7, record).SetInParent()
    return flow.SerializeToString()
