"""A ledger is `evolve` by other means: equal to it after any event, however it came there."""

from collections import Counter
from collections.abc import Sequence
from itertools import starmap
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.deciders.world import World, evolve, facts
from cplane.eventlog.codec import Row, decode_fact
from cplane.eventlog.gist import Gist
from cplane.events.catalog import CATALOG, Event
from cplane.events.endpoint import EndpointConfigured, EndpointDeleted, EndpointRelabelled
from cplane.events.envelope import CONFIG, ENDPOINT, IDENTITY, IPAM, NODE, POLICY, Envelope, StreamId
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.projections.tables import UPSERT_ORDER, Tables
from cplane.timetravel import ledger as module
from cplane.timetravel.ledger import Ledger
from tests.support import churn
from tests.support.builders import cnp, document, selector
from tests.support.effort import examples
from tests.support.scenario import endpoint_created
from tests.support.strategies import CHANCE

HISTORIES = st.tuples(CHANCE, st.integers(1, 30))
JOINED = NodeJoined(name="n1", cluster="c2", local=True, ipv4_pod_cidr="10.7.0.0/22")
WEB = document(cnp("web", subject=selector("app=web"), ingress=[{"fromEntities": ["cluster"]}]))


def made(history: tuple[Random, int]) -> tuple[list[Row], list[Envelope]]:
    return churn.recorded(*history, names=True)


def evolved(entries: Sequence[Envelope]) -> World:
    world = World()
    for one in entries:
        world = evolve(world, one.stream, one.event)
    return world


def folded(entries: Sequence[Envelope]) -> Ledger:
    ledger = Ledger()
    for one in entries:
        ledger.apply(one.stream, one.event)
    return ledger


def absorbed(ledger: Ledger, rows: Sequence[Row], batch: int) -> Ledger:
    """The ledger went on over the rows by their gist, taken in batches of that size."""
    gist = Gist(ledger.position)
    for first in range(0, len(rows), batch):
        some = rows[first : first + batch]
        gist.add([row[3].encode() for row in some], [row[8].encode() for row in some])
    ledger.absorb(starmap(decode_fact, gist.rows()), gist.position, {row[1]: row[2] for row in rows})
    return ledger


def same_tables(left: Tables, right: Tables) -> bool:
    return all(dict(left.table(name)) == dict(right.table(name)) for name in UPSERT_ORDER)


@pytest.mark.slow
@settings(max_examples=examples(30), deadline=None)
@given(HISTORIES)
def test_a_ledger_is_the_world_at_every_position(history) -> None:
    world, ledger = World(), Ledger()
    for one in made(history)[1]:
        world = evolve(world, one.stream, one.event)
        ledger.apply(one.stream, one.event)
        assert ledger.position == one.position
    assert ledger.world() == world


@pytest.mark.slow
@settings(max_examples=examples(30), deadline=None)
@given(HISTORIES, st.data())
def test_a_ledger_that_was_dumped_and_loaded_anywhere_goes_on_as_if_it_were_not(history, data) -> None:
    _, entries = made(history)
    split = data.draw(st.integers(0, len(entries)))
    ledger = Ledger.load(folded(entries[:split]).dump())
    assert ledger.world() == evolved(entries[:split])
    ledger.fold((one.stream, one.event) for one in entries[split:])
    assert ledger.world() == evolved(entries)
    assert ledger.dump() == folded(entries).dump()


@pytest.mark.slow
@settings(max_examples=examples(40), deadline=None)
@given(HISTORIES, st.data())
def test_the_gist_of_any_stretch_leads_where_all_of_its_events_lead(history, data) -> None:
    rows, entries = made(history)
    first = data.draw(st.integers(0, len(rows)))
    second = data.draw(st.integers(first, len(rows)))
    batch = data.draw(st.integers(1, 50))
    ledger = folded(entries[:first])
    absorbed(ledger, rows[first:second], batch)
    assert ledger.dump() == folded(entries[:second]).dump()
    absorbed(ledger, rows[second:], batch)
    assert ledger.dump() == folded(entries).dump()


@pytest.mark.slow
@settings(max_examples=examples(40), deadline=None)
@given(HISTORIES)
def test_tables_of_the_facts_are_those_that_every_event_was_folded_into(history) -> None:
    _, entries = made(history)
    ledger = folded(entries)
    assert sorted(map(repr, ledger.facts())) == sorted(map(repr, facts(evolved(entries))))
    assert same_tables(Tables(ledger.facts()), Tables(one.event for one in entries))


@pytest.mark.slow
@settings(max_examples=examples(20), deadline=None)
@given(HISTORIES)
def test_a_copy_does_not_follow_what_it_was_copied_from(history) -> None:
    _, entries = made(history)
    half = len(entries) // 2
    ledger = folded(entries[:half])
    copy = ledger.copy()
    ledger.fold((one.stream, one.event) for one in entries[half:])
    assert copy.world() == evolved(entries[:half])
    assert ledger.world() == evolved(entries)


