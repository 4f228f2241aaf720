"""Requests outlive the process with their flows, in bounded room, and damage takes requests and never flows."""

import gc
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cplane.hubble import kept
from cplane.hubble.archive.segment import read, take, write
from cplane.hubble.copied import open_copies
from cplane.hubble.filters import compile_filters
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.kept import Kept, open_store
from cplane.hubble.payloads import STEP, SUFFIX, PayloadRing, create_payloads
from cplane.hubble.ring import Span
from cplane.hubble.store import FlowStore
from cplane.hubble.tablefile import SUFFIX as TABLES_SUFFIX
from cplane.pb.flow import flow_pb2
from tests.support import accesses
from tests.support.accesses import GET, QUERY, access
from tests.support.effort import examples
from tests.support.filesystems import small
from tests.support.flows import SEED, records, store_of
from tests.support.tree import ROOT

BOOT = b"b" * 16


def opened(path: Path, capacity: int = 1024) -> FlowStore:
    return open_store(str(path), cluster="default", node="node1", capacity=capacity, new_id=SEED, boot=BOOT)


def keeper(store: FlowStore) -> Kept:
    assert isinstance(store.keeper, Kept)
    return store.keeper


def urls(store: FlowStore, *spans: Span) -> list[str]:
    """Those of the rows of `spans`, or of all that the ring holds."""
    ring, builder = store.ring, FlowBuilder(store)
    if not spans:
        turn = ring.contiguous(ring.oldest)
        spans = (ring.span(ring.oldest, turn), ring.span(turn, ring.written))
    return [builder.flow(span, row).l7.http.url for span in spans for row in range(len(span))]


def ask(store: FlowStore, *numbers: int, size: int = 0) -> None:
    accesses.take(store, *(access(GET._replace(url=f"http://api/{number}{'x' * size}")) for number in numbers))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flows.ring"


@given(sizes=st.lists(st.integers(0, 300), max_size=200))
def test_a_ring_of_payloads_has_the_last_ones_whole(sizes: list[int]) -> None:
    ring = PayloadRing(2048)
    given_ = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    places = ring.append(given_)
    assert places == sorted(set(places))
    found = [ring.at(place) for place in places]
    kept = [number for number, one in enumerate(found) if one is not None]
    assert kept == list(range(len(sizes) - len(kept), len(sizes)))
    assert [found[number] for number in kept] == [given_[number] for number in kept]
    assert sum(len(given_[number]) + 8 for number in kept) <= 2048
    assert ring.at(ring.end) is None


def test_requests_are_there_after_a_restart_and_go_on(path: Path) -> None:
    store = opened(path)
    ask(store, 0, 1)
    keeper(store).close()
    again = opened(path)
    ask(again, 2)
    assert urls(again) == ["http://api/0", "http://api/1", "http://api/2"]
    predicate = compile_filters([flow_pb2.FlowFilter(http_url=["/1$"])], [], again)
    assert predicate is not None and predicate(again.ring.span(0, 3)).tolist() == [False, True, False]
    keeper(again).close()


_WRITER = """
import sys
from pathlib import Path
from tests.unit.cplane.hubble.test_payloads import ask, opened
store = opened(Path(sys.argv[1]))
number = 0
while True:
    ask(store, *range(number, number + 7), size=number % 300)
    number += 7
    print(number, flush=True)
"""


def test_a_kill_tears_no_request(path: Path) -> None:
    for _ in range(examples(3, least=1)):
        script = [sys.executable, "-c", _WRITER, str(path)]
        with subprocess.Popen(script, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(30):
                assert writer.stdout.readline()
            os.kill(writer.pid, signal.SIGKILL)
        store = opened(path)
        found = [url.removeprefix("http://api/").rstrip("x") for url in urls(store)]
        assert len(found) >= 200 and all(found)
        numbers = list(map(int, found))
        assert all(after in {before + 1, 0} for before, after in pairwise(numbers))
        keeper(store).release()


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "header", "garbled"])
def test_damage_takes_requests_and_no_flow(path: Path, damage: str) -> None:
    store = opened(path)
    ask(store, 0, 1)
    keeper(store).close()
    file = Path(f"{path}{SUFFIX}")
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            os.truncate(file, 12_288)
        case "foreign":
            file.write_bytes(b"what is this?" * 1000)
        case "header":
            with file.open("r+b") as opened_file:
                opened_file.seek(20)
                opened_file.write(b"\xff" * 8)
        case "garbled":
            with file.open("r+b") as opened_file:
                opened_file.seek(8192 + 8)
                opened_file.write(b"\xff" * 8)
    with capture_logs() as said:
        again = opened(path)
    assert len(said) == (damage not in {"missing", "garbled"})
    left = ["", "http://api/1"] if damage == "garbled" else ["", ""]
    assert urls(again) == left
    ask(again, 2)
    assert urls(again) == [*left, "http://api/2"], "no row names the request of another one"
    assert FlowBuilder(again).flow(again.ring.span(0, 1), 0).l7.HasField("http")
    keeper(again).close()


