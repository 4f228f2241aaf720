"""A small world of identities and the packets that tell policies apart."""

from ipaddress import ip_network

from cplane.domain.cidr import contains
from cplane.domain.identity import LOCAL_MIN, Reserved, cidr_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy.lookup import lookup
from cplane.domain.policy.repository import Repository
from cplane.domain.verdict import Direction, DropReason
from tests.support.builders import pod_labels, policy
from tests.support.literal import Who
from tests.support.strategies import PREFIXES

PODS = {
    300: pod_labels("app=web"),
    301: pod_labels("app=api", "tier=back"),
    302: pod_labels("app=db"),
    303: pod_labels("app=web", "tier=front", namespace="other"),
    304: pod_labels("app=web", cluster="c2"),
}
WORLDS = {9: ip_network("0.0.0.0/0"), 10: ip_network("::/0")}
CIDRS = {LOCAL_MIN + i: ip_network(text) for i, text in enumerate(one for one in PREFIXES if not one.endswith("/0"))}
RESERVED = tuple(r for r in Reserved if r not in (Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6))


def identities():
    """Number → (labels, prefix) of a dual-stack node on which every prefix has an identity."""
    found: dict[int, tuple[LabelSet, object]] = {int(r): (r.labels, None) for r in RESERVED}
    found.update((number, (Reserved(number).labels, prefix)) for number, prefix in WORLDS.items())
    found.update((number, (labels, None)) for number, labels in PODS.items())
    found.update((n, (cidr_labels(prefix, dual_stack=True), prefix)) for n, prefix in CIDRS.items())
    return found


def repository(*documents, subjects=PODS):
    """All of it, with these policies."""
    found = Repository()
    for number, (labels, prefix) in identities().items():
        found.add_identity(number, labels, prefix)
    for number in subjects:
        found.add_subject(number, PODS[number])
    for document in documents:
        found.upsert(policy(document))
    return found


def who(number):
    """An identity as the literal evaluator wants it."""
    labels, prefix = identities()[number]
    return Who({f"{label.source}:{label.key}": label.value for label in labels}, prefix)


def number_of(address):
    """The identity behind an address outside the cluster: that of the longest prefix."""
    prefix = ip_network(address)
    held = {**WORLDS, **CIDRS}
    return max((n for n in held if contains(held[n], prefix)), key=lambda n: held[n].prefixlen)


def packets(documents):
    """(protocol, port) pairs that tell the documents apart: at and beside every port they name, and of no port."""
    found = {(6, 7), (17, 7), (132, 80), (1, 8), (1, 0), (58, 128), (47, 0)}
    for document in documents:
        for section in ("ingress", "ingressDeny", "egress", "egressDeny"):
            for term in document["spec"].get(section, ()):
                found.update(_ports(term))
    return sorted(found)


def _ports(term):
    for element in term.get("toPorts") or ():
        for one in element.get("ports") or ():
            first, last = int(one["port"]), one.get("endPort") or int(one["port"])
            for port in {first - 1, first, (first + last) // 2, last, last + 1}:
                if 0 <= port <= 65535:
                    yield from ((6, port), (17, port))


def verdict(state, identity, direction, protocol, port):
    """As the literal evaluator says it."""
    decision = lookup(state.entry, identity, direction, protocol, port, lengths=state.lengths(direction))
    if decision.allowed:
        return "allowed"
    return "denied" if decision.reason is DropReason.POLICY_DENY else "dropped"


DIRECTIONS = {"ingress": Direction.INGRESS, "egress": Direction.EGRESS}
