"""Where traffic to a service arrives: its backends, and the ports that they have for it."""

from collections.abc import Iterator
from typing import NamedTuple

from cplane.domain.policy.document import did_you_mean
from cplane.domain.ports import Protocol
from cplane.k8s.probes import ICMP_PROTOCOLS, BadProbe
from cplane.k8s.scene import End, Scene
from cplane.k8s.services import EndpointSlice, Service, ServicePort


class Target(NamedTuple):
    """An end and the port (or ICMP type) at which traffic arrives there."""

    end: End
    port: int


def service_named(scene: Scene, text: str) -> Service:
    """The service that `namespace/name` names. Raises BadProbe."""
    namespace, _, name = text.partition("/")
    services = scene.manifests.services
    found = services.get((namespace, name))
    if found is None:
        raise BadProbe(f"to: there is no service {text!r}{did_you_mean(text, [str(one) for one in services.values()])}")
    return found


def backends(scene: Scene, service: Service, wanted: int | str | None, protocol: Protocol) -> list[Target]:
    """The backends of a service for one of its ports, by number or name. Raises BadProbe where there is no such port.

    They are those of its EndpointSlices, where there are any; otherwise the pods that it selects.
    """
    if service.external_name:
        raise BadProbe(f"to: service {service} stands for the name {service.external_name!r}: probe an address of it")
    if protocol in ICMP_PROTOCOLS:
        raise BadProbe(f"protocol: service {service} has ports, which {protocol.name} has not: probe one of its pods")
    port = service.port(wanted, protocol)
    if port is None and service.headless and isinstance(wanted, int):
        port = ServicePort("", protocol, wanted, wanted)
    if port is None:
        held = ", ".join(str(one) for one in service.ports) or "none"
        asked = f"no port {wanted}/{protocol.name}" if wanted is not None else f"not one {protocol.name} port only"
        raise BadProbe(f"port: service {service} has {asked}; its ports are {held}")
    if service.headless and isinstance(wanted, int):
        # Clients are told the addresses of pods, and the port stays the one that they ask for.
        port = port._replace(target=wanted)
    slices = [
        one for one in scene.manifests.slices if (one.namespace, one.service) == (service.namespace, service.name)
    ]
    if slices:
        return [one for held in slices for one in _of_slice(scene, held, service, port)]
    return [Target(end, number) for end in scene.pods_of(service) if (number := _target(end, port)) is not None]


def named_port(end: End, name: str, protocol: Protocol) -> int | None:
    """The number of a port that the end's containers call so."""
    return min((number for held, number in end.ports if held == (protocol, name)), default=None)


def _of_slice(scene: Scene, held: EndpointSlice, service: Service, port: ServicePort) -> Iterator[Target]:
    number = next(
        (number for name, protocol, number in held.ports if (name, protocol) == (port.name, port.protocol)), None
    )
    if service.headless and isinstance(port.target, int):
        number = port.target
    for one in held.endpoints if number is not None else ():
        end = scene.pods.get(one.pod) or next((scene.outside(address) for address in one.addresses), None)
        if end is not None and number is not None:
            yield Target(end, number)


def _target(end: End, port: ServicePort) -> int | None:
    return port.target if isinstance(port.target, int) else named_port(end, port.target, port.protocol)
