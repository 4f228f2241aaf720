"""EndpointSlices and Endpoints: the backends of services, each with its state, weight, node and zones."""

from collections.abc import Container, Iterator
from typing import Annotated, Final, NamedTuple

import msgspec

from cplane.domain.policy.document import OBJECTS, Fields, Place, shown
from cplane.domain.ports import PORT_MAX, Protocol
from cplane.domain.service import WEIGHT_MAX, Backend, Backends, BackendState, ServiceName, family_of
from cplane.k8s.lb_reading import (
    CILIUM_PREFIX,
    Notes,
    booleans,
    check_name,
    choice,
    note,
    only,
    read_metadata,
    text_in,
    usable_address_of,
)
from cplane.k8s.objects import items, text, texts
from cplane.k8s.pods import protocol_of
from cplane.k8s.services import SERVICE_LABEL

ENDPOINTS_PREFIX: Final = "endpoints:"
"""Begins sources of backends that are no EndpointSlices, whose names have no colon."""

_WEIGHT: Final = f"{CILIUM_PREFIX}weight"
_FAMILIES: Final = {"IPv4": 4, "IPv6": 6, "FQDN": 0}
_SLICE: Final = Fields(frozenset({"apiVersion", "kind", "metadata", "addressType", "endpoints", "ports"}))
_PORT: Final = Fields(frozenset({"name", "port", "protocol", "appProtocol"}))
_ENDPOINT: Final = Fields(
    frozenset({"addresses", "conditions", "hints", "hostname", "nodeName", "targetRef", "zone", "deprecatedTopology"}),
    {"topology": "removed from Kubernetes: write nodeName and zone"},
)
_CONDITIONS: Final = Fields(frozenset({"ready", "serving", "terminating"}))
_HINTS: Final = Fields(frozenset({"forZones", "forNodes"}))
_HINT: Final = Fields(frozenset({"name"}))
_REFERENCE: Final = Fields(
    frozenset({"apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid"})
)
_ENDPOINTS: Final = Fields(frozenset({"apiVersion", "kind", "metadata", "subsets"}))
_SUBSET: Final = Fields(frozenset({"addresses", "notReadyAddresses", "ports"}))
_ADDRESS: Final = Fields(frozenset({"ip", "hostname", "nodeName", "targetRef"}))


class _Port(NamedTuple):
    """A port of all endpoints of a slice."""

    name: str
    protocol: Protocol
    number: int


class _Collected:
    """Backends, each place once for each port name."""

    def __init__(self, ports: list[_Port], weight: int, family: int = 0) -> None:
        self._ports, self._weight, self.family = ports, weight, family
        self._seen: set[tuple[str, int, Protocol, str]] = set()
        self.backends: list[Backend] = []

    def add(self, written: object, state: BackendState, node: str, zones: tuple[str, ...]) -> None:
        """One more address with all ports. Raises ValueError with what is wrong with it."""
        address = usable_address_of(written)
        if self.family and family_of(address) != self.family:
            raise ValueError(f"{address} is not IPv{self.family}, which addressType says: make a slice for each family")
        if not self._weight and state is BackendState.ACTIVE:
            state = BackendState.MAINTENANCE
        for name, protocol, number in self._ports:
            key = (address, number, protocol, name)
            made = Backend(*key, state, self._weight, node, zones)
            if key in self._seen:
                raise ValueError(f"{made} stands there already: keep one of them")
            self._seen.add(key)
            self.backends.append(made)


def read_slice(
    source: str, namespace: str, place: Place, unready: Container[ServiceName], notes: Notes
) -> Backends | None:
    """What a slice knows of a service; None where it belongs to none.

    Endpoints of a service in `unready` are used before they are ready. Others that are not are in maintenance: their
    connections go on, as do those of endpoints that are ending and do not serve any more.
    """
    fields = place.fields(_SLICE) or {}
    metadata = read_metadata(place, fields)
    labels = texts(metadata.get("labels"))
    if SERVICE_LABEL in labels:
        check_name(metadata["labels"].child(SERVICE_LABEL, labels[SERVICE_LABEL]), "name of a service")
    if "addressType" not in fields:
        place.refuse(f"addressType is missing: write {', '.join(_FAMILIES)}")
    family = _FAMILIES[choice(fields.get("addressType"), _FAMILIES, "IPv4")]
    name = ServiceName(namespace, labels.get(SERVICE_LABEL, ""))
    ports, weight, endpoints = _ports(fields.get("ports"), notes), _weight(metadata), fields.get("endpoints")
    disregard = name in unready
    found = _plain(endpoints, _Collected(ports, weight, family), disregard=disregard)
    if found is None:
        found = _Collected(ports, weight, family)
        for one in items(endpoints):
            if only(one, _ENDPOINT):
                _endpoint(one, found, disregard=disregard)
    if not family:
        note(notes, fields["addressType"], "names are not resolved here: these endpoints are not used")
    if not name.name:
        note(notes, metadata.get("labels", place), f"no label {SERVICE_LABEL}: these endpoints are of no service")
        return None
    return Backends(name, source, tuple(found.backends))


