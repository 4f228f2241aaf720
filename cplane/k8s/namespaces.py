"""Namespaces: their labels are those of every pod in them."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from cplane.domain.labels import (
    CLUSTER_KEY,
    K8S,
    NAMESPACE_KEY,
    NAMESPACE_LABELS_PREFIX,
    SERVICE_ACCOUNT_KEY,
    Label,
    LabelSet,
)
from cplane.domain.policy.document import Place
from cplane.k8s.objects import field, texts

NAME_LABEL: Final = "kubernetes.io/metadata.name"


class Namespace(NamedTuple):
    """A namespace with its labels; the API server adds the one that repeats the name."""

    name: str
    labels: Mapping[str, str]


def namespace_of(name: str, place: Place) -> Namespace:
    """The namespace that a manifest is."""
    return Namespace(name, {**texts(field(place, "metadata", "labels")), NAME_LABEL: name})


def implied_namespace(name: str) -> Namespace:
    """A namespace that objects are in and no manifest describes."""
    return Namespace(name, {NAME_LABEL: name})


def pod_labels(labels: Mapping[str, str], namespace: Namespace, service_account: str, cluster: str) -> LabelSet:
    """All labels of a pod, those that it has by being where it is included; before the label filter."""
    own = [Label(key, K8S, value) for key, value in labels.items()]
    of_namespace = [Label(NAMESPACE_LABELS_PREFIX + key, K8S, value) for key, value in namespace.labels.items()]
    implicit = {NAMESPACE_KEY: namespace.name, SERVICE_ACCOUNT_KEY: service_account, CLUSTER_KEY: cluster}
    return LabelSet((*own, *of_namespace, *(Label(key, K8S, value) for key, value in implicit.items())))
