"""Events that are no flows: which of them a request means."""

from functools import partial

import anyio
import pytest

from cplane.hubble.eventring import EventReading, EventRing, Wanted

pytestmark = pytest.mark.anyio


def ring_of(*times: int, capacity: int = 8) -> EventRing[int]:
    """A ring of events that tell their time."""
    ring: EventRing[int] = EventRing(capacity)
    for at in times:
        ring.add(at, partial(int, at))
    return ring


async def told(ring: EventRing[int], wanted: Wanted) -> list[int]:
    reading, found = EventReading(ring, wanted), []
    while (held := await reading.next()) is not None:
        found.append(held.message)
    return found


async def following(reading: EventReading[int]) -> int:
    held = await reading.next()
    assert held is not None
    return held.message


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), [1, 2, 3, 4, 5]),
        (Wanted(number=2), [4, 5]),
        (Wanted(number=2, first=True), [1, 2]),
        (Wanted(number=9), [1, 2, 3, 4, 5]),
        (Wanted(since_ns=3), [3, 4, 5]),
        (Wanted(since_ns=3, number=2), [3, 4]),
        (Wanted(until_ns=3), [1, 2, 3]),
        (Wanted(until_ns=3, number=2), [2, 3]),
        (Wanted(since_ns=2, until_ns=4), [2, 3, 4]),
        (Wanted(since_ns=6), []),
    ],
)
async def test_a_request_means_what_it_means_for_flows(wanted: Wanted, expected: list[int]) -> None:
    assert await told(ring_of(1, 2, 3, 4, 5), wanted) == expected


async def test_an_empty_ring_has_nothing_to_tell() -> None:
    assert await told(ring_of(), Wanted(number=3)) == []


async def test_old_events_make_room_for_new_ones() -> None:
    ring = ring_of(*range(20), capacity=8)
    assert await told(ring, Wanted()) == list(range(12, 20))
    assert (ring.oldest, ring.written) == (12, 20)


@pytest.mark.parametrize(("number", "expected"), [(0, [6, 7]), (2, [4, 5, 6, 7])])
async def test_a_follower_has_its_last_ones_and_then_those_that_come(number: int, expected: list[int]) -> None:
    ring = ring_of(1, 2, 3, 4, 5)
    seen: list[int] = []

    async def follow() -> None:
        reading = EventReading(ring, Wanted(number=number, follow=True))
        while seen != expected:
            seen.append(await following(reading))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            for at in (6, 7):
                ring.add(at, partial(int, at))
    assert seen == expected


async def test_a_follower_is_done_when_an_event_is_later_than_it_wants() -> None:
    ring = ring_of(1, 2, 9)
    with anyio.fail_after(5):
        assert await told(ring, Wanted(follow=True, number=5, until_ns=4)) == [1, 2]


async def test_who_reads_too_slowly_misses_the_oldest_and_goes_on() -> None:
    ring = ring_of(1, 2, capacity=4)
    reading = EventReading(ring, Wanted(follow=True, number=2))
    assert await following(reading) == 1
    for at in range(3, 11):
        ring.add(at, partial(int, at))
    assert [await following(reading) for _ in range(4)] == [7, 8, 9, 10]
