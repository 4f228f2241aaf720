"""Small cases whose verdict is known: documents in, verdicts out, through the map state and the lookup.

Namespace `shop`, cluster `c1`; 300 is web, 301 api, 302 db, 303 web of namespace `other`; 1 is the host. Namespaces
have the labels `team=a` and `team=b`; `support.policies` says which ports have names.
"""

import pytest

from cplane.domain.policy.lookup import lookup
from cplane.domain.verdict import Direction, DropReason, MatchType
from tests.support.builders import ccnp, cnp, group, knp, ports, selector
from tests.support.policies import DIRECTIONS, INIT, NAMED, PODS, SUBJECTS, Setting, number_of, repository, verdict

WEB, API, DB, OTHER_WEB, OTHER_CLUSTER_WEB, ODD = PODS
HOST = 1
OUTSIDE = number_of("203.0.113.7")
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58

FROM_WEB = {"fromEndpoints": [selector("app=web")]}
A, D, DENIED, PROXIED, UNPROVEN = "allowed", "dropped", "denied", "proxied", "unproven"
HTTP = {"rules": {"http": [{"path": "/pub"}]}}
LISTENER = {"envoyConfig": {"name": "e"}, "name": "l"}


def auth(mode):
    return {"authentication": {"mode": mode}}


CASES = {
    "without policies everything passes": (
        [],
        [(API, "ingress", WEB, TCP, 80, A), (API, "egress", OUTSIDE, UDP, 53, A), (API, "ingress", WEB, 47, 0, A)],
    ),
    "an empty rule denies one direction, except to the host": (
        [cnp(ingress=[{}])],
        [
            (API, "ingress", WEB, TCP, 80, D),
            (API, "egress", WEB, TCP, 80, A),
            (API, "ingress", HOST, TCP, 80, A),
            (DB, "ingress", WEB, TCP, 80, A),
        ],
    ),
    "a peer is in the policy's namespace and cluster": (
        [cnp(ingress=[FROM_WEB])],
        [
            (API, "ingress", WEB, TCP, 80, A),
            (API, "ingress", WEB, ICMP, 8, A),
            (API, "ingress", DB, TCP, 80, D),
            (API, "ingress", OTHER_WEB, TCP, 80, D),
            (API, "ingress", OTHER_CLUSTER_WEB, TCP, 80, D),
        ],
    ),
    "a peer that names a namespace is in that one": (
        [cnp(ingress=[{"fromEndpoints": [selector("app=web", "k8s:io.kubernetes.pod.namespace=other")]}])],
        [(API, "ingress", OTHER_WEB, TCP, 80, A), (API, "ingress", WEB, TCP, 80, D)],
    ),
    "the empty selector is everyone in the namespace, never the world": (
        [cnp(ingress=[{"fromEndpoints": [{}], "toPorts": ports("80/TCP")}])],
        [
            (API, "ingress", WEB, TCP, 80, A),
            (API, "ingress", DB, TCP, 80, A),
            (API, "ingress", WEB, TCP, 81, D),
            (API, "ingress", WEB, UDP, 80, D),
            (API, "ingress", WEB, ICMP, 8, D),
            (API, "ingress", OTHER_WEB, TCP, 80, D),
            (API, "ingress", OUTSIDE, TCP, 80, D),
        ],
    ),
    "ports without peers are open to anyone": (
        [cnp(ingress=[{"toPorts": ports("80/TCP")}])],
        [(API, "ingress", OUTSIDE, TCP, 80, A), (API, "ingress", WEB, TCP, 80, A), (API, "ingress", WEB, TCP, 81, D)],
    ),
    "an empty list of peers is nobody": (
        [cnp(ingress=[{"fromEndpoints": [], "toPorts": ports("80/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, D), (API, "ingress", OUTSIDE, TCP, 80, D)],
    ),
    "a deny beats an allow, as narrow as it is": (
        [cnp(ingress=[FROM_WEB], ingressDeny=[{**FROM_WEB, "toPorts": ports("80/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, DENIED), (API, "ingress", WEB, TCP, 81, A), (API, "ingress", DB, TCP, 81, D)],
    ),
    "a deny of the world leaves the pods and the host": (
        [
            ccnp("all", ingress=[{"fromEntities": ["all"]}]),
            cnp(ingressDeny=[{"fromEntities": ["world"]}]),
        ],
        [
            (API, "ingress", WEB, TCP, 80, A),
            (API, "ingress", OUTSIDE, TCP, 80, DENIED),
            (API, "ingress", number_of("2001:db8::1"), TCP, 80, DENIED),
            (API, "ingress", HOST, TCP, 80, A),
        ],
    ),
    "a deny without default deny leaves all others": (
        [
            cnp(
                ingressDeny=[{"fromEndpoints": [selector("app=db")]}],
                enableDefaultDeny={"ingress": False},
            )
        ],
        [
            (API, "ingress", DB, TCP, 80, DENIED),
            (API, "ingress", WEB, TCP, 80, A),
            (API, "ingress", OUTSIDE, TCP, 80, A),
        ],
    ),
    "a deny alone denies all others too": (
        [cnp(ingressDeny=[{"fromEndpoints": [selector("app=db")]}])],
        [(API, "ingress", DB, TCP, 80, DENIED), (API, "ingress", WEB, TCP, 80, D)],
    ),
    "no default deny in one policy does not undo that of another": (
        [cnp("a", ingress=[FROM_WEB], enableDefaultDeny={"ingress": False}), cnp("b", ingress=[{}])],
        [(API, "ingress", WEB, TCP, 80, A), (API, "ingress", DB, TCP, 80, D)],
    ),
    "an exception is out of its own prefix": (
        [
            cnp(
                subject=selector("app=web"),
                egress=[{"toCIDRSet": [{"cidr": "203.0.113.0/24", "except": ["203.0.113.7/32"]}]}],
            )
        ],
        [(WEB, "egress", number_of("203.0.113.8"), TCP, 443, A), (WEB, "egress", OUTSIDE, TCP, 443, D)],
    ),
    "an exception of one rule is not one of another": (
        [
            cnp(
                "a",
                subject=selector("app=web"),
                egress=[{"toCIDRSet": [{"cidr": "203.0.113.0/24", "except": ["203.0.113.7/32"]}]}],
            ),
            cnp("b", subject=selector("app=web"), egress=[{"toCIDR": ["203.0.113.7/32"]}]),
        ],
        [(WEB, "egress", OUTSIDE, TCP, 443, A)],
    ),
    "a prefix never selects pods or the host": (
        [cnp(subject=selector("app=web"), egress=[{"toCIDR": ["10.0.0.0/8"]}, {"toCIDR": ["0.0.0.0/0"]}])],
        [
            (WEB, "egress", API, TCP, 80, D),
            (WEB, "egress", HOST, TCP, 80, D),
            (WEB, "egress", number_of("10.9.9.9"), TCP, 80, A),
            (WEB, "egress", number_of("8.8.8.8"), TCP, 80, A),
            (WEB, "egress", number_of("2001:db8::9"), TCP, 80, D),
        ],
    ),
    "a deny inside a range of ports leaves the others": (
        [
            cnp(
                ingress=[{**FROM_WEB, "toPorts": ports("80-89/TCP")}],
                ingressDeny=[{**FROM_WEB, "toPorts": ports("85/TCP")}],
            )
        ],
        [
            (API, "ingress", WEB, TCP, 79, D),
            (API, "ingress", WEB, TCP, 84, A),
            (API, "ingress", WEB, TCP, 85, DENIED),
            (API, "ingress", WEB, TCP, 86, A),
            (API, "ingress", WEB, TCP, 90, D),
        ],
    ),
    "any protocol is any protocol with ports": (
        [cnp(ingress=[{"toPorts": ports("53")}])],
        [(API, "ingress", WEB, one, 53, A) for one in (TCP, UDP, SCTP)] + [(API, "ingress", WEB, ICMP, 8, D)],
    ),
    "port 0 is every port of the protocol": (
        [cnp(ingress=[{"toPorts": ports("0/UDP")}])],
        [(API, "ingress", WEB, UDP, 1, A), (API, "ingress", WEB, UDP, 65535, A), (API, "ingress", WEB, TCP, 1, D)],
    ),
    "message types are told apart by family": (
        [cnp(ingress=[{"icmps": [{"fields": [{"type": "EchoRequest"}, {"family": "IPv6", "type": 128}]}]}])],
        [
            (API, "ingress", OUTSIDE, ICMP, 8, A),
            (API, "ingress", OUTSIDE, ICMP, 0, D),
            (API, "ingress", OUTSIDE, ICMPV6, 128, A),
            (API, "ingress", OUTSIDE, ICMPV6, 8, D),
            (API, "ingress", OUTSIDE, TCP, 8, D),
        ],
    ),
    "toPorts without ports opens none": (
        [cnp(ingress=[{**FROM_WEB, "toPorts": [{}]}])],
        [(API, "ingress", WEB, TCP, 80, D)],
    ),
    "a clusterwide policy reaches pods of every namespace and only pods": (
        [ccnp(ingress=[{"fromEndpoints": [{}]}])],
        [
            (API, "ingress", OTHER_WEB, TCP, 80, A),
            (OTHER_WEB, "ingress", API, TCP, 80, A),
            (API, "ingress", OUTSIDE, TCP, 80, D),
            (API, "ingress", OTHER_CLUSTER_WEB, TCP, 80, D),
        ],
    ),
    "NotIn does not reach the world": (
        [
            cnp(
                ingress=[
                    {
                        "fromEndpoints": [
                            {
                                "matchExpressions": [
                                    {"key": "io.kubernetes.pod.namespace", "operator": "NotIn", "values": ["shop"]}
                                ]
                            }
                        ]
                    }
                ]
            )
        ],
        [
            (API, "ingress", OTHER_WEB, TCP, 80, A),
            (API, "ingress", WEB, TCP, 80, D),
            (API, "ingress", OUTSIDE, TCP, 80, D),
        ],
    ),
    "a deny of the host is a deny": (
        [cnp(ingressDeny=[{"fromEntities": ["host"]}])],
        [(API, "ingress", HOST, TCP, 80, DENIED)],
    ),
    "a whole protocol denied for anyone beats a port allowed for a peer": (
        [cnp(ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}], ingressDeny=[{"toPorts": ports("0/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, DENIED), (API, "ingress", WEB, UDP, 80, D)],
    ),
    # selectors
    "a source is asked for where it is written": (
        [
            cnp("a", ingress=[{"fromEndpoints": [selector("container:app=web")], "toPorts": ports("80/TCP")}]),
            cnp("b", ingress=[{"fromEndpoints": [selector("any:app=web")], "toPorts": ports("81/TCP")}]),
            cnp("c", ingress=[{"fromEndpoints": [selector("k8s:app=web")], "toPorts": ports("82/TCP")}]),
        ],
        [(API, "ingress", ODD, TCP, port, v) for port, v in ((80, A), (81, A), (82, D))]
        + [(API, "ingress", WEB, TCP, port, v) for port, v in ((80, D), (81, A), (82, A))],
    ),
    "the label of a prefix contains the prefixes in it": (
        [ccnp(egress=[{"toEndpoints": [selector("cidr:10.0.0.0/8=", "reserved:world-ipv4=")]}])],
        [
            (WEB, "egress", number_of("10.2.3.4"), TCP, 80, A),
            (WEB, "egress", number_of("10.9.9.9"), TCP, 80, A),
            (WEB, "egress", OUTSIDE, TCP, 80, D),
            (WEB, "egress", API, TCP, 80, D),
        ],
    ),
    "a reserved label needs no namespace": (
        [cnp(ingress=[{"fromEndpoints": [selector("reserved:remote-node=")]}])],
        [(API, "ingress", 6, TCP, 80, A), (API, "ingress", 7, TCP, 80, A), (API, "ingress", WEB, TCP, 80, D)],
    ),
    "a service account is a label like others": (
        [cnp(ingress=[{"fromEndpoints": [selector("io.cilium.k8s.policy.serviceaccount=luke")]}])],
        [(API, "ingress", WEB, TCP, 80, D)],
    ),
    "the entity cluster is what is in it, the world is not": (
        [cnp(ingress=[{"fromEntities": ["cluster"]}])],
        [(API, "ingress", one, TCP, 80, A) for one in (WEB, OTHER_WEB, 3, 4, 5, 6, 7, 8)]
        + [(API, "ingress", one, TCP, 80, D) for one in (OTHER_CLUSTER_WEB, OUTSIDE, 9, 10)],
    ),
    "the world of one family is not the other": (
        [cnp(egress=[{"toEntities": ["world-ipv4"]}])],
        [(API, "egress", OUTSIDE, TCP, 80, A), (API, "egress", number_of("2001:db8::1"), TCP, 80, D)],
    ),
    "the entity none is nobody, with ports too": (
        [cnp(ingress=[{"fromEntities": ["none"], "toPorts": ports("80/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, D)],
    ),
    "a cloud group is nobody": (
        [cnp(egress=[{"toGroups": [{"aws": {"region": "r"}}]}])],
        [(API, "egress", OUTSIDE, TCP, 80, D), (API, "egress", WEB, TCP, 80, D)],
    ),
    # names, and addresses that they were resolved to
    "an address that a name was resolved to is selected by the name and by its pattern": (
        [
            cnp("a", egress=[{"toFQDNs": [{"matchName": "A.example."}], "toPorts": ports("443/TCP")}]),
            cnp("b", egress=[{"toFQDNs": [{"matchPattern": "*.Example"}], "toPorts": ports("80/TCP")}]),
            cnp("c", egress=[{"toFQDNs": [{"matchName": "b.example"}, {}], "toPorts": ports("81/TCP")}]),
        ],
        [(API, "egress", NAMED, TCP, port, v) for port, v in ((443, A), (80, A), (81, D))]
        + [(API, "egress", OUTSIDE, TCP, 443, D)],
    ),
    # named ports
    "at ingress a port is one that the subject calls so": (
        [cnp(subject={}, ingress=[{"fromEndpoints": [{}], "toPorts": ports("http/TCP", "metrics")}])],
        [
            (WEB, "ingress", API, TCP, 80, A),
            (WEB, "ingress", API, TCP, 8080, D),
            (API, "ingress", WEB, TCP, 8080, A),
            (API, "ingress", WEB, TCP, 80, D),
            (API, "ingress", WEB, TCP, 9090, A),
            (API, "ingress", WEB, UDP, 53, A),
            (API, "ingress", WEB, TCP, 53, D),
            (DB, "ingress", WEB, TCP, 85, A),
            (DB, "ingress", WEB, TCP, 86, D),
        ],
    ),
    "at egress a port is one that any endpoint of the peer calls so": (
        [cnp(egress=[{"toEndpoints": [{}], "toPorts": ports("http/TCP")}])],
        [
            (API, "egress", WEB, TCP, 80, A),
            (API, "egress", WEB, TCP, 8080, D),
            (API, "egress", DB, TCP, 85, A),
            (API, "egress", DB, TCP, 86, A),
            (API, "egress", OTHER_WEB, TCP, 80, D),
            (API, "egress", OUTSIDE, TCP, 80, D),
        ],
    ),
    "anyone's named ports are each peer's own, and numbers beside them anyone's": (
        [cnp(egress=[{"toPorts": ports("http", "9/TCP")}])],
        [
            (API, "egress", WEB, TCP, 80, A),
            (API, "egress", OTHER_WEB, UDP, 80, A),
            (API, "egress", WEB, UDP, 80, D),
            (API, "egress", OUTSIDE, TCP, 80, D),
            (API, "egress", OUTSIDE, TCP, 9, A),
            (API, "egress", 777, TCP, 9, A),
        ],
    ),
    "a name that nobody has is no port": (
        [cnp(ingress=[{"toPorts": ports("nope")}], ingressDeny=[{"toPorts": ports("nope", "81/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, D), (API, "ingress", WEB, TCP, 81, DENIED)],
    ),
    "a named port can be denied": (
        [cnp(ingress=[{}, {"fromEndpoints": [{}]}], ingressDeny=[{"toPorts": ports("http/TCP")}])],
        [(API, "ingress", WEB, TCP, 8080, DENIED), (API, "ingress", WEB, TCP, 80, A)],
    ),
    # protocols without ports
    "a protocol without ports is a protocol": (
        [cnp(ingress=[{"toPorts": ports("0/VRRP")}])],
        [(API, "ingress", WEB, 112, 0, A), (API, "ingress", WEB, 2, 0, D), (API, "ingress", WEB, TCP, 80, D)],
    ),
    # what goes to a proxy
    "what has rules of requests goes to a proxy": (
        [cnp(ingress=[{**FROM_WEB, "toPorts": [{**ports("80/TCP")[0], **HTTP}]}])],
        [
            (API, "ingress", WEB, TCP, 80, PROXIED),
            (API, "ingress", WEB, TCP, 81, D),
            (API, "ingress", DB, TCP, 80, D),
        ],
    ),
    "a port that is allowed without rules goes there too, and so does what is allowed more broadly": (
        [
            cnp("a", ingress=[{**FROM_WEB, "toPorts": [{**ports("80/TCP")[0], **HTTP}]}]),
            cnp("b", ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}]),
            cnp("c", ingress=[FROM_WEB]),
        ],
        [(API, "ingress", WEB, TCP, 80, PROXIED), (API, "ingress", WEB, TCP, 81, A)],
    ),
    "a proxy for a range has the port that is allowed in it": (
        [cnp(ingress=[{"toPorts": [{**ports("80-89/TCP")[0], **HTTP}]}, {**FROM_WEB, "toPorts": ports("85/TCP")}])],
        [(API, "ingress", WEB, TCP, 85, PROXIED), (API, "ingress", DB, TCP, 85, PROXIED)],
    ),
    "a deny beats a proxy": (
        [cnp(ingress=[{"toPorts": [{**ports("80/TCP")[0], **HTTP}]}], ingressDeny=[FROM_WEB])],
        [(API, "ingress", WEB, TCP, 80, DENIED), (API, "ingress", DB, TCP, 80, PROXIED)],
    ),
    "without default deny rules of requests are in force": (
        [cnp(ingress=[{"toPorts": [{**ports("80/TCP")[0], **HTTP}]}], enableDefaultDeny={"ingress": False})],
        [(API, "ingress", WEB, TCP, 80, PROXIED), (API, "ingress", WEB, TCP, 81, A)],
    ),
    "server names and listeners are for a proxy": (
        [
            cnp(
                egress=[
                    {"toPorts": [{**ports("443/TCP")[0], "serverNames": ["a"]}]},
                    {"toPorts": [{**ports("80/TCP")[0], "listener": LISTENER}]},
                ]
            )
        ],
        [(API, "egress", OUTSIDE, TCP, 443, PROXIED), (API, "egress", OUTSIDE, TCP, 80, PROXIED)],
    ),
    # authentication
    "authentication is asked for where it is required": (
        [cnp(ingress=[{**FROM_WEB, **auth("required")}, {"fromEndpoints": [selector("app=db")]}])],
        [(API, "ingress", WEB, TCP, 80, UNPROVEN), (API, "ingress", DB, TCP, 80, A)],
    ),
    "what is narrower and does not say is asked for it too": (
        [cnp(ingress=[{**FROM_WEB, **auth("required")}, {**FROM_WEB, "toPorts": ports("80/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, UNPROVEN), (API, "ingress", WEB, TCP, 81, UNPROVEN)],
    ),
    "what is narrower and says that none is needed is not": (
        [
            cnp(
                ingress=[
                    {**FROM_WEB, **auth("required")},
                    {**FROM_WEB, **auth("disabled"), "toPorts": ports("80/TCP")},
                ]
            )
        ],
        [(API, "ingress", WEB, TCP, 80, A), (API, "ingress", WEB, TCP, 81, UNPROVEN)],
    ),
    "what is broader is not": (
        [cnp(ingress=[FROM_WEB, {**FROM_WEB, **auth("required"), "toPorts": ports("80/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, UNPROVEN), (API, "ingress", WEB, TCP, 81, A)],
    ),
    "of what says the same of the same the stricter is asked for": (
        [cnp(ingress=[{**FROM_WEB, **auth("disabled")}, {**FROM_WEB, **auth("required")}])],
        [(API, "ingress", WEB, TCP, 80, UNPROVEN)],
    ),
    "what is asked of anyone is asked of every peer": (
        [cnp(ingress=[{"fromEntities": ["all"], **auth("required")}, {**FROM_WEB, "toPorts": ports("80/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, UNPROVEN), (API, "ingress", OUTSIDE, TCP, 80, UNPROVEN)],
    ),
    "what is asked of a peer is asked where a port is open to anyone": (
        [cnp(ingress=[{**FROM_WEB, **auth("required")}, {"toPorts": ports("80/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, UNPROVEN), (API, "ingress", DB, TCP, 80, A)],
    ),
    "unless the port that is open to anyone says that none is needed": (
        [cnp(ingress=[{**FROM_WEB, **auth("required")}, {**auth("disabled"), "toPorts": ports("80/TCP")}])],
        [(API, "ingress", WEB, TCP, 80, A), (API, "ingress", WEB, TCP, 81, UNPROVEN)],
    ),
    "what is asked of a peer is asked of what goes to a proxy too": (
        [
            cnp(
                ingress=[
                    {**FROM_WEB, **auth("required")},
                    {"toPorts": [{**ports("80/TCP")[0], **HTTP}]},
                ]
            )
        ],
        [(API, "ingress", WEB, TCP, 80, UNPROVEN), (API, "ingress", DB, TCP, 80, PROXIED)],
    ),
    "a deny asks for nothing": (
        [cnp(ingress=[{**FROM_WEB, **auth("required")}], ingressDeny=[FROM_WEB])],
        [(API, "ingress", WEB, TCP, 80, DENIED)],
    ),
    "authentication without default deny is asked for all the same": (
        [cnp(ingress=[{**FROM_WEB, **auth("required")}], enableDefaultDeny={"ingress": False})],
        [(API, "ingress", WEB, TCP, 80, UNPROVEN), (API, "ingress", DB, TCP, 80, A)],
    ),
    # endpoints without labels
    "an endpoint without labels is closed but for the host": (
        [],
        [
            (INIT, "ingress", WEB, TCP, 80, D),
            (INIT, "egress", WEB, TCP, 80, D),
            (INIT, "ingress", HOST, TCP, 80, A),
        ],
    ),
    "a cluster-wide rule about it opens it, to peers without a namespace too": (
        [
            ccnp(
                subject=selector("reserved:init="), egress=[{"toEndpoints": [{}]}], ingress=[{"fromEntities": ["init"]}]
            )
        ],
        [
            (INIT, "egress", WEB, TCP, 80, A),
            (INIT, "egress", OUTSIDE, TCP, 80, D),
            (INIT, "ingress", INIT, TCP, 80, A),
            (INIT, "ingress", WEB, TCP, 80, D),
        ],
    ),
    # NetworkPolicy
    "a NetworkPolicy denies the direction that it is about, except to the host": (
        [knp()],
        [
            (API, "ingress", WEB, TCP, 80, D),
            (API, "ingress", HOST, TCP, 80, A),
            (API, "egress", WEB, TCP, 80, A),
            (DB, "ingress", WEB, TCP, 80, A),
        ],
    ),
    "a NetworkPolicy about egress leaves ingress": (
        [knp(policyTypes=["Egress"])],
        [(API, "ingress", WEB, TCP, 80, A), (API, "egress", WEB, TCP, 80, D)],
    ),
    "no peers are everyone, the world and the host too": (
        [knp(ingress=[{"ports": [{"port": 80}]}])],
        [(API, "ingress", one, TCP, 80, A) for one in (WEB, OTHER_WEB, OTHER_CLUSTER_WEB, OUTSIDE, HOST)]
        + [(API, "ingress", WEB, UDP, 80, D), (API, "ingress", OUTSIDE, TCP, 81, D)],
    ),
    "an empty list of peers is everyone here": (
        [knp(ingress=[{"from": []}])],
        [(API, "ingress", OUTSIDE, TCP, 80, A), (API, "ingress", WEB, ICMP, 8, A)],
    ),
    "an empty rule is everything": (
        [knp(ingress=[{}], egress=[{}])],
        [(API, "ingress", OUTSIDE, 47, 0, A), (API, "egress", OUTSIDE, ICMP, 8, A)],
    ),
    "pods alone are of the namespace": (
        [knp(ingress=[{"from": [{"podSelector": selector("app=web")}]}])],
        [
            (API, "ingress", WEB, TCP, 80, A),
            (API, "ingress", OTHER_WEB, TCP, 80, D),
            (API, "ingress", OTHER_CLUSTER_WEB, TCP, 80, D),
            (API, "ingress", DB, TCP, 80, D),
        ],
    ),
    "a label of another source is none of a pod's": (
        [knp(podSelector={}, ingress=[{"from": [{"podSelector": selector("app=web")}]}])],
        [(WEB, "ingress", ODD, TCP, 80, D), (ODD, "ingress", WEB, TCP, 80, A)],
    ),
    "namespaces are selected by their labels": (
        [knp(ingress=[{"from": [{"namespaceSelector": selector("team=b")}]}])],
        [(API, "ingress", OTHER_WEB, TCP, 80, A), (API, "ingress", WEB, TCP, 80, D), (API, "ingress", 6, TCP, 80, D)],
    ),
    "every namespace is every pod of the cluster and nothing else": (
        [knp(ingress=[{"from": [{"namespaceSelector": {}}]}])],
        [(API, "ingress", one, TCP, 80, A) for one in (WEB, DB, OTHER_WEB)]
        + [(API, "ingress", one, TCP, 80, D) for one in (OTHER_CLUSTER_WEB, OUTSIDE, 6)],
    ),
    "pods and namespaces in one peer are both asked for, in two peers either": (
        [
            knp(
                "a", ingress=[{"from": [{"podSelector": selector("app=web"), "namespaceSelector": selector("team=b")}]}]
            ),
            knp(
                "b",
                podSelector=selector("app=db"),
                ingress=[{"from": [{"podSelector": selector("app=web")}, {"namespaceSelector": selector("team=b")}]}],
            ),
        ],
        [
            (API, "ingress", OTHER_WEB, TCP, 80, A),
            (API, "ingress", WEB, TCP, 80, D),
            (DB, "ingress", OTHER_WEB, TCP, 80, A),
            (DB, "ingress", WEB, TCP, 80, A),
            (DB, "ingress", API, TCP, 80, D),
        ],
    ),
    "a block is a prefix outside of the cluster, less its holes": (
        [knp(egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16"]}}]}])],
        [
            (API, "egress", number_of("10.9.9.9"), TCP, 80, A),
            (API, "egress", number_of("10.2.9.9"), TCP, 80, D),
            (API, "egress", number_of("10.2.3.4"), TCP, 80, D),
            (API, "egress", WEB, TCP, 80, D),
            (API, "ingress", WEB, TCP, 80, D),
        ],
    ),
    "its ports have names, ranges, and are TCP unless they say": (
        [
            knp(
                ingress=[
                    {"ports": [{"port": "http"}, {"port": 7000, "endPort": 7010}, {"protocol": "UDP"}, {"port": "no"}]}
                ]
            )
        ],
        [
            (API, "ingress", WEB, TCP, 8080, A),
            (API, "ingress", WEB, TCP, 80, D),
            (API, "ingress", WEB, TCP, 7000, A),
            (API, "ingress", WEB, TCP, 7010, A),
            (API, "ingress", WEB, TCP, 7011, D),
            (API, "ingress", WEB, UDP, 7, A),
            (API, "ingress", WEB, SCTP, 7000, D),
            (API, "ingress", WEB, ICMP, 8, D),
        ],
    ),
    "a port without a number is all of TCP": (
        [knp(ingress=[{"ports": [{}]}])],
        [(API, "ingress", WEB, TCP, 65535, A), (API, "ingress", WEB, UDP, 80, D)],
    ),
    "two policies of either kind allow what either allows": (
        [knp(ingress=[{"ports": [{"port": 80}]}]), cnp(ingress=[{"toPorts": ports("81/TCP")}])],
        [(API, "ingress", WEB, TCP, port, v) for port, v in ((80, A), (81, A), (82, D))],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    documents, expected = CASES[name]
    assert_case(documents, expected)


def assert_case(documents, expected, setting=Setting()):  # noqa: B008  # frozen
    repo = repository(*documents, subjects=SUBJECTS, setting=setting)
    for subject, direction, peer, protocol, port, wanted in expected:
        got = verdict(repo.state(subject), peer, DIRECTIONS[direction], protocol, port)
        assert got == wanted, f"{subject} {direction} {peer} {protocol}/{port}: {got}, not {wanted}"


TO_GROUP = {"cidrGroupRef": "g"}
TEAM_A = {"cidrGroupSelector": selector("team=a")}
GROUPS = (
    group("g", "10.0.0.0/8", "2001:db8::/32"),
    group("h", "203.0.113.0/24", labels={"team": "a"}),
    group("i", "10.2.3.0/24", labels={"team": "b"}),
)


@pytest.mark.parametrize(
    ("rules", "reached"),
    [
        ([TO_GROUP], {"10.9.9.9", "10.2.0.9", "10.2.3.4", "2001:db8::1"}),
        ([{**TO_GROUP, "except": ["10.2.0.0/16"]}], {"10.9.9.9", "2001:db8::1"}),
        ([{**TO_GROUP, "except": ["0.0.0.0/0"]}], {"2001:db8::1"}),
        ([{"cidrGroupRef": "missing"}], set()),
        ([TEAM_A], {"203.0.113.7"}),
        ([{**TEAM_A, "except": ["203.0.113.7/32"]}], set()),
        ([{"cidrGroupSelector": {}, "except": ["10.2.0.0/16"]}], {"10.9.9.9", "2001:db8::1", "203.0.113.7"}),
        ([{"cidrGroupSelector": {}}], {"10.9.9.9", "10.2.0.9", "10.2.3.4", "2001:db8::1", "203.0.113.7"}),
        ([{"cidrGroupSelector": selector("team=c")}], set()),
        ([{**TO_GROUP, "except": ["10.2.0.0/16"]}, {"cidr": "10.2.3.0/24"}], {"10.9.9.9", "10.2.3.4", "2001:db8::1"}),
    ],
)
def test_groups_are_the_prefixes_of_those_that_exist_less_the_exceptions(rules, reached):
    document = cnp(egress=[{"toCIDRSet": rules}])
    addresses = ("10.9.9.9", "10.2.0.9", "10.2.3.4", "2001:db8::1", "203.0.113.7")
    expected = [(API, "egress", number_of(one), TCP, 80, A if one in reached else D) for one in addresses]
    assert_case([document], [*expected, (API, "egress", WEB, TCP, 80, D)], Setting(groups=GROUPS))


def service(name, namespace="shop", labels=(), selector=(), addresses=()):
    return {
        "name": name,
        "namespace": namespace,
        "labels": dict(labels),
        "selector": dict(selector),
        "addresses": list(addresses),
    }


SERVICES = (
    service("web", selector={"app": "web"}),
    service("web", namespace="other", selector={"app": "web"}, labels={"team": "b"}),
    service("out", addresses=["203.0.113.7"], labels={"team": "a"}),
    service("none"),
)


@pytest.mark.parametrize(
    ("element", "reached"),
    [
        ({"k8sService": {"serviceName": "web"}}, {WEB}),
        ({"k8sService": {"serviceName": "web", "namespace": "other"}}, {OTHER_WEB}),
        ({"k8sService": {"serviceName": "out"}}, {OUTSIDE}),
        ({"k8sService": {"serviceName": "none"}}, set()),
        ({"k8sService": {"serviceName": "missing"}}, set()),
        ({"k8sServiceSelector": {"selector": selector("team=a")}}, {OUTSIDE}),
        ({"k8sServiceSelector": {"selector": selector("team=b")}}, set()),
        ({"k8sServiceSelector": {"selector": selector("team=b"), "namespace": "other"}}, {OTHER_WEB}),
    ],
)
def test_services_are_the_pods_that_they_select_or_their_addresses(element, reached):
    document = cnp(egress=[{"toServices": [element], "toPorts": ports("80/TCP")}])
    peers = (WEB, DB, OTHER_WEB, OUTSIDE)
    expected = [(API, "egress", one, TCP, 80, A if one in reached else D) for one in peers]
    assert_case([document], [*expected, (API, "egress", WEB, TCP, 81, D)], Setting(services=SERVICES))


@pytest.mark.parametrize(
    ("mode", "without", "with_rule", "init"), [("default", A, D, D), ("always", D, D, D), ("never", A, A, A)]
)
def test_the_mode_says_whose_rules_bind_whom(mode, without, with_rule, init):
    expected = [
        (DB, "ingress", WEB, TCP, 80, without),
        (DB, "egress", WEB, TCP, 80, without),
        (DB, "ingress", HOST, TCP, 80, A),
        (API, "ingress", WEB, TCP, 80, with_rule),
        (API, "egress", WEB, TCP, 80, without),
        (INIT, "ingress", WEB, TCP, 80, init),
    ]
    assert_case([cnp(ingress=[{}])], expected, Setting(mode=mode))


def test_where_everyone_is_enforced_rules_open_what_they_say():
    rule = cnp(ingress=[FROM_WEB], enableDefaultDeny={"ingress": False})
    expected = [(API, "ingress", WEB, TCP, 80, A), (API, "ingress", DB, TCP, 80, D)]
    assert_case([rule], expected, Setting(mode="always"))


@pytest.mark.parametrize(
    ("term", "protocol", "match"),
    [
        (FROM_WEB, TCP, MatchType.L3_ONLY),
        ({**FROM_WEB, "toPorts": ports("80/TCP")}, TCP, MatchType.L3_L4),
        ({"toPorts": ports("80/TCP")}, TCP, MatchType.L4_ONLY),
        ({"fromEntities": ["all"]}, TCP, MatchType.ALL),
        ({**FROM_WEB, "toPorts": ports("0/TCP")}, TCP, MatchType.L3_PROTO),
        ({"toPorts": ports("0/TCP")}, TCP, MatchType.PROTO_ONLY),
        ({}, TCP, MatchType.NONE),
    ],
)
def test_the_lookup_says_what_kind_of_entry_decided(term, protocol, match):
    state = repository(cnp(ingress=[term])).state(API)
    decision = lookup(state.entry, WEB, Direction.INGRESS, protocol, 80)
    assert decision.match == match
    assert decision.reason is (DropReason.POLICY_DENIED if match is MatchType.NONE else None)
