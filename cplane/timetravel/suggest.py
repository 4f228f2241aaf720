"""Policies that allow what was seen, and nothing else: one for each workload of a namespace.

What nobody did while somebody looked is not in them, so they are to be previewed, and tried in audit mode first.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from cplane.deciders.world import World
from cplane.domain.endpoint import Endpoint
from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity, Reserved, is_of_names, prefix_of
from cplane.domain.labelfilter import identity_labels
from cplane.domain.labels import K8S, LabelSet
from cplane.domain.policy import CNP
from cplane.domain.policy.explanation import Outcome
from cplane.domain.ports import PORT_PROTOCOLS, Protocol
from cplane.domain.verdict import Direction
from cplane.errors import NotFound
from cplane.timetravel.intent import named
from cplane.timetravel.seen import Kind, Seen, Window, stands_for_addresses

_NAMESPACE: Final = "io.kubernetes.pod.namespace"
_HIDDEN: Final = "io."  # labels that Kubernetes and Cilium add begin so, and no user selects by them
_ADDRESSES_MAX: Final = 20  # of one workload outside the cluster that are named; of more, the world as a whole
_PORTS_MAX: Final = 40  # of one rule, as Cilium has it
_NAME_MAX: Final = 50
_NAMED_BY: Final = ("app.kubernetes.io/name", "app", "k8s-app")
_FAMILY: Final = {Protocol.ICMP: "IPv4", Protocol.ICMPV6: "IPv6"}
_ENTITIES: Final = {
    Reserved.HOST: "host",
    Reserved.WORLD: "world",
    Reserved.WORLD_IPV4: "world-ipv4",
    Reserved.WORLD_IPV6: "world-ipv6",
    Reserved.UNMANAGED: "unmanaged",
    Reserved.HEALTH: "health",
    Reserved.INIT: "init",
    Reserved.REMOTE_NODE: "remote-node",
    Reserved.KUBE_APISERVER: "kube-apiserver",
    Reserved.INGRESS: "ingress",
}


class NothingThere(NotFound):
    """A namespace has no pods on this node."""

    code = "suggest.nothing_there"


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is proposed: `policies` are CiliumNetworkPolicies, one for each workload that was seen.

    `silent` are pods of which no connection was seen, so that nothing is proposed for them, and
    `unnamed` those that no policy can single out, as they have no labels of their own. `denied` counts connections
    that were denied, which are left out unless they were asked for. `window` says what was looked at.
    """

    namespace: str
    policies: tuple[dict[str, Any], ...]
    silent: tuple[str, ...]
    unnamed: tuple[str, ...] = ()
    denied: int
    window: Window


def suggest(world: World, seen: Seen, *, namespace: str, include_denied: bool = False) -> Suggestion:
    """What is proposed for a namespace. Raises NothingThere."""
    pods = {number: one for number, one in world.endpoints.items() if one.namespace == namespace}
    if not pods:
        held = ", ".join(sorted({one.namespace for one in world.endpoints.values() if one.namespace})) or "none"
        raise NothingThere(f"no pod of namespace {namespace!r} is on this node; there are pods of {held}")
    workloads: dict[tuple[tuple[str, str], ...], _Workload] = {}
    spoken: set[int] = set()
    unnamed: set[str] = set()
    denied = 0
    for kind, seen_of in seen.kinds.items():
        one = pods.get(kind.endpoint)
        if one is None or kind.asked is not None:  # requests are over connections that are among the kinds
            continue
        if kind.verdict is Outcome.DENIED and not include_denied:
            denied += seen_of.times
            continue
        spoken.add(kind.endpoint)
        selector = _selector(identity_labels(one.labels))
        if not selector:  # that would be a policy about all pods of the namespace
            unnamed.add(named(one))
            continue
        workloads.setdefault(tuple(selector.items()), _Workload(selector, one)).take(world, kind)
    names: dict[str, int] = {}
    policies = tuple(one.policy(namespace, names) for _, one in sorted(workloads.items()))
    silent = tuple(sorted(named(one) for number, one in pods.items() if number not in spoken))
    return Suggestion(
        namespace=namespace,
        policies=policies,
        silent=silent,
        unnamed=tuple(sorted(unnamed)),
        denied=denied,
        window=seen.window,
    )


