"""The policy language read word for word: slow, obvious, and without a line of the product in it.

It judges one packet by going through every rule of every document. What the product computes must agree.
"""

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, NamedTuple

NAMESPACE = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
CLUSTER = "io.cilium.k8s.policy.cluster"
AUDIT = "policy.cplane.io/audit"
RESERVED_IN_CLUSTER = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132, "VRRP": 112, "IGMP": 2}
WITH_PORTS = ("TCP", "UDP", "SCTP")
DENY, ALLOW = 255, 1
PROXIES = {"http": 101, "kafka": 106, "l7proto": 111, "tls": 116, "dns": 121, "listener": 126}
MODES = {"disabled": 0, "required": 1, "test-always-fail": 2}
ICMP_NAMES = {("IPv4", "EchoRequest"): 8, ("IPv4", "EchoReply"): 0, ("IPv6", "EchoRequest"): 128}


@dataclass(frozen=True)
class Who:
    """Labels as `source:key` → value; `prefix` for what is outside the cluster, else None; ports have names."""

    labels: dict[str, str]
    prefix: Any = None
    ports: frozenset[tuple[str, str, int]] = frozenset()


@dataclass(frozen=True)
class Around:
    """What else decides: the cluster's name, the enforcement mode, and what rules refer to by name."""

    cluster: str
    mode: str = "default"
    groups: tuple[Any, ...] = ()
    services: tuple[Any, ...] = ()


class Packet(NamedTuple):
    """`direction` is `ingress` or `egress` of the subject; for ICMP `port` is the message type."""

    subject: Who
    peer: Who
    direction: str
    protocol: int
    port: int


class Hit(NamedTuple):
    """A term that is about the packet: how strong, on how many bits of protocol and port, and for this peer alone?

    `auth` is the authentication that the term asks for; None: it does not say.
    """

    level: int
    bits: int
    specific: bool
    auth: int | None = None


def judge(documents, packet, around):
    """What becomes of the packet by policies that are enforced: see `outcome`."""
    return outcome([one for one in documents if not is_audited(one)], packet, around)


def judge_audited(documents, packet, around):
    """Whether the packet passes, and would not if the audited policies were enforced too."""
    if outcome([one for one in documents if not is_audited(one)], packet, around) not in PASSES:
        return False
    return outcome(documents, packet, around) not in PASSES


PASSES = {"allowed", "proxied"}  # as far as packets go


def is_audited(document):
    return (document["metadata"].get("annotations") or {}).get(AUDIT) == "true"


def outcome(documents, packet, around):
    """`allowed`, `proxied`, `unproven` (authentication is asked for), `denied` (by a rule) or `dropped`."""
    found, enforced = [], around.mode == "always"
    if around.mode == "default" and "reserved:init" in packet.subject.labels:
        enforced = True
    for document in () if around.mode == "never" else documents:
        for rule in rules_of(document):
            if selects_subject(document, rule, packet.subject):
                found.extend(hits(document, rule, packet, around))
                enforced = enforced or default_deny(document, rule, packet.direction)
    if not enforced:
        found.append(Hit(ALLOW, 0, specific=False))
    if packet.direction == "ingress" and "reserved:host" in packet.peer.labels:
        found.append(Hit(ALLOW, 0, specific=True))
    return decide(found)


def decide(found):
    if not found:
        return "dropped"
    if any(hit.level == DENY for hit in found):
        return "denied"
    sides = [side for specific in (True, False) if (side := [hit for hit in found if hit.specific == specific])]
    chosen, *others = sorted((strongest(side) for side in sides), reverse=True)
    explicit, asked = auth_of(chosen, found)
    if not explicit:
        asked = max([asked, *(auth_of(other, found)[1] for other in others)])
    if asked:
        return "unproven"
    return "proxied" if chosen.level > ALLOW else "allowed"


def strongest(side):
    return max(hit._replace(auth=None) for hit in side)


def auth_of(chosen, found):
    """Whether terms that say exactly this say so, and what they ask for; else what broader ones ask for."""
    said = [hit for hit in found if hit.auth is not None]
    own = [hit.auth for hit in said if (hit.bits, hit.specific) == (chosen.bits, chosen.specific)]
    if own:
        return True, max(own)
    broader = [hit.auth for hit in said if hit.bits <= chosen.bits and (chosen.specific or not hit.specific)]
    return False, max(broader, default=0)


def rules_of(document):
    if document["kind"] == "NetworkPolicy":
        return [document["spec"]]
    return ([document["spec"]] if document.get("spec") else []) + (document.get("specs") or [])


def default_deny(document, rule, direction):
    if document["kind"] == "NetworkPolicy":
        types = rule.get("policyTypes") or []
        if direction == "egress":
            return bool(rule.get("egress")) or "Egress" in types
        return bool(rule.get("ingress")) or "Ingress" in types or "Egress" not in types
    chosen = (rule.get("enableDefaultDeny") or {}).get(direction)
    return bool(rule.get(direction) or rule.get(f"{direction}Deny")) if chosen is None else chosen


