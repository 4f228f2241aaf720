"""Peers as they are written: selectors, entities, prefixes, and what only refers to peers that are kept elsewhere."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from cplane.domain.cidr import Prefix, contains, parse_prefix, parse_prefix_or_address
from cplane.domain.labels import (
    ANY,
    CIDRGROUP,
    CLUSTER_KEY,
    K8S,
    NAMESPACE_KEY,
    NAMESPACE_LABELS_PREFIX,
    RESERVED,
)
from cplane.domain.policy.dns import read_dns
from cplane.domain.policy.document import Fields, Place, did_you_mean, shown
from cplane.domain.policy.entities import ENTITIES, entity_selectors
from cplane.domain.policy.rule import CloudRef, GroupRef, Peer, ServiceRef
from cplane.domain.selectors import IN_DOCUMENTS, CidrSelector, LabelSelector, Operator, Requirement

_SELECTOR_FIELDS: Final = Fields(frozenset({"matchLabels", "matchExpressions"}))
_EXPRESSION_FIELDS: Final = Fields(frozenset({"key", "operator", "values"}))
_CIDR_RULE_SOURCES: Final = ("cidr", "cidrGroupRef", "cidrGroupSelector")
_CIDR_RULE_FIELDS: Final = Fields(frozenset({*_CIDR_RULE_SOURCES, "except"}))
_SERVICE_FIELDS: Final = Fields(frozenset({"k8sService", "k8sServiceSelector"}))
_NAMED_SERVICE_FIELDS: Final = Fields(frozenset({"serviceName", "namespace"}))
_SELECTED_SERVICE_FIELDS: Final = Fields(frozenset({"selector", "namespace"}))
_GROUP_FIELDS: Final = Fields(frozenset({"aws"}))
_AWS_FIELDS: Final = Fields(frozenset({"labels", "securityGroupsIds", "securityGroupsNames", "region"}))

_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SOURCE: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?")
NAME_MAX: Final = 63
SUBDOMAIN_MAX: Final = 253


class Scope(NamedTuple):
    """What a selector is completed with: the policy's namespace (empty: cluster-wide) and the local cluster's name.

    `subject_is_init`: the rule is about endpoints that have no labels yet; `subject_is_nodes`: about nodes.
    """

    namespace: str
    cluster: str
    subject_is_init: bool = False
    subject_is_nodes: bool = False


def is_subdomain(text: str) -> bool:
    """Whether it is a DNS-1123 subdomain, as Kubernetes names are."""
    return len(text) <= SUBDOMAIN_MAX and _SUBDOMAIN.fullmatch(text) is not None


def subject_selector(place: Place, namespace: str) -> LabelSelector:
    """Whom a rule is about: with a namespace, only endpoints in it, whatever `matchLabels` says under that key."""
    requirements = _requirements(place)
    if namespace:
        forced = Requirement(K8S, NAMESPACE_KEY, Operator.IN, (namespace,))
        written = place.value.get("matchLabels") if isinstance(place.value, dict) else None
        named = written.get(f"{K8S}:{NAMESPACE_KEY}") if isinstance(written, dict) else None
        foreign = Requirement(K8S, NAMESPACE_KEY, Operator.IN, (named,)) if isinstance(named, str) else None
        if foreign in requirements:
            requirements.remove(foreign)  # that of matchLabels, which come first; an expression stays
        requirements.append(forced)
    return LabelSelector.of(requirements)


def is_init(selector: LabelSelector) -> bool:
    """Whether the selector names endpoints that have no labels yet."""
    return any((one.source, one.key) == (RESERVED, "init") for one in selector.requirements)


def plain_selector(place: Place) -> LabelSelector:
    """A selector of nodes, services or groups: exactly what is written."""
    return LabelSelector.of(_requirements(place))


def kubernetes_selector(place: Place) -> tuple[Requirement, ...]:
    """A selector of Kubernetes: its keys are labels of Kubernetes objects, whatever they look like."""
    return tuple(_requirements(place, K8S))


def endpoint_selectors(place: Place, scope: Scope) -> list[Peer]:
    """The peers of `fromEndpoints` or `toEndpoints`, completed with namespace and cluster."""
    return [LabelSelector.of(_completed(_requirements(one), scope)) for one in place.items()]


def entities(place: Place, scope: Scope) -> list[Peer]:
    """The peers of `fromEntities` or `toEntities`."""
    found: list[Peer] = []
    for one in place.items():
        name = one.text()
        if name is None:
            continue
        selectors = entity_selectors(name, scope.cluster)
        if selectors is None:
            one.refuse(
                f"unknown entity {shown(name)}{did_you_mean(name, ENTITIES)}; entities are {', '.join(ENTITIES)}"
            )
            continue
        found.extend(selectors)
    return found


def prefixes(place: Place, _scope: Scope) -> list[Peer]:
    """The peers of `fromCIDR` or `toCIDR`: prefixes, or addresses alone."""
    found: list[Peer] = []
    for one in place.items():
        text = one.text()
        if text is None:
            continue
        try:
            found.append(CidrSelector(parse_prefix_or_address(text)))
        except ValueError as error:
            one.refuse(f"{shown(text)} is neither a prefix nor an address: {error}; write 10.0.0.0/8 or 2001:db8::/32")
    return found


def prefix_rules(place: Place, _scope: Scope) -> list[Peer]:
    """The peers of `fromCIDRSet` or `toCIDRSet`: prefixes or groups of them, with holes."""
    return [peer for one in place.items() if (peer := _prefix_rule(one)) is not None]


def services(place: Place, scope: Scope) -> list[Peer]:
    """The peers of `toServices`."""
    return [peer for one in place.items() if (peer := _service(one, scope)) is not None]


def names(place: Place, _scope: Scope) -> list[Peer]:
    """The peers of `toFQDNs`."""
    return [peer for one in place.items() if (peer := read_dns(one, both=False)) is not None]


def cloud_groups(place: Place, _scope: Scope) -> list[Peer]:
    """The peers of `fromGroups` or `toGroups`."""
    return [peer for one in place.items() if (peer := _cloud_group(one)) is not None]


def _prefix_rule(place: Place) -> Peer | None:
    fields = place.fields(_CIDR_RULE_FIELDS)
    if fields is None:
        return None
    given = [name for name in _CIDR_RULE_SOURCES if name in fields]
    if len(given) != 1:
        here = " and ".join(given) if given else "none of them"
        place.refuse(f"write one of {', '.join(_CIDR_RULE_SOURCES)}, for example cidr: 10.0.0.0/8; here is {here}")
        return None
    found = prefix(fields["cidr"]) if "cidr" in fields else None
    holes = []
    for one in fields["except"].items() if "except" in fields else ():
        hole = prefix(one)
        if hole is not None and found is not None and not contains(found, hole):
            one.refuse(f"{hole} does not lie in {found}: an exception must be part of its own cidr")
        elif hole is not None:
            holes.append(hole)
    if "cidrGroupRef" in fields:
        name = fields["cidrGroupRef"].text()
        if name is None or not is_subdomain(name):
            fields["cidrGroupRef"].refuse(f"{shown(name)} is not the name of a CiliumCIDRGroup")
            return None
        return GroupRef(name, None, tuple(holes))
    if "cidrGroupSelector" in fields:
        return GroupRef("", _group_selector(fields["cidrGroupSelector"]), tuple(holes))
    return CidrSelector(found, tuple(holes)) if found is not None else None


def _group_selector(place: Place) -> LabelSelector:
    """Labels of a CiliumCIDRGroup are those of a Kubernetes object: they come from nowhere else."""
    selector = plain_selector(place)
    for one in selector.requirements:
        if one.source != ANY:
            place.refuse(f"{one.source}:{one.key} selects no group, whose labels have no source: write {one.key}")
    return selector


def _service(place: Place, scope: Scope) -> Peer | None:
    fields = place.fields(_SERVICE_FIELDS)
    if fields is None:
        return None
    if len(fields) != 1:
        place.refuse("write one of k8sService, k8sServiceSelector")
        return None
    if "k8sService" in fields:
        named = fields["k8sService"].fields(_NAMED_SERVICE_FIELDS) or {}
        name = named["serviceName"].text() if "serviceName" in named else ""
        if not name:
            fields["k8sService"].refuse("serviceName is missing: write the service's name")
        return ServiceRef(_service_namespace(named, scope), name or "")
    selected = fields["k8sServiceSelector"].fields(_SELECTED_SERVICE_FIELDS) or {}
    if "selector" not in selected:
        fields["k8sServiceSelector"].refuse("selector is missing: write the labels of the services")
        return None
    return ServiceRef(_service_namespace(selected, scope), "", plain_selector(selected["selector"]))


def _service_namespace(fields: dict[str, Place], scope: Scope) -> str:
    text = fields["namespace"].text() if "namespace" in fields else ""
    return text or scope.namespace


def _cloud_group(place: Place) -> Peer | None:
    fields = place.fields(_GROUP_FIELDS)
    if fields is None:
        return None
    if "aws" not in fields:
        place.refuse("aws is missing: it is the only provider whose groups the language knows")
        return None
    aws = fields["aws"].fields(_AWS_FIELDS)
    if aws is None:
        return None
    parts: list[str] = []
    for name in ("securityGroupsIds", "securityGroupsNames"):
        if name in aws:
            parts.extend(text for one in aws[name].items() if (text := one.text()) is not None)
    if "labels" in aws:
        parts.extend(f"{key}={text}" for key, one in aws["labels"].entries() if (text := one.text()) is not None)
    region = (aws["region"].text() or "") if "region" in aws else ""
    return CloudRef(" ".join(("aws", *([region] if region else []), *parts)))


def prefix(place: Place) -> Prefix | None:
    """A prefix with its length."""
    text = place.text()
    if text is None:
        return None
    try:
        return parse_prefix(text)
    except ValueError as error:
        place.refuse(f"{shown(text)} is not a prefix: {error}; write it with its length, for example 10.0.0.1/32")
        return None


def _completed(requirements: list[Requirement], scope: Scope) -> Iterable[Requirement]:
    """The requirements and those that the language adds.

    A selector that names a reserved label is left alone: what has such a label is in no namespace and no cluster.
    """
    if any(one.source == RESERVED for one in requirements):
        return requirements
    plain = {one.key for one in requirements if one.source in (K8S, ANY)}
    added = []
    if NAMESPACE_KEY not in plain:
        if not scope.namespace:
            if not scope.subject_is_init:
                added.append(Requirement(K8S, NAMESPACE_KEY, Operator.EXISTS))
        elif not any(key.startswith(NAMESPACE_LABELS_PREFIX) for key in plain):
            added.append(Requirement(K8S, NAMESPACE_KEY, Operator.IN, (scope.namespace,)))
    if CLUSTER_KEY not in plain:
        added.append(Requirement(K8S, CLUSTER_KEY, Operator.IN, (scope.cluster,)))
    return (*requirements, *added)


def _requirements(place: Place, source: str = "") -> list[Requirement]:
    """`source` is that of all keys; without it they say it themselves."""
    fields = place.fields(_SELECTOR_FIELDS)
    if fields is None:
        return []
    found = []
    if "matchLabels" in fields:
        for name, one in fields["matchLabels"].entries():
            key, value = _key(one, name, source), one.text()
            if value is not None and _is_value(one, value) and key is not None:
                found.append(Requirement(*key, Operator.IN, (value,)))
    if "matchExpressions" in fields:
        found.extend(r for one in fields["matchExpressions"].items() if (r := _expression(one, source)) is not None)
    return found


def _expression(place: Place, source: str) -> Requirement | None:
    fields = place.fields(_EXPRESSION_FIELDS)
    if fields is None:
        return None
    key = _expression_key(place, fields, source)
    operator = _operator(place, fields)
    values = []
    listed = tuple(fields["values"].items()) if "values" in fields else ()
    for one in listed:
        value = one.text()
        if value is not None and _is_value(one, value):
            values.append(value)
    if operator in (Operator.IN, Operator.NOT_IN) and not listed:
        place.refuse(f"operator {operator} needs values: list at least one")
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and listed:
        fields["values"].refuse(f"operator {operator} takes no values: remove them, or use In or NotIn")
    if key is None or operator is None:
        return None
    return Requirement(*key, operator, tuple(sorted(set(values))))


def _expression_key(place: Place, fields: dict[str, Place], source: str) -> tuple[str, str] | None:
    if "key" not in fields:
        place.refuse("key is missing: write the label's key, for example app")
        return None
    name = fields["key"].text()
    return _key(fields["key"], name, source) if name is not None else None


def _operator(place: Place, fields: dict[str, Place]) -> Operator | None:
    names = tuple(operator.value for operator in IN_DOCUMENTS)
    if "operator" not in fields:
        place.refuse(f"operator is missing: write one of {', '.join(names)}")
        return None
    name = fields["operator"].text()
    if name is None:
        return None
    if name not in names:
        fields["operator"].refuse(
            f"unknown operator {shown(name)}{did_you_mean(name, names)}; operators are {', '.join(names)}"
        )
        return None
    return Operator(name)


def _key(place: Place, text: str, source: str = "") -> tuple[str, str] | None:
    """Source and key of a label's name as selectors write it; without a source it is `any`."""
    written = "" if source else "source:key or key, where key is "
    if source:
        key = text
    elif text.startswith("$"):
        source, key = RESERVED, text[1:]
    elif ":" in text:
        source, _, key = text.partition(":")
    elif text.startswith(f"{RESERVED}."):
        source, key = RESERVED, text.removeprefix(f"{RESERVED}.")
    else:
        source, key = ANY, text
    if source == CIDRGROUP:
        place.refuse("groups of prefixes are selected by cidrGroupRef or cidrGroupSelector of fromCIDRSet or toCIDRSet")
        return None
    domain, slash, name = key.removeprefix(NAMESPACE_LABELS_PREFIX).rpartition("/")
    good = (
        _SOURCE.fullmatch(source)
        and _NAME.fullmatch(name)
        and len(name) <= NAME_MAX
        and (not slash or is_subdomain(domain))
    )
    if not good:
        place.refuse(
            f"{shown(text)} is not a label's key: write {written}letters, digits, '-', '_' and '.', at most {NAME_MAX} "
            f"of them, after an optional DNS name and '/'"
        )
        return None
    return source, key


def _is_value(place: Place, value: str) -> bool:
    if not value or (len(value) <= NAME_MAX and _NAME.fullmatch(value)):
        return True
    place.refuse(
        f"{shown(value)} is not a label's value: at most {NAME_MAX} letters, digits, '-', '_' and '.', "
        f"with a letter or digit at both ends"
    )
    return False
