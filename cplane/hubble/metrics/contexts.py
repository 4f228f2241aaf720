"""Labels that say who the ends of a flow are."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from cplane.config.metrics import DIRECTION_LABEL, Contexts
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.metrics.kind import ADDRESSES, ENDS, Kind
from cplane.hubble.parser.ends import address_text
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2

_RESERVED: Final = "reserved:"
_KUBE_APISERVER: Final = "reserved:kube-apiserver"
_APP_KEYS: Final = ("app.kubernetes.io/name", "k8s-app", "app")  # the first that has a value is the application
_INGRESS, _EGRESS = int(flow_pb2.INGRESS), int(flow_pb2.EGRESS)
DIRECTIONS: Final = {_INGRESS: "ingress", _EGRESS: "egress"}
_OF_PODS: Final = frozenset({"pod", "pod-name", "ip"})  # with labels of these, a series is of a pod


class Pod(NamedTuple):
    """A pod by its names."""

    namespace: str
    name: str


class End(NamedTuple):
    """One end of a flow, and its address (as in the ring), which is 0 where no metric asks for it."""

    meta: EndpointMeta
    ip_version: int = 0
    hi: int = 0
    lo: int = 0


def _identity(end: End) -> str:
    return ",".join(end.meta.labels)


def _namespace(end: End) -> str:
    return end.meta.namespace


def _pod(end: End) -> str:
    return _within(end.meta.namespace, end.meta.pod_name)


def _pod_name(end: End) -> str:
    return end.meta.pod_name


def _dns(end: End) -> str:
    return ",".join(end.meta.names)


def _ip(end: End) -> str:
    return address_text(end.ip_version, end.hi, end.lo)


def _reserved_identity(end: End) -> str:
    reserved = [label for label in end.meta.labels if label.startswith(_RESERVED)]
    if _KUBE_APISERVER in reserved:
        return _KUBE_APISERVER
    return reserved[0] if reserved else ""


def _workload(end: End) -> str:
    return _within(end.meta.namespace, _workload_name(end))


def _workload_name(end: End) -> str:
    return end.meta.workloads[0].name if end.meta.workloads else ""


def _workload_kind(end: End) -> str:
    return end.meta.workloads[0].kind if end.meta.workloads else ""


def _app(end: End) -> str:
    values = dict(label.removeprefix("k8s:").partition("=")[::2] for label in end.meta.labels)
    return next((value for key in _APP_KEYS if (value := values.get(key))), "")


def _within(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace and name else name


_CONTEXTS: Final[Mapping[str, Callable[[End], str]]] = {
    "identity": _identity,
    "namespace": _namespace,
    "pod": _pod,
    "pod-name": _pod_name,
    "dns": _dns,
    "ip": _ip,
    "reserved-identity": _reserved_identity,
    "workload": _workload,
    "workload-name": _workload_name,
    "app": _app,
}
_LABELS: Final[Mapping[str, Callable[[End], str]]] = {
    "ip": _ip,
    "pod": _pod_name,
    "namespace": _namespace,
    "workload": _workload_name,
    "workload_kind": _workload_kind,
    "app": _app,
}


class Ends:
    """The two ends of a kind of flow."""

    def __init__(self, store: FlowStore, kind: Kind) -> None:
        endpoints = store.endpoints
        self.source = End(endpoints[kind.src_meta], kind.ip_version, kind.src_hi, kind.src_lo)
        self.destination = End(endpoints[kind.dst_meta], kind.ip_version, kind.dst_hi, kind.dst_lo)

    def swapped(self) -> "Ends":
        """Who answers as the source, as in a flow of the request."""
        self.source, self.destination = self.destination, self.source
        return self


class ContextLabels:
    """What a metric's contexts add to its labels."""

    def __init__(self, contexts: Contexts) -> None:
        self.given = contexts
        source = contexts.source + contexts.source_ingress + contexts.source_egress
        destination = contexts.destination + contexts.destination_ingress + contexts.destination_egress
        self.names = (
            *contexts.labels,
            *(("source",) if source else ()),
            *(("destination",) if destination else ()),
        )
        self._has_source, self._has_destination = bool(source), bool(destination)
        parts = [label.partition("_") for label in contexts.labels if label != DIRECTION_LABEL]
        said = {(side, what) for side, _, what in parts}
        self._looks = (
            _looks(source, [what for side, what in said if side == "source"]),
            _looks(destination, [what for side, what in said if side == "destination"]),
        )
        self._of_pods = (
            bool(_OF_PODS.intersection(source)) or bool({("source", "pod"), ("source", "ip")} & said),
            bool(_OF_PODS.intersection(destination)) or bool({("destination", "pod"), ("destination", "ip")} & said),
        )
        self.is_of_pods = any(self._of_pods)
        self.columns = self._columns_for(source + destination, said)

    def _columns_for(self, contexts: tuple[str, ...], labels: set[tuple[str, str]]) -> frozenset[str]:
        """The columns that the labels follow from."""
        columns: set[str] = set()
        if contexts or labels:
            columns.update(ENDS)
        if "ip" in contexts or any(what == "ip" for _, what in labels):
            columns.update((*ADDRESSES, "ip_version"))
        given = self.given
        directed = given.source_ingress + given.source_egress + given.destination_ingress + given.destination_egress
        if directed or DIRECTION_LABEL in given.labels:
            columns.add("direction")
        return frozenset(columns)

    def values(self, direction: int, ends: Ends) -> tuple[str, ...]:
        """The labels' values, in the order of `names`."""
        given = self.given
        found = [self._label(label, direction, ends) for label in given.labels]
        if self._has_source:
            directed = {_INGRESS: given.source_ingress, _EGRESS: given.source_egress}
            found.append(_first(directed.get(direction) or given.source, ends.source))
        if self._has_destination:
            directed = {_INGRESS: given.destination_ingress, _EGRESS: given.destination_egress}
            found.append(_first(directed.get(direction) or given.destination, ends.destination))
        return tuple(found)

    def pods(self, ends: Ends) -> Iterator[Pod]:
        """The pods of this node without which a series of these labels is of no use."""
        for of_pods, end in zip(self._of_pods, (ends.source, ends.destination), strict=True):
            if of_pods and end.meta.endpoint_id and end.meta.pod_name:
                yield Pod(end.meta.namespace, end.meta.pod_name)

    def look(self, meta: EndpointMeta, *, destination: bool) -> Hashable:
        """All that the labels and the pods follow from; endpoints that look the same have the same."""
        end = End(meta)
        pod = (meta.endpoint_id != 0, meta.namespace, meta.pod_name) if self._of_pods[destination] else None
        return (pod, *[look(end) for look in self._looks[destination]])

    @staticmethod
    def _label(label: str, direction: int, ends: Ends) -> str:
        if label == DIRECTION_LABEL:
            return DIRECTIONS.get(direction, "unknown")
        side, _, what = label.partition("_")
        return _LABELS[what](ends.source if side == "source" else ends.destination)


def _looks(contexts: Iterable[str], labels: Iterable[str]) -> tuple[Callable[[End], str], ...]:
    """What is asked of an endpoint itself; its address is not."""
    asked = {*(_CONTEXTS[one] for one in contexts), *(_LABELS[one] for one in labels)} - {_ip}
    return tuple(asked)


def _first(contexts: Iterable[str], end: End) -> str:
    return next((value for context in contexts if (value := _CONTEXTS[context](end))), "")
