"""Which flows an answer has: first, last, since, until, follow, and what was lost."""

from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.hubble import selection
from cplane.hubble.encode import BATCH, Encoder, frames
from cplane.hubble.filters import compile_filters
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.ring import LossSource
from cplane.hubble.selection import Query, Reading
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2
from tests.support.effort import examples
from tests.support.flows import SEED, START_NS, World, records

pytestmark = pytest.mark.anyio
SECOND = 10**9


class Feed:
    """A store whose n-th flow (from 0) was seen at second n, at port n; even ones go to a pod named even."""

    def __init__(self, capacity: int = 64) -> None:
        self.store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=capacity)
        self._parser = Parser(self.store, World())

    def add(self, count: int) -> None:
        at = self.store.ring.written
        rows = [
            {"time_ns": n * SECOND, "dport": n % 65536, "dst_lxc": 12 if n % 2 == 0 else 13, "dst_identity": 0}
            for n in range(at, at + count)
        ]
        self._parser.ingest(records(*rows), START_NS)
        self.store.changed.notify()

    def reading(self, **query: Any) -> Reading:
        wanted = query.pop("wanted", None)
        predicate = compile_filters([wanted] if wanted else [], [], self.store)
        since, until = query.pop("since", None), query.pop("until", None)
        return Reading(
            self.store,
            Query(
                since_ns=None if since is None else START_NS + int(since * SECOND),
                until_ns=None if until is None else START_NS + int(until * SECOND),
                predicate=predicate,
                **query,
            ),
            Encoder(self.store),
        )

    async def answer(self, **query: Any) -> list[int | str]:
        """Ports of the flows, and `lost N` for losses."""
        found: list[int | str] = []
        reading = self.reading(**query)
        while (data := await reading.next()) is not None:
            found += told(data)
        return found


def told(data: bytes) -> list[int | str]:
    found: list[int | str] = []
    for message in frames(data):
        response = observer_pb2.GetFlowsResponse.FromString(message)
        if response.WhichOneof("response_types") == "flow":
            found.append(response.flow.l4.TCP.destination_port)
        else:
            found.append(f"lost {response.lost_events.num_events_lost}")
    return found


EVEN = flow_pb2.FlowFilter(destination_pod=["shop/api"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, list(range(10))),
        ({"number": 3}, [7, 8, 9]),
        ({"number": 100}, list(range(10))),
        ({"number": 3, "first": True}, [0, 1, 2]),
        ({"first": True}, list(range(10))),
        ({"number": 3, "wanted": EVEN}, [4, 6, 8]),
        ({"number": 2, "first": True, "wanted": EVEN}, [0, 2]),
        ({"number": 9, "wanted": EVEN}, [0, 2, 4, 6, 8]),
        ({"since": 6}, [6, 7, 8, 9]),
        ({"since": 5.5}, [6, 7, 8, 9]),
        ({"since": 6, "number": 2}, [6, 7]),
        ({"since": 6, "number": 2, "first": True}, [6, 7]),
        ({"since": 100}, []),
        ({"since": -100}, list(range(10))),
        ({"until": 3}, [0, 1, 2, 3]),
        ({"until": 3, "number": 2}, [2, 3]),
        ({"until": 3, "number": 2, "first": True}, [0, 1]),
        ({"until": -1}, []),
        ({"since": 2, "until": 5}, [2, 3, 4, 5]),
        ({"since": 2, "until": 8, "wanted": EVEN, "number": 2}, [2, 4]),
        ({"number": 2**64 - 1}, list(range(10))),
    ],
)
async def test_an_answer_has_the_flows_that_were_asked_for(query: dict[str, Any], expected: list[int]) -> None:
    feed = Feed()
    feed.add(10)
    assert await feed.answer(**query) == expected


async def test_an_empty_ring_has_an_empty_answer() -> None:
    feed = Feed()
    for query in ({}, {"number": 5}, {"first": True, "number": 1}, {"since": 0}, {"until": 5, "number": 1}):
        assert await feed.answer(**query) == []


@pytest.mark.parametrize("chunk", [1, 3, selection.CHUNK])
async def test_a_wrapped_ring_is_read_in_order(chunk: int) -> None:
    feed = Feed(capacity=8)
    feed.add(21)
    assert await feed.answer(chunk=chunk) == list(range(13, 21))
    assert await feed.answer(chunk=chunk, number=5) == list(range(16, 21))
    assert await feed.answer(chunk=chunk, number=3, wanted=EVEN) == [16, 18, 20]
    assert await feed.answer(chunk=chunk, number=2, first=True) == [13, 14]
    assert await feed.answer(chunk=chunk, since=15.5) == [16, 17, 18, 19, 20]


@settings(max_examples=examples(60), deadline=None)
@given(
    count=st.integers(0, 40),
    number=st.integers(0, 12),
    first=st.booleans(),
    since=st.none() | st.integers(-1, 41),
    until=st.none() | st.integers(-1, 41),
    even=st.booleans(),
    chunk=st.integers(1, 9),
)
async def test_selection_agrees_with_lists(
    count: int, number: int, first: bool, since: int | None, until: int | None, even: bool, chunk: int
) -> None:
    feed = Feed(capacity=16)
    if count:
        feed.add(count)
    flows = [n for n in range(max(0, count - 16), count) if not even or n % 2 == 0]
    flows = [n for n in flows if (since is None or n >= since) and (until is None or n <= until)]
    if number:
        flows = flows[:number] if first or since is not None else flows[-number:]
    wanted = EVEN if even else None
    answer = await feed.answer(number=number, first=first, since=since, until=until, wanted=wanted, chunk=chunk)
    assert answer == flows