def selects_subject(document, rule, subject):
    namespace = namespace_of(document)
    if document["kind"] == "NetworkPolicy":
        written = as_kubernetes(rule.get("podSelector") or {})
    else:
        written = rule["endpointSelector"]
    labels = {**(written.get("matchLabels") or {})}
    if namespace:
        labels[f"k8s:{NAMESPACE}"] = namespace
    return label_match({**written, "matchLabels": labels}, subject)


def namespace_of(document):
    if document["kind"] == "CiliumClusterwideNetworkPolicy":
        return ""
    return document["metadata"].get("namespace") or "default"


def hits(document, rule, packet, around):
    """A Hit for each way in which terms of the rule are about the packet."""
    if document["kind"] == "NetworkPolicy":
        for term in rule.get(packet.direction) or []:
            yield from kubernetes_hits(document, term, packet, around)
        return
    for section, deny in ((packet.direction, False), (f"{packet.direction}Deny", True)):
        for term in rule.get(section) or []:
            auth = MODES[term["authentication"]["mode"]] if term.get("authentication") else None
            for specific in peers(document, rule, term, packet.peer, around):
                for level, bits, named in traffic(term, packet):
                    alone = specific or (named and packet.direction == "egress")
                    yield Hit(DENY if deny else level, bits, alone, auth)


def members_of(term):
    ignored = ("toPorts", "icmps", "authentication", "fromRequires", "toRequires")
    return {name: value for name, value in term.items() if name not in ignored and value is not None}


def peers(document, rule, term, peer, around):
    """For each way in which the term means the peer, whether it means it more than anyone."""
    members = members_of(term)
    if not members:
        return {False}
    if any(len(value) == 0 for value in members.values()):
        return set()
    found = set()
    for name, value in members.items():
        for one in value:
            if one == "all":
                found.add(False)
            elif peer_match(document, rule, name, one, peer, around):
                found.add(True)
    return found


def peer_match(document, rule, member, one, peer, around):
    if member.endswith("Endpoints"):
        return endpoint_match(document, rule, one, peer, around.cluster)
    if member.endswith("Entities"):
        return entity_match(one, peer, around.cluster)
    if member.endswith("CIDRSet"):
        return cidr_rule_match(one, peer, around)
    if member.endswith("CIDR"):
        return within(peer, ip_network(one, strict=False))
    if member == "toServices":
        return service_match(document, one, peer, around)
    if member == "toFQDNs":
        name = one.get("matchPattern") or one.get("matchName", "").removesuffix(".")
        return f"fqdn:{name.lower()}" in peer.labels
    assert member.endswith("Groups"), member
    return False


def cidr_rule_match(one, peer, around):
    if any(within(peer, ip_network(hole, strict=False)) for hole in one.get("except") or []):
        return False
    if "cidr" in one:
        return within(peer, ip_network(one["cidr"], strict=False))
    for group in around.groups:
        labels = Who({f"k8s:{key}": value for key, value in (group["metadata"].get("labels") or {}).items()})
        if "cidrGroupRef" in one:
            meant = group["metadata"]["name"] == one["cidrGroupRef"]
        else:
            meant = label_match(one["cidrGroupSelector"], labels)
        if meant and any(within(peer, ip_network(text, strict=False)) for text in group["spec"]["externalCIDRs"]):
            return True
    return False


def service_match(document, one, peer, around):
    written = one.get("k8sService") or one["k8sServiceSelector"]
    namespace = written.get("namespace") or namespace_of(document)
    for service in around.services:
        if namespace and service["namespace"] != namespace:
            continue
        if "k8sService" in one:
            meant = service["name"] == written["serviceName"]
        else:
            meant = label_match(written["selector"], Who({f"k8s:{k}": v for k, v in service["labels"].items()}))
        if not meant:
            continue
        if service["selector"]:
            labels = {f"k8s:{key}": value for key, value in service["selector"].items()}
            if label_match({"matchLabels": {**labels, f"k8s:{NAMESPACE}": service["namespace"]}}, peer):
                return True
        elif any(within(peer, ip_network(address)) for address in service["addresses"]):
            return True
    return False


def within(peer, prefix):
    return peer.prefix is not None and peer.prefix.version == prefix.version and peer.prefix.subnet_of(prefix)


