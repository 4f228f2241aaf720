"""Small cases whose verdict is known: documents in, verdicts out, through the map state and the lookup.

Namespace `shop`, cluster `c1`; 300 is web, 301 api, 302 db, 303 web of namespace `other`; 1 is the host.
"""

import pytest

from cplane.domain.policy.lookup import lookup
from cplane.domain.verdict import Direction, DropReason, MatchType
from tests.support.builders import ccnp, cnp, ports, selector
from tests.support.policies import DIRECTIONS, PODS, number_of, repository, verdict

WEB, API, DB, OTHER_WEB, OTHER_CLUSTER_WEB = PODS
HOST = 1
OUTSIDE = number_of("203.0.113.7")
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58

FROM_WEB = {"fromEndpoints": [selector("app=web")]}
A, D, DENIED = "allowed", "dropped", "denied"

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
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    documents, expected = CASES[name]
    repo = repository(*documents)
    for subject, direction, peer, protocol, port, wanted in expected:
        got = verdict(repo.state(subject), peer, DIRECTIONS[direction], protocol, port)
        assert got == wanted, f"{subject} {direction} {peer} {protocol}/{port}: {got}, not {wanted}"


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
