"""Policies that allow what was seen, and nothing else: one for each workload of a namespace.

What nobody did while somebody looked is not in them, so they are to be previewed, and tried in audit mode first.
Where a proxy has read what was asked, they allow that and no other request (`requested`).
"""

from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

import msgspec

from cplane.deciders.world import World
from cplane.domain.endpoint import Endpoint
from cplane.domain.fqdn import name_problem
from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity, Reserved, is_of_names, prefix_of
from cplane.domain.labelfilter import identity_labels
from cplane.domain.labels import K8S, LabelSet
from cplane.domain.policy import CNP
from cplane.domain.policy.explanation import Outcome
from cplane.domain.ports import PORT_PROTOCOLS, Protocol
from cplane.domain.verdict import Direction
from cplane.errors import NotFound
from cplane.timetravel.asked import Asked
from cplane.timetravel.intent import named
from cplane.timetravel.requested import ANY_NAME, Proposed, proposed
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
    that were denied, which are left out unless they were asked for; `denied_requests` the same of requests. `window`
    says what was looked at. `notes`: by the name of a policy, where it allows more than was seen, or not all of it.
    """

    namespace: str
    policies: tuple[dict[str, Any], ...]
    silent: tuple[str, ...]
    unnamed: tuple[str, ...] = ()
    denied: int
    window: Window
    denied_requests: int = 0
    notes: dict[str, tuple[str, ...]] = {}


def suggest(
    world: World, seen: Seen, *, namespace: str, include_denied: bool = False, ports_only: bool = False
) -> Suggestion:
    """What is proposed for a namespace; `ports_only`: whatever was asked. Raises NothingThere."""
    pods = {number: one for number, one in world.endpoints.items() if one.namespace == namespace}
    if not pods:
        held = ", ".join(sorted({one.namespace for one in world.endpoints.values() if one.namespace})) or "none"
        raise NothingThere(f"no pod of namespace {namespace!r} is on this node; there are pods of {held}")
    workloads: dict[tuple[tuple[str, str], ...], _Workload] = {}
    spoken: set[int] = set()
    unnamed: set[str] = set()
    denied = denied_requests = 0
    lookups = {} if ports_only else _lookups(seen, include_denied=include_denied)
    for kind, seen_of in seen.kinds.items():
        one = pods.get(kind.endpoint)
        if one is None or (ports_only and kind.asked is not None):
            continue
        refused = kind.verdict is Outcome.DENIED and not include_denied
        if refused and kind.asked is None:
            denied += seen_of.times
            continue
        denied_requests += seen_of.times if refused else 0
        spoken.add(kind.endpoint)
        selector = _selector(identity_labels(one.labels))
        if not selector:  # that would be a policy about all pods of the namespace
            unnamed.add(named(one))
            continue
        workloads.setdefault(tuple(selector.items()), _Workload(selector, one)).take(
            world, kind, lookups.get(kind.endpoint, frozenset()), refused=refused
        )
    names: dict[str, int] = {}
    made = [one.policy(namespace, names) for _, one in sorted(workloads.items())]
    silent = tuple(sorted(named(one) for number, one in pods.items() if number not in spoken))
    return Suggestion(
        namespace=namespace,
        policies=tuple(policy for policy, _ in made),
        silent=silent,
        unnamed=tuple(sorted(unnamed)),
        denied=denied,
        window=seen.window,
        denied_requests=denied_requests,
        notes={policy["metadata"]["name"]: notes for policy, notes in made if notes},
    )


def _lookups(seen: Seen, *, include_denied: bool) -> dict[int, set[str]]:
    """The names that each endpoint asked for."""
    found: dict[int, set[str]] = {}
    for kind in seen.kinds:
        if isinstance(kind.asked, str) and (include_denied or kind.verdict is not Outcome.DENIED):
            found.setdefault(kind.endpoint, set()).add(kind.asked)
    return found


class _Workload:
    """Pods that policies cannot tell apart, and with whom they talk."""

    def __init__(self, selector: dict[str, str], one: Endpoint) -> None:
        self._selector, self._one = selector, one
        self._peers: dict[Direction, dict[str, _Peer]] = {direction: {} for direction in Direction}

    def take(self, world: World, kind: Kind, lookups: Container[str], *, refused: bool) -> None:
        """One kind of its connections, or of requests over them; the endpoint has asked for the names."""
        for peer in _peers(world, kind, self._one.namespace, lookups):
            held = self._peers[kind.direction].setdefault(peer.key, peer)
            held.take(kind, refused=refused)

    def policy(self, namespace: str, names: dict[str, int]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The policy, and notes about it; `names` are those that were given already."""
        notes: dict[str, None] = {}
        spec: dict[str, Any] = {"endpointSelector": {"matchLabels": dict(self._selector)}}
        for direction, word, side in ((Direction.INGRESS, "ingress", "from"), (Direction.EGRESS, "egress", "to")):
            peers = _bounded(self._peers[direction].values())
            # an empty rule asks for default deny and allows nobody
            rules = (rule for one in sorted(peers, key=lambda one: one.key) for rule in one.rules(side, notes))
            spec[word] = list(rules) or [{}]
        metadata = {"name": self._name(names), "namespace": namespace}
        return {"apiVersion": "cilium.io/v2", "kind": CNP, "metadata": metadata, "spec": spec}, tuple(notes)

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
        self._said = key.partition(" ")[2]
        self.ports: dict[tuple[int, int], _Port] = {}

    def take(self, kind: Kind, *, refused: bool) -> None:
        """A kind of connections with it, or of requests."""
        self._at((kind.protocol, kind.port)).take(kind, refused=refused)

    def join(self, other: "_Peer") -> None:
        """What is known of the other is known of this one."""
        for at, port in other.ports.items():
            self._at(at).join(port)

    def _at(self, at: tuple[int, int]) -> "_Port":
        return self.ports.setdefault(at, _Port())

    def rules(self, side: str, notes: dict[str, None]) -> Iterator[dict[str, Any]]:
        """The rules that let it through: ports and messages have elements of their own, each with not too many."""
        peer = {f"{side}{self._field}": self._value}
        ports, read = [], []
        for (protocol, number), port in sorted(self.ports.items()):
            if protocol not in PORT_PROTOCOLS:
                continue
            written = {"port": str(number), "protocol": Protocol(protocol).name}
            found, said = port.proposed()
            if found is None:
                ports.append(written)
            elif found.rules:
                read.append((written, found))
            where = f"{number}/{Protocol(protocol).name} {side} {self._said}"
            notes.update(dict.fromkeys(f"{where}: {one}" for one in (*said, *(found.notes if found else ()))))
        for start in range(0, len(ports), _PORTS_MAX):
            yield peer | {"toPorts": [{"ports": ports[start : start + _PORTS_MAX]}]}
        yield from (peer | {"toPorts": [{"ports": same, "rules": rules}]} for same, rules in _together(read))
        messages = [
            {"family": _FAMILY[Protocol(protocol)], "type": port}
            for protocol, port in sorted(self.ports)
            if protocol in _FAMILY
        ]
        for start in range(0, len(messages), _PORTS_MAX):
            yield peer | {"icmps": [{"fields": messages[start : start + _PORTS_MAX]}]}