def entity_match(entity, peer, cluster):
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
    if not any(name.startswith(("reserved:", "$")) for name in names):
        plain = {name.removeprefix("k8s:").removeprefix("any:") for name in names}
        namespace = namespace_of(document)
        if NAMESPACE not in plain:
            if not namespace:
                about_init = "reserved:init" in str(rule["endpointSelector"])
                extra += [] if about_init else [{"key": f"k8s:{NAMESPACE}", "operator": "Exists"}]
            elif not any(name.startswith(NAMESPACE_LABELS) for name in plain):
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
    name = name.replace("$", "reserved:")
    source, colon, key = name.partition(":")
    if not colon:
        source, key = "any", name
    if source == "any":
        return [value for label, value in who.labels.items() if label.partition(":")[2] == key]
    if source == "cidr":
        outer = prefix_of(name)
        inner = [(prefix_of(label), value) for label, value in who.labels.items() if label.startswith("cidr:")]
        return [value for one, value in inner if one.version == outer.version and one.subnet_of(outer)]
    return [who.labels[name]] if name in who.labels else []


def prefix_of(label):
    """The prefix of a label, in which `-` stands for `:`."""
    return ip_network(label.removeprefix("cidr:").replace("-", ":"))


def traffic(term, packet):
    """For each way in which the term means protocol and port: its strength, bits, and whether by a port's name."""
    if not term.get("toPorts") and not term.get("icmps"):
        if members_of(term):
            yield ALLOW, 0, False
        return
    for element in term.get("toPorts") or []:
        for one in element.get("ports") or []:
            for bits, named in port_match(one, packet):
                yield strength(element), bits, named
    for element in term.get("icmps") or []:
        for one in element.get("fields") or []:
            family = one.get("family") or "IPv4"
            wanted = ICMP_NAMES.get((family, one["type"]), one["type"])
            if packet.protocol == (58 if family == "IPv6" else 1) and packet.port == int(wanted):
                yield ALLOW, 24, False


def port_match(one, packet):
    wanted = one.get("protocol") or "ANY"
    if packet.protocol not in [NUMBERS[name] for name in (WITH_PORTS if wanted == "ANY" else (wanted,))]:
        return
    if not one["port"].isdecimal():
        owner = packet.subject if packet.direction == "ingress" else packet.peer
        for name, protocol, number in owner.ports:
            if (name, NUMBERS[protocol], number) == (one["port"].lower(), packet.protocol, packet.port):
                yield 24, True
        return
    first, last = int(one["port"]), one.get("endPort") or 0
    if (first, last) == (0, 0):
        yield 8, False
    elif first <= packet.port <= max(first, last):
        yield 24 - free_bits(first, max(first, last), packet.port), False


def free_bits(first, last, port):
    """How large the block of 2, 4, 8, … ports around the port is that lies in the range."""
    for free in range(16, -1, -1):
        start = port >> free << free
        if first <= start and start + (1 << free) - 1 <= last:
            return free
    raise AssertionError(f"{port} is not in {first}-{last}")


def strength(element):
    """Where the element's traffic goes: straight on, or to a proxy, of which the smallest number is the strongest."""
    if element.get("listener"):
        return DENY - (element["listener"].get("priority") or PROXIES["listener"])
    rules = element.get("rules") or {}
    for kind in ("http", "kafka", "dns", "l7proto"):
        if rules.get(kind):
            return DENY - PROXIES[kind]
    tls = ("serverNames", "terminatingTLS", "originatingTLS")
    return DENY - PROXIES["tls"] if any(element.get(name) for name in tls) else ALLOW


def as_kubernetes(written, prefix=""):
    """A selector of Kubernetes objects: its keys are labels of source k8s."""
    return {
        "matchLabels": {f"k8s:{prefix}{key}": value for key, value in (written.get("matchLabels") or {}).items()},
        "matchExpressions": [
            {**one, "key": f"k8s:{prefix}{one['key']}"} for one in written.get("matchExpressions") or []
        ],
    }


def kubernetes_hits(document, term, packet, around):
    side = term.get("from" if packet.direction == "ingress" else "to") or []
    specifics = {True for one in side if kubernetes_peer(document, one, packet.peer, around)} if side else {False}
    for specific in specifics:
        if not term.get("ports"):
            yield Hit(ALLOW, 0, specific)
        for one in term.get("ports") or []:
            written = {"protocol": "TCP", "port": "0", **one}
            for bits, named in port_match({**written, "port": str(written["port"])}, packet):
                yield Hit(ALLOW, bits, specific or (named and packet.direction == "egress"))


def kubernetes_peer(document, one, peer, around):
    if "ipBlock" in one:
        return cidr_rule_match(one["ipBlock"], peer, around)
    if peer.labels.get(f"k8s:{CLUSTER}") != around.cluster:
        return False
    if not label_match(as_kubernetes(one.get("podSelector") or {}), peer):
        return False
    if "namespaceSelector" not in one:
        return peer.labels.get(f"k8s:{NAMESPACE}") == namespace_of(document)
    if f"k8s:{NAMESPACE}" not in peer.labels:
        return False
    return label_match(as_kubernetes(one["namespaceSelector"], NAMESPACE_LABELS), peer)