def test_a_new_ring_begins_without_requests(path: Path) -> None:
    store = opened(path)
    ask(store, 0)
    keeper(store).close()
    path.unlink()
    with capture_logs() as said:
        again = opened(path)
    assert not said
    ask(again, 1)
    assert urls(again) == ["http://api/1"]
    keeper(again).close()


def test_distinct_requests_take_bounded_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "create_payloads", partial(create_payloads, capacity=2 * STEP))
    store = opened(path)
    ring = store.payloads
    assert isinstance(ring, PayloadRing)
    for first in range(0, 20_000, 500):
        ask(store, *range(first, first + 500), size=300)
    assert len(store.details) <= 4
    assert Path(f"{path}{TABLES_SUFFIX}").stat().st_size < 4096
    assert Path(f"{path}{SUFFIX}").stat().st_size == 8192 + ring.capacity
    newest = store.ring.span(store.ring.written - 1, store.ring.written)
    assert urls(store, newest)[0].startswith("http://api/19999")
    keeper(store).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_full_disk_moves_requests_into_memory(tmp_path: Path) -> None:
    with small(tmp_path / "disk", 3 * 1024) as disk:
        store = opened(disk / "flows.ring")
        ask(store, 0)
        with capture_logs() as said:
            for number in range(1, 400):
                ask(store, number, size=8000)
        assert [one["event"].partition(" path=")[0] for one in said if "requests" in one["event"]] == [
            "requests are in memory only"
        ]
        assert urls(store)[0] == "http://api/0"
        assert urls(store)[-1].startswith("http://api/399")
        assert keeper(store).works
        keeper(store).close()
        del store
        gc.collect()  # nothing is mapped any more


def test_an_archive_has_requests_with_their_flows(tmp_path: Path) -> None:
    store = store_of(records({}))
    ask(store, *range(100))
    accesses.take(store, access(QUERY))
    chapter = read(write(take(store, 0, store.ring.written), tmp_path))
    span = chapter.span(0, store.ring.written)
    assert urls(chapter.store, span) == urls(store)
    assert FlowBuilder(chapter.store).flow(span, 101).l7.dns.query == QUERY.query
    predicate = compile_filters([flow_pb2.FlowFilter(http_url=["/9.$"])], [], chapter.store)
    assert predicate is not None and predicate(span).sum() == 10


def test_a_segment_of_before_there_were_requests_is_read(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    segment = write(take(store_of(records({})), 0, 1), tmp_path)
    table = parquet.read_table(segment.path)
    parquet.write_table(table.drop_columns(["payload"]), segment.path)
    assert isinstance(table, pa.Table)
    assert len(read(segment).span(0, 1)) == 1


def test_copies_have_requests_if_those_were_copied(path: Path) -> None:
    store = opened(path, 16)
    ask(store, *range(10))
    keeper(store).close()
    uuid = store.ids.text(9)
    told = open_copies([str(path)]).line(uuid)
    assert told is not None and b"http://api/9" in told
    Path(f"{path}{SUFFIX}").unlink()
    told = open_copies([str(path)]).line(uuid)
    assert told is not None and b"http://api/9" not in told and b'"http":{}' in told


def test_a_reader_beside_the_writer_gets_whole_requests_or_none() -> None:
    ring, over, wrong = PayloadRing(4096), threading.Event(), []
    newest = [0]

    def read_on() -> None:
        while not over.is_set():
            place = newest[0]
            found = ring.at(place)
            if found is not None and len(set(found)) > 1:
                wrong.append(found)

    reader = threading.Thread(target=read_on)
    reader.start()
    for number in range(20_000):
        (newest[0],) = ring.append([bytes([number % 256]) * (number % 700)])
    over.set()
    reader.join()
    assert not wrong
