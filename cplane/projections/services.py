"""The tables of services: frontends, the slots that lead to their backends, Maglev tables, affinity, source ranges.

Everything that is asked of a service follows from the service, its backends and what is true of the node. So a fact
makes the rows of the services anew that it concerns, and only rows that differ are written.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cplane.domain import maglev
from cplane.domain.service import (
    PROTOCOLS,
    Algorithm,
    BackendState,
    Forwarding,
    FrontendKind,
    ServiceName,
    ServiceOptions,
    leads_to,
)
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated, EndpointDeleted
from cplane.events.node import NodeJoined
from cplane.events.service import (
    BackendRecord,
    BackendsChanged,
    BackendStateChanged,
    FrontendRecord,
    ServiceDeleted,
    ServiceOptionsChanged,
    ServiceUpserted,
)
from cplane.projections.addresses import packed, prefix_key
from cplane.projections.delta import Delta, plan
from datapath.maps.lb import (
    BACKEND_LOCAL,
    BENEATH,
    CHUNK,
    BackendEntry,
    BackendKey,
    LbFlags,
    LbKind,
    MaglevChunk,
    MaglevKey,
    MemberKey,
    Present,
    RangeKey,
    ServiceEntry,
    ServiceKey,
    SkipKey,
    SlotKey,
)

BACKENDS: Final = "lb_backends"
SLOTS: Final = "lb_slots"
MEMBERS: Final = "lb_members"
SKIPS: Final = "lb_skips"
RANGES: Final = "lb_ranges"
MAGLEV: Final = "lb_maglev"
SERVICES: Final = "lb_services"

TABLES: Final = (BACKENDS, SLOTS, MEMBERS, SKIPS, RANGES, MAGLEV, SERVICES)
"""In the order in which they are written: what a packet meets first comes last."""

_KINDS: Final = {
    FrontendKind.CLUSTER_IP: LbKind.CLUSTER_IP,
    FrontendKind.NODE_PORT: LbKind.NODE_PORT,
    FrontendKind.EXTERNAL_IPS: LbKind.EXTERNAL_IP,
    FrontendKind.LOAD_BALANCER: LbKind.LOAD_BALANCER,
    FrontendKind.HOST_PORT: LbKind.HOST_PORT,
    FrontendKind.LOCAL_REDIRECT: LbKind.LOCAL_REDIRECT,
}
_PRESENT: Final = Present()
_PROTOCOLS: Final = {one.name: int(one) for one in PROTOCOLS}

AnyDelta = Delta[Any, Any]  # each table has row types of its own
_Rows = dict[str, dict[Any, Any]]


class _Place(NamedTuple):
    """Where a backend is named."""

    service: ServiceName
    source: str


@dataclass(slots=True)
class _Backend:
    """A backend as all places that name it say, and the row that they share."""

    address: str
    state: BackendState | None = None  # that was set, whatever they say
    entry: BackendEntry | None = None
    places: dict[_Place, BackendRecord] = field(default_factory=dict)


class ServiceProjection:
    """Rows of `cplane_lb_*` that the agent writes, by table."""

    def __init__(self) -> None:
        self._options: ServiceOptionsChanged | ServiceOptions = ServiceOptions()
        self._node = ""
        self._addresses: dict[int, tuple[str, ...]] = {}  # of endpoints
        self._netns: dict[str, int] = {}  # address → cookie
        self._local: set[str] = set()
        self._services: dict[ServiceName, ServiceUpserted] = {}
        self._sources: dict[ServiceName, dict[str, tuple[BackendRecord, ...]]] = {}
        self._backends: dict[int, _Backend] = {}
        self._at: dict[str, set[int]] = {}  # address → backends
        self._claims: dict[ServiceKey, dict[bool, ServiceEntry]] = {}  # with True: redirected to this node
        self._rows: dict[ServiceName, _Rows] = {}
        self._tables: _Rows = {name: {} for name in TABLES}

    def table(self, name: str) -> Mapping[Any, Any]:
        """All rows of a table."""
        return self._tables[name]

    def gather(self, events: Iterable[Event]) -> None:
        """As `apply` for each in order, but the rows of what is only added are made once for all of it."""
        names: dict[ServiceName, None] = {}
        backends: dict[int, None] = {}
        for event in events:
            match event:
                case ServiceUpserted() if (name := ServiceName(event.namespace, event.name)) not in self._services:
                    self._services[name] = event
                    names[name] = None
                case BackendsChanged() if self._is_news(event):
                    backends |= self._taken_in(event)
                case _:
                    self._renew(tuple(names), backends)
                    names, backends = {}, {}
                    self.apply(event)
        self._renew(tuple(names), backends)

    def _is_news(self, event: BackendsChanged) -> bool:
        """Whether nothing was known of the source."""
        return event.source not in self._sources.get(ServiceName(event.namespace, event.service), {})

    def apply(self, event: Event) -> dict[str, AnyDelta]:
        """What the event changes, by table."""
        match event:
            case ServiceUpserted():
                name = ServiceName(event.namespace, event.name)
                self._services[name] = event
                return self._renew((name,))
            case ServiceDeleted():
                name = ServiceName(event.namespace, event.name)
                self._services.pop(name, None)
                return self._renew((name,))
            case BackendsChanged():
                return self._sources_changed(event)
            case BackendStateChanged():
                return self._state_changed(event)
            case ServiceOptionsChanged():
                self._options = event
                return self._renew(tuple(self._services))
            case NodeJoined() if event.local:
                changed, self._node = event.name != self._node, event.name
                return self._renew(tuple(self._services), tuple(self._backends)) if changed else {}
            case EndpointCreated() | EndpointDeleted():
                return self._endpoint_changed(event)
            case _:
                return {}

    def _sources_changed(self, event: BackendsChanged) -> dict[str, AnyDelta]:
        return self._renew((ServiceName(event.namespace, event.service),), self._taken_in(event))

    def _taken_in(self, event: BackendsChanged) -> dict[int, None]:
        """The backends of a source are known; those that it named before and names now."""
        name = ServiceName(event.namespace, event.service)
        place = _Place(name, event.source)
        sources = self._sources.setdefault(name, {})
        touched: dict[int, None] = {}
        for one in sources.pop(event.source, ()):
            touched[one.id] = None
            self._backends[one.id].places.pop(place, None)
        for one in event.backends:
            touched[one.id] = None
            self._backends.setdefault(one.id, _Backend(one.address)).places[place] = one
            self._at.setdefault(one.address, set()).add(one.id)
        if event.backends:
            sources[event.source] = event.backends
        elif not sources:
            del self._sources[name]
        return touched

    def _state_changed(self, event: BackendStateChanged) -> dict[str, AnyDelta]:
        held = self._backends.get(event.backend)
        if held is None:
            return {}
        held.state = None if event.state == BackendState.ACTIVE else BackendState(event.state)
        return self._renew(tuple(dict.fromkeys(place.service for place in held.places)))

    def _endpoint_changed(self, event: EndpointCreated | EndpointDeleted) -> dict[str, AnyDelta]:
        if isinstance(event, EndpointCreated):
            addresses = self._addresses[event.endpoint] = tuple(a for a in (event.ipv4, event.ipv6) if a)
            self._local.update(addresses)
            self._netns.update(dict.fromkeys(addresses, event.netns_cookie))
        else:
            addresses = self._addresses.pop(event.endpoint, ())
            self._local.difference_update(addresses)
            for address in addresses:
                self._netns.pop(address, None)
        touched = sorted({number for address in addresses for number in self._at.get(address, ())})
        names = {place.service: None for number in touched for place in self._backends[number].places}
        return self._renew(tuple(names), touched) if touched else {}

    def _renew(self, names: Sequence[ServiceName], backends: Iterable[int] = ()) -> dict[str, AnyDelta]:
        """The rows of these services and backends as they are now."""
        before: _Rows = {}
        now: _Rows = {}
        concerned = dict.fromkeys(names)
        for number in backends:
            self._renew_backend(number, before, now, concerned)
        for name in concerned:
            _add(before, self._rows.pop(name, {}))
            held = self._services.get(name)
            if held is not None:
                rows = self._rows[name] = self._rows_of(name, held)
                _add(now, rows)
        if SERVICES in before or SERVICES in now:
            self._settle(before.setdefault(SERVICES, {}), now.setdefault(SERVICES, {}))
        deltas: dict[str, AnyDelta] = {}
        for table in TABLES:
            was, rows = before.get(table, {}), now.get(table, {})
            delta = plan(rows, was) if was else Delta(was, rows)
            if delta:
                deltas[table] = delta
                held_rows = self._tables[table]
                held_rows.update(delta.after)
                for key in delta.before:
                    if key not in delta.after:
                        del held_rows[key]
        return deltas

    def _renew_backend(self, number: int, before: _Rows, now: _Rows, concerned: dict[ServiceName, None]) -> None:
        """The row of a backend; if it is another one now, that concerns the services whose slots have it."""
        held, key = self._backends[number], BackendKey(number)
        was = held.entry
        if was is not None:
            before.setdefault(BACKENDS, {})[key] = was
        record = next(iter(held.places.values()), None)
        if record is None:
            del self._backends[number]
            self._at[held.address].discard(number)
            if not self._at[held.address]:
                del self._at[held.address]
            return
        family, address = packed(record.address)
        flags = BACKEND_LOCAL if any(map(self._is_local, held.places.values())) else 0
        entry = BackendEntry(address, record.port, _PROTOCOLS[record.protocol], family, number, flags)
        if entry != was:
            held.entry = entry
            if was is not None:
                concerned.update(dict.fromkeys(place.service for place in held.places))
        now.setdefault(BACKENDS, {})[key] = held.entry

    def _settle(self, before: dict[Any, Any], now: dict[Any, Any]) -> None:
        """Of two that claim one frontend the one counts that redirects to this node."""
        for rows, present in ((before, False), (now, True)):
            for (key, redirect), entry in list(rows.items()):
                claims = self._claims.setdefault(key, {})
                if present:
                    claims[redirect] = entry
                else:
                    claims.pop(redirect, None)
        keys = {key for key, _ in (*before, *now)}
        before.clear()
        now.clear()
        table = self._tables[SERVICES]
        for key in keys:
            beneath = key._replace(family=key.family | BENEATH)
            before.update((one, table[one]) for one in (key, beneath) if one in table)
            claims = self._claims[key]
            redirect, own = claims.get(True), claims.get(False)
            if redirect is not None:
                now[key] = redirect
                if own is not None and redirect.flags & LbFlags.SKIP_BACKENDS:
                    now[beneath] = own
            elif own is not None:
                now[key] = own
            else:
                del self._claims[key]

    def _rows_of(self, name: ServiceName, service: ServiceUpserted) -> _Rows:
        rows: _Rows = {}
        named = self._named(name)
        tables: dict[tuple[tuple[int, int], ...], bytes] = {}
        for front in service.frontends:
            spread, local = self._candidates(front, named, topology=service.topology)
            slots = self._slots(front, service, spread, local, rows)
            if slots.flags & LbFlags.SKIP_BACKENDS:
                cookies = {self._netns.get(one.address, 0) for one in named} - {0}
                rows.setdefault(SKIPS, {}).update((SkipKey(cookie, front.id), _PRESENT) for cookie in cookies)
            if slots.flags & LbFlags.MAGLEV:
                chosen = local if slots.flags & LbFlags.EXTERNAL_LOCAL else spread
                key = tuple((one.id, one.weight) for one in chosen)
                if key not in tables:
                    tables[key] = self._maglev(chosen)
                rows.setdefault(MAGLEV, {}).update(_chunks(front.id, tables[key]))
        return rows

    def _named(self, name: ServiceName) -> list[BackendRecord]:
        """The backends of a service in the order of their numbers, each port name once."""
        found: dict[tuple[int, str], BackendRecord] = {}
        for _, records in sorted(self._sources.get(name, {}).items()):
            for one in records:
                found.setdefault((one.id, one.port_name), one)
        return [found[key] for key in sorted(found)]

    def _candidates(
        self, front: FrontendRecord, named: Sequence[BackendRecord], *, topology: bool
    ) -> tuple[list[BackendRecord], list[BackendRecord]]:
        """Who takes new connections: of all, those of other nodes first; and of this node's."""
        mine = [one for one in named if one.weight and leads_to(front, one)]
        zone = self._options.zone
        if topology and zone and all(one.zones for one in mine):
            mine = [one for one in mine if zone in one.zones] or mine
        spread, local = self._usable(mine), [one for one in mine if self._is_local(one)]
        if local:
            local = self._usable(local)
            spread = sorted(spread, key=lambda one: (self._is_local(one), one.id))
        return spread, local

    def _usable(self, records: Sequence[BackendRecord]) -> list[BackendRecord]:
        """Those that are active, and if there are none those that are terminating."""
        by_state: dict[str, list[BackendRecord]] = {}
        for one in records:
            set_ = self._backends[one.id].state
            state = one.state if set_ is None or one.state == BackendState.TERMINATING else set_.value
            by_state.setdefault(state, []).append(one)
        return by_state.get(BackendState.ACTIVE.value) or by_state.get(BackendState.TERMINATING.value, [])

    def _is_local(self, record: BackendRecord) -> bool:
        return record.node == self._node if record.node else record.address in self._local

    def _slots(
        self,
        front: FrontendRecord,
        service: ServiceUpserted,
        spread: Sequence[BackendRecord],
        local: Sequence[BackendRecord],
        rows: _Rows,
    ) -> ServiceEntry:
        """Adds the rows of a frontend, but for its Maglev table."""
        numbers = {one.id for one in spread}
        within = bool(local) and all(one.id in numbers for one in local)
        order = [*spread, *(() if within else local)]
        first = len(order) - len(local) + 1
        backends = self._backends
        if order:
            rows.setdefault(SLOTS, {}).update(
                (SlotKey(front.id, slot), backends[one.id].entry) for slot, one in enumerate(order, 1)
            )
        if service.affinity_s:
            rows.setdefault(MEMBERS, {}).update((MemberKey(front.id, one.id), _PRESENT) for one in order)
        kind = _KINDS[FrontendKind(front.kind)]
        flags = self._flags(service, kind, front.protocol)
        if flags & LbFlags.SOURCE_RANGES:
            for text in service.source_ranges:
                prefix = prefix_key(text)
                key = RangeKey(front.id, prefix.family, prefix.addr, prefix.prefix_bits)
                rows.setdefault(RANGES, {})[key] = _PRESENT
        family, address = packed(front.address)
        place = ServiceKey(address, front.port, _PROTOCOLS[front.protocol], family)
        entry = ServiceEntry(service.affinity_s, front.id, len(spread), first if local else 0, len(local), flags, kind)
        rows.setdefault(SERVICES, {})[place, kind is LbKind.LOCAL_REDIRECT] = entry
        return entry

    def _flags(self, service: ServiceUpserted, kind: LbKind, protocol: str) -> LbFlags:
        options = self._options
        forwarding = service.forwarding or options.forwarding
        outside = kind is not LbKind.CLUSTER_IP or options.external_cluster_ip
        ranged = kind is LbKind.LOAD_BALANCER and bool(service.source_ranges)
        return _flags_of(
            service.external_local and kind is not LbKind.CLUSTER_IP,
            service.internal_local and kind is LbKind.CLUSTER_IP,
            outside and (service.algorithm or options.algorithm) == Algorithm.MAGLEV,
            outside and (forwarding == Forwarding.DSR or (forwarding == Forwarding.HYBRID and protocol == "TCP")),
            ranged,
            ranged and service.ranges_deny,
            service.drop,
            outside,
            service.skip_backends and kind is LbKind.LOCAL_REDIRECT,
        )

    def _maglev(self, chosen: Sequence[BackendRecord]) -> bytes:
        return maglev.table(
            [(one.id, maglev.text_of(one.address, one.port, one.protocol), one.weight) for one in chosen],
            self._options.maglev_size,
            maglev.parse_seed(self._options.maglev_seed).murmur,
        )


@lru_cache
def _flags_of(*wanted: bool) -> LbFlags:
    """The flags, in the order of their numbers, that are wanted."""
    return LbFlags(sum(flag for flag, present in zip(LbFlags, wanted, strict=True) if present))


def _add(rows: _Rows, more: _Rows) -> None:
    for table, some in more.items():
        rows.setdefault(table, {}).update(some)


def _chunks(service_id: int, table: bytes) -> Iterator[tuple[MaglevKey, MaglevChunk]]:
    size = 4 * CHUNK
    for chunk, at in enumerate(range(0, len(table), size)):
        yield MaglevKey(service_id, chunk), MaglevChunk(table[at : at + size].ljust(size, b"\0"))
