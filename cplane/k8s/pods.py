"""Pods, and the workloads that would make them: labels, addresses, the node, and names of ports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cplane.domain.policy.document import Place, did_you_mean, shown
from cplane.domain.ports import PORT_MAX, PORT_PROTOCOLS, NamedPort, NamedPorts, Protocol
from cplane.k8s.objects import DEFAULT_NAMESPACE, address, field, flag, items, number, text, texts

_TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
WORKLOADS: Final = frozenset(_TEMPLATES)
_ENDED: Final = frozenset({"Succeeded", "Failed"})
_PROTOCOLS: Final = {one.name: one for one in PORT_PROTOCOLS}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, or with `workload` the one that stands for all of a workload.

    `addresses` are none until it runs, and when it has `ended`: another pod may have them by then.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    service_account: str
    node: str
    host_network: bool
    addresses: tuple[str, ...]
    ports: NamedPorts
    workload: str = ""
    ended: bool = False

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def pod_of(namespace: str, name: str, place: Place) -> Pod:
    """The pod that a manifest is."""
    pod = _pod(namespace, name, place)
    if text(field(place, "status", "phase")) in _ENDED:
        return replace(pod, ended=True)
    return replace(pod, addresses=tuple(_addresses(place)))


def workload_pod(kind: str, namespace: str, name: str, place: Place) -> Pod | None:
    """The pod that stands for a workload; None where another workload has made it, which stands for it."""
    if any(flag(field(one, "controller"), default=False) for one in items(field(place, "metadata", "ownerReferences"))):
        return None
    template = field(place, *_TEMPLATES[kind])
    if template is None:
        place.refuse(f"{'.'.join(_TEMPLATES[kind])} is missing: write what the pods of the {kind} are")
        return None
    return replace(_pod(namespace, name, template), workload=kind)


def _pod(namespace: str, name: str, place: Place) -> Pod:
    spec = field(place, "spec")
    return Pod(
        namespace=namespace,
        name=name,
        labels=texts(field(place, "metadata", "labels")),
        service_account=text(field(spec, "serviceAccountName"))
        or text(field(spec, "serviceAccount"), DEFAULT_NAMESPACE),
        node=text(field(spec, "nodeName")),
        host_network=flag(field(spec, "hostNetwork"), default=False),
        addresses=(),
        ports=frozenset(_ports(spec)),
    )


def _addresses(place: Place) -> Iterator[str]:
    found = [address(field(place, "status", "podIP"))]
    found += [address(field(one, "ip")) for one in items(field(place, "status", "podIPs"))]
    yield from dict.fromkeys(one for one in found if one)


def _ports(spec: Place | None) -> Iterator[tuple[NamedPort, int]]:
    for containers in ("containers", "initContainers"):
        for container in items(field(spec, containers)):
            if containers == "initContainers" and text(field(container, "restartPolicy")) != "Always":
                continue  # it has ended before the pod is ready; with Always it is a sidecar
            for port in items(field(container, "ports")):
                protocol = protocol_of(field(port, "protocol"))
                held = number(field(port, "containerPort"), 1, PORT_MAX)
                name = text(field(port, "name"))
                if name and held and protocol is not None:
                    yield NamedPort(protocol, name.lower()), held


def protocol_of(place: Place | None) -> Protocol | None:
    """The protocol of a port, TCP where it is not said; None where there is no such protocol, which is refused."""
    name = text(place, "TCP")
    found = _PROTOCOLS.get(name)
    if found is None and place is not None:
        place.refuse(f"unknown protocol {shown(name)}{did_you_mean(name, _PROTOCOLS)}; write {', '.join(_PROTOCOLS)}")
    return found
