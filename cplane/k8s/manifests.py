"""Objects by their kinds, read: what a cluster holds as far as policies are concerned."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cplane.config.template import template_marks
from cplane.domain.policy import CidrGroup, InvalidPolicy, Policy, parse
from cplane.domain.policy.document import Place
from cplane.domain.policy.parse import KINDS
from cplane.k8s.namespaces import Namespace, implied_namespace, namespace_of
from cplane.k8s.nodes import Node, node_of
from cplane.k8s.objects import Finding, Object, is_slip, stands_twice
from cplane.k8s.pods import WORKLOADS, Pod, pod_of, workload_pod
from cplane.k8s.services import EndpointSlice, Service, endpoint_slice_of, service_of

Key = tuple[str, str]  # namespace and name
_FREE_TEXTS: Final = frozenset({"annotations", "description", "http", "l7", "managedFields", "status"})
"""Fields of policies in which anything may stand, also what looks like a template's."""

_NETWORK_POLICY: Final = "NetworkPolicy"
_FOREIGN_GROUPS: Final = ("projectcalico.org", "antrea.io", "antrea.tanzu.vmware.com")
"""Where others keep what they call NetworkPolicy too."""

_FOREIGN: Final = "{} is not among the policies that are read here, and nothing is judged or enforced of it"
_GROUPS: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(
        ("Pod", "Namespace", "Node", "Service", "ServiceAccount", "ReplicationController"), frozenset({""})
    ),
    **dict.fromkeys(("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"), frozenset({"apps", "extensions"})),
    **dict.fromkeys(("Job", "CronJob"), frozenset({"batch"})),
    "EndpointSlice": frozenset({"discovery.k8s.io"}),
}


class Written(NamedTuple):
    """A policy and the object that it was written as."""

    object: Object
    policy: Policy


@dataclass(slots=True)
class Manifests:
    """What the objects say, and what is wrong with them.

    `ignored`: kinds that mean nothing here, with their number. `foreign`: which of those are policies all the same.
    """

    namespaces: dict[str, Namespace] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    pods: dict[Key, Pod] = field(default_factory=dict)
    workloads: dict[Key, Pod] = field(default_factory=dict)  # by namespace and kind/name
    services: dict[Key, Service] = field(default_factory=dict)
    slices: list[EndpointSlice] = field(default_factory=list)
    policies: list[Written] = field(default_factory=list)
    groups: list[CidrGroup] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    foreign: list[Finding] = field(default_factory=list)
    documents: int = 0

    def namespace(self, name: str) -> Namespace:
        """The namespace of that name, described or not."""
        return self.namespaces.get(name) or implied_namespace(name)


def read_manifests(objects: Iterable[Object], *, cluster: str) -> Manifests:
    """Everything that the objects say, in the cluster of that name; of what is wrong, as much as can be read."""
    found = Manifests()
    seen: dict[str, Object] = {}
    for one in objects:
        found.documents += 1
        if _is_policy(one):
            _read_policy(one, found, cluster)
        elif not _is_known(one):
            found.ignored[one.kind_text] += 1
            if one.kind.endswith(_NETWORK_POLICY):
                found.foreign.append(one.finding("kind", _FOREIGN.format(one.kind_text)))
            continue
        else:
            _read(one, found)
        twice = stands_twice(one, seen)
        if twice is not None:
            found.errors.append(twice)
    _stand_in(found)
    return found


def _is_policy(one: Object) -> bool:
    """Whether it is read as a policy; so is what has no kind, or one with a slip in it, and then refused."""
    if one.kind == _NETWORK_POLICY and one.group.endswith(_FOREIGN_GROUPS):
        return False
    return one.kind in KINDS or (one.is_kubernetes and not one.kind) or is_slip(one.kind, KINDS)


def _is_known(one: Object) -> bool:
    return one.group in _GROUPS.get(one.kind, ())


def _read_policy(one: Object, found: Manifests, cluster: str) -> None:
    marks = [one.finding(path, message) for path, message in template_marks(one.value, _FREE_TEXTS)]
    if marks:
        found.errors.extend(marks)
        return
    try:
        read = parse(one.value, cluster=cluster)
    except InvalidPolicy as invalid:
        found.errors.extend(one.findings(invalid.errors))
        return
    if isinstance(read, CidrGroup):
        found.groups.append(read)
    else:
        found.policies.append(Written(one, read))


def _read(one: Object, found: Manifests) -> None:
    if not one.name:
        found.errors.append(one.finding("metadata.name", f"missing: a {one.kind} needs a name"))
        return
    reader, place = one.read()
    if one.kind in WORKLOADS:
        pod = workload_pod(one.kind, one.namespace, one.name, place)
        if pod is not None:
            found.workloads[one.namespace, f"{one.kind}/{one.name}"] = pod
    elif one.kind in _READERS:
        _READERS[one.kind](found, (one.namespace, one.name), place)
    try:
        reader.result(lambda: None)
    except InvalidPolicy as invalid:
        found.errors.extend(one.findings(invalid.errors))


def _namespace(found: Manifests, key: Key, place: Place) -> None:
    found.namespaces[key[1]] = namespace_of(key[1], place)


def _node(found: Manifests, key: Key, place: Place) -> None:
    found.nodes[key[1]] = node_of(key[1], place)


def _pod(found: Manifests, key: Key, place: Place) -> None:
    found.pods[key] = pod_of(*key, place)


def _service(found: Manifests, key: Key, place: Place) -> None:
    found.services[key] = service_of(*key, place)


def _slice(found: Manifests, key: Key, place: Place) -> None:
    found.slices.append(endpoint_slice_of(key[0], place))


# What needs only to exist (a ServiceAccount) is known and not read.
_READERS: Final[Mapping[str, Callable[[Manifests, Key, Place], None]]] = {
    "EndpointSlice": _slice,
    "Namespace": _namespace,
    "Node": _node,
    "Pod": _pod,
    "Service": _service,
}


def _stand_in(found: Manifests) -> None:
    """Workloads are pods too, where none of the pods that they make is there itself."""
    by_namespace: dict[str, list[Pod]] = {}
    for pod in found.pods.values():
        by_namespace.setdefault(pod.namespace, []).append(pod)
    for one in found.workloads.values():
        pods = by_namespace.get(one.namespace, ())
        if not any(one.labels.items() <= pod.labels.items() for pod in pods):
            found.pods.setdefault((one.namespace, one.name), one)
