"""Verdicts between two ends: judged with little, they are those of all rules and everybody."""

from collections.abc import Iterator
from itertools import groupby
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import ConfigureEndpoint, DeleteEndpoint, RelabelEndpoint
from cplane.deciders.policy import DeletePolicies
from cplane.deciders.world import Command, World, facts
from cplane.domain.policy.explanation import Outcome, PeerIdentity, Traffic
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.policy.why import Judge
from cplane.domain.ports import Protocol
from cplane.domain.verdict import Direction
from cplane.eventlog.reader import MemoryReader
from cplane.events.endpoint import EndpointCreated
from cplane.events.envelope import Envelope
from cplane.projections.tables import Tables
from cplane.timetravel.course import Found, before_and_at, last_turn, turns
from cplane.timetravel.history import History
from cplane.timetravel.traffic import PodName, Question, question_of
from cplane.timetravel.verdicts import ABSENT, Pair
from tests.support import churn
from tests.support.builders import ports, selector
from tests.support.effort import examples
from tests.support.scenario import pod
from tests.support.story import Story, applied

PORTS = (100, 443, 1200)


def pods_of(entries: list[Envelope], chance: Random) -> tuple[PodName, PodName]:
    """Two that were there at some time."""
    names = sorted({PodName(one.event.namespace, one.event.pod) for one in entries if hasattr(one.event, "pod")})
    return chance.choice(names), chance.choice(names)


def by_everything(world: World, question: Question) -> str:
    """The verdict by the tables of the whole node."""
    ends = []
    for name in question.ends:
        found = [one for one in world.endpoints.values() if (one.namespace, one.pod) == name]
        if not found:
            return ABSENT
        ends.append(found[-1])
    source, destination = ends
    if source.id == destination.id:
        return str(Outcome.ALLOWED)
    judge = Judge(Tables(facts(world)).policies.repository)
    assert isinstance(question.port, int)
    verdicts = []
    for direction, subject, peer in (
        (Direction.EGRESS, source, destination),
        (Direction.INGRESS, destination, source),
    ):
        other = PeerIdentity(peer.identity, world.identities[peer.identity])
        audited = subject.audit or world.options.policy_audit
        traffic = Traffic(direction, question.protocol, question.port)
        verdicts.append(judge.case_of(subject.policy_id, other, traffic, audited=audited).explain().verdict)
    return str(max(verdicts, key=(Outcome.ALLOWED, Outcome.AUDIT, Outcome.DENIED).index))


@settings(max_examples=examples(25), deadline=None)
@given(st.integers(0, 10_000))
def test_two_ends_alone_are_judged_as_among_everybody(seed: int) -> None:
    chance = Random(seed)
    _, entries = churn.recorded(chance, 60, pods=5, policies=40)
    history = History(MemoryReader(entries))
    source, destination = pods_of(entries, chance)
    question = Question(source, destination, Protocol.TCP, chance.choice(PORTS))
    folded, at = Pair(question, ()), 0
    for position in sorted(chance.sample(range(len(entries) + 1), 5)):
        for entry in entries[at:position]:
            folded.apply(entry.event)
        at = position
        wanted = by_everything(history.ledger(position).world(), question)
        assert Pair(question, history.ledger(position).facts()).judge().verdict == wanted
        assert folded.judge().verdict == wanted


def commits(entries: list[Envelope]) -> Iterator[int]:
    """The last position of every command."""
    for _, run in groupby(entries, key=lambda one: (one.recorded_at_ns, one.actor, one.cause)):
        yield list(run)[-1].position


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(0, 10_000))
def test_the_last_turn_is_where_the_verdict_became_another_one(seed: int) -> None:
    chance = Random(seed)
    _, entries = churn.recorded(chance, 50, pods=5, policies=40)
    history = History(MemoryReader(entries))
    source, destination = pods_of(entries, chance)
    question = Question(source, destination, Protocol.TCP, chance.choice(PORTS))
    seen: list[tuple[int, int, str]] = []  # begin and end of each command, and the verdict behind it
    before = 0
    for position in commits(entries):
        seen.append((before, position, Pair(question, history.ledger(position).facts()).judge().verdict))
        before = position
    expected = [
        (begin, end, old, new)
        for (_, _, old), (begin, end, new) in zip([(0, 0, ABSENT), *seen], seen, strict=False)
        if old != new
    ]
    found = list(turns(history, question, 0, history.head))
    assert [(one.before, one.after) for one in found] == [(old, new) for *_, old, new in expected]
    for turn, (begin, end, *_) in zip(found, expected, strict=True):
        assert begin < turn.entry.position <= end
    judged = Pair(question, history.ledger(history.head).facts()).judge()
    if judged.verdict != ABSENT:
        last = last_turn(
            history, question, judged, history.ledger(history.head), history.ledger(chance.randrange(history.head))
        ).turn
        assert last is not None
        assert last.entry.position == found[-1].entry.position
        assert last.after == judged.verdict


@pytest.fixture
def told() -> Story:
    return Story(
        pod("web", "k8s:app=web", ifindex=10, named_ports=("http=8080/TCP",)),
        pod("client", "k8s:app=client", ifindex=11),
    )


