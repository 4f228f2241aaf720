"""What policies name and a scene does not have: selectors that select nothing, ports without that name."""

from collections.abc import Iterator

from cplane.domain.labels import RESERVED
from cplane.domain.policy.advice import Advice
from cplane.domain.policy.directory import Directory
from cplane.domain.policy.rule import GroupRef, Peer, Policy, Rule, ServiceRef, Term
from cplane.domain.policy.selectorcache import SelectorCache
from cplane.domain.ports import NamedPort, NamedPorts, Protocol
from cplane.domain.selectors import LabelSelector, Selector
from cplane.domain.verdict import Direction
from cplane.k8s.scene import NO_PORTS, End, Scene


class Coverage:
    """Asks what is there. Where a scene has no pods (or nodes, services), nothing is said of what would select them."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._directory = Directory()
        for group in scene.manifests.groups:
            self._directory.set_group(group.ref.name, group)
        for service in scene.services():
            self._directory.set_service(service)
        self._ports: dict[int, NamedPorts] = {}
        self._pods = SelectorCache()
        self._nodes = SelectorCache()
        for end in scene.pods.values():
            if end.host is None:
                self._ports[end.identity] = self._ports.get(end.identity, NO_PORTS) | end.ports
                self._add(self._pods, end.identity, end)
        for end in scene.nodes.values():
            self._add(self._nodes, end.subject, end)

    def advice(self, policy: Policy) -> Iterator[Advice]:
        """Everything that a policy names in vain."""
        for rule in policy.rules:
            cache, what = (self._nodes, "node") if rule.about_nodes else (self._pods, "pod")
            known = self._scene.manifests.nodes if rule.about_nodes else self._ports
            found = self._selected(cache, rule.subject)
            if known and not found:
                name = "nodeSelector" if rule.about_nodes else "endpointSelector"
                yield Advice(f"{rule.path}.{name}", f"selects no {what} of these manifests: {rule.subject}")
            for term in rule.terms:
                for peer in term.peers or ():
                    yield from self._peer(term, peer)
                if self._ports and not rule.about_nodes:
                    yield from self._named(rule, term, found)

    def _peer(self, term: Term, peer: Peer) -> Iterator[Advice]:
        match peer:
            case LabelSelector():
                reserved = any(one.source == RESERVED for one in peer.requirements)
                if self._ports and peer.requirements and not reserved and not self._selected(self._pods, peer):
                    yield Advice(term.path, f"selects no pod of these manifests: {peer}")
            case GroupRef() if not self._directory.expand(peer):
                yield Advice(term.path, f"there is no {peer} with prefixes among these manifests: it selects nobody")
            case ServiceRef() if self._scene.manifests.services and not self._directory.expand(peer):
                yield Advice(term.path, f"there is no {peer} among these manifests: it selects nobody")

    def _named(self, rule: Rule, term: Term, subjects: frozenset[int]) -> Iterator[Advice]:
        named = [one for one in term.l4 or () if isinstance(one, NamedPort)]
        if not named:
            return
        chosen = subjects if term.direction is Direction.INGRESS else self._peers(term)
        held = NO_PORTS.union(*(self._ports[number] for number in chosen))
        for one in named:
            if chosen and not any(
                one.name == port.name and one.protocol in (port.protocol, Protocol.ANY) for port, _ in held
            ):
                yield Advice(term.path, f"no pod that it is about has a port named {one.name} ({one.protocol.name})")

    def _peers(self, term: Term) -> frozenset[int]:
        if term.peers is None:
            return frozenset(self._ports)
        selectors = [one for peer in term.peers for one in self._directory.expand(peer)]
        return frozenset().union(*(self._selected(self._pods, one) for one in selectors))

    @staticmethod
    def _add(cache: SelectorCache, number: int, end: End) -> None:
        if number not in cache:
            cache.add(number, end.labels)

    @staticmethod
    def _selected(cache: SelectorCache, selector: Selector) -> frozenset[int]:
        return frozenset(cache.intern(selector).numbers)
