"""The tables of services: frontends, the slots that lead to their backends, Maglev tables, affinity, source ranges.

Everything that is asked of a service follows from the service, its backends and what is true of the node. So a fact
makes the rows of the services anew that it concerns, and only rows that differ are written.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import count, repeat
from typing import Any, Final, NamedTuple

import msgspec

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
    readiest,
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
from cplane.projections.delta import Composition, Delta, compose, plan
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

# What the classes make of their fields, in a quarter of the time: there may be a hundred thousand of each.
_backend_key: Final[Callable[[tuple[int]], BackendKey]] = partial(tuple.__new__, BackendKey)
_backend_entry: Final[Callable[[tuple[bytes, int, int, int, int, int]], BackendEntry]] = partial(
    tuple.__new__, BackendEntry
)
_slot_key: Final[Callable[[tuple[int, int]], SlotKey]] = partial(tuple.__new__, SlotKey)

AnyDelta = Delta[Any, Any]  # each table has row types of its own
_Rows = dict[str, dict[Any, Any]]


class _Place(NamedTuple):
    """Where a backend is named."""

    service: ServiceName
    source: str


class _Backend(msgspec.Struct, gc=False):
    """A backend as all places that name it say, and the row that they share."""

    address: str
    state: BackendState | None = None  # that was set, whatever they say
    entry: BackendEntry | None = None
    places: dict[_Place, BackendRecord] = {}

    @property
    def services(self) -> Iterable[ServiceName]:
        """The services whose backend it is; one that several sources name, as often."""
        return (place.service for place in self.places)


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
        self._at: dict[str, tuple[int, ...]] = {}  # address → backends, nearly always one
        self._claims: dict[ServiceKey, dict[bool, ServiceEntry]] = {}  # with True: redirected to this node
        self._rows: dict[ServiceName, _Rows] = {}
        self._tables: _Rows = {name: {} for name in TABLES}

    def table(self, name: str) -> Mapping[Any, Any]:
        """All rows of a table."""
        return self._tables[name]

    def gather(self, events: Iterable[Event]) -> dict[str, AnyDelta]:
        """As `apply` for each in order, but the rows of what comes and stays are made once for all of it."""
        made: dict[str, Composition[Any, Any]] = {}
        names: dict[ServiceName, None] = {}
        backends: dict[int, None] = {}
        for event in events:
            match event:
                case ServiceUpserted():
                    name = ServiceName(event.namespace, event.name)
                    self._services[name] = event
                    names[name] = None
                case BackendsChanged() if self._stay(event):
                    names[ServiceName(event.namespace, event.service)] = None
                    backends |= self._taken_in(event)
                case _:
                    if names:
                        compose(made, self._renew(names, backends))
                        names, backends = {}, {}
                    compose(made, self.apply(event))
        if names:
            compose(made, self._renew(names, backends))
        return {name: composition.delta() for name, composition in made.items()}

    def _stay(self, event: BackendsChanged) -> bool:
        """Whether none of the source's backends goes: what was set of one that does is forgotten at once."""
        held = self._sources.get(ServiceName(event.namespace, event.service), {}).get(event.source, ())
        return not held or {one.id for one in held} <= {one.id for one in event.backends}

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
                return self._renew(self._services)
            case NodeJoined() if event.local:
                changed, self._node = event.name != self._node, event.name
                return self._renew(self._services, self._backends) if changed else {}
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
        backends, at = self._backends, self._at
        for one in event.backends:
            number = one.id
            touched[number] = None
            backend = backends.get(number)
            if backend is None:
                backend = backends[number] = _Backend(one.address)
                at[one.address] = (*at.get(one.address, ()), number)
            backend.places[place] = one
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
        return self._renew(dict.fromkeys(held.services))

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
        names = dict.fromkeys(name for number in touched for name in self._backends[number].services)
        return self._renew(names, touched) if touched else {}

    def _renew(self, names: Iterable[ServiceName], backends: Iterable[int] = ()) -> dict[str, AnyDelta]:
        """The rows of these services and backends as they are now."""
        before: _Rows = {}
        now: _Rows = {}
        concerned = dict.fromkeys(names)
        before[BACKENDS], now[BACKENDS] = self._renew_backends(tuple(backends), concerned)
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

    def _renew_backends(
        self, numbers: Iterable[int], concerned: dict[ServiceName, None]
    ) -> tuple[dict[BackendKey, BackendEntry], dict[BackendKey, BackendEntry]]:
        """Their rows before and now; where a backend has another one, that concerns the services whose slots have it.

        There may be a hundred thousand.
        """
        before, now = {}, {}
        for number in numbers:
            held, key = self._backends[number], _backend_key((number,))
            was = held.entry
            if was is not None:
                before[key] = was
            if not held.places:
                self._forget(number, held)
                continue
            flags = 0
            for record in held.places.values():
                if self._is_local(record):
                    flags = BACKEND_LOCAL
            if was is None:
                family, address = packed(record.address)
                entry = _backend_entry((address, record.port, _PROTOCOLS[record.protocol], family, number, flags))
            elif flags != was.flags:
                entry = was._replace(flags=flags)
                concerned.update(dict.fromkeys(held.services))
            else:
                entry = was
            held.entry = now[key] = entry
        return before, now

    def _forget(self, number: int, held: _Backend) -> None:
        """Nobody names the backend any more."""
        del self._backends[number]
        if left := tuple(one for one in self._at[held.address] if one != number):
            self._at[held.address] = left
        else:
            del self._at[held.address]

    def _settle(self, before: dict[Any, Any], now: dict[Any, Any]) -> None:
        """Of two that claim one frontend the one counts that redirects to this node."""
        for rows, present in ((before, False), (now, True)):
            for (key, redirect), entry in list(rows.items()):
                claims = self._claims.setdefault(key, {})
                if present:
                    claims[redirect] = entry
                elif claims.get(redirect) == entry:  # not that of a service that has taken it over
                    del claims[redirect]
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
        """The backends of a service in the order of their numbers, each port name once, as the readiest source says."""
        held = self._sources.get(name, {})
        found = readiest(held[source] for source in sorted(held))
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
            keys = map(_slot_key, zip(repeat(front.id), count(1)))
            rows.setdefault(SLOTS, {}).update(zip(keys, [backends[one.id].entry for one in order], strict=False))
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
