"""Policies of every kind from a small world, so that they meet; each choice is the caller's `random.Random`."""

from random import Random
from typing import Any

from tests.support.builders import ccnp, cnp, group, knp, ports, selector

NAMESPACE = "k8s:io.kubernetes.pod.namespace"
PREFIXES = (
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.2.0.0/16",
    "10.2.3.0/24",
    "203.0.113.0/24",
    "203.0.113.7/32",
    "::/0",
    "2001:db8::/32",
    "2001:db8::1/128",
)
HOLES = {
    "0.0.0.0/0": ("10.0.0.0/8", "203.0.113.7/32"),
    "10.0.0.0/8": ("10.2.0.0/16", "10.2.3.0/24"),
    "203.0.113.0/24": ("203.0.113.7/32",),
    "::/0": ("2001:db8::/32",),
    "2001:db8::/32": ("2001:db8::1/128",),
}
ENTITIES = ("all", "world", "world-ipv4", "cluster", "host", "remote-node", "kube-apiserver", "init", "none")
VALUES = {
    "app": ("web", "api", "db"),
    "tier": ("front", "back"),
    "io.kubernetes.pod.namespace": ("shop", "other"),
    "io.cilium.k8s.policy.cluster": ("c1", "c2"),
    "io.cilium.k8s.namespace.labels.team": ("a", "b"),
    "team": ("a", "b"),
    "host": ("",),
    "world-ipv4": ("",),
    "10.0.0.0/8": ("",),
}
KEYS = (
    *("app", "k8s:app", "any:app", "container:app", "tier", NAMESPACE, "io.cilium.k8s.policy.cluster"),
    *("reserved:host", "$host", "reserved:world-ipv4", "cidr:10.0.0.0/8", "io.cilium.k8s.namespace.labels.team"),
)
COMMON: tuple[dict[str, Any], ...] = (
    {},
    selector("app=web"),
    selector("k8s:app=web"),
    selector("app=db"),
    selector(f"{NAMESPACE}=other"),
    selector("app=web", "io.cilium.k8s.policy.cluster=c2"),
    selector("k8s:io.cilium.k8s.namespace.labels.team=b"),
    selector("cidr:10.0.0.0/8=", "reserved:world-ipv4="),
)
L4: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"toPorts": ports("80/TCP")},
    {"toPorts": ports("80")},
    {"toPorts": ports("80-89/TCP")},
    {"toPorts": ports("84-91/TCP")},
    {"toPorts": ports("0/TCP")},
    {"toPorts": ports("0")},
    {"toPorts": ports("http/TCP")},
    {"toPorts": ports("http", "85/TCP")},
    {"toPorts": ports("metrics/TCP") + ports("53/UDP")},
    {"toPorts": ports("53/UDP", "53/TCP")},
    {"toPorts": ports("1-65535/TCP", "8000-8191/UDP")},
    {"toPorts": ports("0/VRRP")},
    {"toPorts": []},
    {"toPorts": [{}]},
    {"icmps": [{"fields": [{"type": "EchoRequest"}, {"type": 128, "family": "IPv6"}]}]},
    {"icmps": [{"fields": [{"type": 0, "family": "IPv4"}]}]},
    {"icmps": []},
)
HTTP = {"rules": {"http": [{"method": "GET", "path": "/pub"}]}}
LISTENER = {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "e"}, "name": "l"}
PROXIED: tuple[dict[str, Any], ...] = (
    {**ports("80/TCP")[0], **HTTP},
    {**ports("80-89/TCP")[0], **HTTP},
    {**ports("http/TCP")[0], **HTTP},
    {**ports("80/TCP", "9092/TCP")[0], "rules": {"kafka": [{"role": "produce", "topic": "t"}]}},
    {**ports("85/TCP")[0], "rules": {"l7proto": "r2d2"}},
    {**ports("84-87/TCP")[0], "serverNames": ["a.example"]},
)
PROXIED_EGRESS: tuple[dict[str, Any], ...] = (
    {**ports("53")[0], "rules": {"dns": [{"matchPattern": "*"}]}},
    {**ports("80-89/TCP")[0], "listener": {**LISTENER, "priority": 1}},
    {**ports("0/TCP")[0], "listener": LISTENER},
)
SUBJECTS: tuple[dict[str, Any], ...] = ({}, {}, selector("app=api"), selector("app=web"), selector("tier=back"))
INIT = selector("reserved:init=")
SECTIONS = (
    *(("ingress",), ("egress",), ("ingressDeny",), ("egressDeny",)),
    *(("ingress", "ingressDeny"), ("ingress", "egress"), ("ingress", "egressDeny"), ("egress", "egressDeny")),
)
DEFAULT_DENIES = (None, None, None, {}, {"ingress": False}, {"egress": True}, {"ingress": False, "egress": False})
AUTHS = ("disabled", "required", "test-always-fail")
SERVICES = ("s1", "s2", "s3")
GROUPS = ("g1", "g2")
NAMES = ("p1", "p2", "p3")
KUBERNETES_PORTS: tuple[dict[str, Any], ...] = (
    {"port": 80},
    {"port": 80, "protocol": "TCP"},
    {"protocol": "UDP"},
    {},
    {"port": "http"},
    {"port": "metrics", "protocol": "TCP"},
    {"port": 53, "protocol": "UDP"},
    {"port": 80, "endPort": 89, "protocol": "TCP"},
    {"port": 8000, "endPort": 8191, "protocol": "UDP"},
    {"port": 80, "protocol": "SCTP"},
)


