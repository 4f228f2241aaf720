"""Pods as ends of services: ports of the host that lead to them, and whether redirects may lead to them."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from cplane.domain.labels import K8S, NAMESPACE_KEY, Label, LabelSet
from cplane.domain.localredirect import LocalPod
from cplane.domain.policy.document import Fields, Place
from cplane.domain.ports import PORT_MAX, Protocol
from cplane.domain.service import (
    ANY_ADDRESS,
    Backend,
    Backends,
    Frontend,
    FrontendKind,
    Service,
    ServiceName,
    canonical_address,
    family_of,
)
from cplane.k8s.lb_reading import Here, Notes, any_address, check_name, note, port_number
from cplane.k8s.objects import field, items, text
from cplane.k8s.pods import Pod, pod_of, protocol_of

SOURCE: Final = "pod:"
"""Begins sources of backends that are pods, by their names."""

_PORT: Final = Fields(frozenset({"containerPort", "hostIP", "hostPort", "name", "protocol"}))
_ANY: Final = dict(zip((4, 6), ANY_ADDRESS, strict=True))


class LbPod(NamedTuple):
    """A pod, whether it is on this node and ready, and the services of its host's ports."""

    namespace: str
    labels: LabelSet
    local: LocalPod | None
    services: tuple[Service, ...]
    backends: tuple[Backends, ...]


class _HostPort(NamedTuple):
    """A port of the host and the one behind it; `address` is empty for all addresses of the node."""

    place: Place
    address: str
    port: int
    protocol: Protocol
    target: int


def read_pod(namespace: str, name: str, place: Place, here: Here, notes: Notes) -> LbPod:
    """What a pod means to services. A port of the host is a service `POD:host-port:PORT`."""
    for step in ("name", "namespace"):
        check_name(field(place, "metadata", step), step)
    pod = pod_of(namespace, name, place)
    labels = LabelSet(
        (*(Label(key, K8S, value) for key, value in pod.labels.items()), Label(NAMESPACE_KEY, K8S, namespace))
    )
    addresses = tuple(dict.fromkeys(map(canonical_address, pod.addresses)))
    ports = list(_host_ports(place, here, notes))
    running = _is_running(place) and bool(addresses)
    if ports and not running and not pod.ended:
        note(notes, ports[0].place, "the pod does not run, or has no status.podIP: its ports are not served")
    local = None
    if running and here.has(pod.node) and not pod.host_network and _is_ready(place):
        local = LocalPod(name, addresses, pod.node)
    if not running or not here.has(pod.node) or pod.host_network:
        ports = []  # on the network of its host, a pod has the port itself
    services, backends = _services(pod, ports, addresses)
    return LbPod(namespace, labels, local, services, backends)


def _services(
    pod: Pod, ports: list[_HostPort], addresses: tuple[str, ...]
) -> tuple[tuple[Service, ...], tuple[Backends, ...]]:
    families = sorted({family_of(one) for one in addresses})
    frontends: dict[int, dict[Frontend, None]] = {}
    backends: dict[int, dict[Backend, None]] = {}
    for one in ports:
        for address in (one.address,) if one.address else [_ANY[family] for family in families]:
            made = Frontend(address, one.port, one.protocol, FrontendKind.HOST_PORT)
            if made in frontends.setdefault(one.port, {}):
                one.place.refuse(f"{made} stands there already: keep one of them")
            frontends[one.port][made] = None
            ends = (Backend(held, one.target, one.protocol, node=pod.node) for held in addresses)
            backends.setdefault(one.port, {}).update((end, None) for end in ends if end.family == made.family)
    names = {port: ServiceName(pod.namespace, f"{pod.name}:host-port:{port}") for port in frontends}
    return (
        tuple(Service(name=names[port], frontends=tuple(held)) for port, held in frontends.items()),
        tuple(Backends(names[port], f"{SOURCE}{pod.name}", tuple(held)) for port, held in backends.items()),
    )


def _host_ports(place: Place, here: Here, notes: Notes) -> Iterator[_HostPort]:
    low, high = here.node_ports
    for containers in ("containers", "initContainers"):
        for container in items(field(place, "spec", containers)):
            if containers == "initContainers" and text(field(container, "restartPolicy")) != "Always":
                continue
            for one in items(field(container, "ports")):
                fields = one.fields(_PORT) or {}
                port = _host_port(fields)
                if not port:
                    continue
                target, protocol = port_number(one, fields, "containerPort"), protocol_of(fields.get("protocol"))
                address = any_address(fields["hostIP"]) if text(fields.get("hostIP")) else ""
                if low <= port <= high:
                    note(notes, fields["hostPort"], f"{port} is one of the node ports {low}-{high}: it is not served")
                elif address and ip_address(address).is_loopback:
                    note(notes, fields["hostIP"], "a loopback address is not served: it is another one in each pod")
                elif target and protocol is not None:
                    yield _HostPort(one, "" if address in ANY_ADDRESS else address, port, protocol, target)


def _host_port(fields: Mapping[str, Place]) -> int:
    return (fields["hostPort"].integer(0, PORT_MAX) or 0) if "hostPort" in fields else 0


def _is_running(place: Place) -> bool:
    deleted = field(place, "metadata", "deletionTimestamp")
    return deleted is None and text(field(place, "status", "phase"), "Running") == "Running"


def _is_ready(place: Place) -> bool:
    """Whether it says so; one that says nothing about it is."""
    said = [
        text(field(one, "status")) == "True"
        for one in items(field(place, "status", "conditions"))
        if text(field(one, "type")) == "Ready"
    ]
    return all(said)
