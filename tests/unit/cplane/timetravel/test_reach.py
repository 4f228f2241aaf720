"""Who could reach whom after a change is foretold for every pair and port, and is what both ends then say."""

import json
import re
from ipaddress import ip_address
from itertools import product
from random import Random

import pytest

from cplane.deciders.endpoint import ConfigureEndpoint
from cplane.deciders.policy import ApplyPolicies, DeletePolicies
from cplane.deciders.world import World, facts
from cplane.domain.identity import NumericIdentity, Reserved, cidr_of_label, is_local, world_of
from cplane.domain.policy import CNP, PolicyRef
from cplane.domain.policy.explanation import Outcome, PeerIdentity, Traffic
from cplane.domain.policy.why import explain
from cplane.domain.ports import Protocol
from cplane.domain.verdict import Direction
from cplane.errors import Rejected
from cplane.projections.policymap import PolicyMapProjection
from cplane.reactors.reaction import settle
from cplane.timetravel.fork import PROXY, Fork
from cplane.timetravel.reach import Names, Reach, ports_text, reaches
from tests.support import random_policies
from tests.support.builders import audited, cnp, document, ports, selector
from tests.support.effort import examples
from tests.support.scenario import JOIN, pod

TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
RANK = {Outcome.ALLOWED: 0, PROXY: 1, Outcome.AUDIT: 2, Outcome.DENIED: 3}


def world(*documents: str) -> World:
    return changed(
        World(),
        JOIN,
        pod("web", "k8s:app=web", ifindex=10, named_ports=("http=8080/TCP",)),
        pod("client", "k8s:app=client", ifindex=11),
        pod("other", "k8s:app=other", ifindex=12),
        *([ApplyPolicies(documents=documents)] if documents else []),
    )


def changed(at: World, *commands) -> World:
    for command in commands:
        _, at = settle(command, at)
    return at


def to_web(*terms, name="web") -> str:
    return document(cnp(name, subject=selector("app=web"), ingress=list(terms)))


def of(peer: str, *l4: str) -> dict:
    return {"fromEndpoints": [selector(f"app={peer}")], **({"toPorts": ports(*l4)} if l4 else {})}


def told(at: World, *documents: str, deleted=()) -> set[tuple[str, ...]]:
    rows = reaches(Fork(at, documents, deleted)).rows
    return {(one.source, one.destination, one.ports, one.before, one.after) for one in rows}