class _Workload:
    """Pods that policies cannot tell apart, and with whom they talk."""

    def __init__(self, selector: dict[str, str], one: Endpoint) -> None:
        self._selector, self._one = selector, one
        self._peers: dict[Direction, dict[str, _Peer]] = {direction: {} for direction in Direction}

    def take(self, world: World, kind: Kind) -> None:
        """One kind of its connections."""
        for peer in _peers(world, kind, self._one.namespace):
            held = self._peers[kind.direction].setdefault(peer.key, peer)
            held.ports.add((kind.protocol, kind.port))

    def policy(self, namespace: str, names: dict[str, int]) -> dict[str, Any]:
        """The policy; `names` are those that were given already."""
        spec: dict[str, Any] = {"endpointSelector": {"matchLabels": dict(self._selector)}}
        for direction, word, side in ((Direction.INGRESS, "ingress", "from"), (Direction.EGRESS, "egress", "to")):
            peers = _bounded(self._peers[direction].values())
            # an empty rule asks for default deny and allows nobody
            rules = (rule for one in sorted(peers, key=lambda one: one.key) for rule in one.rules(side))
            spec[word] = list(rules) or [{}]
        return {
            "apiVersion": "cilium.io/v2",
            "kind": CNP,
            "metadata": {"name": self._name(names), "namespace": namespace},
            "spec": spec,
        }

    def _name(self, names: dict[str, int]) -> str:
        labelled = (self._selector[key] for key in _NAMED_BY if key in self._selector)
        base = next(labelled, "") or self._one.pod or "workload"
        base = (
            "".join(c if c.isalnum() and c.isascii() else "-" for c in base.lower())[:_NAME_MAX].strip("-")
            or "workload"
        )
        names[base] = names.get(base, 0) + 1
        return f"seen-{base}" if names[base] == 1 else f"seen-{base}-{names[base]}"


class _Peer:
    """Somebody to talk to, in the words of a policy, and at which ports."""

    def __init__(self, key: str, field: str, value: list[Any], *, address: bool = False) -> None:  # Any: as JSON
        self.key, self.address = key, address
        self._field, self._value = field, value
        self.ports: set[tuple[int, int]] = set()

    def rules(self, side: str) -> Iterator[dict[str, Any]]:
        """The rules that let it through: ports and messages have elements of their own, each with not too many."""
        peer = {f"{side}{self._field}": self._value}
        ports = [
            {"port": str(port), "protocol": Protocol(protocol).name}
            for protocol, port in sorted(self.ports)
            if protocol in PORT_PROTOCOLS
        ]
        for start in range(0, len(ports), _PORTS_MAX):
            yield peer | {"toPorts": [{"ports": ports[start : start + _PORTS_MAX]}]}
        messages = [
            {"family": _FAMILY[Protocol(protocol)], "type": port}
            for protocol, port in sorted(self.ports)
            if protocol in _FAMILY
        ]
        for start in range(0, len(messages), _PORTS_MAX):
            yield peer | {"icmps": [{"fields": messages[start : start + _PORTS_MAX]}]}


def _peers(world: World, kind: Kind, namespace: str) -> Iterator[_Peer]:
    """The other side of a connection: by labels where it has some, by its address where it has no better name."""
    reserved = RESERVED_BY_NUMBER.get(NumericIdentity(kind.peer))
    if kind.address and stands_for_addresses(kind.peer):
        said = world.identities.get(kind.peer, LabelSet())
        known = None if is_of_names(said) else prefix_of(said)  # what is around an address with names is too much
        prefix = str(known or f"{kind.address}/{32 if '.' in kind.address else 128}")
        yield _Peer(f"3 {prefix}", "CIDR", [prefix], address=True)
        return
    if reserved is not None:
        entity = _ENTITIES.get(reserved, "all")
        yield _Peer(f"2 {entity}", "Entities", [entity])
        return
    labels = world.identities.get(kind.peer)
    if labels is None:
        return  # it is not known any more who that was
    selector = _selector(labels)
    where = next((one.value for one in labels if one.key == _NAMESPACE), "")
    if where and where != namespace:
        selector = {f"{K8S}:{_NAMESPACE}": where, **selector}
    yield _Peer(f"1 {selector}", "Endpoints", [{"matchLabels": selector}])


def _bounded(peers: Iterable[_Peer]) -> list[_Peer]:
    """Too many addresses outside the cluster become the world, with all of their ports."""
    known = list(peers)
    outside = [one for one in known if one.address]
    if len(outside) <= _ADDRESSES_MAX:
        return known
    world = _Peer("2 world", "Entities", ["world"])
    world.ports.update(*(one.ports for one in outside))
    return [*(one for one in known if not one.address), world]


def _selector(labels: LabelSet) -> dict[str, str]:
    """Labels that a user would select by."""
    return {one.key: one.value for one in labels if one.source == K8S and not one.key.startswith(_HIDDEN)}
