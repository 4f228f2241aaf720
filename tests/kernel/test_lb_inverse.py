"""Translation back is the inverse of translation there, whatever the packet is."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.maps import lb
from tests.support.effort import examples
from tests.support.headers import read
from tests.support.lb_tables import Backend
from tests.support.outside import FAMILIES, V4, Family, Outside, outside, sent
from tests.support.packets import TCP, UDP, tcp, udp

pytestmark = pytest.mark.root

PORTS = st.integers(1, 65_535)


class Talk(NamedTuple):
    """A question of a client and its answer."""

    family: Family
    protocol: int
    client: str
    sport: int
    port: int
    backend: str
    backend_port: int
    flags: int
    question: bytes
    answer: bytes
    xdp: bool


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    family = draw(st.sampled_from(FAMILIES))
    host = draw(st.integers(20, 250))
    # The client's own address must be one that a neighbour is known for; its prefix is that of the node.
    client = draw(st.sampled_from((family.client, family.other_client)))
    return Talk(
        family,
        draw(st.sampled_from((TCP, UDP))),
        client,
        draw(PORTS),
        draw(PORTS),
        f"{family.near}{host}",
        draw(PORTS),
        draw(st.sampled_from((0x02, 0x10, 0x18, 0x11))),
        draw(st.binary(max_size=80)),
        draw(st.binary(max_size=80)),
        draw(st.booleans()),
    )


@pytest.fixture(scope="module")
def net(cache: Path) -> Iterator[Outside]:
    with outside("inverse", cache) as made:
        made.reset()
        yield made


def payload(talk: Talk, sport: int, dport: int, data: bytes) -> bytes:
    return tcp(sport, dport, talk.flags, data) if talk.protocol == TCP else udp(sport, dport, data)


@settings(max_examples=examples(150), deadline=None)
@given(talks())
def test_an_answer_comes_from_where_the_question_went(net: Outside, talk: Talk) -> None:
    for name in (lb.FLOWS.name, lb.SERVICES.name):
        net.maps[name].delete_batch(list(net.maps[name].dump()))
    family = talk.family
    net.service(1, family.vip, talk.port, (Backend(5, talk.backend, talk.backend_port),), protocol=talk.protocol)
    asked = sent(talk.client, family.vip, talk.protocol, payload(talk, talk.sport, talk.port, talk.question))
    went = net.arrives(asked, xdp=talk.xdp).headers
    assert (went.source, went.to, went.dport) == (family.node, talk.backend, talk.backend_port)
    assert went.sport == talk.sport or went.sport >= 32_768
    assert went.sums_hold
    assert went.ttl == 63
    answer = sent(went.to, went.source, talk.protocol, payload(talk, went.dport, went.sport, talk.answer))
    back = net.arrives(answer, xdp=not talk.xdp).headers
    said = read(sent(family.vip, talk.client, talk.protocol, payload(talk, talk.port, talk.sport, talk.answer), ttl=63))
    assert back == said
    there = len(read(asked).body) - len(talk.question)
    assert went.body[there:] == talk.question


@settings(max_examples=examples(25), deadline=None)
@given(st.sets(st.tuples(PORTS, st.integers(20, 250)), min_size=20, max_size=60))
def test_no_two_clients_share_a_port_to_a_backend(net: Outside, clients: set[tuple[int, int]]) -> None:
    net.maps[lb.FLOWS.name].delete_batch(list(net.maps[lb.FLOWS.name].dump()))
    net.service(1, V4.vip, 80, (Backend(5, f"{V4.near}5", 8080),))
    sent_as: dict[int, tuple[int, int]] = {}
    for sport, host in clients:
        went = net.arrives(sent(f"10.200.0.{host}", V4.vip, TCP, tcp(sport, 80)), xdp=bool(host % 2))
        assert went.headers.sport not in sent_as
        sent_as[went.headers.sport] = (sport, host)
    for port, (sport, host) in sent_as.items():
        back = net.arrives(sent(f"{V4.near}5", V4.node, TCP, tcp(8080, port, 0x12)))
        assert back.headers.ends == (V4.vip, 80, f"10.200.0.{host}", sport)
