"""What is legal in a policy and was surely meant otherwise."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cplane.domain.labels import ANY, K8S, NAMESPACE_KEY
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.document import shown
from cplane.domain.policy.overlap import RuleIndex, denies_some, denying, shadowing
from cplane.domain.policy.rule import CNP, KNP, CloudRef, GroupRef, Peer, Policy, PortMatch, Rule, Term
from cplane.domain.ports import PORT_PROTOCOLS, NamedPort, Protocol
from cplane.domain.selectors import CidrSelector, LabelSelector
from cplane.domain.verdict import Direction

_SECTIONS: Final[Mapping[str, str]] = {
    "ingress": "write `ingress: [{}]` to deny what no rule allows, or remove it",
    "egress": "write `egress: [{}]` to deny what no rule allows, or remove it",
    "ingressDeny": "remove it",
    "egressDeny": "remove it",
}
_NAMESPACE_KEYS: Final[Mapping[str, str]] = {
    f"{K8S}:{NAMESPACE_KEY}": "is overwritten by the policy's own namespace",
    f"{ANY}:{NAMESPACE_KEY}": "selects nothing",
    NAMESPACE_KEY: "selects nothing",
}
_TRAFFIC: Final = ("toPorts", "icmps")
_DOTTED: Final = re.compile(rf"({K8S}|{ANY})\.(io\.(?:kubernetes\.pod|cilium\.k8s)\..+)")
"""A label of Cilium's own after a source and a dot: that is how Cilium keeps keys, and not how they are written."""
_OUTSIDE: Final = (CidrSelector, GroupRef, DnsRule, CloudRef)  # peers without containers
_SAMPLE: Final = "x"  # what a star of a pattern may stand for


class Advice(NamedTuple):
    """What is odd at `path` of a document, and what to do."""

    path: str
    message: str


def advice(document: Mapping[str, object], policy: Policy, index: RuleIndex) -> Iterator[Advice]:
    """Everything odd about a policy among others; `document` is what it was read from, `index` has them all."""
    specs = dict(_specs(document)) if policy.ref.kind != KNP else {}
    for path, spec in specs.items():
        yield from _written(path, spec, policy)
    for rule in policy.rules:
        if not policy.audit:
            yield from _only_denying(specs.get(rule.path, {}), rule, index)
        yield from _asked_names(rule, index)
        yield from _unread(rule)
        yield from _dotted(f"{rule.path}.{'nodeSelector' if rule.about_nodes else 'endpointSelector'}", rule.subject)
        for term in rule.terms:
            yield from _void_names(term)
            yield from _nameless_ports(term)
            for peer in term.peers or ():
                if isinstance(peer, LabelSelector):
                    yield from _dotted(term.path, peer)
            beaten = denying(term, rule, index)
            if beaten is not None:
                held, other = beaten
                yield Advice(term.path, f"allows nothing: {held.ref} {other.path} denies all of it")
    if policy.ref.kind == KNP and document.get("spec") is None:
        yield Advice("spec", "missing: all pods of the namespace are meant, and nobody may reach them; write it out")
    shadow = shadowing(policy, index)
    if shadow is not None:
        yield Advice(policy.rules[0].path, f"adds nothing: {shadow} says all of it; remove one of them")


