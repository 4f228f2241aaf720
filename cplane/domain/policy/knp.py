"""Kubernetes NetworkPolicy, read as Cilium reads it.

A peer list that is missing or empty is everyone, the world and the host included; a policy without peers for a
direction that it names denies that direction.
"""

from typing import Final

from cplane.domain.cidr import contains
from cplane.domain.labels import CLUSTER_KEY, K8S, NAMESPACE_KEY, NAMESPACE_LABELS_PREFIX, LabelSet
from cplane.domain.policy import l4, peers
from cplane.domain.policy.document import Fields, Place, did_you_mean, shown
from cplane.domain.policy.rule import DefaultDeny, L4Match, Peer, PolicyRef, PortMatch, Rule, Term
from cplane.domain.ports import PORT_MAX, NamedPort, Protocol
from cplane.domain.selectors import CidrSelector, LabelSelector, Operator, Requirement
from cplane.domain.verdict import Direction

_SPEC_FIELDS: Final = Fields(
    frozenset({"podSelector", "policyTypes", "ingress", "egress"}),
    misplaced={
        "endpointSelector": "write podSelector",
        **dict.fromkeys(("ingressDeny", "egressDeny"), "write a CiliumNetworkPolicy: a NetworkPolicy only allows"),
    },
)


def _rule_fields(side: str) -> Fields:
    """`side`: from or to."""
    return Fields(
        frozenset({side, "ports"}),
        misplaced={
            f"{side}Endpoints": f"write {side}, with podSelector and namespaceSelector",
            **dict.fromkeys((f"{side}CIDR", f"{side}CIDRSet"), f"write {side}, with ipBlock"),
            **dict.fromkeys(("podSelector", "namespaceSelector", "ipBlock"), f"put it into an element of {side}"),
            "toPorts": "write ports",
        },
    )


_RULE_FIELDS: Final = {Direction.INGRESS: _rule_fields("from"), Direction.EGRESS: _rule_fields("to")}
_PEER_FIELDS: Final = Fields(frozenset({"podSelector", "namespaceSelector", "ipBlock"}))
_BLOCK_FIELDS: Final = Fields(frozenset({"cidr", "except"}))
_PORT_FIELDS: Final = Fields(frozenset({"protocol", "port", "endPort"}))
_TYPES: Final = ("Ingress", "Egress")
_PROTOCOLS: Final = {one.name: one for one in (Protocol.TCP, Protocol.UDP, Protocol.SCTP)}
_EVERYONE: Final = LabelSelector()


def read_rules(root: Place, fields: dict[str, Place], ref: PolicyRef, labels: LabelSet, cluster: str) -> list[Rule]:
    """The one rule of a document; `labels` name the policy."""
    if "specs" in fields:
        fields["specs"].refuse("a NetworkPolicy has one spec")
    # Without one, and without a podSelector, it is as with an empty one: Kubernetes fills both in.
    place = fields.get("spec") or root.child("spec", {})
    spec = place.fields(_SPEC_FIELDS)
    if spec is None:
        return []
    subject = peers.kubernetes_selector(spec["podSelector"]) if "podSelector" in spec else ()
    types = _types(spec)
    terms: list[Term] = []
    active = {}
    for name, direction in (("ingress", Direction.INGRESS), ("egress", Direction.EGRESS)):
        rules = list(spec[name].items()) if name in spec else []
        for one in rules:
            terms.extend(_terms(one, direction, ref.namespace, cluster))
        active[direction] = bool(rules) or name.capitalize() in types
    if not active[Direction.INGRESS] and "Egress" not in types:
        active[Direction.INGRESS] = True
    return [
        Rule(
            path=place.path,
            subject=LabelSelector((*subject, _namespace(ref.namespace))),
            terms=tuple(terms),
            default_deny=DefaultDeny(active[Direction.INGRESS], active[Direction.EGRESS]),
            labels=labels,
        )
    ]


def _types(spec: dict[str, Place]) -> frozenset[str]:
    found = set()
    places = list(spec["policyTypes"].items()) if "policyTypes" in spec else []
    if len(places) > len(_TYPES):
        spec["policyTypes"].refuse(f"{len(places)} types: name each of {', '.join(_TYPES)} at most once")
    for one in places:
        text = one.text()
        if text is not None and text not in _TYPES:
            one.refuse(f"unknown type {shown(text)}{did_you_mean(text, _TYPES)}; types are {', '.join(_TYPES)}")
        elif text is not None:
            found.add(text)
    return frozenset(found)