ASKED = question_of(source="shop/client", destination="shop/web", port="80/TCP")


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(0, 10_000))
def test_a_search_of_what_can_matter_finds_what_a_walk_through_everything_finds(seed: int) -> None:
    chance = Random(seed)
    _, entries = churn.recorded(chance, 60, pods=5, policies=40)
    history = History(MemoryReader(entries))
    pods = [one.event for one in entries if isinstance(one.event, EndpointCreated)]
    prefix = chance.choice(churn.PREFIXES).replace(".0/24", ".7")
    ends = (f"shop/{chance.choice(pods).pod}", chance.choice(pods).ipv4, prefix, "node", "identity:256")
    question = question_of(
        source=f"shop/{chance.choice(pods[-5:]).pod}",
        destination=chance.choice(ends),
        port=f"{chance.choice(PORTS)}/TCP",
    )
    judged = Pair(question, history.ledger(history.head).facts()).judge()
    if judged.verdict == ABSENT:
        return
    early = history.ledger(chance.randrange(history.head))
    last = last_turn(history, question, judged, history.ledger(history.head), early).turn
    walked = [one.entry.position for one in turns(history, question, 0, history.head)]
    if last is None:
        assert walked == []
    elif last.before == ABSENT:  # a turn that was before one of the ends is none of theirs
        assert [one for one in walked if one > last.entry.position] == []
    else:
        assert last.entry.position == walked[-1]


def search(told: Story, question: Question) -> Found:
    """What turned the verdict last, searched for in more than one stretch."""
    history = told.history
    early, at = before_and_at(history, history.head)
    found = last_turn(history, question, told.judge(question), at, early)
    for begin in (0, history.head // 2, history.head):
        assert last_turn(history, question, told.judge(question), at, history.ledger(begin)).turn == found.turn
    return found


def test_a_denial_is_of_the_side_that_denies(told: Story) -> None:
    told.do(applied("web", "web", ingress=[{"fromEndpoints": [selector("app=other")]}]))
    judged = told.judge(ASKED)
    assert (judged.verdict, judged.direction) == (Outcome.DENIED, Direction.INGRESS)
    told.do(applied("client", "client", egress=[{"toEntities": ["world"]}]))
    assert told.judge(ASKED).direction is Direction.EGRESS


def test_a_policy_and_the_prefix_that_it_names_turn_the_verdict_at_once(told: Story) -> None:
    question = question_of(source="shop/client", destination="203.0.113.9", port="443/TCP")
    told.do(applied("shut", "client", egress=[{"toEntities": ["host"]}]))
    assert told.judge(question).verdict == Outcome.DENIED
    told.do(applied("open", "client", egress=[{"toCIDR": ["203.0.113.0/24"]}]))
    found = search(told, question)
    assert found.turn is not None
    assert (found.turn.before, found.turn.after) == (Outcome.DENIED, Outcome.ALLOWED)
    assert type(found.turn.entry.event).__name__ == "PolicyUpserted"
    told.do(DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "open"),)))
    found = search(told, question)
    assert found.turn is not None
    assert type(found.turn.entry.event).__name__ == "PolicyDeleted"


def test_labels_that_change_bring_policies_with_them(told: Story) -> None:
    told.do(applied("gold", "gold", ingress=[{"fromEndpoints": [selector("app=nobody")]}]))
    assert told.judge(ASKED).verdict == Outcome.ALLOWED
    labels = ("k8s:app=gold", "k8s:io.kubernetes.pod.namespace=shop", "k8s:io.cilium.k8s.policy.cluster=default")
    told.do(RelabelEndpoint(endpoint=1, labels=labels))
    judged = told.judge(ASKED)
    assert judged.verdict == Outcome.DENIED
    found = search(told, ASKED)
    assert found.turn is not None and type(found.turn.entry.event).__name__ == "EndpointRelabelled"
    folded = Pair(ASKED, ())
    for entry in told.entries:
        folded.apply(entry.event)
    assert folded.judge() == judged


def test_a_peer_with_new_labels_has_an_identity_that_is_known_at_once(told: Story) -> None:
    told.do(applied("web", "web", ingress=[{"fromEndpoints": [selector("app=gold")]}]))
    labels = ("k8s:app=gold", "k8s:io.kubernetes.pod.namespace=shop", "k8s:io.cilium.k8s.policy.cluster=default")
    told.do(RelabelEndpoint(endpoint=2, labels=labels))
    told.do(applied("aside", "aside", ingress=[{}]))
    judged = told.judge(ASKED)
    assert judged.verdict == Outcome.ALLOWED
    found = search(told, ASKED).turn
    assert found is not None
    assert (found.before, type(found.entry.event).__name__) == (Outcome.DENIED, "EndpointRelabelled")


@pytest.mark.parametrize(
    "command", [ConfigureEndpoint(endpoint=1, audit=True), ChangeOptions(policy_audit=True)], ids=["endpoint", "node"]
)
def test_who_is_only_audited_is_not_denied(told: Story, command: Command) -> None:
    told.do(applied("web", "web", ingress=[{"fromEndpoints": [selector("app=other")]}]), command)
    assert told.judge(ASKED).verdict == Outcome.AUDIT


