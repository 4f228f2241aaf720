"""Two ends, and the verdict on traffic between them, as a fold of events.

The rules are read by nobody but the projection that fills the policy map, and judged by `Judge` as everywhere. It is
given the two ends as its only subjects and peers: what concerns others costs nothing, however large the node is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import msgspec

from cplane.domain.identity import LOCAL_MIN, RESERVED_BY_NUMBER, NumericIdentity, Reserved, is_local
from cplane.domain.labels import LabelSet
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.explanation import Explanation, Outcome, PeerIdentity, Traffic
from cplane.domain.policy.redirect import Request
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.policy.why import Judge
from cplane.domain.ports import parse_named_ports
from cplane.domain.verdict import Direction
from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.node import NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.events.service import BackendsChanged, ServiceDeleted, ServiceUpserted
from cplane.projections.ipcache import IpcacheProjection
from cplane.projections.policymap import PolicyMapProjection
from cplane.projections.rows import prefix_of
from cplane.timetravel.concern import may_concern
from cplane.timetravel.traffic import Address, IdentityNumber, Named, NodeName, PodName, Question
from datapath.maps.ipcache import IpcacheKey

ABSENT: Final = "ABSENT"
"""The verdict where an end is not there, or has no port of that name: nobody is judged."""

RANK: Final[Mapping[str, int]] = {Outcome.ALLOWED: 0, Outcome.AUDIT: 1, Outcome.DENIED: 2}
"""Verdicts by how bad they are."""

_ITSELF: Final = Explanation(Outcome.ALLOWED, "an end and itself: no policy is asked")


@dataclass(frozen=True, slots=True)
class End:
    """One side of traffic, as it was. `endpoint` 0: it is none of this node, and obeys no policy that is known here."""

    name: str
    identity: int
    labels: LabelSet
    address: str = ""
    endpoint: int = 0
    policy: int = 0
    audit: bool = False
    ports: tuple[str, ...] = ()

    @property
    def peer(self) -> PeerIdentity:
        """What it is to the other side."""
        return PeerIdentity(self.identity, self.labels)


@dataclass(frozen=True, slots=True)
class Judged:
    """What both sides say, and what follows. `direction` decided; without an end that is `missing` there are no sides.

    A side that obeys no known policy allows everything.
    """

    verdict: str
    direction: Direction | None = None
    source: End | None = None
    destination: End | None = None
    egress: Explanation | None = None
    ingress: Explanation | None = None
    port: int = 0
    missing: str = ""


class Pair:
    """The two ends of a question; fold facts into it, and ask it for the verdict."""

    def __init__(self, question: Question, facts: Iterable[Event]) -> None:
        self._question = question
        named = (question.source, question.destination)
        self._pods = {one for one in named if isinstance(one, PodName)}
        self._addresses = {one.text for one in named if isinstance(one, Address)}
        self._wanted = {one.number for one in named if isinstance(one, IdentityNumber)}
        self._policies = PolicyMapProjection()
        self._ipcache = IpcacheProjection() if self._addresses else None
        self._node = ""
        self._audit = False
        self._identities: dict[int, tuple[str, ...]] = {}
        self._told: set[int] = set()  # identities of ends; the policies know them, and the ports of all who have them
        self._endpoints: dict[int, EndpointCreated] = {}  # those that are an end, as they are now
        self._others: dict[int, EndpointCreated] = {}  # those that have ports by name, which may be those of a peer
        self._values: set[str] = set()  # of the labels that ends have had
        self._left: dict[PolicyRef, PolicyUpserted] = {}  # policies that are about nobody with these values
        self._moved = True  # an end may be another
        for fact in facts:
            self._take(fact)
        self._ends = self._settle()

    def apply(self, event: Event) -> bool:
        """One more fact. Whether the verdict may be another now."""
        audit, before = self._audit, self._ends
        changed = self._take(event)
        if self._moved:
            self._ends = self._settle()
        return changed or before != self._ends or audit != self._audit

    def judge(self) -> Judged:
        """The verdict, as of the last fact."""
        source, destination = self._ends
        for end, name in ((source, self._question.source), (destination, self._question.destination)):
            if end is None:
                return Judged(ABSENT, missing=f"there is no {_kind(name)} {name}")
        assert source is not None and destination is not None, "both are there"
        port = self._port(destination)
        if port is None:
            held = ", ".join(destination.ports) or "none"
            missing = f"{destination.name} has no port named {self._question.port!r}; its named ports are {held}"
            return Judged(ABSENT, source=source, destination=destination, missing=missing)
        return self._judged(source, destination, port)

    def names_selected(self) -> tuple[DnsRule, ...]:
        """The selectors of names that policies about the source have, each once."""
        source = self._ends[0]
        if source is None or not source.endpoint:
            return ()
        rules = (one.rule for one in self._policies.repository.about(source.policy))
        peers = (peer for rule in rules for term in rule.terms for peer in term.peers or ())
        return tuple(dict.fromkeys(peer for peer in peers if isinstance(peer, DnsRule)))

    def _judged(self, source: End, destination: End, port: int) -> Judged:
        if source.endpoint and source.endpoint == destination.endpoint:
            return Judged(Outcome.ALLOWED, None, source, destination, _ITSELF, _ITSELF, port)
        judge, protocol = Judge(self._policies.repository), self._question.protocol
        request = self._question.request
        egress = self._side(judge, source, destination, Traffic(Direction.EGRESS, protocol, port), request)
        ingress = self._side(judge, destination, source, Traffic(Direction.INGRESS, protocol, port), request)
        first = RANK[egress.verdict] >= RANK[ingress.verdict]  # a packet meets egress first
        verdict = egress.verdict if first else ingress.verdict
        if verdict is Outcome.ALLOWED and not egress.rules and ingress.rules:
            first = False  # then only one side has anything to say
        direction = Direction.EGRESS if first else Direction.INGRESS
        return Judged(verdict, direction, source, destination, egress, ingress, port)

    def _side(self, judge: Judge, end: End, peer: End, traffic: Traffic, request: Request | None) -> Explanation:
        if not end.endpoint:
            where = "the node itself obeys no policy" if end.identity == Reserved.HOST else _not_here(end)
            return Explanation(Outcome.ALLOWED, where)
        audited = end.audit or self._audit
        return judge.case_of(end.policy, peer.peer, traffic, audited=audited).explain(request)

    def _port(self, destination: End) -> int | None:
        wanted = self._question.port
        if isinstance(wanted, int):
            return wanted
        held = parse_named_ports(destination.ports)
        return next((n for one, n in held if (one.name, one.protocol) == (wanted, self._question.protocol)), None)

    def _take(self, event: Event) -> bool:
        """The fact is known; whether the policies of the ends are others now."""
        if self._ipcache is not None and self._ipcache.apply(event):
            self._moved = True
        match event:
            case NodeJoined():
                if event.local:
                    self._node, self._moved = event.name, True
                return bool(self._policies.apply(event))
            case OptionsChanged():
                self._audit = event.policy_audit
                return bool(self._policies.apply(event))
            case PolicyUpserted() | PolicyDeleted():
                return self._policy(event)
            case IdentityAllocated() | IdentityReleased():
                return self._identity(event)
            case EndpointCreated() | EndpointRelabelled() | EndpointConfigured() | EndpointDeleted():
                return self._endpoint(event)
            case ServiceUpserted() | ServiceDeleted() | BackendsChanged():
                return bool(self._policies.apply(event))
            case _:
                return False

    def _policy(self, event: PolicyUpserted | PolicyDeleted) -> bool:
        ref = PolicyRef(event.kind, event.namespace, event.name)
        left = self._left.pop(ref, None) is not None
        if isinstance(event, PolicyDeleted):
            return not left and bool(self._policies.apply(event))
        if may_concern(event, self._values):
            return bool(self._policies.apply(event))
        self._left[ref] = event
        gone = PolicyDeleted(kind=ref.kind, namespace=ref.namespace, name=ref.name)
        return not left and bool(self._policies.apply(gone))

    def _identity(self, event: IdentityAllocated | IdentityReleased) -> bool:
        if isinstance(event, IdentityAllocated):
            self._identities[event.number] = event.labels
        else:
            self._identities.pop(event.number, None)
        self._moved = self._moved or event.number in self._wanted
        return event.number in self._told and bool(self._policies.apply(event))

    def _endpoint(self, event: EndpointCreated | EndpointRelabelled | EndpointConfigured | EndpointDeleted) -> bool:
        number = event.endpoint
        if isinstance(event, EndpointCreated):
            is_end = PodName(event.namespace, event.pod) in self._pods
            is_end = is_end or not self._addresses.isdisjoint((event.ipv4, event.ipv6))
            if not is_end and not event.named_ports:
                return False
            held = self._endpoints if is_end else self._others
            held[number] = event
        else:
            held = self._endpoints if number in self._endpoints else self._others
            if number not in held:
                return False
            _change(held, event)
        if held is self._endpoints:
            self._moved = True
            return bool(self._policies.apply(event))
        known = number in held and held[number].identity in self._told
        return bool(self._policies.apply(held[number] if known else EndpointDeleted(endpoint=number)))

    def _settle(self) -> tuple[End | None, End | None]:
        """The ends as they are now; the policies know their identities, and the ports of all who have these."""
        self._moved = False
        source, destination = (self._find(one) for one in (self._question.source, self._question.destination))
        for end in (source, destination):
            if end is None:
                continue
            self._meet(end)
            if end.identity in self._told:
                continue
            self._told.add(end.identity)
            labels = self._identities.get(end.identity)
            if labels is not None:
                self._policies.apply(IdentityAllocated(number=end.identity, labels=labels))
            for other in self._others.values():
                if other.identity == end.identity:
                    self._policies.apply(other)
        return source, destination

    def _meet(self, end: End) -> None:
        """Policies that may be about the end, by the labels that it has now, are known."""
        held = self._endpoints.get(end.endpoint)
        labels = [*end.labels, *(LabelSet.parse(held.labels) if held is not None else ())]
        values = {one.value for one in labels} - self._values
        if not values or not end.endpoint:
            return
        self._values |= values
        for ref, event in tuple(self._left.items()):
            if may_concern(event, self._values):
                del self._left[ref]
                self._policies.apply(event)

    def _find(self, name: Named) -> End | None:
        match name:
            case PodName():
                found = [one for one in self._endpoints.values() if (one.namespace, one.pod) == name]
                return self._of_endpoint(found[-1]) if found else None
            case Address(text):
                owners = [one for one in self._endpoints.values() if text in (one.ipv4, one.ipv6)]
                return self._of_endpoint(owners[-1], text) if owners else self._behind(text)
            case NodeName(wanted):
                is_ours = bool(self._node) and wanted in ("", self._node)
                return End(f"node/{self._node}", int(Reserved.HOST), Reserved.HOST.labels) if is_ours else None
            case IdentityNumber(number):
                labels = self._labels(number)
                return None if labels is None else End(str(name), number, labels)

    def _of_endpoint(self, one: EndpointCreated, address: str = "") -> End:
        name = f"{one.namespace}/{one.pod}" if one.pod else f"container {one.container_id[:12]}"
        return End(
            name,
            one.identity,
            self._labels(one.identity) or LabelSet.parse(one.labels),
            address or one.ipv4 or one.ipv6,
            one.endpoint,
            one.policy or one.identity,
            one.audit,
            one.named_ports,
        )

    def _behind(self, text: str) -> End | None:
        """What the ipcache has for the address: its longest prefix."""
        assert self._ipcache is not None, "an address is asked for"
        address, rows = ip_address(text), self._ipcache.table()
        prefixes = ((prefix_of(key), key) for key in rows)
        found = [(one.prefixlen, key) for one, key in prefixes if one.version == address.version and address in one]
        if not found:
            return None
        number = rows[_longest(found)].identity
        return End(text, number, self._labels(number) or LabelSet(()), text)

    def _labels(self, number: int) -> LabelSet | None:
        reserved = RESERVED_BY_NUMBER.get(NumericIdentity(number))
        if reserved is not None:
            return reserved.labels
        texts = self._identities.get(number)
        return None if texts is None else LabelSet.parse(texts)


def _change(held: dict[int, EndpointCreated], event: EndpointRelabelled | EndpointConfigured | EndpointDeleted) -> None:
    """The endpoint is as the event would have created it, or is gone."""
    number = event.endpoint
    match event:
        case EndpointDeleted():
            del held[number]
        case EndpointRelabelled():
            changed = {"labels": event.labels, "identity": event.identity, "policy": event.policy}
            held[number] = msgspec.structs.replace(held[number], **changed)
        case EndpointConfigured():
            held[number] = msgspec.structs.replace(held[number], audit=event.audit)


def _longest(found: list[tuple[int, IpcacheKey]]) -> IpcacheKey:
    return max(found, key=lambda one: one[0])[1]


def _not_here(end: End) -> str:
    outside = end.identity in RESERVED_BY_NUMBER or (
        end.identity >= LOCAL_MIN and is_local(NumericIdentity(end.identity))
    )
    return f"{end.name} is {'outside the cluster' if outside else 'not on this node'}: its policy is not known here"


def _kind(name: Named) -> str:
    match name:
        case PodName():
            return "pod"
        case Address():
            return "identity behind"
        case NodeName():
            return "node"
        case IdentityNumber():
            return "identity"
