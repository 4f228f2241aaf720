"""Suggestions with rules for requests: from what proxies have read, and reviewed by a preview."""

import json
from random import Random

import pytest

from cplane.deciders.fqdn import Answer, RecordAnswers
from cplane.deciders.world import World
from cplane.domain.identity import Reserved
from cplane.domain.policy.explanation import Outcome
from cplane.domain.policy.kafka import API_KEYS, KafkaRequest
from cplane.domain.verdict import Direction
from cplane.reactors.reaction import settle
from cplane.timetravel.asked import Asked, http_asked
from cplane.timetravel.fork import Fork
from cplane.timetravel.preview import Preview, preview
from cplane.timetravel.seen import Count, Kind, Seen, Window
from cplane.timetravel.suggest import Suggestion, suggest
from tests.support.scenario import JOIN, pod

TCP, UDP = 6, 17
WEB, CLIENT, OTHER, TWIN, DNS = 1, 2, 3, 4, 5
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
WORLD = int(Reserved.WORLD_IPV4)
ADDRESS, NAME = "203.0.113.7", "api.example.com."


def world(*answers: Answer) -> World:
    made = World()
    for command in (
        JOIN,
        pod("web", "k8s:app=web", ifindex=10),
        pod("client", "k8s:app=client", ifindex=11),
        pod("other", "k8s:app=other", ifindex=12),
        pod("client-2", "k8s:app=client", ifindex=13),
        pod("dns", "k8s:app=dns", ifindex=14),
        *([RecordAnswers(answers=answers)] if answers else []),
    ):
        _, made = settle(command, made)
    return made


def kind(
    at: World,
    end: int,
    peer: int,
    port: int = 80,
    asked: Asked | None = None,
    *,
    direction: Direction = INGRESS,
    protocol: int = TCP,
    address: str = "",
    verdict: Outcome = Outcome.ALLOWED,
) -> Kind:
    other = WORLD if address else int(at.endpoints[peer].identity)
    number = int(at.endpoints[end].identity)
    return Kind(direction, end, number, other, address, protocol, port, verdict, asked)


def get(path: str, method: str = "GET") -> Asked:
    return http_asked(method, f"http://web{path}", ())


def seen(*kinds: Kind) -> Seen:
    window = Window(asked_ns=0, first_ns=1, last_ns=9, flows=9, lost=0)
    return Seen(window, {one: Count(5, 1, 9) for one in kinds})


def reviewed(at: World, found: Suggestion, *kinds: Kind) -> Preview:
    documents = tuple(json.dumps(one, sort_keys=True, separators=(",", ":")) for one in found.policies)
    return preview(Fork(at, documents, ()), seen(*kinds))


def denied(at: World, found: Suggestion, *kinds: Kind) -> list[str]:
    """What was seen and would be denied; without a policy before, what a proxy would judge was judged by nobody."""
    return [
        f"{one.source} {one.destination} {one.port} {one.request}"
        for one in reviewed(at, found, *kinds).seen
        if one.after not in {"ALLOWED", "PROXY"}
    ]


def spec(found: Suggestion, name: str) -> dict[str, list[dict[str, object]]]:
    return next(one["spec"] for one in found.policies if one["metadata"]["name"] == name)


def test_requests_that_were_read_are_what_is_allowed() -> None:
    at = world()
    kinds = (
        kind(at, WEB, CLIENT),
        kind(at, WEB, CLIENT, asked=get("/items/1")),
        kind(at, WEB, CLIENT, asked=get("/items/2")),
        kind(at, WEB, OTHER, 8080),
    )
    found = suggest(at, seen(*kinds), namespace="shop")
    assert spec(found, "seen-web")["ingress"] == [
        {
            "fromEndpoints": [{"matchLabels": {"app": "client"}}],
            "toPorts": [
                {
                    "ports": [{"port": "80", "protocol": "TCP"}],
                    "rules": {"http": [{"method": "GET", "path": "/items/[0-9]+"}]},
                }
            ],
        },
        {
            "fromEndpoints": [{"matchLabels": {"app": "other"}}],
            "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}]}],
        },
    ]
    (note,) = found.notes["seen-web"]
    assert note.endswith("HTTP: GET /items/[0-9]+ stands for 2 seen: /items/1, /items/2")
    assert note.startswith("80/TCP from {'app': 'client'}")
    later = (kind(at, WEB, CLIENT, asked=get("/items/3")), kind(at, WEB, CLIENT, asked=get("/admin")))
    review = reviewed(at, found, *kinds, *later)
    assert [(one.request, one.after) for one in review.seen if one.after == "DENIED"] == [("GET web/admin", "DENIED")]


def test_on_request_ports_are_all_that_is_said() -> None:
    at = world()
    kinds = (kind(at, WEB, CLIENT), kind(at, WEB, CLIENT, asked=get("/")))
    found = suggest(at, seen(*kinds), namespace="shop", ports_only=True)
    assert found == suggest(at, seen(kinds[0]), namespace="shop")
    assert found.notes == {}


def test_requests_are_enough_where_the_connection_is_older_than_what_was_looked_at() -> None:
    at = world()
    found = suggest(at, seen(kind(at, WEB, CLIENT, asked=get("/a"))), namespace="shop")
    assert "rules" in json.dumps(spec(found, "seen-web"))
    assert "shop/web" not in found.silent


def test_what_some_asked_unread_is_not_narrowed_and_a_note_says_so() -> None:
    at = world()
    kinds = (
        kind(at, CLIENT, WEB, direction=EGRESS),
        kind(at, CLIENT, WEB, asked=get("/a"), direction=EGRESS),
        kind(at, TWIN, WEB, direction=EGRESS),
    )
    found = suggest(at, seen(*kinds), namespace="shop")
    assert "rules" not in json.dumps(spec(found, "seen-client"))
    (note,) = found.notes["seen-client"]
    assert note.endswith("any request, as 1 of those who were seen there asked something that nobody read")
    assert denied(at, found, *kinds) == []


