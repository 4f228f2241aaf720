"""What a change would do, before it is made: it is what it then does."""

import json
from random import Random

import pytest

from cplane.deciders.policy import ApplyPolicies, DeletePolicies, InvalidDocuments, NoSuchPolicy
from cplane.deciders.world import Command, World, facts
from cplane.domain.identity import Reserved
from cplane.domain.policy import CNP, PolicyRef
from cplane.domain.policy.explanation import Outcome, PeerIdentity, Traffic
from cplane.domain.policy.why import Judge
from cplane.domain.verdict import Direction
from cplane.reactors.reaction import settle
from cplane.timetravel.asked import http_asked
from cplane.timetravel.fork import BadName, Fork, ref_of
from cplane.timetravel.preview import Preview, preview
from cplane.timetravel.seen import Count, Kind, Seen, Sight, Window, span_of
from cplane.timetravel.suggest import NothingThere, suggest
from cplane.timetravel.when import BadMoment
from tests.support.builders import cnp, document, ports, selector
from tests.support.scenario import JOIN, pod

TCP, ICMP = 6, 1
WEB, CLIENT, OTHER = 1, 2, 3  # endpoints
WINDOW = Window(asked_ns=0, first_ns=1, last_ns=9, flows=9, lost=0)
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


def web(port: str, peer: str = "app=client") -> str:
    term = {"fromEndpoints": [selector(peer)], "toPorts": ports(f"{port}/TCP")}
    return document(cnp("web", subject=selector("app=web"), ingress=[term]))


def world(*documents: str) -> World:
    made = World()
    for command in (
        JOIN,
        pod("web", "k8s:app=web", ifindex=10),
        pod("client", "k8s:app=client", ifindex=11),
        pod("other", "k8s:app=other", ifindex=12),
        *([ApplyPolicies(documents=documents)] if documents else []),
    ):
        _, made = settle(command, made)
    return made


def changed(at: World, *commands: Command) -> World:
    for command in commands:
        _, at = settle(command, at)
    return at


def identity(at: World, endpoint: int) -> int:
    return int(at.endpoints[endpoint].identity)


def kind(at: World, to: int, of: int, port: int = 80, verdict: Outcome = Outcome.ALLOWED) -> Kind:
    return Kind(INGRESS, to, identity(at, to), identity(at, of), "", TCP, port, verdict)


def seen(*kinds: Kind, times: int = 5) -> Seen:
    return Seen(WINDOW, {one: Count(times, 1, 9) for one in kinds})


def tried(at: World, documents: tuple[str, ...] = (), deleted: tuple[PolicyRef, ...] = (), *kinds: Kind) -> Preview:
    return preview(Fork(at, documents, deleted), seen(*kinds))


def test_a_first_policy_denies_what_it_does_not_allow() -> None:
    at = world()
    found = tried(at, (web("80"),), (), kind(at, WEB, CLIENT), kind(at, WEB, OTHER), kind(at, WEB, CLIENT, 443))
    told = {(one.source, one.port): (one.before, one.after, one.count) for one in found.seen}
    assert told == {
        ("shop/other", "80/TCP"): ("ALLOWED", "DENIED", 5),
        ("shop/client", "443/TCP"): ("ALLOWED", "DENIED", 5),
    }
    assert (found.denied, found.allowed, found.drifted, found.gone) == (10, 0, 0, 0)
    assert found.breaks
    assert {(one.source, one.ports) for one in found.reach} >= {
        ("shop/other", "any"),
        ("shop/client", "any but 80/TCP"),
    }


def test_a_policy_that_allows_more_breaks_nothing() -> None:
    at = world(web("80"))
    other = cnp("more", subject=selector("app=web"), ingress=[{"fromEndpoints": [selector("app=other")]}])
    found = tried(at, (document(other),), (), kind(at, WEB, OTHER, verdict=Outcome.DENIED))
    assert (found.denied, found.allowed) == (0, 5)
    assert not found.breaks
    assert [(one.source, one.destination, one.before, one.after) for one in found.reach] == [
        ("shop/other", "shop/web", "DENIED", "ALLOWED")
    ]


def test_what_is_deleted_is_judged_without() -> None:
    at = world(web("80"))
    found = tried(at, (), (PolicyRef(CNP, "shop", "web"),), kind(at, WEB, OTHER, verdict=Outcome.DENIED))
    assert (found.allowed, found.breaks) == (5, False)
    assert [one.action for one in found.changes] == ["removed"]


