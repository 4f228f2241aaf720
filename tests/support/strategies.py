"""Hypothesis strategies for selectors, prefixes and policy documents, from a small world so that they meet."""

from hypothesis import strategies as st

from tests.support.builders import ccnp, cnp, ports, selector

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
    "host": ("",),
}
KEYS = ("app", "k8s:app", "any:app", "tier", NAMESPACE, "io.cilium.k8s.policy.cluster", "reserved:host")
COMMON = (
    {},
    selector("app=web"),
    selector("k8s:app=web"),
    selector("app=db"),
    selector(f"{NAMESPACE}=other"),
    selector("app=web", "io.cilium.k8s.policy.cluster=c2"),
)
L4 = (
    {},
    {},
    {"toPorts": ports("80/TCP")},
    {"toPorts": ports("80")},
    {"toPorts": ports("80-89/TCP")},
    {"toPorts": ports("0/TCP")},
    {"toPorts": ports("0")},
    {"toPorts": ports("53/UDP", "53/TCP")},
    {"toPorts": ports("1-65535/TCP", "8000-8191/UDP")},
    {"toPorts": []},
    {"toPorts": [{}]},
    {"icmps": [{"fields": [{"type": 8}, {"type": 128, "family": "IPv6"}]}]},
    {"icmps": [{"fields": [{"type": 0, "family": "IPv4"}]}]},
    {"icmps": []},
)


@st.composite
def odd_selectors(draw, keys=KEYS):
    """A LabelSelector as it is written, of any operators."""
    written = {}
    labels = draw(st.lists(st.sampled_from(keys), max_size=2, unique=True))
    if labels:
        written["matchLabels"] = {key: draw(st.sampled_from(values(key))) for key in labels}
    key = draw(st.sampled_from(keys))
    operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")))
    one = {"key": key, "operator": operator}
    if operator in ("In", "NotIn"):
        one["values"] = draw(st.lists(st.sampled_from(values(key)), min_size=1, max_size=2))
    written["matchExpressions"] = [one]
    return written


def values(key):
    """Values that identities have under the key, without regard to its source."""
    return VALUES[key.partition(":")[2] or key]


def selectors(keys=KEYS):
    """A LabelSelector as it is written; often one of a few."""
    return st.one_of(st.sampled_from(COMMON), st.sampled_from(COMMON), odd_selectors(keys))


@st.composite
def cidr_rules(draw):
    """An element of `fromCIDRSet`."""
    cidr = draw(st.sampled_from(sorted(HOLES)))
    holes = draw(st.lists(st.sampled_from(HOLES[cidr]), max_size=2))
    return {"cidr": cidr, **({"except": holes} if holes else {})}


MEMBERS = {
    "Endpoints": selectors(),
    "Entities": st.sampled_from(ENTITIES),
    "CIDR": st.sampled_from(PREFIXES),
    "CIDRSet": cidr_rules(),
}


@st.composite
def terms(draw, prefix):
    """An element of `ingress` (prefix `from`) or `egress` (prefix `to`)."""
    kind = draw(st.sampled_from(("", "Endpoints", "Endpoints", "Entities", "CIDR", "CIDRSet")))
    l4 = draw(st.sampled_from(L4))
    if not kind:
        return dict(l4)
    members = draw(st.lists(MEMBERS[kind], min_size=draw(st.sampled_from((0, 1, 1, 1))), max_size=2))
    return {f"{prefix}{kind}": members, **l4}


SECTIONS = (
    ("ingress",),
    ("egress",),
    ("ingressDeny",),
    ("egressDeny",),
    ("ingress", "ingressDeny"),
    ("ingress", "egress"),
    ("ingress", "egressDeny"),
)
SUBJECTS = ({}, {}, selector("app=api"), selector("app=web"), selector("tier=back"))


@st.composite
def documents(draw, names=("p1", "p2", "p3")):
    """A policy document that is valid; half of them crowd allows and denies of the same peers."""
    name = draw(st.sampled_from(names))
    if draw(st.booleans()):
        return crowded(name, *draw(st.tuples(CROWD, CROWD)))
    rule = {}
    for section in draw(st.sampled_from(SECTIONS)):
        prefix = "from" if section.startswith("ingress") else "to"
        rule[section] = draw(st.lists(terms(prefix), min_size=1, max_size=2))
    chosen = draw(st.sampled_from(DEFAULT_DENIES))
    if chosen is not None:
        rule["enableDefaultDeny"] = chosen
    subject = draw(st.sampled_from(SUBJECTS))
    scope = draw(st.sampled_from(("shop", "shop", "other", "")))
    return cnp(name, namespace=scope, subject=subject, **rule) if scope else ccnp(name, subject=subject, **rule)


DEFAULT_DENIES = (None, None, {}, {"ingress": False}, {"egress": True}, {"ingress": False, "egress": False})
CROWD = st.lists(
    st.builds(
        lambda peers, l4: {**peers, **l4},
        st.sampled_from(({}, {"fromEndpoints": [selector("app=web")]}, {"fromEndpoints": [{}]})),
        st.sampled_from(L4[:9]),
    ),
    min_size=1,
    max_size=3,
)


def crowded(name, allows, denies):
    """A policy for the whole namespace that allows and denies nearly the same."""
    return cnp(name, subject={}, ingress=allows, ingressDeny=denies)