def _terms(place: Place, direction: Direction, namespace: str, cluster: str) -> list[Term]:
    fields = place.fields(_RULE_FIELDS[direction])
    if fields is None:
        return []
    member = "from" if direction is Direction.INGRESS else "to"
    places = list(fields[member].items()) if member in fields else []
    found = [peer for one in places if (peer := _peer(one, namespace, cluster)) is not None]
    chosen: tuple[Peer, ...] = tuple(dict.fromkeys(found)) if places else (_EVERYONE,)
    ports = list(fields["ports"].items()) if "ports" in fields else []
    matches: list[L4Match] = [match for one in ports if (match := _port(one)) is not None]
    l4 = tuple(dict.fromkeys(matches)) if ports else None
    return [Term(path=place.path, direction=direction, deny=False, peers=chosen, l4=l4)]


def _peer(place: Place, namespace: str, cluster: str) -> Peer | None:
    fields = place.fields(_PEER_FIELDS)
    if fields is None:
        return None
    if "ipBlock" in fields:
        if len(fields) > 1:
            place.refuse("ipBlock beside a selector: write an element for each of them")
        return _block(fields["ipBlock"])
    if not fields:
        place.refuse("an empty peer: write podSelector, namespaceSelector or ipBlock")
        return None
    found = list(peers.kubernetes_selector(fields["podSelector"])) if "podSelector" in fields else []
    if "namespaceSelector" in fields:
        wanted = peers.kubernetes_selector(fields["namespaceSelector"])
        found += [one._replace(key=NAMESPACE_LABELS_PREFIX + one.key) for one in wanted]
        if not wanted:
            found.append(Requirement(K8S, NAMESPACE_KEY, Operator.EXISTS))
    else:
        found.append(_namespace(namespace))
    found.append(Requirement(K8S, CLUSTER_KEY, Operator.IN, (cluster,)))
    return LabelSelector.of(found)


def _block(place: Place) -> Peer | None:
    fields = place.fields(_BLOCK_FIELDS)
    if fields is None:
        return None
    if "cidr" not in fields:
        place.refuse("cidr is missing: write a prefix, for example 10.0.0.0/8")
        return None
    prefix = peers.prefix(fields["cidr"])
    holes = []
    for one in fields["except"].items() if "except" in fields else ():
        hole = peers.prefix(one)
        if hole is not None and prefix is not None and (not contains(prefix, hole) or hole == prefix):
            one.refuse(f"{hole} does not lie in {prefix}: an exception must be a part of its own cidr")
        elif hole is not None:
            holes.append(hole)
    return CidrSelector(prefix, tuple(holes)) if prefix is not None else None


def _port(place: Place) -> PortMatch | NamedPort | None:
    fields = place.fields(_PORT_FIELDS)
    if fields is None:
        return None
    name = (fields["protocol"].text() or "") if "protocol" in fields else "TCP"
    protocol = _PROTOCOLS.get(name)
    if protocol is None:
        advice = did_you_mean(name, _PROTOCOLS)
        fields["protocol"].refuse(f"unknown protocol {shown(name)}{advice}; protocols are {', '.join(_PROTOCOLS)}")
        return None
    last = fields["endPort"].integer(1, PORT_MAX) if "endPort" in fields else 0
    if "port" not in fields:
        if last:
            place.refuse("endPort without port: write the first port of the range too")
        return PortMatch(protocol)
    value = fields["port"].value
    if isinstance(value, str):
        if last:
            place.refuse("endPort beside a port's name: a range has numbers")
        return _named(fields["port"], protocol, value)
    first = fields["port"].integer(1, PORT_MAX)
    if first is None or last is None:
        return None
    if last and last < first:
        fields["endPort"].refuse(f"{last} is below port {first}: write the range upwards, or leave endPort out")
        return None
    return PortMatch(protocol, first, last or first)


def _named(place: Place, protocol: Protocol, text: str) -> NamedPort | None:
    """A container port's name as Kubernetes has them: a number in quotes is none, and capitals are not in any."""
    if l4.is_port_name(text) and text == text.lower():
        return NamedPort(protocol, text)
    if text.isascii() and text.isdecimal():
        place.refuse(f"{shown(text)} is text: write the number without quotes")
    else:
        place.refuse(
            f"{shown(text)} is not a container port's name: write at most {l4.PORT_NAME_MAX} small letters, digits and "
            f"single inner '-' with a letter among them, or a number without quotes"
        )
    return None


def _namespace(name: str) -> Requirement:
    return Requirement(K8S, NAMESPACE_KEY, Operator.IN, (name,))