def test_a_change_that_changes_nothing_says_so() -> None:
    at = world(web("80"))
    found = tried(at, (web("80"),), (), kind(at, WEB, CLIENT))
    assert (found.changes, found.reach, found.seen, found.breaks) == ((), (), (), False)


def test_what_has_another_verdict_already_is_told_apart() -> None:
    at = world(web("80"))
    found = tried(at, (web("81"),), (), kind(at, WEB, OTHER), kind(at, WEB, OTHER, 82))
    assert found.drifted == 10
    assert found.seen == ()


def test_requests_that_were_seen_are_judged_by_what_they_ask_for() -> None:
    at = world(web("80"))
    rules = {"http": [{"method": "GET", "path": "/public/.*"}]}
    term = {"fromEndpoints": [selector("app=client")], "toPorts": [{**ports("80/TCP")[0], "rules": rules}]}
    strict = document(cnp("web", subject=selector("app=web"), ingress=[term]))
    asked = [
        kind(at, WEB, CLIENT)._replace(asked=http_asked(method, f"http://web{path}", ()))
        for method, path in (("GET", "/public/1"), ("GET", "/admin"), ("POST", "/public/1"))
    ]
    found = tried(at, (strict,), (), *asked)
    assert {(one.request, one.before, one.after, one.count) for one in found.seen} == {
        ("GET web/admin", "ALLOWED", "DENIED", 5),
        ("POST web/public/1", "ALLOWED", "DENIED", 5),
    }
    assert (found.denied, found.drifted, found.breaks) == (10, 0, True)
    lifted = world(strict)
    denied = [one._replace(verdict=Outcome.DENIED) for one in asked[1:]]
    back = tried(lifted, (web("80"),), (), asked[0], *denied)
    assert (back.allowed, back.denied, back.drifted) == (10, 0, 0)
    assert {one.request for one in back.seen} == {"GET web/admin", "POST web/public/1"}


def test_pods_that_are_gone_are_counted() -> None:
    at = world()
    gone = kind(at, WEB, CLIENT)._replace(endpoint=77)
    assert tried(at, (web("80"),), (), gone).gone == 5


def test_who_has_other_labels_now_is_gone_too() -> None:
    at = world()
    before = kind(at, WEB, CLIENT)._replace(identity=999)
    unknown = kind(at, WEB, CLIENT)._replace(peer=998)
    assert tried(at, (web("80"),), (), before, unknown).gone == 10


def test_pods_that_are_new_since_the_first_flow_are_named() -> None:
    at = world()
    earlier = [at.endpoints[WEB], at.endpoints[OTHER]]
    found = preview(Fork(at, (web("80"),), ()), seen(kind(at, WEB, CLIENT)), earlier)
    assert (found.new, found.new_more) == (("shop/client",), 0)
    assert tried(at, (web("80"),)).new == ()


def test_addresses_are_looked_up_as_they_would_be() -> None:
    at = world()
    allowed = cnp("out", subject=selector("app=web"), egress=[{"toCIDR": ["203.0.113.0/24"]}])
    inside, outside = (
        Kind(EGRESS, WEB, identity(at, WEB), int(Reserved.WORLD_IPV4), address, TCP, 443, Outcome.ALLOWED)
        for address in ("203.0.113.7", "198.51.100.7")
    )
    found = tried(at, (document(allowed),), (), inside, outside)
    assert [(one.destination, one.after) for one in found.seen] == [("198.51.100.7", "DENIED")]


def test_invalid_documents_are_refused_as_by_an_apply() -> None:
    with pytest.raises(InvalidDocuments):
        Fork(world(), ('{"kind":"CiliumNetworkPolicy"}',), ())
    with pytest.raises(NoSuchPolicy):
        Fork(world(), (), (PolicyRef(CNP, "shop", "nobody"),))


@pytest.mark.parametrize("text", ["", "db", "a/b/c/d", "CiliumNetworkPolicy//db"])
def test_a_policy_has_a_kind_and_a_name(text) -> None:
    with pytest.raises(BadName, match="KIND/NAMESPACE/NAME"):
        ref_of(text)
    assert ref_of("CiliumNetworkPolicy/shop/db") == PolicyRef(CNP, "shop", "db")


