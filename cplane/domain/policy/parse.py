"""A document becomes a policy, or every reason why it cannot."""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from cplane.domain.labels import K8S, UNSPEC, BadLabel, Label, LabelSet
from cplane.domain.policy import l4, peers
from cplane.domain.policy.document import Fields, Place, Reader, did_you_mean, shown
from cplane.domain.policy.peers import UNSUPPORTED, Scope
from cplane.domain.policy.rule import CCNP, CNP, DefaultDeny, L4Match, Policy, PolicyRef, Rule, Term
from cplane.domain.selectors import LabelSelector, Selector
from cplane.domain.verdict import Direction

API_VERSION: Final = "cilium.io/v2"
LOG_MAX: Final = 32
DEFAULT_NAMESPACE: Final = "default"
KEPT_TEXTS: Final = 1024  # whose policies are kept for who reads them next
KEPT_CHARS: Final = 16_384  # of such a text; a longer one is rare, and parsed each time

_KINDS: Final = (CNP, CCNP)
_OTHER_KINDS: Final = ("NetworkPolicy", "ClusterNetworkPolicy", "CiliumCIDRGroup")
_REMOVED: Final = "removed from the language in Cilium 1.19: put its labels into the peers' own selectors"

_DOCUMENT_FIELDS: Final = Fields(frozenset({"apiVersion", "kind", "metadata", "spec", "specs", "status"}))
_METADATA_FIELDS: Final = Fields(
    frozenset(
        {
            "name",
            "namespace",
            "annotations",
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generateName",
            "generation",
            "labels",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        }
    )
)
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
    )
)
_DEFAULT_DENY_FIELDS: Final = Fields(frozenset({"ingress", "egress"}))
_LOG_FIELDS: Final = Fields(frozenset({"value"}))
_LABEL_FIELDS: Final = Fields(frozenset({"key", "value", "source"}))

_INGRESS_PEERS: Final = ("fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet")
_EGRESS_PEERS: Final = ("toEndpoints", "toEntities", "toCIDR", "toCIDRSet")
_INGRESS_UNSUPPORTED: Final = {
    **dict.fromkeys(("fromGroups", "fromNodes"), UNSUPPORTED),
    "fromRequires": _REMOVED,
}
_EGRESS_UNSUPPORTED: Final = {
    **dict.fromkeys(("toGroups", "toNodes", "toServices"), UNSUPPORTED),
    "toRequires": _REMOVED,
}

_SECTIONS: Final[Mapping[str, tuple[Direction, bool, tuple[str, ...], Fields]]] = {
    "ingress": (
        Direction.INGRESS,
        False,
        _INGRESS_PEERS,
        Fields(
            frozenset({*_INGRESS_PEERS, "toPorts", "icmps"}),
            {**_INGRESS_UNSUPPORTED, "authentication": UNSUPPORTED},
        ),
    ),
    "ingressDeny": (
        Direction.INGRESS,
        True,
        _INGRESS_PEERS,
        Fields(frozenset({*_INGRESS_PEERS, "toPorts", "icmps"}), _INGRESS_UNSUPPORTED),
    ),
    "egress": (
        Direction.EGRESS,
        False,
        _EGRESS_PEERS,
        Fields(
            frozenset({*_EGRESS_PEERS, "toPorts", "icmps"}),
            {**_EGRESS_UNSUPPORTED, "toFQDNs": UNSUPPORTED, "authentication": UNSUPPORTED},
        ),
    ),
    "egressDeny": (
        Direction.EGRESS,
        True,
        _EGRESS_PEERS,
        Fields(frozenset({*_EGRESS_PEERS, "toPorts", "icmps"}), _EGRESS_UNSUPPORTED),
    ),
}
_PEER_READERS: Final[Mapping[str, Callable[[Place, Scope], list[Selector]]]] = {
    "Endpoints": peers.endpoint_selectors,
    "Entities": peers.entities,
    "CIDR": lambda place, _: peers.prefixes(place),
    "CIDRSet": lambda place, _: peers.prefix_rules(place),
}
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def parse(document: Mapping[str, object], *, cluster: str) -> Policy:
    """The policy that the document is, in the cluster of that name.

    The same document is always read the same way, so what was accepted once is accepted again.
    Raises InvalidPolicy with every error. Source: rules of Cilium 1.19, `pkg/policy/api` and the CRD's schema.
    """
    reader = Reader()
    root = reader.root(document)
    fields = root.fields(_DOCUMENT_FIELDS)
    if fields is None:
        fields = {}
    kind = _kind(root, fields)
    ref, labels = _metadata(root, fields, kind)
    rules = _rules(root, fields, ref, labels, cluster)
    return reader.result(lambda: Policy(ref, tuple(rules)))


def parse_text(text: str, *, cluster: str) -> Policy:
    """`parse` of the object that the JSON text is.

    Who decides about a text, who remembers what was decided, and whose tables follow from it, read it one after
    the other: it is parsed for the first of them, and they share one policy.
    """
    return _kept(text, cluster) if len(text) <= KEPT_CHARS else _parse_text(text, cluster)


def _parse_text(text: str, cluster: str) -> Policy:
    document = json.loads(text)
    assert isinstance(document, dict), "the edge hands over objects"
    return parse(document, cluster=cluster)


_kept = lru_cache(maxsize=KEPT_TEXTS)(_parse_text)


