"""The policy language read word for word: slow, obvious, and without a line of the product in it.

It judges one packet by going through every rule of every document. What the product computes must agree.
"""

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

NAMESPACE = "io.kubernetes.pod.namespace"
CLUSTER = "io.cilium.k8s.policy.cluster"
RESERVED_IN_CLUSTER = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}


@dataclass(frozen=True)
class Who:
    """Labels as `source:key` → value; `prefix` for what is outside the cluster, else None."""

    labels: dict[str, str]
    prefix: Any = None


def judge(documents, subject, peer, direction, protocol, port, *, cluster):
    """`allowed`, `denied` (by a deny rule) or `dropped` (no rule allows); direction is `ingress` or `egress`."""
    rules = [
        (document, rule)
        for document in documents
        for rule in ([document["spec"]] if document.get("spec") else []) + (document.get("specs") or [])
        if selects_subject(document, rule, subject)
    ]
    section = {"ingress": ("ingress", "ingressDeny"), "egress": ("egress", "egressDeny")}[direction]
    hits = {
        name: any(
            term_matches(document, rule, term, peer, protocol, port, cluster)
            for document, rule in rules
            for term in rule.get(name) or []
        )
        for name in section
    }
    if hits[section[1]]:
        return "denied"
    if hits[section[0]] or not any(default_deny(rule, direction) for _, rule in rules):
        return "allowed"
    return "allowed" if direction == "ingress" and "reserved:host" in peer.labels else "dropped"


def default_deny(rule, direction):
    chosen = (rule.get("enableDefaultDeny") or {}).get(direction)
    return bool(rule.get(direction) or rule.get(f"{direction}Deny")) if chosen is None else chosen


def selects_subject(document, rule, subject):
    written = rule["endpointSelector"]
    labels = {**(written.get("matchLabels") or {})}
    namespace = namespace_of(document)
    if namespace:
        labels[f"k8s:{NAMESPACE}"] = namespace
    return label_match({**written, "matchLabels": labels}, subject)


def namespace_of(document):
    if document["kind"] == "CiliumClusterwideNetworkPolicy":
        return ""
    return document["metadata"].get("namespace") or "default"


def term_matches(document, rule, term, peer, protocol, port, cluster):
    members = {name: value for name, value in term.items() if name not in ("toPorts", "icmps") and value is not None}
    l4_given = bool(term.get("toPorts")) or bool(term.get("icmps"))
    if not members and not l4_given:
        return False
    if any(len(value) == 0 for value in members.values()):
        return False
    if members and not any(
        peer_match(document, rule, name, one, peer, cluster) for name, value in members.items() for one in value
    ):
        return False
    return not l4_given or l4_match(term, protocol, port)


def peer_match(document, rule, member, one, peer, cluster):
    if member.endswith("Endpoints"):
        return endpoint_match(document, rule, one, peer, cluster)
    if member.endswith("Entities"):
        return entity_match(one, peer, cluster)
    if member.endswith("CIDRSet"):
        inside = within(peer, ip_network(one["cidr"]))
        return inside and not any(within(peer, ip_network(hole)) for hole in one.get("except") or [])
    return within(peer, ip_network(one, strict=False))


def within(peer, prefix):
    return peer.prefix is not None and peer.prefix.version == prefix.version and peer.prefix.subnet_of(prefix)


def entity_match(entity, peer, cluster):
    if entity == "all":
        return True
    if entity == "none":
        return False
    if entity == "cluster":
        names = RESERVED_IN_CLUSTER
        return any(f"reserved:{n}" in peer.labels for n in names) or peer.labels.get(f"k8s:{CLUSTER}") == cluster
    if entity == "world":
        return any(f"reserved:{name}" in peer.labels for name in ("world", "world-ipv4", "world-ipv6"))
    return f"reserved:{entity}" in peer.labels


def endpoint_match(document, rule, written, peer, cluster):
    names = [*(written.get("matchLabels") or {})]
    names += [one["key"] for one in written.get("matchExpressions") or []]
    extra = []
    if not any(name.startswith("reserved:") for name in names):
        plain = {name.removeprefix("k8s:").removeprefix("any:") for name in names}
        namespace = namespace_of(document)
        if NAMESPACE not in plain:
            if not namespace:
                about_init = "reserved:init" in str(rule["endpointSelector"])
                extra += [] if about_init else [{"key": f"k8s:{NAMESPACE}", "operator": "Exists"}]
            elif not any(name.startswith("io.cilium.k8s.namespace.labels.") for name in plain):
                extra.append({"key": f"k8s:{NAMESPACE}", "operator": "In", "values": [namespace]})
        if CLUSTER not in plain:
            extra.append({"key": f"k8s:{CLUSTER}", "operator": "In", "values": [cluster]})
    expressions = (written.get("matchExpressions") or []) + extra
    return label_match({**written, "matchExpressions": expressions}, peer)


def label_match(written, who):
    for name, value in (written.get("matchLabels") or {}).items():
        if value not in values_of(name, who):
            return False
    for one in written.get("matchExpressions") or []:
        held = values_of(one["key"], who)
        wanted = one.get("values") or []
        good = {
            "In": any(value in wanted for value in held),
            "NotIn": not any(value in wanted for value in held),
            "Exists": bool(held),
            "DoesNotExist": not held,
        }[one["operator"]]
        if not good:
            return False
    return True


def values_of(name, who):
    source, colon, key = name.partition(":")
    if not colon:
        source, key = "any", name
    if source == "any":
        return [value for label, value in who.labels.items() if label.partition(":")[2] == key]
    return [who.labels[name]] if name in who.labels else []


def l4_match(term, protocol, port):
    for element in term.get("toPorts") or []:
        for one in element.get("ports") or []:
            wanted = one.get("protocol") or "ANY"
            if protocol not in (NUMBERS.values() if wanted == "ANY" else (NUMBERS[wanted],)):
                continue
            first, last = int(one["port"]), one.get("endPort") or 0
            if (first, last) == (0, 0) or first <= port <= max(first, last):
                return True
    for element in term.get("icmps") or []:
        for one in element.get("fields") or []:
            if protocol == (58 if one.get("family") == "IPv6" else 1) and port == one["type"]:
                return True
    return False
