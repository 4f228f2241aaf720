"""Where a Service of Kubernetes is reached: cluster addresses, node ports, load balancers, addresses from outside."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from cplane.domain.policy.document import Fields, Place, shown
from cplane.domain.ports import PORT_MAX, Protocol
from cplane.domain.service import ANY_ADDRESS, Frontend, FrontendKind, family_of
from cplane.k8s.lb_annotations import Said
from cplane.k8s.lb_reading import (
    Here,
    Notes,
    any_address,
    choice,
    note,
    port_number,
    usable_address,
    usable_address_of,
)
from cplane.k8s.objects import items, number, text
from cplane.k8s.pods import protocol_of

CLUSTER_IP, NODE_PORT, LOAD_BALANCER, EXTERNAL_NAME = TYPES = (
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
)
_SINGLE, _BOTH = "SingleStack", "RequireDualStack"
_STACKS: Final = (_SINGLE, "PreferDualStack", _BOTH)
_HEADLESS: Final = "none"
_FAMILIES: Final = {"IPv4": 4, "IPv6": 6}
_ANY: Final = dict(zip((4, 6), ANY_ADDRESS, strict=True))
_PORT_NAME_MAX: Final = 63

_PORT: Final = Fields(frozenset({"appProtocol", "name", "nodePort", "port", "protocol", "targetPort"}))
_STATUS: Final = Fields(frozenset({"conditions", "loadBalancer"}))
_BALANCER: Final = Fields(frozenset({"ingress"}))
_INGRESS: Final = Fields(frozenset({"hostname", "ip", "ipMode", "ports"}))


class _Port(NamedTuple):
    """A port that clients use, `node_port` 0 where the node has none for it."""

    place: Place
    name: str
    protocol: Protocol
    port: int
    node_port: int


class ReadFrontends:
    """The places where a service is reached, as its fields say."""

    def __init__(self, spec: dict[str, Place], status: Place | None, said: Said, here: Here, notes: Notes) -> None:
        self._spec, self._said, self._here, self._notes = spec, said, here, notes
        self.type = choice(spec.get("type"), TYPES, CLUSTER_IP)
        self._families = self._read_families()
        self.is_headless = self._says_headless()
        self._cluster = [] if self.is_headless else list(self._cluster_addresses())
        self._check_stack()
        self._ports = list(self._read_ports())
        self._external = list(self._addresses("externalIPs"))
        self._balanced = list(self._ingress(status))

    def all(self) -> tuple[Frontend, ...]:
        """Each place once: what a service has in several ways, it has in the first of them."""
        if self.type == EXTERNAL_NAME:
            return ()
        found: dict[tuple[str, int, Protocol], Frontend] = {}
        for one in self._all():
            found.setdefault(one[:3], one)
        return tuple(found.values())

    def _all(self) -> Iterator[Frontend]:
        if self._exposes(CLUSTER_IP):
            yield from self._at(self._cluster, FrontendKind.CLUSTER_IP)
            if not self._cluster:
                self._say("clusterIP", "it has no clusterIP: addresses are given by the API server, and not here")
        if self.type in {NODE_PORT, LOAD_BALANCER} and self._exposes(NODE_PORT):
            for family in self._families or sorted({family_of(one) for one in self._cluster}) or (4,):
                for port in self._ports:
                    if port.node_port:
                        yield Frontend(_ANY[family], port.node_port, port.protocol, FrontendKind.NODE_PORT, port.name)
        if self.type == LOAD_BALANCER and self._exposes(LOAD_BALANCER):
            yield from self._at(self._balanced, FrontendKind.LOAD_BALANCER)
            if not self._balanced:
                self._say("type", "there is no status.loadBalancer.ingress with an ip to serve: none is given here")
        yield from self._at(self._external, FrontendKind.EXTERNAL_IPS)

    def _at(self, addresses: Iterable[str], kind: FrontendKind) -> Iterator[Frontend]:
        for address in addresses:
            for port in self._ports:
                yield Frontend(address, port.port, port.protocol, kind, port.name)

    def _exposes(self, kind: str) -> bool:
        return self._said.type in {"", kind}

    def _say(self, step: str, message: str) -> None:
        place = self._spec.get(step) or next(iter(self._spec.values()), None)
        if place is not None:
            note(self._notes, place, message)

    def _read_families(self) -> tuple[int, ...]:
        found: list[int] = []
        for one in items(self._spec.get("ipFamilies")):
            family = _FAMILIES[choice(one, _FAMILIES, "IPv4")]
            if family in found:
                one.refuse("the family stands there already: keep one of them")
            found.append(family)
        return tuple(found)

    def _check_stack(self) -> None:
        """The families that it has are as many as it says."""
        place = self._spec.get("ipFamilyPolicy")
        wanted = choice(place, _STACKS, "")
        families = len({*self._families, *map(family_of, self._cluster)})
        if place is not None and wanted == _SINGLE and families > 1:
            place.refuse(f"it has two families, and {_SINGLE} is for one: write {_STACKS[1]}, or remove one of them")
        elif place is not None and wanted == _BOTH and len(self._cluster) == 1:
            note(self._notes, place, "it has an address of one family only: others are given by the API server")

    def _says_headless(self) -> bool:
        places = [
            *([self._spec["clusterIP"]] if "clusterIP" in self._spec else []),
            *items(self._spec.get("clusterIPs")),
        ]
        return any(isinstance(one.value, str) and one.value.lower() == _HEADLESS for one in places)

    def _cluster_addresses(self) -> Iterator[str]:
        found = list(self._addresses("clusterIPs"))
        first = self._spec.get("clusterIP")
        if first is not None and text(first):
            address = usable_address(first)
            if address and found and address != found[0]:
                first.refuse(f"clusterIPs begins with {found[0]}: write the same address in both")
            elif address and not found:
                self._check_family(first, address)
                found.append(address)
        if len({family_of(one) for one in found}) < len(found):
            self._spec["clusterIPs"].refuse("two addresses of one family: a service has at most one of each")
        yield from found

    def _addresses(self, step: str) -> Iterator[str]:
        seen: set[str] = set()
        for one in items(self._spec.get(step)):
            address = usable_address(one)
            if address in seen:
                one.refuse("the address stands there already: keep one of them")
            elif address and self._check_family(one, address):
                yield address
            seen.add(address)

    def _check_family(self, place: Place, address: str) -> bool:
        family = family_of(address)
        if self._families and family not in self._families:
            place.refuse(
                f"{address} is IPv{family}, which is not among ipFamilies: add it there, or remove the address"
            )
            return False
        return True

    def _read_ports(self) -> Iterator[_Port]:
        places = list(items(self._spec.get("ports")))
        seen: set[tuple[str, object, Protocol | None]] = set()
        names: set[str] = set()
        for one in places:
            fields = one.fields(_PORT)
            if fields is None:
                continue
            name, protocol = text(fields.get("name")), protocol_of(fields.get("protocol"))
            port, node_port = port_number(one, fields, "port"), self._node_port(fields)
            _check_target(fields.get("targetPort"))
            text(fields.get("appProtocol"))
            if len(places) > 1 and not name:
                one.refuse("name is missing: each of several ports needs one, by which its backends are found")
            elif name and name in names:
                fields["name"].refuse(f"a port {shown(name)} stands there already: give each a name of its own")
            names.add(name)
            for step, held in (("port", port), ("nodePort", node_port)):
                if held and (step, held, protocol) in seen:
                    fields[step].refuse(f"{step} {held} stands there already for the same protocol: keep one of them")
                seen.add((step, held, protocol))
            if protocol is not None and port:
                yield _Port(one, name, protocol, port, node_port)
        if not places and not self.is_headless and self.type != EXTERNAL_NAME:
            self._say("ports", "it has no ports: nothing is served")

    def _node_port(self, fields: dict[str, Place]) -> int:
        found = number(fields.get("nodePort"), 0, PORT_MAX)
        low, high = self._here.node_ports
        if found and self.type not in {NODE_PORT, LOAD_BALANCER}:
            fields["nodePort"].refuse(f"a {self.type} has no node ports: write type NodePort, or remove it")
        elif found and not low <= found <= high:
            fields["nodePort"].refuse(f"{found} is not one of the node ports {low}-{high}")
        elif not found and self.type == NODE_PORT and self._exposes(NODE_PORT):
            self._say("ports", "a port without nodePort: node ports are given by the API server, and not here")
        return found

    def _ingress(self, status: Place | None) -> Iterator[str]:
        fields = (status.fields(_STATUS) or {}) if status is not None else {}
        balancer = (fields["loadBalancer"].fields(_BALANCER) or {}) if "loadBalancer" in fields else {}
        if text(self._spec.get("loadBalancerIP")):
            self._say("loadBalancerIP", "a wish to whoever gives addresses: status.loadBalancer.ingress is what counts")
        seen: set[str] = set()
        for one in items(balancer.get("ingress")):
            inner = one.fields(_INGRESS) or {}
            if choice(inner.get("ipMode"), ("VIP", "Proxy"), "VIP") == "Proxy":
                note(self._notes, inner["ipMode"], "traffic to it arrives at the node with other addresses: not served")
                continue
            if "ip" not in inner:
                note(self._notes, one, "names are not resolved here: not served")
                continue
            address = any_address(inner["ip"])
            if address and address not in seen and self._is_served(inner["ip"], address):
                yield address
            seen.add(address)

    def _is_served(self, place: Place, address: str) -> bool:
        """Whether an address that somebody else has given is one to serve; a user could not change it."""
        try:
            usable_address_of(address)
        except ValueError:
            note(self._notes, place, f"{address} is loopback, link-local, multicast or unspecified: not served")
            return False
        if self._families and family_of(address) not in self._families:
            note(self._notes, place, f"{address} is IPv{family_of(address)}, which is not among ipFamilies: not served")
            return False
        return True


def _check_target(place: Place | None) -> None:
    """A number or a name of the pods' ports; the slices say what it comes to."""
    if place is None:
        return
    if not isinstance(place.value, str):
        place.integer(1, PORT_MAX)
        return
    written = place.value
    plain = written.isascii() and written.isdecimal()
    if not written or len(written) > _PORT_NAME_MAX or (plain and not 0 < int(written) <= PORT_MAX):
        place.refuse(f"{shown(written)} is neither a port from 1 to {PORT_MAX} nor the name of one")
