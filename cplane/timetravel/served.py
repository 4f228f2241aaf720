"""Where connections to a service's address go: the question about it is one about its backends.

Who serves them says the projection that fills the kernel's tables. It is given what concerns the address, and no more.
"""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
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
from cplane.projections.addresses import packed
from cplane.projections.services import SERVICES, SKIPS, SLOTS, ServiceProjection
from cplane.timetravel.traffic import Address, Question
from cplane.timetravel.verdicts import End
from datapath.maps.ipcache import FAMILY_V4
from datapath.maps.lb import BENEATH, BackendEntry, LbFlags, LbKind, ServiceEntry, ServiceKey, SkipKey, SlotKey

JUDGED_MAX: Final = 16
"""Backends that are judged for one question, of those that may differ."""


class ServedShown(msgspec.Struct, frozen=True, kw_only=True):
    """The service whose address was asked for, and its `frontend` there.

    `backend` is the one that was judged: of `backends`, which take connections, the worst off. Pods of one policy and
    one identity fare alike, so one of them stands for all; `left` counts those that nobody stood for. Empty: there is
    no backend.
    """

    name: str
    frontend: str
    backend: str
    backends: int
    left: int


class Served(NamedTuple):
    """A service, its frontend, how many backends take connections, and the questions about those that may differ.

    Of more than JUDGED_MAX `left` says how many there are.
    """

    name: str
    frontend: str
    backends: int
    questions: tuple[Question, ...]
    left: int


def served(facts: Iterable[Event], question: Question, source: End, destination: End) -> Served | None:
    """Who serves what is asked for; None where no service does, or none of this node's.

    The ends are those that the question finds: whoever comes from outside is not served by every service.
    """
    name, port, protocol = question.destination, question.port, question.protocol
    if not isinstance(name, Address) or not isinstance(port, int) or protocol not in PROTOCOLS:
        return None
    places = [name.text]
    if destination.identity == Reserved.HOST:
        places.append(ANY_ADDRESS[":" in name.text])
    kept = list(facts)
    claimed: dict[ServiceName, tuple[FrontendRecord, ...]] = {}
    for one in kept:
        if isinstance(one, ServiceUpserted):
            wanted = [(place, port, protocol.name) for place in places]
            fronts = tuple(front for front in one.frontends if (front.address, front.port, front.protocol) in wanted)
            if fronts:
                claimed[ServiceName(one.namespace, one.name)] = fronts
    if not claimed:
        return None
    tables = ServiceProjection()
    tables.gather(one for one in kept if _concerns(one, claimed))
    endpoints = {address: one for one in kept if isinstance(one, EndpointCreated) for address in (one.ipv4, one.ipv6)}
    cookie = endpoints[source.address].netns_cookie if source.address in endpoints else 0
    found = next((held for place in places if (held := _entry(tables, place, question, cookie)) is not None), None)
    if found is None:
        return None
    outside = not source.endpoint and source.identity != Reserved.HOST
    if outside and not found.flags & LbFlags.OUTSIDE:
        return None
    backends = _backends(tables, found, outside=outside)
    unlike: dict[object, Question] = {}
    for backend in backends:
        address = _text(backend)
        pod = endpoints.get(address)
        kind = (pod.identity, pod.policy, pod.audit, backend.port) if pod is not None else (address, backend.port)
        unlike.setdefault(kind, replace(question, destination=Address(address), port=backend.port))
    whose, front = next((name, front) for name, fronts in claimed.items() for front in fronts if front.id == found.id)
    place = shown(name.text, front.port, front.protocol)
    questions = tuple(unlike.values())
    return Served(str(whose), place, len(backends), questions[:JUDGED_MAX], len(questions[JUDGED_MAX:]))


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


def _text(one: BackendEntry) -> str:
    return str(ip_address(one.addr[:4] if one.family == FAMILY_V4 else one.addr))
