"""Services and the endpoints behind them, as manifests say them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from cplane.domain.policy.document import Place
from cplane.domain.ports import PORT_MAX, Protocol
from cplane.k8s.objects import address, field, flag, items, number, text, texts
from cplane.k8s.pods import protocol_of

SERVICE_LABEL: Final = "kubernetes.io/service-name"
_HEADLESS: Final = "None"


class ServicePort(NamedTuple):
    """A port that clients use, and the one behind it: a number, or the name that each pod has for it."""

    name: str
    protocol: Protocol
    port: int
    target: int | str

    def __str__(self) -> str:
        name = f"{self.name}=" if self.name else ""
        return f"{name}{self.port}/{self.protocol.name}"


@dataclass(frozen=True, slots=True)
class Service:
    """A service. `headless`: clients reach the pods themselves. `external_name`: it is a name and nothing else."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    selector: Mapping[str, str]
    ports: tuple[ServicePort, ...]
    addresses: tuple[str, ...]
    headless: bool
    external_name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def port(self, wanted: int | str | None, protocol: Protocol) -> ServicePort | None:
        """The port of that number or name; None is the only one that there is."""
        same = [one for one in self.ports if one.protocol is protocol]
        if wanted is None:
            return same[0] if len(same) == 1 else None
        return next((one for one in same if wanted in {one.port, one.name}), None)


class Endpoint(NamedTuple):
    """Addresses of one backend, and the pod that it is, if it says so (`namespace/name`, otherwise empty)."""

    addresses: tuple[str, ...]
    pod: str


class EndpointSlice(NamedTuple):
    """Backends of a service that may be used; `ports`: by the service port's name, protocol and number."""

    namespace: str
    service: str
    ports: tuple[tuple[str, Protocol, int], ...]
    endpoints: tuple[Endpoint, ...]


def service_of(namespace: str, name: str, place: Place) -> Service:
    """The service that a manifest is."""
    spec = field(place, "spec")
    places = [field(spec, "clusterIP"), *items(field(spec, "clusterIPs"))]
    headless = any(text(one) == _HEADLESS for one in places)
    external = text(field(spec, "type")) == "ExternalName"
    return Service(
        namespace=namespace,
        name=name,
        labels=texts(field(place, "metadata", "labels")),
        selector=texts(field(spec, "selector")),
        ports=tuple(_ports(spec)),
        addresses=tuple(dict.fromkeys(found for one in places if not headless and (found := address(one)))),
        headless=headless,
        external_name=text(field(spec, "externalName")) if external else "",
    )


def _ports(spec: Place | None) -> Iterator[ServicePort]:
    for one in items(field(spec, "ports")):
        protocol = protocol_of(field(one, "protocol"))
        held = number(field(one, "port"), 1, PORT_MAX)
        if protocol is not None and held:
            yield ServicePort(text(field(one, "name")), protocol, held, _target(field(one, "targetPort"), held))


def _target(place: Place | None, port: int) -> int | str:
    if place is None:
        return port
    if isinstance(place.value, str):
        plain = place.value.isascii() and place.value.isdecimal()
        return int(place.value) if plain and 0 < int(place.value) <= PORT_MAX else place.value.lower()
    return number(place, 1, PORT_MAX, port)


def endpoint_slice_of(namespace: str, place: Place) -> EndpointSlice:
    """The slice that a manifest is; endpoints that are not ready are left out."""
    ports = []
    for one in items(field(place, "ports")):
        protocol, held = protocol_of(field(one, "protocol")), number(field(one, "port"), 1, PORT_MAX)
        if protocol is not None and held:
            ports.append((text(field(one, "name")), protocol, held))
    found = []
    named = text(field(place, "addressType")) == "FQDN"  # such endpoints have no addresses that policies could know
    for one in () if named else items(field(place, "endpoints")):
        if flag(field(one, "conditions", "ready"), default=True):
            addresses = tuple(known for inner in items(field(one, "addresses")) if (known := address(inner)))
            found.append(Endpoint(addresses, _pod_name(field(one, "targetRef"), namespace)))
    service = texts(field(place, "metadata", "labels")).get(SERVICE_LABEL, "")
    return EndpointSlice(namespace, service, tuple(ports), tuple(found))


def _pod_name(place: Place | None, namespace: str) -> str:
    if place is None or text(field(place, "kind")) != "Pod":
        return ""
    return f"{text(field(place, 'namespace'), namespace)}/{text(field(place, 'name'))}"
