"""The `spec` of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: one rule, or several under `specs`."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from cplane.domain.labels import UNSPEC, BadLabel, Label, LabelSet
from cplane.domain.policy import l4, peers
from cplane.domain.policy.document import Fields, Place, did_you_mean, required_text, shown
from cplane.domain.policy.peers import Scope
from cplane.domain.policy.redirect import Redirect
from cplane.domain.policy.rule import CCNP, AuthType, DefaultDeny, L4Match, Peer, PolicyRef, Rule, Term
from cplane.domain.selectors import LabelSelector
from cplane.domain.verdict import Direction

LOG_MAX: Final = 32

_REMOVED: Final = "removed from the language in Cilium 1.19: put its labels into the peers' own selectors"
_NO_NODE_LABELS: Final = "needs the labels of nodes as identities, which are off: use fromEntities or toEntities"
_NOT_IN_DENY: Final = "cannot stand in a deny rule: remove it"
_RULE_FIELDS: Final = Fields(
    frozenset(
        {
            "endpointSelector",
            "nodeSelector",
            "ingress",
            "ingressDeny",
            "egress",
            "egressDeny",
            "labels",
            "description",
            "enableDefaultDeny",
            "log",
        }
    ),
    misplaced={
        "podSelector": "write endpointSelector",
        "policyTypes": "remove it: a direction is under policy as soon as it has an element",
    },
)
_DEFAULT_DENY_FIELDS: Final = Fields(frozenset({"ingress", "egress"}))
_LOG_FIELDS: Final = Fields(frozenset({"value"}))
_LABEL_FIELDS: Final = Fields(frozenset({"key", "value", "source"}))
_AUTH_FIELDS: Final = Fields(frozenset({"mode"}))
_AUTH_MODES: Final = {
    "disabled": AuthType.DISABLED,
    "required": AuthType.SPIRE,
    "test-always-fail": AuthType.TEST_ALWAYS_FAIL,
}

_PEER_READERS: Final[Mapping[str, Callable[[Place, Scope], list[Peer]]]] = {
    "Endpoints": peers.endpoint_selectors,
    "Entities": peers.entities,
    "CIDR": peers.prefixes,
    "CIDRSet": peers.prefix_rules,
    "Groups": peers.cloud_groups,
    "Services": peers.services,
    "FQDNs": peers.names,
}


class _Section(NamedTuple):
    """One of the four lists of a rule; `members` are the fields that name peers."""

    direction: Direction
    deny: bool
    members: tuple[str, ...]
    fields: Fields


def _section(direction: Direction, *members: str, deny: bool = False) -> _Section:
    side = "from" if direction is Direction.INGRESS else "to"
    refused = {f"{side}Nodes": _NO_NODE_LABELS}
    if deny:
        refused.update({"toFQDNs": _NOT_IN_DENY, "authentication": _NOT_IN_DENY})
    named = tuple(f"{side}{member}" for member in members)
    known = {*named, "toPorts", "icmps", f"{side}Requires", *(() if deny else ("authentication",))}
    misplaced = {
        **dict.fromkeys(("from", "to"), f"write {side}Endpoints, {side}CIDRSet or {side}Entities"),
        **dict.fromkeys(("podSelector", "namespaceSelector"), f"write {side}Endpoints"),
        "ipBlock": f"write {side}CIDRSet",
        "ports": "write toPorts",
    }
    return _Section(direction, deny, named, Fields(frozenset(known), refused, misplaced))


_COMMON: Final = ("Endpoints", "Entities", "CIDR", "CIDRSet", "Groups")
_SECTIONS: Final[Mapping[str, _Section]] = {
    "ingress": _section(Direction.INGRESS, *_COMMON),
    "ingressDeny": _section(Direction.INGRESS, *_COMMON, deny=True),
    "egress": _section(Direction.EGRESS, *_COMMON, "Services", "FQDNs"),
    "egressDeny": _section(Direction.EGRESS, *_COMMON, "Services", deny=True),
}


def read_rules(root: Place, fields: dict[str, Place], ref: PolicyRef, labels: LabelSet, cluster: str) -> list[Rule]:
    """The rules of a document; `labels` name the policy."""
    places = [fields["spec"]] if "spec" in fields else []
    if "specs" in fields:
        places.extend(fields["specs"].items())
    elif not places:
        root.refuse("spec is missing: write one rule under spec, or several under specs")
    if not places and fields.get("specs") is not None and fields["specs"].value == []:
        fields["specs"].refuse("no rule: write at least one, or delete the policy")
    return [rule for place in places if (rule := _rule(place, ref, labels, cluster)) is not None]


def _rule(place: Place, ref: PolicyRef, labels: LabelSet, cluster: str) -> Rule | None:
    fields = place.fields(_RULE_FIELDS)
    if fields is None:
        return None
    subject = _subject(place, fields, ref)
    about_nodes = "nodeSelector" in fields
    scope = Scope(ref.namespace, cluster, subject_is_init=peers.is_init(subject), subject_is_nodes=about_nodes)
    path = place.path
    terms: list[Term] = []
    active = {Direction.INGRESS: False, Direction.EGRESS: False}
    for name, section in _SECTIONS.items():
        if name in fields:
            for one in fields[name].items():
                active[section.direction] = True
                terms.extend(_terms(one, section, scope))
    if not any(isinstance(fields[s].value, list) and fields[s].value for s in _SECTIONS if s in fields):
        place.refuse(
            "no ingress, ingressDeny, egress or egressDeny: write at least one element; "
            "`ingress: [{}]` denies all that no rule allows"
        )
    return Rule(
        path=path,
        subject=subject,
        terms=tuple(terms),
        default_deny=_default_deny(fields, active),
        labels=labels.union(_labels(fields["labels"])) if "labels" in fields else labels,
        description=(fields["description"].text() or "") if "description" in fields else "",
        log=_log(fields["log"]) if "log" in fields else "",
        about_nodes=about_nodes,
    )


def _subject(place: Place, fields: dict[str, Place], ref: PolicyRef) -> LabelSelector:
    if "nodeSelector" in fields:
        if "endpointSelector" in fields:
            place.refuse("both endpointSelector and nodeSelector: keep one of them")
        if ref.kind != CCNP:
            fields["nodeSelector"].refuse(f"only a {CCNP} can select nodes: use endpointSelector")
        return peers.plain_selector(fields["nodeSelector"])
    if "endpointSelector" not in fields:
        place.refuse("endpointSelector is missing: write `endpointSelector: {}` for all endpoints of the namespace")
        return LabelSelector()
    return peers.subject_selector(fields["endpointSelector"], ref.namespace)


def _terms(place: Place, section: _Section, scope: Scope) -> list[Term]:
    fields = place.fields(section.fields)
    if fields is None:
        return []
    for name in ("fromRequires", "toRequires"):
        if name in fields and fields[name].value:
            fields[name].refuse(_REMOVED)
    written = [name for name in section.members if name in fields]
    used = [name for name in written if fields[name].value]
    if len(used) > 1:
        place.refuse(f"{' and '.join(used)} in one element: write an element for each of them")
    found = [
        peer
        for name in written
        for peer in _PEER_READERS[name.removeprefix("from").removeprefix("to")](fields[name], scope)
    ]
    # One empty list is enough to select nobody, also beside a list that is not empty.
    nobody = any(not fields[name].value for name in written)
    chosen = None if not written else () if nobody else tuple(dict.fromkeys(found))
    auth = _auth(fields["authentication"]) if "authentication" in fields else None
    return [
        Term(path, section.direction, section.deny, chosen, matches, redirect, auth)
        for path, matches, redirect in _l4(place, fields, section, scope)
    ]


def _l4(
    place: Place, fields: dict[str, Place], section: _Section, scope: Scope
) -> list[tuple[str, tuple[L4Match, ...] | None, Redirect | None]]:
    """Path, traffic and redirect of each term that the element stands for: one, and one for each redirect."""
    if "icmps" in fields and "toPorts" in fields and fields["icmps"].value and fields["toPorts"].value:
        place.refuse("icmps and toPorts in one element: write an element for each of them")
    found: list[L4Match] = []
    redirected = []
    given = False
    if "toPorts" in fields:
        given = bool(fields["toPorts"].value)
        for one in l4.port_rules(fields["toPorts"], section.direction, deny=section.deny):
            if one.redirect is None:
                found.extend(one.matches)
            else:
                redirected.append((one.path, one.matches, one.redirect))
                if scope.subject_is_nodes:
                    _check_host_redirect(fields["toPorts"], one.redirect, section.direction)
    if "icmps" in fields:
        given = given or bool(fields["icmps"].value)
        found.extend(l4.icmp_rules(fields["icmps"]))
    if not given:
        return [(place.path, None, None)]
    plain = [(place.path, tuple(dict.fromkeys(found)), None)] if found or not redirected else []
    return [*plain, *redirected]


def _check_host_redirect(place: Place, redirect: Redirect, direction: Direction) -> None:
    protocol = redirect.rules.protocol if redirect.rules is not None else ""
    if protocol and (direction is Direction.INGRESS or protocol in {"http", "kafka"}):
        place.refuse(f"a host policy cannot have {protocol} rules: it may have DNS rules, under egress")


def _auth(place: Place) -> AuthType | None:
    fields = place.fields(_AUTH_FIELDS)
    if fields is None:
        return None
    mode = required_text(place, fields, "mode", f"write one of {', '.join(_AUTH_MODES)}")
    if mode is not None and mode not in _AUTH_MODES:
        advice = did_you_mean(mode, _AUTH_MODES)
        fields["mode"].refuse(f"unknown mode {shown(mode)}{advice}; modes are {', '.join(_AUTH_MODES)}")
    return _AUTH_MODES.get(mode or "")


def _default_deny(fields: dict[str, Place], active: Mapping[Direction, bool]) -> DefaultDeny:
    chosen = {"ingress": active[Direction.INGRESS], "egress": active[Direction.EGRESS]}
    if "enableDefaultDeny" in fields:
        for name, place in (fields["enableDefaultDeny"].fields(_DEFAULT_DENY_FIELDS) or {}).items():
            value = place.boolean()
            chosen[name] = chosen[name] if value is None else value
    return DefaultDeny(chosen["ingress"], chosen["egress"])


def _labels(place: Place) -> LabelSet:
    """Free labels of a rule: objects of key, value and source, or their text."""
    found = []
    for one in place.items():
        if isinstance(one.value, str):
            try:
                found.append(Label.parse(one.value))
            except BadLabel as error:
                one.refuse(str(error))
            continue
        fields = one.fields(_LABEL_FIELDS)
        if fields is None:
            continue
        key = required_text(one, fields, "key", "a label needs a key")
        value = fields["value"].text() if "value" in fields else ""
        source = fields["source"].text() if "source" in fields else ""
        if key is not None and value is not None and source is not None:
            found.append(Label(key, source or UNSPEC, value))
    return LabelSet(tuple(found))


def _log(place: Place) -> str:
    fields = place.fields(_LOG_FIELDS)
    if not fields or "value" not in fields:
        return ""
    text = fields["value"].text()
    if text is None:
        return ""
    if len(text) > LOG_MAX or not text.isprintable():
        fields["value"].refuse(f"{shown(text)} has {len(text)} characters: at most {LOG_MAX}, all of them printable")
    return text
