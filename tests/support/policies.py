"""A small world of identities and the packets that tell policies apart."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from cplane.domain.cidr import contains
from cplane.domain.identity import LOCAL_MIN, Reserved, cidr_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy import CidrGroup
from cplane.domain.policy.directory import Service
from cplane.domain.policy.lookup import lookup
from cplane.domain.policy.mapstate import MapState
from cplane.domain.policy.repository import AUDIT_PLANE, Enforcement, Repository
from cplane.domain.ports import NamedPorts, parse_named_ports
from cplane.domain.verdict import Direction, DropReason
from tests.support.builders import CLUSTER, Document, parsed, pod_labels
from tests.support.literal import Around, Packet, Who
from tests.support.random_policies import PREFIXES

TEAM = "io.cilium.k8s.namespace.labels.team"
PODS = {
    300: pod_labels("app=web", f"{TEAM}=a"),
    301: pod_labels("app=api", "tier=back", f"{TEAM}=a"),
    302: pod_labels("app=db", f"{TEAM}=a"),
    303: pod_labels("app=web", "tier=front", f"{TEAM}=b", namespace="other"),
    304: pod_labels("app=web", cluster="c2"),
    305: pod_labels("app=odd", f"{TEAM}=a").union(LabelSet.parse(["container:app=web"])),
}
INIT = int(Reserved.INIT)
SUBJECTS = {**PODS, INIT: Reserved.INIT.labels}
PORTS = {
    300: ("http=80/TCP", "dns=53/UDP"),
    301: ("http=8080/TCP", "metrics=9090/TCP", "metrics=53/UDP"),
    302: ("http=85/TCP",),
    303: ("http=80/TCP", "http=80/UDP"),
}
OTHER_PORTS = {302: ("http=86/TCP",)}
"""What other endpoints of the identity call their ports: as a peer it has these too."""

WORLDS = {9: ip_network("0.0.0.0/0"), 10: ip_network("::/0")}
CIDRS = {LOCAL_MIN + i: ip_network(text) for i, text in enumerate(one for one in PREFIXES if not one.endswith("/0"))}
NAMED = LOCAL_MIN + 100
"""An address that the name a.example was resolved to."""

RESERVED = tuple(r for r in Reserved if r not in (Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6))
DIRECTIONS = {"ingress": Direction.INGRESS, "egress": Direction.EGRESS}


@dataclass(frozen=True)
class Setting:
    """What policies meet: the mode, and the groups and services that rules refer to."""

    mode: str = "default"
    groups: tuple[Document, ...] = ()
    services: tuple[Mapping[str, Any], ...] = ()

    @property
    def around(self) -> Around:
        """As the literal evaluator takes it."""
        return Around(CLUSTER, self.mode, self.groups, self.services)


def identities() -> dict[int, tuple[LabelSet, Any]]:
    """Number → (labels, prefix) of a dual-stack node on which every prefix has an identity."""
    found: dict[int, tuple[LabelSet, Any]] = {int(r): (r.labels, None) for r in RESERVED}
    found.update((number, (Reserved(number).labels, prefix)) for number, prefix in WORLDS.items())
    found.update((number, (labels, None)) for number, labels in PODS.items())
    found.update((n, (cidr_labels(prefix, dual_stack=True), prefix)) for n, prefix in CIDRS.items())
    resolved = ip_network("198.51.100.1/32")
    names = LabelSet.parse(["fqdn:a.example", "fqdn:*.example"])
    found[NAMED] = (cidr_labels(resolved, dual_stack=True).union(names), resolved)
    return found


IDENTITIES = identities()


def own_ports(number: int) -> NamedPorts:
    """The named ports of a subject."""
    return parse_named_ports(PORTS.get(number, ()))


def peer_ports(number: int) -> NamedPorts:
    """The named ports of all endpoints of an identity."""
    return own_ports(number) | parse_named_ports(OTHER_PORTS.get(number, ()))


def service_of(written: Mapping[str, Any]) -> Service:
    """A service as `random_policies` writes it."""
    return Service(
        written["namespace"],
        written["name"],
        LabelSet.parse(f"k8s:{key}={value}" for key, value in written["labels"].items()),
        tuple(sorted(written["selector"].items())),
        tuple(written["addresses"]),
    )


def apply(repository: Repository, document: Document) -> None:
    """The document, a policy or a group, is there."""
    found = parsed(document)
    if isinstance(found, CidrGroup):
        repository.set_group(found.ref.name, found)
    else:
        repository.upsert(found)


def repository(
    *documents: Document, subjects: Iterable[int] = tuple(PODS), setting: Setting = Setting()
) -> Repository:  # fmt: skip
    """All identities with their ports, with these policies and these subjects."""
    found = Repository(Enforcement(setting.mode))
    for number, (labels, prefix) in IDENTITIES.items():
        found.add_identity(number, labels, prefix)
        found.set_ports(number, peer_ports(number))
    for number in subjects:
        found.add_subject(number, SUBJECTS[number], own_ports(number))
    for document in (*setting.groups, *documents):
        apply(found, document)
    for written in setting.services:
        found.set_service(service_of(written))
    return found


def who(number: int, ports: NamedPorts | None = None) -> Who:
    """An identity as the literal evaluator wants it, as a peer unless its ports are given."""
    labels, prefix = IDENTITIES[number]
    held = peer_ports(number) if ports is None else ports
    return Who(
        {f"{label.source}:{label.key}": label.value for label in labels},
        prefix,
        frozenset((one.name, one.protocol.name, number) for one, number in held),
    )


AS_PEER = {number: who(number) for number in IDENTITIES}
AS_SUBJECT = {number: who(number, own_ports(number)) for number in SUBJECTS}


def packet(subject: int, peer: int, direction: str, protocol: int, port: int) -> Packet:
    """The packet as the literal evaluator takes it."""
    return Packet(AS_SUBJECT[subject], AS_PEER[peer], direction, protocol, port)


def number_of(address: str) -> int:
    """The identity behind an address outside the cluster: that of the longest prefix."""
    prefix = ip_network(address)
    held = {**WORLDS, **CIDRS}
    return max((n for n in held if contains(held[n], prefix)), key=lambda n: held[n].prefixlen)


def packets(documents: Iterable[Document]) -> list[tuple[int, int]]:
    """(protocol, port) pairs that tell the documents apart: at and beside every port they name, and of no port."""
    found = {(6, 7), (17, 7), (132, 80), (1, 8), (1, 0), (58, 128), (47, 0), (112, 0), (6, 8080), (6, 86), (17, 53)}
    for one in _ports(list(documents)):
        first = one.get("port", 0)
        if not str(first).isdecimal():
            found.update({(6, 80), (6, 85), (6, 9090), (17, 80)})
            continue
        first, last = int(first), one.get("endPort") or int(first)
        for port in {first - 1, first, (first + last) // 2, last, last + 1}:
            if 0 <= port <= 65535:
                found.update({(6, port), (17, port)})
    return sorted(found)


def _ports(value: Any) -> Iterator[dict[str, Any]]:
    """Everything under a key `ports`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from inner if key == "ports" and inner else _ports(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _ports(inner)


def verdict(state: MapState | None, identity: int, direction: Direction, protocol: int, port: int) -> str:
    """As the literal evaluator says it."""
    assert state is not None
    decision = lookup(state.entry, identity, direction, protocol, port, lengths=state.lengths(direction))
    if decision.reason is None:
        return "proxied" if decision.proxied else "allowed"
    return {
        DropReason.POLICY_DENY: "denied",
        DropReason.POLICY_DENIED: "dropped",
        DropReason.AUTH_REQUIRED: "unproven",
    }[decision.reason]


def is_audited(repo: Repository, subject: int, identity: int, direction: Direction, protocol: int, port: int) -> bool:
    """Whether the kernel would let the packet pass with the verdict AUDIT."""
    state, plane = repo.state(subject), repo.state(subject | AUDIT_PLANE)
    assert state is not None
    decision = lookup(state.entry, identity, direction, protocol, port)
    if decision.reason is not None or not decision.audited:
        return False
    assert plane is not None, "an audited entry has a plane"
    return lookup(plane.entry, identity, direction, protocol, port).reason is not None