def among_pods(rows: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {row for row in rows if row[0].startswith("shop/") and row[1].startswith("shop/")}


def test_every_port_of_a_range_counts_and_not_its_first_alone() -> None:
    at = world(to_web(of("client", "80/TCP")), to_web(of("client", "80-87/TCP"), name="more"))
    assert told(at, deleted=(PolicyRef(CNP, "shop", "more"),)) == {
        ("shop/client", "shop/web", "81-87/TCP", "ALLOWED", "DENIED")
    }


def test_what_the_other_end_denies_anyway_is_no_change() -> None:
    silent = document(cnp("silent", subject=selector("app=client"), egress=[{}]))
    rows = among_pods(told(world(silent), to_web(of("other"))))
    assert rows == set()
    assert among_pods(told(world(), to_web(of("other")))) == {("shop/client", "shop/web", "any", "ALLOWED", "DENIED")}


def test_both_ends_are_needed_for_what_is_denied_to_be_allowed() -> None:
    silent = document(cnp("silent", subject=selector("app=client"), egress=[{}]))
    at = world(silent, to_web(of("other")))
    gone = {name: PolicyRef(CNP, "shop", name) for name in ("silent", "web")}
    assert among_pods(told(at, deleted=(gone["web"],))) == set()
    both = among_pods(told(at, deleted=tuple(gone.values())))
    assert ("shop/client", "shop/web", "any", "DENIED", "ALLOWED") in both


def test_an_endpoint_that_only_audits_denies_nobody() -> None:
    at = world()
    at = changed(at, ConfigureEndpoint(endpoint=1, audit=True))
    rows = reaches(Fork(at, (to_web(of("other")),), ())).rows
    assert {one.after for one in rows} == {"AUDIT"}
    told_of = document(audited(cnp("web", subject=selector("app=web"), ingress=[of("other")])))
    assert among_pods(told(world(), told_of)) == {("shop/client", "shop/web", "any", "ALLOWED", "AUDIT")}


def test_what_a_proxy_will_judge_is_told() -> None:
    http = {"fromEndpoints": [selector("app=client")], "toPorts": [ports("80/TCP")[0] | {"rules": {"http": [{}]}}]}
    assert told(world(to_web(of("client", "80/TCP"))), to_web(http)) == {
        ("shop/client", "shop/web", "80/TCP", "ALLOWED", "PROXY")
    }


def test_ports_by_name_are_those_that_the_pod_has() -> None:
    assert told(world(to_web(of("client", "http"))), to_web(of("other", "http"))) == {
        ("shop/client", "shop/web", "8080/TCP", "ALLOWED", "DENIED"),
        ("shop/other", "shop/web", "8080/TCP", "DENIED", "ALLOWED"),
    }


def test_a_prefix_that_gets_an_identity_of_its_own_is_compared_with_what_was_around_it() -> None:
    rule = cnp("out", subject=selector("app=client"), egress=[{"toCIDR": ["203.0.113.0/24"]}])
    rows = told(world(), document(rule))
    assert ("shop/client", "reserved:world-ipv4", "any", "ALLOWED", "DENIED") in rows
    assert not [row for row in rows if row[1] == "203.0.113.0/24"]
    back = told(world(document(rule)), deleted=(PolicyRef(CNP, "shop", "out"),))
    assert {row[3:] for row in back} == {("DENIED", "ALLOWED")}


@pytest.mark.parametrize(
    "without",
    [
        {"fromCIDR": ["203.0.113.0/24"]},
        {"fromEntities": ["world"]},
        {"fromEntities": ["world"], "toPorts": ports("1-65535/TCP")},
    ],
)
def test_an_exception_cuts_somebody_off_although_no_row_differs(without) -> None:
    cidr = without.get("fromCIDR", ["0.0.0.0/0"])[0]
    excepted = {key: value for key, value in without.items() if key == "toPorts"}
    excepted["fromCIDRSet"] = [{"cidr": cidr, "except": ["203.0.113.7/32"]}]
    around = [to_web(without), to_web(excepted, {"fromEntities": ["world-ipv6"]} if "fromEntities" in without else {})]
    at_ports = "any TCP" if "toPorts" in without else "any"
    for before, after, verdicts in ((*around, ("ALLOWED", "DENIED")), (*reversed(around), ("DENIED", "ALLOWED"))):
        rows = {row for row in told(world(before), after) if row[0] == "203.0.113.7/32"}
        assert rows == {("203.0.113.7/32", "shop/web", at_ports, *verdicts)}


def test_pods_with_one_identity_are_one_row() -> None:
    more = (pod(f"client-{n}", "k8s:app=client", ifindex=20 + n) for n in range(7))
    rows = among_pods(told(changed(world(), *more), to_web(of("other"))))
    names = "shop/client, shop/client-0, shop/client-1, shop/client-2, shop/client-3 and 3 more"
    assert rows == {(names, "shop/web", "any", "ALLOWED", "DENIED")}


@pytest.mark.parametrize(
    ("there", "text"),
    [
        ({TCP: [(80, 80)]}, "80/TCP"),
        ({TCP: [(80, 80), (443, 444)], ICMP: [(8, 8)]}, "80/TCP, 443-444/TCP, ICMP type 8"),
        ({TCP: [(1, 65535)]}, "any TCP"),
        ({TCP: [(1, 79), (81, 65535)]}, "1-79/TCP, 81-65535/TCP"),
    ],
)
def test_ports_are_told_in_the_shortest_way(there, text) -> None:
    assert ports_text(there) == text


PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ICMP, Protocol.ICMPV6)
PORTS = (1, 7, 8, 53, 79, 80, 84, 89, 90, 91, 128, 443, 8080, 65535)
OUTSIDE = ("8.8.8.8", "10.9.9.9", "10.2.9.9", "10.2.3.9", "203.0.113.7", "203.0.113.8", "2001:db8::1", "2001:db8::2")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(examples(10, least=2)))
def test_what_is_foretold_is_what_both_ends_say_then(seed) -> None:
    chance = Random(seed)
    at = world()
    for number, (name, *labels) in enumerate((("web-2", "k8s:app=web"), ("db", "k8s:app=db", "k8s:tier=back"))):
        named_ports = ("http=8080/TCP",) if name == "web-2" else ()
        at = changed(at, pod(name, *labels, ifindex=13 + number, named_ports=named_ports))
    for _ in range(3):
        at = tried(at, chance)[0]
    then, documents, deleted = tried(at, chance)
    fork = Fork(at, documents, deleted)
    names, found = Names(fork), reaches(fork)
    assert (found.more, found.unasked) == (0, 0)
    rows: dict[tuple[str, str], list[Reach]] = {}
    for one in found.rows:
        rows.setdefault((one.source, one.destination), []).append(one)
    before, after = Literal(at), Literal(then)
    parties = sorted({int(one.identity) for one in at.endpoints.values()} | {int(Reserved.HOST)})
    for source, destination in product([*parties, *OUTSIDE], repeat=2):
        if source == destination or (isinstance(source, str) and isinstance(destination, str)):
            continue
        ends = source, destination
        called = tuple(names.of(one) if isinstance(one, int) else outside(at, then, one) for one in ends)
        for protocol, port in product(PROTOCOLS, PORTS):
            if protocol in {Protocol.ICMP, Protocol.ICMPV6} and port > 255:
                continue
            says = tuple(side.verdict(source, destination, protocol, port) for side in (before, after))
            held = [(r.before, r.after) for r in rows.get(called, ()) if covers(r.ports, protocol, port)]
            assert held == ([says] if says[0] != says[1] else []), (called, protocol, port, documents, deleted)


