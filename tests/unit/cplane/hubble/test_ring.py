"""The ring of columns, its losses, its ids and its tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.hubble.ids import FlowIds
from cplane.hubble.interned import Interned
from cplane.hubble.ring import COLUMNS, MARKS_MAX, Array, FlowRing, LossSource
from tests.support.flows import SEED


def batch(start: int, count: int) -> dict[str, Array]:
    """Rows whose time is their position."""
    rows: dict[str, Array] = {name: np.zeros(count, kind) for name, kind in COLUMNS.items()}
    rows["time_ns"] = np.arange(start, start + count, dtype=np.uint64)
    return rows


def everything(ring: FlowRing) -> list[int]:
    found: list[int] = []
    position = ring.oldest
    while position < ring.written:
        stop = ring.contiguous(position)
        found += ring.span(position, stop)["time_ns"].tolist()
        position = stop
    return found


@given(sizes=st.lists(st.integers(0, 40), max_size=12))
def test_the_ring_holds_the_newest_rows_in_order(sizes: list[int]) -> None:
    ring = FlowRing(16)
    for size in sizes:
        ring.append(batch(ring.written, size))
    total = sum(sizes)
    assert ring.written == total
    assert len(ring) == min(total, 16)
    assert everything(ring) == list(range(max(0, total - 16), total))


def test_memory_of_rows_that_were_never_written_is_not_taken() -> None:
    ring = FlowRing(1 << 24)
    ring.append(batch(0, 10))
    assert [len(part) for part in ring.live("time_ns")] == [10]


@pytest.mark.parametrize("capacity", [0, 3, 1000])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=r"hubble\.ring_records"):
        FlowRing(capacity)


def test_a_span_may_not_hold_overwritten_rows() -> None:
    ring = FlowRing(8)
    ring.append(batch(0, 20))
    with pytest.raises(AssertionError):
        ring.span(11, 13)


def test_losses_stand_between_flows_and_go_with_them() -> None:
    ring = FlowRing(8)
    ring.append(batch(0, 4))
    ring.add_loss(LossSource.KERNEL_RING, 3, 100, 200)
    ring.append(batch(4, 2))
    assert ring.next_loss(0) == 4
    assert [loss.count for loss in ring.losses(4)] == [3]
    assert ring.next_loss(4) is None
    ring.append(batch(6, 8))
    ring.add_loss(LossSource.KERNEL_RING, 1, 300, 300)
    assert ring.losses(4) == ()


def test_too_many_losses_are_added_up_not_forgotten() -> None:
    ring = FlowRing(1024)
    for number in range(MARKS_MAX + 50):
        ring.append(batch(number, 1))
        ring.add_loss(LossSource.KERNEL_RING, 2, number, number)
    found, position = 0, -1
    while (following := ring.next_loss(position)) is not None:
        found += sum(loss.count for loss in ring.losses(following))
        position = following
    assert found == 2 * (MARKS_MAX + 50)


@given(position=st.integers(0, 2**61))
def test_a_uuid_leads_back_to_its_position(position: int) -> None:
    ids = FlowIds(SEED)
    text = ids.text(position)
    assert ids.position(text) == position
    assert ids.position(text.upper()) == position
    assert ids.texts(np.array([position], np.uint64)).tobytes().decode() == text
    assert text[14] == "4"
    assert text[19] in "89ab"


@pytest.mark.parametrize("text", ["", "x" * 36, "01234567-89ab-4def-8123-456789abcdex"])
def test_a_foreign_uuid_is_nobodys(text: str) -> None:
    assert FlowIds(SEED).position(text) is None
    assert FlowIds(SEED).position(FlowIds("f" * 32).text(5)) is None


def test_unused_numbers_are_given_again_and_the_generation_says_so() -> None:
    table = Interned("")
    numbers = [table.number(f"value {n}") for n in range(5000)]
    assert table.is_full
    used = np.array(numbers[10:20], np.uint32)
    table.collect([used])
    assert table.generation == 1
    assert [table[n] for n in used.tolist()] == [f"value {n}" for n in range(10, 20)]
    assert table.number("value 15") == numbers[15]
    again = [table.number(f"new {n}") for n in range(4000)]
    assert len(table) == 5001, "freed numbers came first"
    assert not set(again) & {*used.tolist(), 0}