def _kind(root: Place, fields: dict[str, Place]) -> str:
    version = _required_text(root, fields, "apiVersion", f"write {API_VERSION}")
    if version is not None and version != API_VERSION:
        fields["apiVersion"].refuse(f"{shown(version)} is not read here: write {API_VERSION}")
    kind = _required_text(root, fields, "kind", f"write one of {', '.join(_KINDS)}")
    if kind is None:
        return ""
    if kind in _OTHER_KINDS:
        fields["kind"].refuse(f"{kind}: {UNSUPPORTED}; kinds are {', '.join(_KINDS)}")
    elif kind not in _KINDS:
        fields["kind"].refuse(f"unknown kind {shown(kind)}{did_you_mean(kind, _KINDS)}; kinds are {', '.join(_KINDS)}")
    return kind


def _metadata(root: Place, fields: dict[str, Place], kind: str) -> tuple[PolicyRef, LabelSet]:
    if "metadata" not in fields:
        root.refuse("metadata is missing: a policy needs at least metadata.name")
        return PolicyRef(kind, "", ""), LabelSet()
    place = fields["metadata"]
    found = place.fields(_METADATA_FIELDS)
    if found is None:
        return PolicyRef(kind, "", ""), LabelSet()
    name = _required_text(place, found, "name", "a policy needs a name")
    if name is not None and not peers.is_subdomain(name):
        found["name"].refuse(
            f"{shown(name)} is not a name: lower-case letters, digits, '-' and '.', at most {peers.SUBDOMAIN_MAX}, "
            f"with a letter or digit at both ends"
        )
    ref = PolicyRef(kind, _namespace(found, kind), name or "")
    uid = found["uid"].value if "uid" in found else ""
    return ref, _policy_labels(ref, uid if isinstance(uid, str) else "")


def _namespace(fields: dict[str, Place], kind: str) -> str:
    text = fields["namespace"].text() if "namespace" in fields else ""
    if kind == CCNP:
        if text:
            fields["namespace"].refuse(f"a {CCNP} has no namespace: remove it, or write a {CNP}")
        return ""
    if not text:
        return DEFAULT_NAMESPACE
    if len(text) > peers.NAME_MAX or not _NAMESPACE.fullmatch(text):
        fields["namespace"].refuse(
            f"{shown(text)} is not a namespace: lower-case letters, digits and '-', at most {peers.NAME_MAX}, "
            f"with a letter or digit at both ends"
        )
    return text


def _policy_labels(ref: PolicyRef, uid: str) -> LabelSet:
    prefix = "io.cilium.k8s.policy."
    values = {"derived-from": ref.kind, "name": ref.name, "namespace": ref.namespace, "uid": uid}
    return LabelSet(tuple(Label(prefix + key, K8S, value) for key, value in values.items() if value or key == "uid"))


def _rules(root: Place, fields: dict[str, Place], ref: PolicyRef, labels: LabelSet, cluster: str) -> list[Rule]:
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
    scope = Scope(ref.namespace, cluster, peers.is_init(subject))
    path = place.path
    terms: list[Term] = []
    active = {Direction.INGRESS: False, Direction.EGRESS: False}
    for section, (direction, deny, peer_fields, known) in _SECTIONS.items():
        if section in fields:
            for one in fields[section].items():
                active[direction] = True
                terms.extend(_term(one, direction, peer_fields, known, scope, deny=deny))
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
    )


def _subject(place: Place, fields: dict[str, Place], ref: PolicyRef) -> LabelSelector:
    if "nodeSelector" in fields:
        if "endpointSelector" in fields:
            place.refuse("both endpointSelector and nodeSelector: keep one of them")
        if ref.kind == CCNP:
            fields["nodeSelector"].refuse(UNSUPPORTED)
        else:
            fields["nodeSelector"].refuse(f"only a {CCNP} can select nodes: use endpointSelector")
    elif "endpointSelector" not in fields:
        place.refuse("endpointSelector is missing: write `endpointSelector: {}` for all endpoints of the namespace")
    if "endpointSelector" not in fields:
        return LabelSelector()
    return peers.subject_selector(fields["endpointSelector"], ref.namespace)


def _term(
    place: Place,
    direction: Direction,
    peer_fields: tuple[str, ...],
    known: Fields,
    scope: Scope,
    *,
    deny: bool,
) -> list[Term]:
    fields = place.fields(known)
    if fields is None:
        return []
    written = [name for name in peer_fields if name in fields]
    used = [name for name in written if fields[name].value]
    if len(used) > 1:
        place.refuse(f"{' and '.join(used)} in one element: write an element for each of them")
    found = [
        selector
        for name in written
        for selector in _PEER_READERS[name.removeprefix("from").removeprefix("to")](fields[name], scope)
    ]
    # One empty list is enough to select nobody, also beside a list that is not empty.
    nobody = any(not fields[name].value for name in written)
    matches = _l4(place, fields, deny=deny)
    chosen = None if not written else () if nobody else tuple(dict.fromkeys(found))
    return [Term(place.path, direction, deny, chosen, matches)]


def _l4(place: Place, fields: dict[str, Place], *, deny: bool) -> tuple[L4Match, ...] | None:
    if "icmps" in fields and "toPorts" in fields and fields["icmps"].value and fields["toPorts"].value:
        place.refuse("icmps and toPorts in one element: write an element for each of them")
    found: list[L4Match] = []
    given = False
    if "toPorts" in fields:
        given = bool(fields["toPorts"].value)
        found.extend(l4.port_rules(fields["toPorts"], deny=deny))
    if "icmps" in fields:
        given = given or bool(fields["icmps"].value)
        found.extend(l4.icmp_rules(fields["icmps"]))
    return tuple(dict.fromkeys(found)) if given else None


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
        key = _required_text(one, fields, "key", "a label needs a key")
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


def _required_text(place: Place, fields: dict[str, Place], name: str, advice: str) -> str | None:
    if name not in fields:
        place.refuse(f"{name} is missing: {advice}")
        return None
    text = fields[name].text()
    if text == "":
        fields[name].refuse(f"empty: {advice}")
        return None
    return text