def tried(at: World, chance: Random) -> tuple[World, tuple[str, ...], tuple[PolicyRef, ...]]:
    """A change that is accepted."""
    while True:
        deleted = tuple(ref for ref in at.policy.documents if chance.random() < 0.3)
        made = random_policies.document(chance, names=("a", "b", "c"))
        documents = (json.dumps(made),) if chance.random() < 0.8 else ()
        try:
            return changed(at, ApplyPolicies(documents=documents), DeletePolicies(refs=deleted)), documents, deleted
        except Rejected:
            continue


class Literal:
    """Judges by what was really applied, each end for itself, and without remembering anything."""

    def __init__(self, at: World) -> None:
        self._world, self._policies = at, PolicyMapProjection()
        for fact in facts(at):
            self._policies.apply(fact)

    def verdict(self, source: int | str, destination: int | str, protocol: int, port: int) -> str:
        first, second = (self._identity(one) for one in (source, destination))
        egress = self._side(first, second, Traffic(EGRESS, protocol, port))
        return max(egress, self._side(second, first, Traffic(INGRESS, protocol, port)), key=RANK.__getitem__)

    def _side(self, own: int, peer: int, traffic: Traffic) -> str:
        policies = {one.policy_id for one in self._world.endpoints.values() if one.identity == own}
        assert len(policies) <= 1, "pods of an identity obey one policy here"
        if not policies:
            return Outcome.ALLOWED
        labels = self._world.identities.get(peer) or Reserved(peer).labels
        found = explain(self._policies.repository, policies.pop(), PeerIdentity(peer, labels), traffic)
        return PROXY if found.l7 and found.verdict is Outcome.ALLOWED else found.verdict

    def _identity(self, one: int | str) -> int:
        return one if isinstance(one, int) else most_specific(self._world, one)[0]


def most_specific(at: World, address: str) -> tuple[int, int]:
    """The identity of an address, and the length of its prefix."""
    where = ip_address(address)
    best = int(world_of(where.version, dual_stack=True)), -1
    for number, labels in at.identities.items():
        if is_local(NumericIdentity(number)):
            prefix = next(p for one in labels if (p := cidr_of_label(one)) is not None)
            if prefix.version == where.version and where in prefix and prefix.prefixlen > best[1]:
                best = number, prefix.prefixlen
    return best


def outside(before: World, after: World, address: str) -> str:
    """What rows call whoever has the address: by the narrowest prefix of both worlds."""
    (number, _), at = max(((most_specific(one, address), one) for one in (after, before)), key=lambda one: one[0][1])
    if number in Reserved._value2member_map_:
        return f"reserved:{Reserved(number).label_key}"
    return next(str(p) for one in at.identities[number] if (p := cidr_of_label(one)) is not None)


def covers(text: str, protocol: Protocol, port: int) -> bool:
    """Whether ports as an answer writes them contain this one."""
    if text == "any":
        return True
    if text.startswith("any but "):
        return not covers(text.removeprefix("any but "), protocol, port)
    word = {Protocol.ICMPV6: "ICMPv6"}.get(protocol, protocol.name)
    for part in text.split(", "):
        found = re.fullmatch(rf"(\d+)(?:-(\d+))?/{word}|{word} type (\d+)(?:-(\d+))?", part)
        if part in {f"any {word}", f"any {protocol.name}"}:
            return True
        if found is not None:
            first, last = (found[1], found[2]) if found[1] else (found[3], found[4])
            if int(first) <= port <= int(last or first):
                return True
    return False