def test_a_pod_that_is_made_again_begins_anew(told: Story) -> None:
    told.do(DeleteEndpoint(container_id="c-web", container_interface="eth0"))
    assert told.judge(ASKED).verdict == ABSENT
    told.do(pod("web", "k8s:app=web", ifindex=12))
    found = search(told, ASKED)
    assert found.turn is not None
    assert (found.turn.before, type(found.turn.entry.event).__name__) == (ABSENT, "EndpointCreated")


def test_ports_have_the_names_that_the_destination_gives_them(told: Story) -> None:
    question = question_of(source="shop/client", destination="shop/web", port="http/TCP")
    told.do(applied("web", "web", ingress=[{"toPorts": ports("http/TCP")}]))
    judged = told.judge(question)
    assert (judged.verdict, judged.port) == (Outcome.ALLOWED, 8080)
    assert told.judge(ASKED).verdict == Outcome.DENIED
    missing = told.judge(question_of(source="shop/client", destination="shop/web", port="grpc/TCP"))
    assert (missing.verdict, missing.missing) == (
        ABSENT,
        "shop/web has no port named 'grpc'; its named ports are http=8080/TCP",
    )


def test_named_ports_of_a_peer_are_those_of_all_who_have_its_identity(told: Story) -> None:
    told.do(applied("client", "client", egress=[{"toEndpoints": [selector("app=web")], "toPorts": ports("http/TCP")}]))
    told.do(pod("web-2", "k8s:app=web", ifindex=13, named_ports=("http=9090/TCP",)))
    asked = question_of(source="shop/client", destination="shop/web", port="9090/TCP")
    assert told.judge(asked).egress == _egress(told, asked)


def _egress(told: Story, question: Question) -> object:
    world = told.history.moment(told.history.head).world
    source, destination = world.endpoints[2], world.endpoints[1]
    peer = PeerIdentity(destination.identity, world.identities[destination.identity])
    assert isinstance(question.port, int)
    traffic = Traffic(Direction.EGRESS, question.protocol, question.port)
    return Judge(Tables(facts(world)).policies.repository).case_of(source.policy_id, peer, traffic).explain()


def test_what_is_asked_over_a_connection_is_judged_too(told: Story) -> None:
    rules = {"http": [{"method": "GET", "path": "/public"}]}
    told.do(applied("web", "web", ingress=[{"toPorts": [{**ports("80/TCP")[0], "rules": rules}]}]))

    def asking(http: str) -> str:
        return told.judge(question_of(source="shop/client", destination="shop/web", port="80/TCP", http=http)).verdict

    assert asking("GET /public") == Outcome.ALLOWED
    assert asking("POST /public") == Outcome.DENIED


def test_the_node_itself_and_the_world_are_ends_too(told: Story) -> None:
    told.do(applied("web", "web", ingress=[{"fromEntities": ["world"]}]))
    for source, wanted in (("node", Outcome.ALLOWED), ("node/n1", Outcome.ALLOWED), ("192.0.2.7", Outcome.ALLOWED)):
        assert told.judge(question_of(source=source, destination="shop/web", port="80/TCP")).verdict == wanted
    assert told.judge(question_of(source="node/n2", destination="shop/web", port="80/TCP")).verdict == ABSENT
    assert told.judge(question_of(source="identity:1", destination="shop/web", port="80/TCP")).verdict == "ALLOWED"
    web = told.history.moment(told.history.head).world.endpoints[1]
    by_address = told.judge(question_of(source="192.0.2.7", destination=web.ipv4, port="80/TCP"))
    assert by_address.destination is not None and by_address.destination.name == "shop/web"


def test_an_address_that_a_pod_left_has_turned_when_the_pod_went(told: Story) -> None:
    web = told.history.moment(told.history.head).world.endpoints[1]
    asked = question_of(source="shop/client", destination=web.ipv4, port="80/TCP")
    told.do(applied("client", "client", egress=[{"toEndpoints": [selector("app=web")]}]))
    assert told.judge(asked).verdict == Outcome.ALLOWED
    told.do(DeleteEndpoint(container_id="c-web", container_interface="eth0"), applied("aside", "aside", ingress=[{}]))
    assert told.judge(asked).verdict == Outcome.DENIED
    turn = search(told, asked).turn
    assert turn is not None and type(turn.entry.event).__name__ == "EndpointDeleted"


def test_a_search_that_gives_up_says_where(told: Story) -> None:
    told.do(applied("web", "web", ingress=[{"fromEndpoints": [selector("app=other")]}]))
    since = len(told.entries)
    for number in range(5):
        told.do(applied("aside", f"aside-{number}", ingress=[{}]))
    history, judged = told.history, told.judge(ASKED)
    early = history.ledger(since)
    assert last_turn(history, ASKED, judged, history.ledger(history.head), early, most=5) == Found(None, since)
    found = last_turn(history, ASKED, judged, history.ledger(history.head), early, most=6).turn
    assert found is not None and found.entry.position == since