class _Port:
    """What was seen at a port: who connected with whom there, and of those a proxy has read what they asked."""

    def __init__(self) -> None:
        self.connected: set[tuple[int, str]] = set()
        self.asked: dict[tuple[int, str], set[Asked]] = {}

    def take(self, kind: Kind, *, refused: bool) -> None:
        """A kind of connections, or of requests; those that were refused say that there is a proxy, and no more."""
        ends = (kind.endpoint, kind.address or str(kind.peer))
        if kind.asked is None:
            self.connected.add(ends)
            return
        asked = self.asked.setdefault(ends, set())
        if not refused:
            asked.add(kind.asked)

    def join(self, other: "_Port") -> None:
        """What is known of the other is known of this one."""
        self.connected |= other.connected
        for ends, asked in other.asked.items():
            self.asked.setdefault(ends, set()).update(asked)

    def proposed(self) -> tuple[Proposed | None, tuple[str, ...]]:
        """Rules for what may be asked; None: anything, and nobody reads it. And notes: why it is that."""
        if not self.asked:
            return None, ()
        requests = set().union(*self.asked.values())
        unread = len(self.connected - self.asked.keys())
        if unread and any(isinstance(one, str) for one in requests):
            note = f"any name, as {unread} of those who were seen there asked something that nobody read"
            return ANY_NAME, (note,)  # so that addresses are known by their names
        if unread:
            return None, (f"any request, as {unread} of those who were seen there asked something that nobody read",)
        found = proposed(requests)
        if not requests:
            return found, ("left out, as all that was asked there was denied",)
        return found, () if found is not None else ("any request, as several protocols were seen there",)


def _together(
    read: Iterable[tuple[dict[str, str], Proposed]],
) -> Iterator[tuple[list[dict[str, str]], dict[str, list[Any]]]]:
    """Ports at which the same may be asked stand in one element."""
    found: dict[str, tuple[list[dict[str, str]], dict[str, list[Any]]]] = {}
    for port, one in read:
        found.setdefault(str(one.rules), ([], one.rules))[0].append(port)
    for ports, rules in found.values():
        for start in range(0, len(ports), _PORTS_MAX):
            yield ports[start : start + _PORTS_MAX], rules


def _peers(world: World, kind: Kind, namespace: str, lookups: Container[str]) -> Iterator[_Peer]:
    """The other side of a connection: by labels where it has some, by its address where it has no better name.

    Better are names that the endpoint has asked for and was told the address by.
    """
    reserved = RESERVED_BY_NUMBER.get(NumericIdentity(kind.peer))
    if kind.address and stands_for_addresses(kind.peer):
        known_by = world.fqdn.names_of(kind.endpoint, kind.address) if kind.direction is Direction.EGRESS else ()
        if asked := [one.removesuffix(".") for one in known_by if one in lookups and not name_problem(one)]:
            yield _Peer(f"4 {', '.join(asked)}", "FQDNs", [{"matchName": one} for one in asked])
            return
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
    for one in outside:
        world.join(one)
    return [*(one for one in known if not one.address), world]


def _selector(labels: LabelSet) -> dict[str, str]:
    """Labels that a user would select by."""
    return {one.key: one.value for one in labels if one.source == K8S and not one.key.startswith(_HIDDEN)}