def some(chance: Random, make: Any, low: int = 1, high: int = 2) -> list[Any]:
    """A list of what `make` makes, of `low` to `high` elements."""
    return [make(chance) for _ in range(chance.randint(low, high))]


def values(key: str) -> tuple[str, ...]:
    """Values that identities have under the key, without regard to its source."""
    return VALUES[key.removeprefix("$").rpartition(":")[2]]


def label_selector(chance: Random, keys: tuple[str, ...] = KEYS) -> dict[str, Any]:
    """A LabelSelector as it is written; often one of a few."""
    if keys is KEYS and chance.randrange(3):
        return chance.choice(COMMON)
    written: dict[str, Any] = {}
    labels = {key: chance.choice(values(key)) for key in some(chance, lambda c: c.choice(keys), 0)}
    if labels:
        written["matchLabels"] = labels
    key, operator = chance.choice(keys), chance.choice(("In", "NotIn", "Exists", "DoesNotExist"))
    one: dict[str, Any] = {"key": key, "operator": operator}
    if operator in ("In", "NotIn"):
        one["values"] = some(chance, lambda c: c.choice(values(key)))
    written["matchExpressions"] = [one]
    return written


def cidr_rule(chance: Random) -> dict[str, Any]:
    """An element of `fromCIDRSet`."""
    kind = chance.randrange(5)
    if kind == 0:
        return {"cidrGroupRef": chance.choice((*GROUPS, "missing")), **_holes(chance, "10.0.0.0/8")}
    if kind == 1:
        found = chance.choice(({}, selector("team=a"), selector("team=b")))
        return {"cidrGroupSelector": found, **_holes(chance, "10.0.0.0/8")}
    cidr = chance.choice(sorted(HOLES))
    return {"cidr": cidr, **_holes(chance, cidr)}


def _holes(chance: Random, cidr: str) -> dict[str, Any]:
    holes = some(chance, lambda c: c.choice(HOLES[cidr]), 0)
    return {"except": holes} if holes else {}


def service(chance: Random) -> dict[str, Any]:
    """An element of `toServices`."""
    namespace = chance.choice(({}, {"namespace": "shop"}, {"namespace": "other"}))
    if chance.randrange(2):
        return {"k8sService": {"serviceName": chance.choice(SERVICES), **namespace}}
    return {"k8sServiceSelector": {"selector": chance.choice(({}, selector("team=a"))), **namespace}}


def name(chance: Random) -> dict[str, Any]:
    """An element of `toFQDNs`."""
    return chance.choice(({"matchName": "a.example"}, {"matchPattern": "*.example"}, {"matchName": "b.example"}, {}))


MEMBERS: dict[str, Any] = {
    "Endpoints": label_selector,
    "Entities": lambda chance: chance.choice(ENTITIES),
    "CIDR": lambda chance: chance.choice(PREFIXES),
    "CIDRSet": cidr_rule,
    "Groups": lambda _: {"aws": {"region": "x"}},
    "Services": service,
    "FQDNs": name,
}
KINDS = ("", "", "Endpoints", "Endpoints", "Endpoints", "Entities", "CIDR", "CIDRSet", "Groups")
KINDS_TO = (*KINDS, "Services", "FQDNs")


def term(chance: Random, section: str) -> dict[str, Any]:
    """An element of a section of a rule."""
    ingress, deny = section.startswith("ingress"), section.endswith("Deny")
    found = dict(chance.choice(L4))
    if not deny and not chance.randrange(4):
        found = {"toPorts": some(chance, lambda c: c.choice(PROXIED if ingress else (*PROXIED, *PROXIED_EGRESS)))}
        if not chance.randrange(3):
            found["toPorts"] = [*found["toPorts"], *ports("80/TCP", "9092/TCP")]
    if not deny and not chance.randrange(6):
        found["authentication"] = {"mode": chance.choice(AUTHS)}
    kind = chance.choice(KINDS if ingress else KINDS_TO)
    if kind and not (deny and kind == "FQDNs"):
        members = some(chance, MEMBERS[kind], chance.choice((0, 1, 1, 1, 1)))
        found[f"{'from' if ingress else 'to'}{kind}"] = members
    return found