def test_requests_that_were_denied_are_left_out_unless_they_are_asked_for() -> None:
    at = world()
    bad = kind(at, WEB, CLIENT, asked=get("/admin"), verdict=Outcome.DENIED)
    kinds = (kind(at, WEB, CLIENT), kind(at, WEB, CLIENT, asked=get("/a")), bad)
    found = suggest(at, seen(*kinds), namespace="shop")
    assert (found.denied, found.denied_requests) == (0, 5)
    assert "/admin" not in json.dumps(found.policies)
    with_them = suggest(at, seen(*kinds), namespace="shop", include_denied=True)
    assert "/admin" in json.dumps(with_them.policies)
    only = suggest(at, seen(kind(at, WEB, CLIENT), bad), namespace="shop")
    assert spec(only, "seen-web")["ingress"] == [{}]
    assert "left out, as all that was asked there was denied" in only.notes["seen-web"][0]


def test_addresses_are_known_by_the_names_that_were_asked_for() -> None:
    at = world(Answer(CLIENT, NAME, (ADDRESS,), 30, "10.7.0.53", 1), Answer(CLIENT, "x.", (ADDRESS,), 30, "", 1))
    out = {"direction": EGRESS}
    kinds = (
        kind(at, CLIENT, DNS, 53, protocol=UDP, **out),  # type: ignore[arg-type]
        kind(at, CLIENT, DNS, 53, NAME, protocol=UDP, **out),  # type: ignore[arg-type]
        kind(at, CLIENT, 0, 443, address=ADDRESS, **out),  # type: ignore[arg-type]
        kind(at, CLIENT, 0, 443, address="203.0.113.8", **out),  # type: ignore[arg-type]
    )
    found = suggest(at, seen(*kinds), namespace="shop")
    https = [{"ports": [{"port": "443", "protocol": "TCP"}]}]
    dns = [{"ports": [{"port": "53", "protocol": "UDP"}], "rules": {"dns": [{"matchName": "api.example.com"}]}}]
    assert spec(found, "seen-client")["egress"] == [
        {"toEndpoints": [{"matchLabels": {"app": "dns"}}], "toPorts": dns},
        {"toCIDR": ["203.0.113.8/32"], "toPorts": https},
        {"toFQDNs": [{"matchName": "api.example.com"}], "toPorts": https},
    ]
    assert denied(at, found, *kinds) == []
    assert "toCIDR" in json.dumps(suggest(at, seen(*kinds), namespace="shop", ports_only=True).policies)


def test_names_are_still_learned_where_some_who_asked_were_not_read() -> None:
    at = world(Answer(CLIENT, NAME, (ADDRESS,), 30, "10.7.0.53", 1))
    kinds = (
        kind(at, CLIENT, DNS, 53, NAME, protocol=UDP, direction=EGRESS),
        kind(at, TWIN, DNS, 53, protocol=UDP, direction=EGRESS),
        kind(at, CLIENT, 0, 443, address=ADDRESS, direction=EGRESS),
    )
    found = suggest(at, seen(*kinds), namespace="shop")
    assert '"dns": [{"matchPattern": "*"}]' in json.dumps(spec(found, "seen-client"))
    assert "any name, as 1 of those" in found.notes["seen-client"][0]


def test_ports_at_which_the_same_is_asked_share_their_rules() -> None:
    at = world()
    kafka = KafkaRequest(API_KEYS["produce"], 9, topics=("orders",))
    found = suggest(at, seen(*(kind(at, WEB, CLIENT, port, kafka) for port in (9092, 9093))), namespace="shop")
    ports = [{"port": "9092", "protocol": "TCP"}, {"port": "9093", "protocol": "TCP"}]
    rules = {"kafka": [{"role": "produce", "topic": "orders"}]}
    assert spec(found, "seen-web")["ingress"][0]["toPorts"] == [{"ports": ports, "rules": rules}]


@pytest.mark.parametrize("seed", range(12))
def test_no_suggestion_denies_what_was_allowed(seed: int) -> None:
    chance = Random(seed)
    addresses = [f"203.0.113.{n}" for n in range(40)]
    at = world(*(Answer(CLIENT, f"n{n % 5}.example.", (one,), 30, "", 1) for n, one in enumerate(addresses[:10])))
    asked: dict[int, list[Asked]] = {
        80: [get(f"/{chance.choice('abc')}/{chance.randrange(9)}{chance.choice(['', '?x=1'])}") for _ in range(9)],
        9092: [KafkaRequest(chance.choice([0, 1, 3, 19]), 3, topics=(f"t{n}",)) for n in range(4)],
        53: [f"n{n}.example." for n in range(5)],
    }
    kinds = []
    for _ in range(80):
        end = chance.choice((WEB, CLIENT, OTHER, TWIN))
        away = chance.random() < 0.3
        peer, address = chance.choice((WEB, CLIENT, OTHER, TWIN)), chance.choice(addresses) if away else ""
        port = chance.choice((80, 9092, 53, 443))
        direction = EGRESS if port == 53 else chance.choice((INGRESS, EGRESS))
        request = chance.choice(asked[port]) if port in asked and chance.random() < 0.6 else None
        kinds.append(kind(at, end, peer, port, request, direction=direction, address=address))
    found = suggest(at, seen(*kinds), namespace="shop")
    assert denied(at, found, *kinds) == []
