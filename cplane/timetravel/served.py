"""Where connections to a service's address go: the question about it is one about its backends.

Who serves them says the projection that fills the kernel's tables. It is given what concerns the address, and no more.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

import msgspec

from cplane.domain.identity import Reserved
from cplane.domain.service import ANY_ADDRESS, PROTOCOLS, ServiceName, shown
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated
from cplane.events.node import NodeJoined
from cplane.events.service import (
    BackendsChanged,
    BackendStateChanged,
    FrontendRecord,
    ServiceOptionsChanged,
    ServiceUpserted,
)
from cplane.projections.addresses import packed, unpacked
from cplane.projections.services import RANGES, SERVICES, SKIPS, SLOTS, ServiceProjection
from cplane.timetravel.traffic import Address, Question
from cplane.timetravel.verdicts import End
from datapath.maps.lb import (
    BENEATH,
    BackendEntry,
    LbFlags,
    LbKind,
    ServiceEntry,
    ServiceKey,
    SkipKey,
    SlotKey,
)

JUDGED_MAX: Final = 16
"""Backends that are judged for one question, of those that may differ."""


class ServedShown(msgspec.Struct, frozen=True, kw_only=True):
    """The service whose address was asked for, and its `frontend` there.

    `backend` is the one that was judged: of `backends`, which take connections, the worst off. Pods of one policy and
    one identity fare alike, so one of them stands for all; `left` counts those that nobody stood for. Empty: nobody
    takes the connections, and `refusal` says why.
    """

    name: str
    frontend: str
    backend: str
    backends: int
    left: int
    refusal: str = ""


class Served(NamedTuple):
    """A service, its frontend, how many backends take connections, and the questions about those that may differ.

    Of more than JUDGED_MAX `left` says how many there are. Without any `refusal` says what becomes of connections.
    """

    name: str
    frontend: str
    backends: int
    questions: tuple[Question, ...]
    left: int
    refusal: str

    def shown(self, judged: Question) -> ServedShown:
        """The service, where the question about one of its backends was judged, or nobody takes the connections."""
        backend = f"{judged.destination}" if self.questions else ""
        if backend and isinstance(judged.port, int):
            backend = shown(backend, judged.port, judged.protocol)
        return ServedShown(
            name=self.name,
            frontend=self.frontend,
            backend=backend,
            backends=self.backends,
            left=self.left,
            refusal=self.refusal,
        )


def may_be_served(question: Question) -> bool:
    """Whether what is asked for may be a frontend of a service."""
    numbered = isinstance(question.port, int) and question.protocol in PROTOCOLS
    return numbered and isinstance(question.destination, Address)


def claimants(
    facts: Iterable[Event], question: Question, destination: End
) -> dict[ServiceName, tuple[FrontendRecord, ...]]:
    """The services that have what is asked for as a frontend, with those of their frontends that are meant."""
    if not may_be_served(question):
        return {}
    places = [*_places(question, destination)]
    wanted = [(place, question.port, question.protocol.name) for place in places]
    found = {}
    for one in facts:
        if isinstance(one, ServiceUpserted):
            fronts = tuple(front for front in one.frontends if (front.address, front.port, front.protocol) in wanted)
            if fronts:
                found[ServiceName(one.namespace, one.name)] = fronts
    return found


def _places(question: Question, destination: End) -> Iterator[str]:
    """The addresses under which the destination may be served: ports of the node are at any of its own."""
    assert isinstance(question.destination, Address), "it was looked at before"
    yield question.destination.text
    if destination.identity == Reserved.HOST:
        yield ANY_ADDRESS[":" in question.destination.text]


def served(facts: Iterable[Event], question: Question, source: End, destination: End) -> Served | None:
    """Who serves what is asked for; None where no service does, or none of this node's.

    The ends are those that the question finds: whoever comes from outside is not served by every service.
    """
    kept = list(facts)
    claimed = claimants(kept, question, destination)
    if not claimed:
        return None
    assert isinstance(question.destination, Address), "others are not claimed"
    places = [*_places(question, destination)]
    tables = ServiceProjection()
    tables.gather(one for one in kept if _concerns(one, claimed))
    pods = (one for one in kept if isinstance(one, EndpointCreated))
    endpoints = {address: one for one in pods for address in (one.ipv4, one.ipv6) if address}
    cookie = endpoints[source.address].netns_cookie if source.address in endpoints else 0
    found = next((held for place in places if (held := _entry(tables, place, question, cookie)) is not None), None)
    if found is None:
        return None
    outside = not source.endpoint and source.identity != Reserved.HOST
    if outside and not found.flags & LbFlags.OUTSIDE:
        return None
    backends = _backends(tables, found, outside=outside)
    refusal = _refusal(tables, found, source, backends, outside=outside)
    unlike: dict[object, Question] = {}
    for backend in () if refusal else backends:
        address = str(unpacked(backend.family, backend.addr))
        pod = endpoints.get(address)
        kind = (pod.identity, pod.policy, pod.audit, backend.port) if pod is not None else (address, backend.port)
        unlike.setdefault(kind, replace(question, destination=Address(address), port=backend.port))
    whose, front = next((name, front) for name, fronts in claimed.items() for front in fronts if front.id == found.id)
    place = shown(question.destination.text, front.port, front.protocol)
    questions = tuple(unlike.values())
    left = len(questions[JUDGED_MAX:])
    return Served(str(whose), place, len(backends), questions[:JUDGED_MAX], left, refusal)


def _concerns(one: Event, claimed: Iterable[ServiceName]) -> bool:
    match one:
        case ServiceUpserted(namespace=namespace, name=name) | BackendsChanged(namespace=namespace, service=name):
            return ServiceName(namespace, name) in claimed
        case NodeJoined() | EndpointCreated() | ServiceOptionsChanged() | BackendStateChanged():
            return True
        case _:
            return False


def _entry(tables: ServiceProjection, place: str, question: Question, cookie: int) -> ServiceEntry | None:
    """The row that the kernel finds for the place, as it does: see `sock_service` in bpf_sock.c."""
    family, address = packed(place)
    assert isinstance(question.port, int), "it was looked at before"
    key = ServiceKey(address, question.port, int(question.protocol), family)
    rows = tables.table(SERVICES)
    found: ServiceEntry | None = rows.get(key)
    skips = found is not None and found.flags & LbFlags.SKIP_BACKENDS
    if found is not None and skips and SkipKey(cookie, found.id) in tables.table(SKIPS):
        found = rows.get(key._replace(family=family | BENEATH))
    return found


def _backends(tables: ServiceProjection, entry: ServiceEntry, *, outside: bool) -> list[BackendEntry]:
    within = LbFlags.EXTERNAL_LOCAL if outside else LbFlags.INTERNAL_LOCAL
    local = entry.kind is LbKind.LOCAL_REDIRECT or bool(entry.flags & within)
    first, count = (entry.local_first, entry.local_count) if local else (1, entry.slots)
    slots = tables.table(SLOTS)
    return [slots[SlotKey(entry.id, number)] for number in range(first, first + count)]


def _refusal(
    tables: ServiceProjection, entry: ServiceEntry, source: End, backends: Sequence[BackendEntry], *, outside: bool
) -> str:
    """What becomes of connections that no backend takes; empty: one does. As `nodeport_ask` in nodeport.h has it."""
    if outside and entry.flags & LbFlags.SOURCE_RANGES and source.address:
        client = ip_address(source.address)
        if any(client in one for one in _ranges(tables, entry)) == bool(entry.flags & LbFlags.SOURCE_DENY):
            return f"clients at {source.address} are not served, by its source ranges: their packets are dropped"
    if backends:
        return ""
    fate = "dropped" if outside and entry.flags & LbFlags.DROP else "refused"
    return f"no backend takes connections: they are {fate} before a policy is asked"


def _ranges(tables: ServiceProjection, entry: ServiceEntry) -> Iterator[IPv4Network | IPv6Network]:
    for one in tables.table(RANGES):
        if one.service_id == entry.id:
            yield ip_network((unpacked(one.family, one.addr), one.prefix_bits))