@pytest.mark.parametrize("seed", range(6))
def test_what_is_foretold_is_what_comes(seed) -> None:
    chance = Random(seed)
    at = world(*(web(str(chance.choice((80, 81)))),) if chance.random() < 0.5 else ())
    change = (web(str(chance.choice((80, 443))), chance.choice(("app=client", "app=other"))),)
    kinds = [kind(at, WEB, of, port) for of in (CLIENT, OTHER) for port in (80, 81, 443)]
    found = tried(at, change, (), *kinds)
    _, after = settle(ApplyPolicies(documents=change), at)
    same = Fork(after, (), ())
    for one in kinds:
        before, then = (preview_of(side, one) for side in (Fork(at, (), ()).before, same.before))
        told = [
            (t.before, t.after) for t in found.seen if (t.source, t.port) == (name(at, one.peer), f"{one.port}/TCP")
        ]
        assert told == ([] if before == then else [(before, then)])


def name(at: World, number: int) -> str:
    return next(f"{one.namespace}/{one.pod}" for one in at.endpoints.values() if one.identity == number)


def preview_of(side, one: Kind) -> str:
    end = side.world.endpoints[one.endpoint]
    return str(side.verdict(end.policy_id, one.peer, Traffic(one.direction, one.protocol, one.port), audited=False))


def line(**changes) -> bytes:
    flow = {
        "time": "2026-01-31T12:00:00Z",
        "verdict": "FORWARDED",
        "traffic_direction": "INGRESS",
        "IP": {"source": "10.0.0.2", "destination": "10.0.0.1"},
        "l4": {"TCP": {"source_port": 40000, "destination_port": 80}},
        "source": {"ID": 2, "identity": 301, "namespace": "shop", "pod_name": "client"},
        "destination": {"ID": 1, "identity": 300, "namespace": "shop", "pod_name": "web"},
        "event_type": {"type": 5},
    }
    return json.dumps({"flow": flow | changes}).encode()


FULL = {"since_ns": 0, "until_ns": 1 << 62}


def fold(lines: list[bytes], *, since_ns: int, until_ns: int) -> Seen:
    sight = Sight(since_ns, until_ns)
    sight.fold(lines)
    return sight.seen()


def test_flows_are_folded_into_kinds_with_their_counts() -> None:
    found = fold(
        [line(), line(), b"\n", line(is_reply=True), line(verdict="DROPPED", drop_reason_desc="NO_TUNNEL")], **FULL
    )
    assert {one: count.times for one, count in found.kinds.items()} == {
        Kind(INGRESS, 1, 300, 301, "", TCP, 80, Outcome.ALLOWED): 2
    }
    assert found.window.flows == 4


def test_since_when_there_are_flows_is_told_whatever_is_asked_for() -> None:
    lines = [line(time=f"2026-01-31T12:00:0{second}Z") for second in (1, 3, 5)]
    times = [fold([one], **FULL).window.first_ns for one in lines]
    window = fold(lines, since_ns=times[1], until_ns=FULL["until_ns"]).window
    assert (window.kept_ns, window.first_ns, window.last_ns, window.flows) == (times[0], times[1], times[2], 2)


def test_a_connection_that_is_told_in_two_ways_counts_once() -> None:
    told = [line(event_type={"type": way}) for way in (4, 4, 4, 5)]
    assert [count.times for count in fold(told, **FULL).kinds.values()] == [1]
    assert [count.times for count in fold(told[:3], **FULL).kinds.values()] == [3]


def test_only_the_time_that_is_asked_for_is_looked_at() -> None:
    assert fold([line()], since_ns=0, until_ns=5).window.flows == 0
    assert span_of("", "", 7) == (0, 7)
    with pytest.raises(BadMoment, match="no positions"):
        span_of("12", "", 7)