def _specs(document: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    spec, specs = document.get("spec"), document.get("specs")
    if isinstance(spec, Mapping):
        yield "spec", spec
    for index, one in enumerate(specs if isinstance(specs, list) else ()):
        if isinstance(one, Mapping):
            yield f"specs[{index}]", one


def _written(path: str, spec: Mapping[str, object], policy: Policy) -> Iterator[Advice]:
    """What only the text shows: the rule has lost it."""
    for name, remedy in _SECTIONS.items():
        if name in spec and not spec[name]:
            yield Advice(f"{path}.{name}", f"an empty list changes nothing: {remedy}")
        for index, one in enumerate(_list(spec.get(name))):
            if isinstance(one, Mapping):
                yield from _element(f"{path}.{name}[{index}]", one)
    subject = spec.get("endpointSelector")
    labels = subject.get("matchLabels") if isinstance(subject, Mapping) else None
    if not isinstance(labels, Mapping) or policy.ref.kind != CNP:
        return
    for key, effect in _NAMESPACE_KEYS.items():
        if labels.get(key, policy.ref.namespace) != policy.ref.namespace:
            message = f"namespace {shown(labels[key])} {effect}: a policy is about endpoints of its own namespace"
            yield Advice(f'{path}.endpointSelector.matchLabels."{key}"', message)


def _element(path: str, element: Mapping[str, object]) -> Iterator[Advice]:
    """What is odd about an element of a section as it is written."""
    peers = [name for name in element if name.startswith(("from", "to")) and name not in _TRAFFIC]
    named = any(element[name] is not None for name in peers)
    narrowed = any(element.get(name) for name in _TRAFFIC)
    for name in (*peers, *_TRAFFIC):
        if name in element and element[name] is None:
            meant = _meant(is_peer=name in peers, named=named, narrowed=narrowed)
            yield Advice(f"{path}.{name}", f"empty, as good as left out: {meant} is meant; write a list, or remove it")
        elif name in peers and element[name] == [] and not any(element[one] for one in peers):
            yield Advice(f"{path}.{name}", "an empty list of peers is nobody: write who is meant, or remove it for all")
    for index, rule in enumerate(_list(element.get("toPorts"))):
        for place, port in enumerate(_list(rule.get("ports")) if isinstance(rule, Mapping) else ()):
            if isinstance(port, Mapping):
                yield from _port(f"{path}.toPorts[{index}].ports[{place}]", port)


def _port(path: str, port: Mapping[str, object]) -> Iterator[Advice]:
    protocol, first, last = port.get("protocol"), port.get("port"), port.get("endPort")
    if isinstance(protocol, str) and protocol != protocol.upper():
        yield Advice(f"{path}.protocol", f"an API server refuses {shown(protocol)}: write {protocol.upper()}")
    if isinstance(first, str) and isinstance(last, int) and last > 0 and first.isdecimal() and last < int(first):
        yield Advice(f"{path}.endPort", f"{last} is below port {first}, which alone is meant: write the range upwards")


def _meant(*, is_peer: bool, named: bool, narrowed: bool) -> str:
    """Whom or what an element is about where a list of peers, or one of traffic, is left out."""
    if is_peer and named:
        return "what the other peers say"
    if not named and not narrowed:
        return "nobody"
    return "everyone" if is_peer else "all traffic"


def _only_denying(spec: Mapping[str, object], rule: Rule, index: RuleIndex) -> Iterator[Advice]:
    """A rule that denies something puts the direction under policy: what nobody allows is denied with it."""
    asked = spec.get("enableDefaultDeny")
    for direction, name in ((Direction.INGRESS, "ingress"), (Direction.EGRESS, "egress")):
        said = isinstance(asked, Mapping) and asked.get(name) is not None
        if not said and denies_some(rule, direction) and not index.allows(rule, direction):
            yield Advice(
                f"{rule.path}.{name}Deny",
                f"denies all {name}, not only this, since no rule allows any: write `enableDefaultDeny: "
                f"{{{name}: false}}`, or rules under {name} for what may pass",
            )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _dotted(path: str, selector: LabelSelector) -> Iterator[Advice]:
    for one in selector.requirements:
        found = _DOTTED.fullmatch(one.key) if one.source == ANY else None
        if found is not None:
            yield Advice(path, f"nothing has the label {one.key}: write {found[1]}:{found[2]}")


def _void_names(term: Term) -> Iterator[Advice]:
    rules = term.redirect.rules if term.redirect is not None else None
    for one in rules.rules if rules is not None else ():
        if isinstance(one, DnsRule) and not one.name and not one.pattern:
            yield Advice(term.path, 'a DNS rule without a name selects none: write matchPattern: "*" for every name')
    if DnsRule() in (term.peers or ()):
        yield Advice(term.path, "an element of toFQDNs without a name selects nothing: write matchName or matchPattern")


def _nameless_ports(term: Term) -> Iterator[Advice]:
    """At egress the name of a port is one of the peer's, and what is outside the cluster has none."""
    if term.direction is Direction.EGRESS and term.peers and all(isinstance(one, _OUTSIDE) for one in term.peers):
        for name in (one.name for one in term.l4 or () if isinstance(one, NamedPort)):
            yield Advice(term.path, f"no peer of this element has named ports, such as {name!r}: write its number")


def _asked_names(rule: Rule, index: RuleIndex) -> Iterator[Advice]:
    """Names whose addresses are allowed, and that no DNS rule lets the endpoint ask for."""
    wanted = [
        (term, peer)
        for term in rule.terms
        if term.direction is Direction.EGRESS
        for peer in term.peers or ()
        if isinstance(peer, DnsRule) and (peer.name or peer.pattern)
    ]
    rules = [one for held in index.naming(rule) for one in _dns_rules(held.rule)] if wanted else []
    for term, peer in wanted:
        if not any(_lets_ask(one, peer) for one in rules):
            yield Advice(
                term.path,
                f"no DNS rule covers {peer}, so its addresses stay unknown: add an egress element with port 53 and "
                f"rules.dns",
            )


class _Read(NamedTuple):
    """Ports at which connections are read, by whom, and because of which term."""

    first: int
    last: int
    priority: int
    parser: str
    path: str


def _unread(rule: Rule) -> Iterator[Advice]:
    """Requests of a protocol at a port where the same peers' connections are read as those of another."""
    told: set[str] = set()
    for ranges in _read_ranges(rule).values():
        for winner, loser in _clashing(ranges):
            if loser.path not in told:
                told.add(loser.path)
                yield Advice(
                    loser.path,
                    f"{loser.parser} is refused where {winner.path} has the same peers' connections read as "
                    f"{winner.parser}, and Cilium refuses both: write ports that no other protocol has",
                )


def _read_ranges(rule: Rule) -> Mapping[tuple[Direction, Peer | None, Protocol], list[_Read]]:
    found: dict[tuple[Direction, Peer | None, Protocol], list[_Read]] = {}
    for term in rule.terms:
        redirect = term.redirect
        if redirect is None or redirect.parser == "tls":
            continue
        for peer in (None,) if term.peers is None else term.peers:
            for one in term.l4 or ():
                if isinstance(one, PortMatch):
                    read = _Read(one.first, one.last, redirect.priority, redirect.parser, term.path)
                    for protocol in PORT_PROTOCOLS if one.protocol is Protocol.ANY else (one.protocol,):
                        found.setdefault((term.direction, peer, protocol), []).append(read)
    return found


def _clashing(ranges: list[_Read]) -> Iterator[tuple[_Read, _Read]]:
    """Those that meet and are read by two: whose parser has the connections, and the other."""
    latest: dict[str, _Read] = {}  # by parser, what reaches furthest
    for one in sorted(ranges):
        for other in latest.values():
            if other.parser != one.parser and other.last >= one.first:
                first, second = sorted((one, other), key=lambda read: (read.priority, read.parser))
                yield first, second
        if one.parser not in latest or latest[one.parser].last < one.last:
            latest[one.parser] = one


def _dns_rules(rule: Rule) -> Iterator[DnsRule]:
    for term in rule.terms:
        rules = term.redirect.rules if term.redirect is not None else None
        for one in rules.rules if rules is not None else ():
            if isinstance(one, DnsRule):
                yield one


def _lets_ask(rule: DnsRule, wanted: DnsRule) -> bool:
    if wanted.pattern:
        return rule.pattern == wanted.pattern or rule.matches(wanted.pattern.replace("*", _SAMPLE))
    return rule.matches(wanted.name)
