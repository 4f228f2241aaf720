"""Filters about the ends of flows and about the node: identities, pods, labels, workloads, clusters."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

import numpy as np

from cplane.domain import selectors
from cplane.domain.labels import BadLabel, LabelSet
from cplane.domain.selectors import LabelSelector
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.filters.predicate import (
    DESTINATION,
    SOURCE,
    BadFilter,
    Predicate,
    Side,
    by_end,
    constant,
    name_matcher,
)
from cplane.hubble.store import FlowStore
from cplane.hubble.texts import NAME_PATTERN
from cplane.pb.flow import flow_pb2

_DEFAULT_NAMESPACE: Final = "default"
_DEFAULT_CLUSTER: Final = "default"


def parse_selector(field: str, text: str) -> LabelSelector:
    """A selector in Kubernetes' grammar; a key is `key` (of any source) or `source:key`. Raises BadFilter."""
    try:
        return selectors.parse_selector(text)
    except ValueError as error:
        raise BadFilter(field, str(error)) from None


@lru_cache(maxsize=1024)
def label_set(texts: tuple[str, ...]) -> LabelSet:
    """Labels of a flow; without those that cannot be read, which no selector can name."""
    try:
        return LabelSet.parse(texts)
    except BadLabel:
        return LabelSet.parse(text for text in texts if _readable(text))


def _readable(text: str) -> bool:
    try:
        LabelSet.parse((text,))
    except BadLabel:
        return False
    return True


def _label(side: Side, wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    field = f"{side.field}_label"
    parsed = [parse_selector(field, text) for text in getattr(wanted, field)]
    return by_end(store, side, lambda end: any(s.matches(label_set(end.labels)) for s in parsed))


def _node_labels(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    parsed = [parse_selector("node_labels", text) for text in wanted.node_labels]
    labels = label_set(store.node_labels)
    return constant(value=any(selector.matches(labels) for selector in parsed))


def _namespaced(field: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """(namespace, prefix of the name); an empty namespace stands for any."""
    parsed = []
    for text in texts:
        if not text:
            raise BadFilter(field, "it is empty; write namespace/prefix, namespace/ or prefix")
        namespace, slash, prefix = text.partition("/")
        parsed.append((namespace, prefix) if slash else (_DEFAULT_NAMESPACE, text))
    return parsed


def _pod(side: Side, wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    field = f"{side.field}_pod"
    pods = _namespaced(field, getattr(wanted, field))

    def test(end: EndpointMeta) -> bool:
        if not end.namespace and not end.pod_name:
            return False
        return any(
            (not namespace or namespace == end.namespace) and end.pod_name.startswith(prefix)
            for namespace, prefix in pods
        )

    return by_end(store, side, test)


def _service(side: Side, wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    field = f"{side.field}_service"
    services = _namespaced(field, getattr(wanted, field))

    def test(end: EndpointMeta) -> bool:
        held = end.service
        return held is not None and any(
            (not namespace or namespace == held.namespace) and held.name.startswith(prefix)
            for namespace, prefix in services
        )

    return by_end(store, side, test)


def _check_patterns(field: str, texts: Iterable[str]) -> None:
    for text in texts:
        if not NAME_PATTERN.fullmatch(text.strip()):
            raise BadFilter(field, f"{text!r} is not a name pattern of letters, digits, '-', '.' and '*'")


def _fqdn(side: Side, wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    field = f"{side.field}_fqdn"
    patterns = getattr(wanted, field)
    _check_patterns(field, patterns)
    fits = name_matcher(field, patterns)
    return by_end(store, side, lambda end: any(map(fits, end.names)))


def _identity(side: Side, wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    numbers = np.array(getattr(wanted, f"{side.field}_identity"), np.uint32)
    column = f"{side.column}_identity"
    if len(numbers) == 1:
        return lambda span: span[column] == numbers[0]
    return lambda span: np.isin(span[column], numbers)


def _workload(side: Side, wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    pairs = [(one.name, one.kind) for one in getattr(wanted, f"{side.field}_workload")]

    def test(end: EndpointMeta) -> bool:
        return any(
            (not name or name == workload.name) and (not kind or kind == workload.kind)
            for name, kind in pairs
            for workload in end.workloads
        )

    return by_end(store, side, test)


def _cluster(side: Side, wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    field = f"{side.field}_cluster_name"
    names = frozenset(getattr(wanted, field))
    if "" in names:
        raise BadFilter(field, "it is empty")
    return by_end(store, side, lambda end: end.cluster in names)


def _node_name(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    """`cluster/node`; without a slash a node of any cluster; `cluster/` every node of it."""
    own_cluster, _, own_node = store.node_name.partition("/")
    own_cluster = own_cluster or _DEFAULT_CLUSTER
    found = False
    for text in wanted.node_name:
        if not text:
            raise BadFilter("node_name", "it is empty; write cluster/node, node or cluster/")
        cluster, slash, node = text.partition("/")
        if not slash:
            cluster, node = "", text
        elif "/" in node:
            raise BadFilter("node_name", f"{text!r} has more than one slash")
        _check_patterns("node_name", filter(None, (cluster, node)))
        found |= all(
            not pattern or name_matcher("node_name", [pattern])(own)
            for pattern, own in ((cluster, own_cluster), (node, own_node))
        )
    return constant(value=found)


FIELDS: Final[Mapping[str, Callable[[flow_pb2.FlowFilter, FlowStore], Predicate]]] = {
    "node_name": _node_name,
    "node_labels": _node_labels,
    **{
        f"{side.field}_{name}": partial(compile_one, side)
        for side in (SOURCE, DESTINATION)
        for name, compile_one in (
            ("pod", _pod),
            ("label", _label),
            ("service", _service),
            ("fqdn", _fqdn),
            ("identity", _identity),
            ("workload", _workload),
            ("cluster_name", _cluster),
        )
    },
}
