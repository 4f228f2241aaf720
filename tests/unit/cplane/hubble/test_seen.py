"""What the ring says of policy is what its flows say, one by one, as observers print them."""

import json

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given, settings

from cplane.domain.access import Access
from cplane.domain.policy.explanation import Outcome
from cplane.domain.policy.kafka import KafkaRequest
from cplane.domain.verdict import Verdict
from cplane.hubble import seen as module
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.payloads import PayloadRing
from cplane.hubble.recorded import Recorded
from cplane.hubble.ring import LossSource
from cplane.timetravel import seen as module_seen
from cplane.timetravel.asked import AskedHttp
from cplane.timetravel.seen import Seen, Sight
from tests.support.accesses import GET, PRODUCE, QUERY, access, accesses, take
from tests.support.effort import examples
from tests.support.flows import START_NS, record_batches, records, store_of

EVER = 0, 1 << 63


def seen(store, since_ns: int, until_ns: int) -> Seen:
    sight = Sight(since_ns, until_ns)
    Recorded([store]).fold(sight)
    return sight.seen()


def fold(told: list[bytes], since_ns: int, until_ns: int) -> Seen:
    sight = Sight(since_ns, until_ns)
    sight.fold(told)
    return sight.seen()


def lines(store) -> list[bytes]:
    span = store.ring.span(store.ring.oldest, store.ring.written)
    return [line(FlowBuilder(store).flow(span, row)) for row in range(len(span))]


def line(flow) -> bytes:
    return json.dumps({"flow": json_format.MessageToDict(flow, preserving_proto_field_name=True)}).encode()


@settings(max_examples=examples(60), deadline=None)
@given(batch=record_batches(), asked=accesses())
def test_the_ring_folds_to_what_its_flows_fold_to(batch: np.ndarray, asked: list[Access]) -> None:
    store = store_of(batch)
    take(store, *asked)
    found, told = seen(store, *EVER), fold(lines(store), *EVER)
    assert {kind: count.times for kind, count in found.kinds.items()} == {
        kind: count.times for kind, count in told.kinds.items()
    }
    assert (found.window.flows, found.window.unasked) == (told.window.flows, told.window.unasked)


def test_requests_are_counted_by_what_they_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(records({})[:0])
    own = [access(GET._replace(headers=(("X-Request-Id", str(number)), ("X-Token", "1")))) for number in range(3)]
    refused = access(PRODUCE, verdict=Verdict.DROPPED)
    unknown = access(PRODUCE._replace(api_key="HUBBLE_REDACTED"))
    take(store, *own, access(answered=True), access(QUERY), refused, unknown)
    found = seen(store, *EVER)
    assert {(kind.asked, kind.port, kind.verdict): count.times for kind, count in found.kinds.items()} == {
        (AskedHttp("GET", "/public/1?q=1", "api.shop", (("x-token", "1"),)), 80, Outcome.ALLOWED): 3,
        ("api.example.org.", 53, Outcome.ALLOWED): 1,
        (KafkaRequest(0, 9, topics=("topic1",)), 9092, Outcome.DENIED): 1,
    }
    assert found.window.unasked == 1
    monkeypatch.setattr(module_seen, "_REQUESTS_MAX", 1)
    assert seen(store, *EVER).window.unasked == 3


def test_requests_of_which_only_the_kind_is_known_are_not_judged_again() -> None:
    store = store_of(records({})[:0])
    store.payloads = PayloadRing(4096)
    take(store, *(access() for _ in range(100)))
    found = seen(store, *EVER)
    ((kind, count),) = found.kinds.items()
    assert kind.asked is not None and 0 < count.times < 40
    assert count.times + found.window.unasked == 100


def test_only_the_time_that_is_asked_for_is_looked_at() -> None:
    batch = records(*({"type": 5, "time_ns": 1000 * row} for row in range(10)))
    store = store_of(batch)
    times = store.ring.span(0, 10)["time_ns"]
    found = seen(store, int(times[3]), int(times[6]))
    assert (found.window.flows, found.window.first_ns, found.window.last_ns) == (4, int(times[3]), int(times[6]))
    assert found.window.kept_ns == int(times[0])


def test_what_is_known_to_be_missing_is_counted() -> None:
    store = store_of(records({"type": 5}, {"type": 5}))
    store.lose(7, START_NS, START_NS + 1, kernel_lost=7)
    assert store.ring.all_losses()[0].source == LossSource.KERNEL_RING
    assert seen(store, *EVER).window.lost == 7
    assert seen(store, START_NS + 10**12, EVER[1]).window.lost == 0


def test_an_empty_ring_says_nothing() -> None:
    found = seen(store_of(records({"type": 5})[:0]), *EVER)
    assert (found.kinds, found.window.flows, found.window.first_ns) == ({}, 0, 0)


def test_kinds_that_mix_to_one_number_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(records(*({"type": 5, "dport": 80 + row % 3, "time_ns": row} for row in range(12))))
    expected = seen(store, *EVER)
    monkeypatch.setattr(module, "_FACTOR", np.uint64(0))
    assert seen(store, *EVER) == expected
    assert sorted(count.times for count in expected.kinds.values()) == [4, 4, 4]


def test_folding_in_many_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(records(*({"type": 5, "dport": 80 + row % 5, "time_ns": row} for row in range(200))))
    expected = seen(store, *EVER)
    monkeypatch.setattr(module, "_CHUNK", 7)
    monkeypatch.setattr(module, "_PARTS_MAX", 3)
    assert seen(store, *EVER) == expected