def test_every_type_of_event_is_folded() -> None:
    assert set(module._APPLY) == set(CATALOG.values())


ODD: dict[str, tuple[tuple[StreamId, Event], ...]] = {
    "a policy before the node has joined": (
        (POLICY, PolicyUpserted(kind="CiliumNetworkPolicy", namespace="shop", name="web", document=WEB)),
        (NODE, JOINED),
    ),
    "a policy before the node has joined, and again": (
        (POLICY, PolicyUpserted(kind="CiliumNetworkPolicy", namespace="shop", name="web", document=WEB)),
        (NODE, JOINED),
        (POLICY, PolicyUpserted(kind="CiliumNetworkPolicy", namespace="shop", name="web", document=WEB)),
    ),
    "addresses of a node that has not joined": (
        (NODE, NodeAddressesChanged(name="n1", addresses=("192.0.2.1",))),
        (NODE, JOINED),
    ),
    "a node that joins again": (
        (NODE, JOINED),
        (NODE, NodeAddressesChanged(name="n1", addresses=("192.0.2.1",))),
        (NODE, JOINED),
    ),
    "what was never there is freed": (
        (IPAM, PoolAdded(pool="ipv4", cidr="10.7.0.0/22")),
        (IPAM, AddressReleased(pool="ipv4", address="10.7.0.9")),
        (IDENTITY, IdentityReleased(number=300)),
        (ENDPOINT, EndpointDeleted(endpoint=7)),
        (ENDPOINT, EndpointConfigured(endpoint=7, audit=True)),
        (ENDPOINT, EndpointRelabelled(endpoint=7, labels=("k8s:app=web",), identity=300)),
        (POLICY, PolicyDeleted(kind="CiliumNetworkPolicy", namespace="shop", name="web")),
    ),
    "a pool is replaced": (
        (IPAM, PoolAdded(pool="ipv4", cidr="10.7.0.0/22")),
        (IPAM, AddressAllocated(pool="ipv4", address="10.7.0.9", owner="a")),
        (IPAM, PoolAdded(pool="ipv4", cidr="10.8.0.0/22")),
        (IPAM, AddressAllocated(pool="ipv4", address="10.8.0.9", owner="a")),
    ),
    "a number is given again": (
        (ENDPOINT, endpoint_created(endpoint=7, ipv4="10.7.0.9", ipv6="", identity=300)),
        (ENDPOINT, EndpointConfigured(endpoint=7, audit=True)),
        (ENDPOINT, EndpointRelabelled(endpoint=7, labels=("k8s:app=web",), identity=301)),
        (ENDPOINT, EndpointDeleted(endpoint=7)),
        (ENDPOINT, endpoint_created(endpoint=7, ipv4="10.7.0.9", ipv6="", identity=302)),
    ),
    "the last of each kind is gone": (
        (IPAM, PoolAdded(pool="ipv4", cidr="10.7.0.0/22")),
        (IPAM, AddressAllocated(pool="ipv4", address="10.7.0.9", owner="a")),
        (IPAM, AddressReleased(pool="ipv4", address="10.7.0.9")),
        (IDENTITY, IdentityAllocated(number=300, labels=("k8s:app=web",))),
        (IDENTITY, IdentityAllocated(number=1 << 24, labels=("cidr:10.0.0.0/8=",))),
        (IDENTITY, IdentityReleased(number=300)),
        (IDENTITY, IdentityReleased(number=1 << 24)),
        (ENDPOINT, endpoint_created(endpoint=7, ipv4="10.7.0.9", ipv6="", identity=300)),
        (ENDPOINT, EndpointDeleted(endpoint=7)),
    ),
    "a stream of a name of its own": ((StreamId("other"), JOINED), (CONFIG, PoolAdded(pool="x", cidr="10.0.0.0/8"))),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_histories_are_folded_as_evolve_does(name: str) -> None:
    rows, entries = churn.rows_of(ODD[name])
    assert folded(entries).world() == evolved(entries)
    for split in range(len(rows) + 1):
        ledger = absorbed(folded(entries[:split]), rows[split:], 3)
        assert ledger.world() == evolved(entries), split


def test_a_gist_keeps_no_more_than_the_last_word_about_each_object() -> None:
    rows, _ = churn.recorded(Random(7), 600)
    gist = Gist(0)
    gist.add([row[3].encode() for row in rows], [row[8].encode() for row in rows])
    kept = Counter(kind.decode() for _, kind, _, _ in gist.rows())
    assert sum(kept.values()) < len(rows) / 10
    assert kept["config.options_changed"] == kept["node.addresses_changed"] == 1
    assert kept["ipam.address_released"] <= 2  # that of the last address that each pool gave


@pytest.mark.parametrize("text", [b"", b"\x00", b"\x81\xa8position\xa1x", b"not msgpack at all"])
def test_what_is_no_dump_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        Ledger.load(text)
