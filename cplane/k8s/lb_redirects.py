"""CiliumLocalRedirectPolicy: what goes to an address or a service ends at pods of the client's node."""

from typing import Final

from cplane.domain.localredirect import LocalRedirect, RedirectPort
from cplane.domain.policy.document import Fields, Place, shown
from cplane.domain.policy.l4 import is_port_name
from cplane.domain.policy.peers import kubernetes_selector
from cplane.domain.ports import PORT_MAX, Protocol
from cplane.domain.selectors import LabelSelector
from cplane.domain.service import ServiceName
from cplane.k8s.lb_reading import any_address, choice, read_metadata
from cplane.k8s.objects import flag, items, text

_DOCUMENT: Final = Fields(frozenset({"apiVersion", "kind", "metadata", "spec", "status"}))
_SPEC: Final = Fields(frozenset({"redirectFrontend", "redirectBackend", "skipRedirectFromBackend", "description"}))
_FRONTEND: Final = Fields(frozenset({"addressMatcher", "serviceMatcher"}))
_ADDRESS: Final = Fields(frozenset({"ip", "toPorts"}))
_SERVICE: Final = Fields(frozenset({"serviceName", "namespace", "toPorts"}))
_BACKEND: Final = Fields(frozenset({"localEndpointSelector", "toPorts"}))
_PORT: Final = Fields(frozenset({"port", "protocol", "name"}))
_PROTOCOLS: Final = {one.name: one for one in (Protocol.TCP, Protocol.UDP)}


def read_redirect(name: ServiceName, place: Place) -> LocalRedirect | None:
    """The redirect that a manifest is; None where it is none, which is refused.

    Source: rules of Cilium 1.19, `pkg/loadbalancer/redirectpolicy` and the CRD's schema.
    """
    fields = place.fields(_DOCUMENT) or {}
    read_metadata(place, fields)
    spec = _inner(place, fields, "spec", _SPEC)
    from_ = _inner(place, spec, "redirectFrontend", _FRONTEND)
    to = _inner(place, spec, "redirectBackend", _BACKEND)
    if len(from_) != 1:
        spec.get("redirectFrontend", place).refuse("write one of addressMatcher, serviceMatcher")
        return None
    if "localEndpointSelector" not in to or "toPorts" not in to:
        spec.get("redirectBackend", place).refuse("localEndpointSelector and toPorts are wanted: which pods, and where")
        return None
    by_address = "addressMatcher" in from_
    matcher = next(iter(from_.values()))
    inner = matcher.fields(_ADDRESS if by_address else _SERVICE) or {}
    ports = _ports(inner.get("toPorts"))
    targets = _ports(to["toPorts"])
    if by_address and not ports:
        matcher.refuse("toPorts is missing: write the ports that are redirected")
    if not targets:
        to["toPorts"].refuse("empty: write the port of the pods")
    _check_together(to["toPorts"], ports, targets)
    return LocalRedirect(
        name=name,
        address=_address(matcher, inner) if by_address else "",
        service=None if by_address else _service(matcher, inner, name),
        ports=ports,
        selector=LabelSelector.of(kubernetes_selector(to["localEndpointSelector"])),
        targets=targets,
        skip_backends=flag(spec.get("skipRedirectFromBackend"), default=False),
    )


def _inner(place: Place, fields: dict[str, Place], name: str, known: Fields) -> dict[str, Place]:
    if name not in fields:
        place.refuse(f"{name} is missing: a redirect says where traffic goes to, and where instead")
        return {}
    return fields[name].fields(known) or {}


def _address(place: Place, fields: dict[str, Place]) -> str:
    if "ip" not in fields:
        place.refuse("ip is missing: write the address that is redirected")
        return ""
    return any_address(fields["ip"])


def _service(place: Place, fields: dict[str, Place], name: ServiceName) -> ServiceName:
    wanted = ServiceName(text(fields.get("namespace"), name.namespace), text(fields.get("serviceName")))
    if not wanted.name:
        place.refuse("serviceName is missing: write the name of a service")
    if wanted.namespace != name.namespace:
        fields["namespace"].refuse(f"a redirect takes services of its own namespace, which is {name.namespace!r}")
    return wanted


def _ports(place: Place | None) -> tuple[RedirectPort, ...]:
    written = list(items(place))
    found: list[RedirectPort] = []
    for one in written:
        fields = one.fields(_PORT)
        if fields is None:
            continue
        if "port" not in fields:
            one.refuse('port is missing: write a number in quotes, for example "53"')
            continue
        made = _port(fields)
        if len(written) > 1 and not made.name:
            one.refuse("name is missing: several ports are told apart by their names")
        if made in found:
            one.refuse("it stands there already: keep one of them")
        found.append(made)
    return tuple(found)


def _port(fields: dict[str, Place]) -> RedirectPort:
    written, name = fields["port"].text() or "", text(fields.get("name"))
    number = int(written) if written.isascii() and written.isdecimal() and len(written) <= 5 else 0
    if fields["port"].value == written and not 0 < number <= PORT_MAX:
        fields["port"].refuse(f"{shown(written)} is not a port from 1 to {PORT_MAX}")
    if name and not is_port_name(name):
        fields["name"].refuse(f"{shown(name)} is not the name of a port")
    protocol = _PROTOCOLS[choice(fields.get("protocol"), _PROTOCOLS, "TCP")]
    return RedirectPort(number, protocol, name.lower())


def _check_together(place: Place, ports: tuple[RedirectPort, ...], targets: tuple[RedirectPort, ...]) -> None:
    """One port leads to one target; several lead to those of their names."""
    if len(ports) == 1 and targets and targets[0].protocol is not ports[0].protocol:
        place.refuse(
            f"its protocol is {targets[0].protocol.name}, and that of the redirected port {ports[0].protocol.name}"
        )
    if len(ports) <= 1 and len(targets) <= 1:
        return
    known = {(one.name, one.protocol) for one in targets}
    for one in ports:
        if (one.name, one.protocol) not in known:
            place.refuse(
                f"no {one.protocol.name} port is called {shown(one.name)}, as the redirected port {one.port} is"
            )