def test_what_is_suggested_allows_what_was_seen_and_nothing_else() -> None:
    at = world()
    out = Kind(EGRESS, CLIENT, identity(at, CLIENT), identity(at, WEB), "", TCP, 80, Outcome.ALLOWED)
    ping = Kind(INGRESS, WEB, identity(at, WEB), int(Reserved.HOST), "", ICMP, 8, Outcome.ALLOWED)
    away = Kind(EGRESS, WEB, identity(at, WEB), int(Reserved.WORLD_IPV4), "203.0.113.7", TCP, 443, Outcome.ALLOWED)
    refused = kind(at, WEB, OTHER, verdict=Outcome.DENIED)
    found = suggest(at, seen(kind(at, WEB, CLIENT), out, ping, away, refused), namespace="shop")
    assert [one["metadata"]["name"] for one in found.policies] == ["seen-client", "seen-web"]
    assert found.silent == ("shop/other",)
    assert found.denied == 5
    client, server = found.policies
    assert client["spec"]["egress"] == [
        {"toEndpoints": [{"matchLabels": {"app": "web"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}
    ]
    assert client["spec"]["ingress"] == [{}]
    assert {"toCIDR": ["203.0.113.7/32"], "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]} in server[
        "spec"
    ]["egress"]
    documents = tuple(json.dumps(one, sort_keys=True, separators=(",", ":")) for one in found.policies)
    review = preview(Fork(at, documents, ()), seen(kind(at, WEB, CLIENT), out, ping, away))
    assert (review.denied, review.seen) == (0, ())


@pytest.mark.parametrize("seed", range(8))
def test_no_suggestion_denies_what_was_allowed(seed) -> None:
    chance, at = Random(seed), world()
    peers = [identity(at, one) for one in (WEB, CLIENT, OTHER)] + [int(Reserved.HOST)]
    kinds = [
        Kind(
            chance.choice((INGRESS, EGRESS)),
            end,
            identity(at, end),
            *chance.choice(
                [(peer, "") for peer in peers] + [(int(Reserved.WORLD_IPV4), f"203.0.113.{chance.randrange(40)}")]
            ),
            *chance.choice([(TCP, 80), (TCP, 443), (17, 53), (132, 7), (ICMP, 8)]),
            Outcome.ALLOWED,
        )
        for end in (chance.choice((WEB, CLIENT, OTHER)) for _ in range(60))
    ]
    found = suggest(at, seen(*kinds), namespace="shop")
    documents = tuple(json.dumps(one, sort_keys=True, separators=(",", ":")) for one in found.policies)
    review = preview(Fork(at, documents, ()), seen(*kinds))
    assert review.denied == 0, [one for one in review.seen if one.after == "DENIED"]


def test_pods_that_no_policy_can_single_out_get_none() -> None:
    at = changed(world(), pod("bare", ifindex=13))
    bare = next(number for number, one in at.endpoints.items() if one.pod == "bare")
    found = suggest(at, seen(kind(at, bare, CLIENT), kind(at, WEB, CLIENT)), namespace="shop")
    assert found.unnamed == ("shop/bare",)
    assert [one["metadata"]["name"] for one in found.policies] == ["seen-web"]


def test_a_namespace_without_pods_is_named_with_those_that_have_some() -> None:
    with pytest.raises(NothingThere, match="pods of shop"):
        suggest(world(), seen(), namespace="nowhere")


def test_the_fork_leaves_the_world_as_it_is() -> None:
    at = world(web("80"))
    before = list(facts(at))
    tried(at, (web("443"),))
    _, deleted = settle(DeletePolicies(refs=(PolicyRef(CNP, "shop", "web"),)), at)
    assert list(facts(at)) == before
    assert deleted is not at


@pytest.mark.parametrize("seed", range(6))
def test_the_verdict_without_a_reason_is_that_of_the_judge(seed) -> None:
    chance = Random(seed)
    at = world(web(str(chance.choice((80, 81)))), document(cnp("audited", subject=selector("app=web"), egress=[{}])))
    side = Fork(at, (), ()).before
    judge = Judge(side.policies.repository)
    for _ in range(60):
        policy = at.endpoints[chance.choice((WEB, CLIENT, OTHER))].policy_id
        peer = chance.choice([identity(at, CLIENT), identity(at, OTHER), int(Reserved.HOST), int(Reserved.WORLD_IPV4)])
        traffic = Traffic(chance.choice((INGRESS, EGRESS)), *chance.choice(((TCP, 80), (TCP, 81), (17, 53), (ICMP, 8))))
        audited = chance.random() < 0.3
        case = judge.case_of(policy, PeerIdentity(peer, side.labels(peer)), traffic, audited=audited)
        assert side.verdict(policy, peer, traffic, audited=audited) is case.packets.verdict
