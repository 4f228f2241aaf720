"""Nodes: whose addresses are those of hosts, and which of them serve the Kubernetes API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cplane.domain.identity import Reserved
from cplane.domain.labels import K8S, Label, LabelSet
from cplane.domain.policy.document import Place
from cplane.k8s.objects import address, field, items, text, texts

_CONTROL_PLANE: Final = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_ADDRESSES: Final = frozenset({"InternalIP", "ExternalIP"})


@dataclass(frozen=True, slots=True)
class Node:
    """A node; of one that only pods name nothing else is known. `apiserver`: the Kubernetes API is served there."""

    name: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...] = ()
    apiserver: bool = False

    @property
    def subject_labels(self) -> LabelSet:
        """The labels by which host policies select it."""
        return Reserved.HOST.labels.union(LabelSet(tuple(Label(key, K8S, value) for key, value in self.labels.items())))


def node_of(name: str, place: Place) -> Node:
    """The node that a manifest is."""
    labels = texts(field(place, "metadata", "labels"))
    addresses = [
        address(field(one, "address"))
        for one in items(field(place, "status", "addresses"))
        if text(field(one, "type")) in _ADDRESSES
    ]
    serves = any(key in labels for key in _CONTROL_PLANE)
    return Node(name, labels, tuple(dict.fromkeys(one for one in addresses if one)), serves)


def node_identity(node: Node, seen_from: str) -> Reserved:
    """What a node is to an endpoint on the node of that name."""
    if node.name == seen_from:
        return Reserved.HOST
    return Reserved.KUBE_APISERVER if node.apiserver else Reserved.REMOTE_NODE