class _PlainConditions(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Conditions that are right; None: nothing is said."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _PlainReference(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """A reference that is right; nothing of it is read."""

    api_version: object = None
    field_path: object = None
    kind: object = None
    name: object = None
    namespace: object = None
    resource_version: object = None
    uid: object = None


class _PlainEndpoint(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """An endpoint that is right, as most are; one with hints is read field by field."""

    addresses: Annotated[list[str], msgspec.Meta(min_length=1)]
    conditions: _PlainConditions | None = None
    node_name: str | None = None
    target_ref: _PlainReference | None = None
    hostname: object = None
    zone: object = None
    deprecated_topology: object = None


class _PlainEndpoints(msgspec.Struct, gc=False):
    """All endpoints of a slice."""

    endpoints: list[_PlainEndpoint]


def _plain(place: Place | None, found: _Collected, *, disregard: bool) -> _Collected | None:
    """What `found` has with these endpoints; None: something of them may be wrong, and is said by who reads places.

    There may be a hundred thousand, and nearly always there is nothing to say.
    """
    if place is None or not found.family:
        return None
    try:
        read = msgspec.convert({"endpoints": place.value}, _PlainEndpoints)
        for one in read.endpoints:
            said = one.conditions
            state = BackendState.ACTIVE
            if said is not None and not disregard:
                state = _state_of(said.ready, said.serving, said.terminating)
            for written in one.addresses:
                found.add(written, state, one.node_name or "", ())
    except ValueError:
        return None
    return found


def _endpoint(place: Place, found: _Collected, *, disregard: bool) -> None:
    """One more endpoint, field by field."""
    fields = place.value
    assert isinstance(fields, OBJECTS), "it was looked at before"
    reference, said, hints = fields.get("targetRef"), fields.get("conditions"), fields.get("hints")
    if reference is not None:
        only(place.child("targetRef", reference), _REFERENCE)
    state = _state(place.child("conditions", said)) if said is not None else BackendState.ACTIVE
    zones = _zones(place.child("hints", hints)) if hints is not None else ()
    node = text_in(place, "nodeName")
    if disregard:
        state = BackendState.ACTIVE
    addresses = fields.get("addresses")
    if not addresses:
        place.child("addresses", addresses).refuse("no address: write at least one")
    elif not isinstance(addresses, list):
        place.child("addresses", addresses).refuse_type("a list")
    elif found.family:
        for index, written in enumerate(addresses):
            try:
                found.add(written, state, node, zones)
            except ValueError as error:
                place.child("addresses", addresses).child(index, written).refuse(str(error))


def _state(place: Place) -> BackendState:
    """The state that conditions mean; what does not say so is ready, and serves if it is ready."""
    said = booleans(place, _CONDITIONS)
    return _state_of(said.get("ready"), said.get("serving"), said.get("terminating"))


def _state_of(ready: bool | None, serving: bool | None, terminating: bool | None) -> BackendState:  # noqa: FBT001  # conditions
    if ready or ready is None:
        return BackendState.ACTIVE
    ends = terminating and serving
    return BackendState.TERMINATING if ends else BackendState.MAINTENANCE


def _zones(place: Place) -> tuple[str, ...]:
    fields = place.fields(_HINTS) or {}
    for one in items(fields.get("forNodes")):
        only(one, _HINT)
    named = [one.fields(_HINT) or {} for one in items(fields.get("forZones"))]
    return tuple(sorted({found for one in named if (found := text(one.get("name")))}))


def _weight(metadata: dict[str, Place]) -> int:
    """Of all endpoints of a slice; a weight of 0 takes them out of service."""
    annotations = dict(metadata["annotations"].entries()) if "annotations" in metadata else {}
    place = annotations.get(_WEIGHT)
    if place is None:
        return 1
    written = place.text()
    plain = written is not None and written.isascii() and written.isdecimal() and len(written) <= 3
    if written is None or not plain or int(written) > WEIGHT_MAX:
        place.refuse(f"{shown(place.value)} is not a weight: write a number from 0 to {WEIGHT_MAX} in quotes")
        return 1
    return int(written)


def _ports(place: Place | None, notes: Notes) -> list[_Port]:
    found: dict[tuple[str, Protocol], _Port] = {}
    for one in items(place):
        fields = one.fields(_PORT)
        if fields is None:
            continue
        name, protocol = text(fields.get("name")), protocol_of(fields.get("protocol"))
        number = fields["port"].integer(1, PORT_MAX) if "port" in fields else None
        if "port" not in fields:
            note(notes, one, "no port, which means all of them: they are not used")
        if protocol is None or not number:
            continue
        if (name, protocol) in found:
            one.refuse(f"a {protocol.name} port {shown(name)} stands there already: give each a name of its own")
        found[name, protocol] = _Port(name, protocol, number)
    return list(found.values())


def read_endpoints(name: ServiceName, place: Place, notes: Notes) -> Backends:
    """What an object of the older kind knows of the service of its name."""
    fields = place.fields(_ENDPOINTS) or {}
    read_metadata(place, fields)
    backends = [found for one in items(fields.get("subsets")) for found in _subset(one, notes)]
    return Backends(name, f"{ENDPOINTS_PREFIX}{name.name}", tuple(dict.fromkeys(backends)))


def _subset(place: Place, notes: Notes) -> Iterator[Backend]:
    fields = place.fields(_SUBSET) or {}
    found = _Collected(_ports(fields.get("ports"), notes), 1)
    for step, state in (("addresses", BackendState.ACTIVE), ("notReadyAddresses", BackendState.MAINTENANCE)):
        for one in items(fields.get(step)):
            inner = one.fields(_ADDRESS) or {}
            if "targetRef" in inner:
                only(inner["targetRef"], _REFERENCE)
            if "ip" not in inner:
                one.refuse("ip is missing: write an address")
                continue
            try:
                found.add(inner["ip"].value, state, text(inner.get("nodeName")), ())
            except ValueError as error:
                inner["ip"].refuse(str(error))
    yield from found.backends