async def test_losses_of_the_kernel_are_told_in_their_place() -> None:
    feed = Feed()
    feed.add(3)
    feed.store.ring.add_loss(LossSource.KERNEL_RING, 7, START_NS, START_NS)
    feed.add(3)
    assert await feed.answer() == [0, 1, 2, "lost 7", 3, 4, 5]
    assert await feed.answer(number=2) == [4, 5]
    assert await feed.answer(number=4) == [2, "lost 7", 3, 4, 5], "losses do not count"
    assert await feed.answer(wanted=flow_pb2.FlowFilter(protocol=["udp"])) == ["lost 7"], "nor are they filtered"


@pytest.mark.parametrize("chunk", [3, 1024])
async def test_losses_of_another_time_are_not_told(chunk: int) -> None:
    """Whatever rows have to be looked at to find where an answer begins."""
    feed = Feed()
    for number, (first, last) in enumerate(((3, 4), (7, 8)), 1):
        feed.add(4)
        times = (START_NS + first * SECOND, START_NS + last * SECOND)
        feed.store.ring.add_loss(LossSource.KERNEL_RING, number, *times)
    feed.add(1)
    for since, expected in (
        (2, [2, 3, "lost 1", 4, 5, 6, 7, "lost 2", 8]),
        (4, ["lost 1", 4, 5, 6, 7, "lost 2", 8]),
        (5, [5, 6, 7, "lost 2", 8]),
        (9, []),
    ):
        assert await feed.answer(since=since, chunk=chunk) == expected
    assert await feed.answer(until=2, chunk=chunk) == [0, 1, 2]
    assert await feed.answer(since=1, until=5, chunk=chunk) == [1, 2, 3, "lost 1", 4, 5]


async def test_a_loss_after_the_newest_flow_is_told_too() -> None:
    feed = Feed()
    feed.add(1)
    feed.store.ring.add_loss(LossSource.KERNEL_RING, 7, START_NS, START_NS)
    assert await feed.answer() == [0, "lost 7"]


async def test_a_follower_gets_the_past_it_asked_for_and_then_everything_new() -> None:
    feed = Feed()
    feed.add(5)
    for query, expected in (
        ({}, [5, 6, 7, 8]),
        ({"number": 2}, [3, 4, 5, 6, 7, 8]),
        ({"since": 1}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"wanted": EVEN}, [6, 8]),
    ):
        fresh = Feed()
        fresh.add(5)
        found: list[int | str] = []
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:

                async def feed_on(feed: Feed = fresh) -> None:
                    for count in (1, 3):
                        while feed.store.changed._event is None:  # until the follower waits
                            await anyio.lowlevel.checkpoint()
                        feed.add(count)

                group.start_soon(feed_on)
                reading = fresh.reading(follow=True, **query)
                while 8 not in found:
                    found += told(await reading.next() or b"")
        assert found == expected


async def test_a_follower_that_waits_is_told_of_each_loss_before_the_next_flow() -> None:
    feed = Feed()
    feed.add(1)
    reading = feed.reading(follow=True, number=1)
    assert told(await reading.next() or b"") == [0]
    found: list[int | str] = []

    async def follow() -> None:
        while 1 not in found:
            found.extend(told(await reading.next() or b""))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            for count in (7, 8):
                await anyio.wait_all_tasks_blocked()
                feed.store.ring.add_loss(LossSource.KERNEL_RING, count, START_NS, START_NS)
                feed.store.changed.notify()
            await anyio.wait_all_tasks_blocked()
            feed.store.ring.add_loss(LossSource.UNKNOWN, 9, START_NS, START_NS)
            feed.add(1)
    assert found == ["lost 7", "lost 8", "lost 9", 1]


async def test_a_follower_ends_when_a_later_flow_than_it_wants_arrives() -> None:
    feed = Feed()
    feed.add(10)
    with anyio.fail_after(10):
        assert await feed.answer(follow=True, since=3, until=6) == [3, 4, 5, 6]


async def test_who_reads_too_slowly_is_told_how_much_it_missed() -> None:
    feed = Feed(capacity=4 * BATCH)
    feed.add(2 * BATCH)
    reading = feed.reading(follow=True, number=2 * BATCH)
    assert told(await reading.next() or b"") == list(range(BATCH))
    feed.add(8 * BATCH)  # while the client takes its time
    assert told(await reading.next() or b"") == [f"lost {5 * BATCH}"]
    assert told(await reading.next() or b"") == list(range(6 * BATCH, 7 * BATCH))
    assert feed.store.ring.overwritten_unread == 5 * BATCH


async def test_an_answer_about_the_past_ends_though_all_of_it_was_overwritten() -> None:
    feed = Feed(capacity=2 * BATCH)
    feed.add(2 * BATCH)
    reading = feed.reading()
    await reading.next()
    feed.add(6 * BATCH)
    assert told(await reading.next() or b"") == [f"lost {BATCH}"]
    assert await reading.next() is None


async def test_times_out_of_order_lose_nothing() -> None:
    feed = Feed()
    rows = [{"time_ns": t * SECOND, "dport": t} for t in (5, 4, 7, 6, 9, 8)]
    Parser(feed.store, World()).ingest(records(*rows), START_NS)
    assert await feed.answer(since=6) == [7, 6, 9, 8]
    assert await feed.answer(until=6) == [5, 4, 6]


def test_a_follower_has_no_limit() -> None:
    query = Query(number=5)
    assert query.limit == 5
    assert replace(query, follow=True).limit is None
    assert not query.needs_scan