def rule(chance: Random) -> dict[str, Any]:
    """The sections of a rule."""
    found: dict[str, Any] = {
        section: some(chance, lambda c, s=section: term(c, s)) for section in chance.choice(SECTIONS)
    }
    chosen = chance.choice(DEFAULT_DENIES)
    return found if chosen is None else {**found, "enableDefaultDeny": chosen}


def document(chance: Random, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """A policy of any kind that is valid; a quarter of them crowd allows and denies of the same peers."""
    made = _document(chance, chance.choice(names))
    if not chance.randrange(7):
        made["metadata"]["annotations"] = {"policy.cplane.io/audit": "true"}
    return made


def _document(chance: Random, called: str) -> dict[str, Any]:
    kind = chance.randrange(8)
    if kind < 2:
        return crowded(chance, called)
    if kind < 4:
        return network_policy(chance, called)
    subject = chance.choice(SUBJECTS)
    scope = chance.choice(("shop", "shop", "other", ""))
    if not scope and not chance.randrange(4):
        subject = INIT
    made = cnp(called, namespace=scope, subject=subject, **rule(chance))
    made = made if scope else ccnp(called, subject=subject, **rule(chance))
    if not chance.randrange(4):
        made["specs"] = [{"endpointSelector": chance.choice(SUBJECTS), **rule(chance)}]
    return made


def crowded(chance: Random, called: str) -> dict[str, Any]:
    """A policy for the whole namespace that allows and denies nearly the same."""
    alike = ({}, {"fromEndpoints": [selector("app=web")]}, {"fromEndpoints": [{}]}, {"fromEntities": ["all"]})

    def allow(c: Random) -> dict[str, Any]:
        proxied = {"toPorts": [c.choice(PROXIED)]} if not c.randrange(3) else c.choice(L4[:10])
        auth = {"authentication": {"mode": c.choice(AUTHS)}} if not c.randrange(3) else {}
        return {**c.choice(alike), **proxied, **auth}

    def deny(c: Random) -> dict[str, Any]:
        return {**c.choice(alike), **c.choice(L4[:10])}

    return cnp(called, subject={}, ingress=some(chance, allow, 1, 3), ingressDeny=some(chance, deny, 0, 2))


def network_policy(chance: Random, called: str) -> dict[str, Any]:
    """A Kubernetes NetworkPolicy."""
    spec: dict[str, Any] = {"podSelector": kubernetes_selector(chance)}
    types = chance.choice((None, [], ["Ingress"], ["Egress"], ["Ingress", "Egress"]))
    if types is not None:
        spec["policyTypes"] = types
    for section, member in (("ingress", "from"), ("egress", "to")):
        if chance.randrange(2):
            spec[section] = some(chance, lambda c, m=member: _kubernetes_rule(c, m), 0)
    return knp(called, namespace=chance.choice(("shop", "shop", "other")), **spec)


def kubernetes_selector(chance: Random) -> dict[str, Any]:
    """A selector of pods."""
    return {} if not chance.randrange(3) else label_selector(chance, ("app", "tier"))


def _kubernetes_rule(chance: Random, member: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if chance.randrange(4):
        made[member] = some(chance, kubernetes_peer, chance.choice((0, 1, 1)))
    if chance.randrange(3):
        made["ports"] = some(chance, lambda c: c.choice(KUBERNETES_PORTS), 0)
    return made


def kubernetes_peer(chance: Random) -> dict[str, Any]:
    """An element of `from` or `to`."""
    kind = chance.randrange(4)
    if kind == 0:
        cidr = chance.choice(sorted(HOLES))
        return {"ipBlock": {"cidr": cidr, **_holes(chance, cidr)}}
    peer: dict[str, Any] = {}
    if kind in (1, 3):
        peer["podSelector"] = kubernetes_selector(chance)
    if kind in (2, 3):
        peer["namespaceSelector"] = {} if not chance.randrange(2) else label_selector(chance, ("team",))
    return peer


def cidr_group(chance: Random, called: str) -> dict[str, Any]:
    """A CiliumCIDRGroup."""
    labels = chance.choice(({}, {"team": "a"}, {"team": "b"}))
    return group(called, *some(chance, lambda c: c.choice(PREFIXES), 0), labels=labels)


def services(chance: Random, called: str) -> dict[str, Any]:
    """A service, as the literal evaluator and `support.policies` take it."""
    by_label = chance.randrange(2)
    return {
        "namespace": chance.choice(("shop", "other")),
        "name": called,
        "labels": chance.choice(({}, {"team": "a"})),
        "selector": chance.choice(({"app": "web"}, {"app": "db", "tier": "back"})) if by_label else {},
        "addresses": [] if by_label else some(chance, lambda c: c.choice(("203.0.113.7", "2001:db8::1")), 0),
    }
