"""Short ways to say a policy, the labels of a pod, and the events that carry them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any  # documents are untyped on purpose: the parser is what gives them types

from cplane.domain.labels import LabelSet
from cplane.domain.policy import CCNP, CIDR_GROUP, CNP, KNP, CidrGroup, Policy, parse
from cplane.events.identity import IdentityAllocated
from cplane.events.node import NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted

CLUSTER = "c1"
Document = dict[str, Any]

DUAL_STACK = NodeJoined(
    name="n1",
    cluster=CLUSTER,
    local=True,
    ipv4_pod_cidr="10.1.0.0/16",
    ipv6_pod_cidr="fd00:1::/64",
    ipv4_router="10.1.0.1",
    ipv6_router="fd00:1::1",
)
IPV4_ONLY = NodeJoined(name="n1", cluster=CLUSTER, local=True, ipv4_pod_cidr="10.1.0.0/16", ipv4_router="10.1.0.1")


def selector(*labels: str) -> Document:
    """`selector("app=web", "tier=front")`; without arguments, the empty selector."""
    pairs = (label.partition("=") for label in labels)
    found = {key: value for key, _, value in pairs}
    return {"matchLabels": found} if found else {}


def ports(*texts: str) -> list[Document]:
    """`ports("80/TCP", "8000-8999/UDP", "53")` as a `toPorts` list of one element."""
    found = []
    for text in texts:
        numbers, _, protocol = text.partition("/")
        first, _, last = numbers.partition("-")
        port: Document = {"port": first}
        if last:
            port["endPort"] = int(last)
        if protocol:
            port["protocol"] = protocol
        found.append(port)
    return [{"ports": found}]


def cnp(name: str = "p", *, namespace: str = "shop", subject: Document | None = None, **rule: Any) -> Document:
    """A CiliumNetworkPolicy of one rule; `subject` defaults to `app=api`."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": CNP,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"endpointSelector": selector("app=api") if subject is None else subject, **rule},
    }


def ccnp(name: str = "p", *, subject: Document | None = None, **rule: Any) -> Document:
    """A CiliumClusterwideNetworkPolicy of one rule; `subject` defaults to every endpoint."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": CCNP,
        "metadata": {"name": name},
        "spec": {"endpointSelector": {} if subject is None else subject, **rule},
    }


def knp(name: str = "p", *, namespace: str = "shop", **spec: Any) -> Document:
    """A Kubernetes NetworkPolicy; `podSelector` defaults to `app=api`."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": KNP,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": selector("app=api"), **spec},
    }


def group(name: str, *prefixes: str, labels: Mapping[str, str] | None = None) -> Document:
    """A CiliumCIDRGroup."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": CIDR_GROUP,
        "metadata": {"name": name, **({"labels": dict(labels)} if labels else {})},
        "spec": {"externalCIDRs": list(prefixes)},
    }


def audited(document: Document) -> Document:
    """The policy, as one that is only audited."""
    metadata = {**document["metadata"], "annotations": {"policy.cplane.io/audit": "true"}}
    return {**document, "metadata": metadata}


def parsed(document: Mapping[str, Any]) -> Policy | CidrGroup:
    """The document, parsed in the cluster of these builders."""
    return parse(document, cluster=CLUSTER)


def policy(document: Mapping[str, Any]) -> Policy:
    """The document, which is a policy."""
    found = parsed(document)
    assert isinstance(found, Policy)
    return found


def upserted(document: Document) -> PolicyUpserted:
    """The event that carries the document."""
    ref = parsed(document).ref
    text = json.dumps(document, sort_keys=True)
    return PolicyUpserted(kind=ref.kind, namespace=ref.namespace, name=ref.name, document=text)


def deleted(document: Document) -> PolicyDeleted:
    """The event that takes the document away."""
    ref = parsed(document).ref
    return PolicyDeleted(kind=ref.kind, namespace=ref.namespace, name=ref.name)


def pod_labels(*labels: str, namespace: str = "shop", cluster: str = CLUSTER) -> LabelSet:
    """`pod_labels("app=web")`: those of source k8s that every pod has, and these."""
    implicit = (f"io.kubernetes.pod.namespace={namespace}", f"io.cilium.k8s.policy.cluster={cluster}")
    return LabelSet.parse(f"k8s:{label}" for label in (*implicit, *labels))


def allocated(number: int, labels: LabelSet | Sequence[str]) -> IdentityAllocated:
    """The event that gives the labels a number."""
    texts = labels.texts() if isinstance(labels, LabelSet) else LabelSet.parse(labels).texts()
    return IdentityAllocated(number=number, labels=texts)


def document(text: str | dict[str, Any]) -> str:
    """A document as the log holds it: canonical JSON."""
    return json.dumps(text, sort_keys=True, separators=(",", ":"))
