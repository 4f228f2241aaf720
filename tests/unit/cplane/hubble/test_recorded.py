"""Recorded flows, in a ring and in segments of its archive: each is found by its uuid, and folded once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from cplane.hubble.archive.segment import Segment, take, write
from cplane.hubble.cli.jsonpb import Writer
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.recorded import Recorded
from cplane.hubble.ring import FlowRing
from cplane.hubble.store import FlowStore
from cplane.timetravel.flows import pick_flow
from cplane.timetravel.seen import Seen, Sight
from tests.support.effort import examples
from tests.support.flows import SEED, START_NS, World, record_batches, records, store_of

EVER = 0, 1 << 63
FOREIGN = "fedcba9876543210fedcba9876543210"


def add(store: FlowStore, batch: np.ndarray) -> None:
    Parser(store, World()).ingest(batch, START_NS)


def flow_line(store: FlowStore, uuid: str) -> bytes | None:
    return Recorded([store]).line(uuid)


def ports(first: int, count: int) -> np.ndarray:
    """Verdicts of policy, one each second, at ports that count on."""
    return records(*({"type": 5, "time_ns": n * 10**9, "dport": n + 1} for n in range(first, first + count)))


def seen(recorded: Recorded, since_ns: int = EVER[0], until_ns: int = EVER[1]) -> Seen:
    sight = Sight(since_ns, until_ns)
    recorded.fold(sight)
    return sight.seen()


def told(found: Seen) -> dict[int, int]:
    """How often each port was seen."""
    return {kind.port: count.times for kind, count in found.kinds.items()}


@settings(max_examples=examples(20), deadline=None)
@given(record_batches())
def test_every_flow_of_the_ring_is_found_by_its_uuid(batch: np.ndarray) -> None:
    store = store_of(batch)
    for position in range(store.ring.oldest, store.ring.written):
        uuid = store.ids.text(position)
        line = flow_line(store, uuid)
        assert line is not None
        found = pick_flow([line], uuid)
        assert found.position == int(store.ring.span(position, position + 1)["origin"][0])
        assert found.recorded_at_ns() // 1000 == int(store.ring.span(position, position + 1)["time_ns"][0]) // 1000


def test_what_is_not_there_any_more_or_never_was_is_not_found() -> None:
    store = store_of(*(records({}) for _ in range(6)), capacity=4)
    assert store.ring.oldest > 0
    for position in (0, store.ring.written):
        assert flow_line(store, store.ids.text(position)) is None
    assert flow_line(store, "00000000-0000-4000-8000-000000000000") is None
    assert flow_line(store, "nothing") is None


class Kept:
    """A ring of 8 flows of which all that left it, and some that did not, are in segments of 4."""

    def __init__(self, folder: Path, count: int, *, left_out: frozenset[int] = frozenset(), seed: str = SEED) -> None:
        self.store = FlowStore(cluster="default", node="node1", seed=seed, ring=FlowRing(8))
        self.segments: list[Segment] = []
        self.lines: dict[str, bytes] = {}
        folder.mkdir(exist_ok=True)
        for start in range(0, count, 4):
            add(self.store, ports(start, 4))
            span = self.store.ring.span(start, start + 4)
            for row in range(4):
                flow = FlowBuilder(self.store).flow(span, row)
                self.lines[flow.uuid] = f'{{"flow":{Writer().message(flow)}}}'.encode()
            if start not in left_out:
                self.segments.append(write(take(self.store, start, start + 4), folder))

    @property
    def recorded(self) -> Recorded:
        return Recorded([self.store], self.segments)


def test_flows_that_left_the_ring_are_found_in_the_archive(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 24)
    assert {uuid: kept.recorded.line(uuid) for uuid in kept.lines} == kept.lines
    alone = Recorded([], kept.segments)
    assert {uuid: alone.line(uuid) for uuid in kept.lines} == kept.lines


def test_flows_of_another_ring_are_found_in_the_archive_by_its_name(tmp_path: Path) -> None:
    """A ring that began anew has other uuids; segments of the one before it are still there."""
    before, after = Kept(tmp_path / "before", 8, seed=FOREIGN), Kept(tmp_path / "after", 8)
    both = Recorded([after.store], [*before.segments, *after.segments])
    assert {uuid: both.line(uuid) for uuid in before.lines} == before.lines
    assert set(before.lines).isdisjoint(after.lines)


def test_each_flow_counts_once_whether_it_is_in_the_ring_the_archive_or_both(tmp_path: Path) -> None:
    found = seen(Kept(tmp_path, 24).recorded)
    assert told(found) == dict.fromkeys(range(1, 25), 1)
    assert (found.window.flows, found.window.lost) == (24, 0)
    assert (found.window.kept_ns, found.window.first_ns) == (START_NS, START_NS)


def test_flows_of_two_rings_count_each_although_their_positions_are_the_same(tmp_path: Path) -> None:
    one, other = Kept(tmp_path / "one", 8, seed=FOREIGN), Kept(tmp_path / "other", 8)
    assert told(seen(Recorded([other.store], one.segments))) == dict.fromkeys(range(1, 9), 2)


@pytest.mark.parametrize(
    ("left_out", "lost"),
    [({8}, 4), ({0}, 0), ({12}, 4), ({16}, 0), ({4, 8, 12}, 12)],
    ids=["between two", "before the first", "before the ring", "in the ring too", "several"],
)
def test_what_is_in_neither_is_told_as_lost(tmp_path: Path, left_out: set[int], lost: int) -> None:
    found = seen(Kept(tmp_path, 24, left_out=frozenset(left_out)).recorded)
    assert found.window.lost == lost
    gone = {start for start in left_out if start < 16}
    assert found.window.flows == 24 - 4 * len(gone)


def test_a_gap_outside_the_time_that_is_asked_for_does_not_count(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 32, left_out=frozenset({8}))
    found = seen(kept.recorded, START_NS + 13 * 10**9, EVER[1])
    assert (found.window.lost, found.window.flows) == (0, 19)
    assert found.window.kept_ns == START_NS, "older ones are there, whatever is asked for"
    assert seen(kept.recorded, EVER[0], START_NS + 5 * 10**9).window.lost == 0


def test_a_segment_that_is_gone_or_damaged_is_lost(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 24)
    kept.segments[1].path.write_bytes(kept.segments[1].path.read_bytes()[:-100])
    kept.segments[2].path.unlink()
    found = seen(kept.recorded)
    assert (found.window.lost, found.window.flows) == (8, 16)
    there = [uuid for uuid in kept.lines if kept.recorded.line(uuid) is not None]
    assert there == [uuid for place, uuid in enumerate(kept.lines) if not 4 <= place < 12]


class Overtaken(FlowRing):
    """A ring whose oldest rows are overwritten at the moment they are read."""

    def racing_span(self, start, stop):
        found = super().racing_span(start, stop)
        self._floor = max(self._floor, 2 if stop - start > 1 else 0)
        return found


@pytest.mark.parametrize("archived", [True, False])
def test_rows_that_are_overwritten_while_they_are_read_come_from_the_archive_or_are_lost(
    tmp_path: Path, archived: bool
) -> None:
    store = FlowStore(cluster="default", node="node1", seed=SEED, ring=Overtaken(8))
    add(store, ports(0, 4))
    segments = [write(take(store, 0, 4), tmp_path)] if archived else []
    found = seen(Recorded([store], segments))
    assert (found.window.flows, found.window.lost) == ((4, 0) if archived else (0, 4))
