"""Flows that survive the process: restart, SIGKILL at any instant, every kind of damage, and a disk that is full."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from cplane.hubble import kept, ringfile
from cplane.hubble.encode import Encoder, frames
from cplane.hubble.kept import ASIDE, Kept, open_store
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.ring import LossSource
from cplane.hubble.ringfile import FileInUse, RingFile
from cplane.hubble.store import FlowStore
from cplane.hubble.tablefile import SUFFIX
from tests.support.effort import examples
from tests.support.filesystems import small
from tests.support.flows import SEED, START_NS, World, records
from tests.support.tree import ROOT

OTHER = "f" * 32
BOOT, NEXT_BOOT = b"b" * 16, b"c" * 16
SECOND = 10**9


def opened(path: Path, *, capacity: int = 1024, new_id: str = SEED, boot: bytes = BOOT, start: int = 0) -> FlowStore:
    return open_store(
        str(path), cluster="default", node="node1", capacity=capacity, new_id=new_id, boot=boot, start=start
    )


def keeper(store: FlowStore) -> Kept:
    assert isinstance(store.keeper, Kept)
    return store.keeper


def _pattern() -> np.ndarray:
    rows = []
    for number in range(750):
        row: dict[str, Any] = {}
        if number % 3 == 0:
            row |= {"type": 5, "verdict": -133, "cookie": 200, "dst_lxc": 13, "dst_identity": 777}
        if number % 5 == 0:
            row |= {"dst": f"192.0.2.{number % 250}", "dst_lxc": 0, "dst_identity": 2, "ifindex": 8}
        rows.append(row)
    return records(*rows)


PATTERN = _pattern()


def fill(store: FlowStore, count: int) -> None:
    """Flows of all kinds; each tells its position by its time, its ports and its origin."""
    numbers = np.arange(store.ring.written, store.ring.written + count)
    batch = PATTERN[numbers % len(PATTERN)]
    batch["time_ns"] = numbers * SECOND
    batch["dport"], batch["sport"], batch["position"] = numbers & 0xFFFF, numbers >> 16, numbers
    Parser(store, World()).ingest(batch, START_NS)


def answer(store: FlowStore) -> list[bytes]:
    """Every flow of the ring, as a client gets it."""
    encoder, ring = Encoder(store, origin=True), store.ring
    found, at = [], ring.oldest
    while at < ring.written:
        span = ring.span(at, ring.contiguous(at))
        found += frames(encoder.encode(span, np.arange(len(span))))
        at = span.stop
    return found


@pytest.fixture
def said() -> Iterator[list[MutableMapping[str, Any]]]:
    """Lines of the log."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flows.ring"


@pytest.mark.parametrize("count", [0, 1, 700, 1024, 1500, 5000])
@pytest.mark.parametrize("how", [Kept.close, Kept.release])
def test_after_a_restart_every_answer_is_the_same_byte_for_byte(
    path: Path, count: int, how: Callable[[Kept], None]
) -> None:
    store = opened(path)
    for start in range(0, count, 400):
        fill(store, min(400, count - start))
    before = answer(store)
    assert len(before) == min(count, 1024)
    how(keeper(store))
    again = opened(path, new_id=OTHER)
    assert answer(again) == before
    assert again.ring.written == count
    assert again.ids.text(7) == store.ids.text(7)
    keeper(again).release()


def test_positions_and_numbers_go_on_where_they_ended(path: Path) -> None:
    for count in (500, 300, 700):
        store = opened(path)
        fill(store, count)
        keeper(store).release()
    store = opened(path)
    memory = FlowStore(cluster="default", node="node1", seed=SEED, capacity=1024)
    for count in (500, 300, 700):
        fill(memory, count)
    assert answer(store) == answer(memory)
    assert len(store.endpoints) == len(memory.endpoints)
    keeper(store).release()


def test_what_an_observer_has_seen_is_counted_from_its_start(path: Path) -> None:
    """Clients divide it by the time that it is up."""
    store = opened(path)
    fill(store, 40)
    assert store.ring.seen == 40
    keeper(store).release()
    again = opened(path)
    assert (len(again.ring), again.ring.seen) == (40, 0)
    fill(again, 2)
    assert (len(again.ring), again.ring.seen) == (42, 2)
    keeper(again).release()


def test_namespaces_of_the_last_hour_are_known_again(path: Path) -> None:
    store = opened(path)
    fill(store, 10)
    keeper(store).release()
    again = opened(path)
    assert again.namespaces.recent(START_NS) == [("default", "data"), ("default", "shop")]
    keeper(again).release()


def test_the_time_without_an_observer_is_told_before_the_next_flow_and_not_earlier(path: Path) -> None:
    store = opened(path)
    store.resume(kernel_lost=100)
    assert store.ring.all_losses() == (), "the first observer has not been away"
    fill(store, 10)
    store.lose(3, START_NS, START_NS, kernel_lost=103)
    keeper(store).release()
    again = opened(path)
    again.resume(kernel_lost=108)
    assert [(loss.position, loss.source, loss.count) for loss in again.ring.all_losses()] == [(10, 1, 3)]
    fill(again, 1)
    (gap,) = [loss for loss in again.ring.all_losses() if loss.source is LossSource.UNKNOWN]
    assert (gap.position, gap.count) == (10, 5)
    assert (gap.first_ns, gap.last_ns) == (START_NS + 9 * SECOND, START_NS + 10 * SECOND)
    keeper(again).release()
    third = opened(path)
    assert third.ring.all_losses() == again.ring.all_losses(), "and survives, too"
    third.resume(kernel_lost=2)
    fill(third, 1)
    assert third.ring.losses(11)[0].count == 2, "a count that went back began anew"
    keeper(third).release()


def test_numbers_that_were_freed_and_given_again_survive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cplane.hubble.interned._COLLECT_FROM", 20)
    store, world = opened(path, capacity=64), World()
    for identity in range(1000, 1400):
        world.labels[identity] = (f"k8s:app=a{identity}",)
    sizes = []
    for first in range(1000, 1400, 10):
        rows = [{"time_ns": n, "dst_identity": first + n, "dst_lxc": 0} for n in range(10)]
        Parser(store, world).ingest(records(*rows), START_NS)
        sizes.append((path.parent / (path.name + SUFFIX)).stat().st_size)
    assert store.endpoints.generation > 2
    assert max(sizes) > sizes[-1], "what no row names is on file no longer"
    keeper(store).release()
    again = opened(path, capacity=64)
    assert answer(again) == answer(store)
    keeper(again).release()


def test_a_ring_takes_disk_as_it_fills_and_not_before(path: Path) -> None:
    store = opened(path, capacity=1 << 20)
    empty = path.stat()
    assert empty.st_size > 100 << 20
    assert empty.st_blocks * 512 < 4 << 20
    fill(store, 100)
    assert path.stat().st_blocks * 512 < 4 << 20
    keeper(store).release()


# For each line another victim: one process that forks, because to import everything takes longer than to be killed.
NURSERY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.unit.cplane.hubble.test_kept import fill, opened
for _ in sys.stdin:
    if not (pid := os.fork()):
        store = opened(Path(sys.argv[1]))
        print(os.getpid(), flush=True)
        while True:
            fill(store, 37)
            print(store.ring.written, flush=True)
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_instant_tears_no_flow_and_takes_none_that_was_there(path: Path) -> None:
    told = 0
    command = [sys.executable, "-c", NURSERY, str(path), str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for number in range(examples(8)):
            nursery.stdin.write("another\n")
            nursery.stdin.flush()
            pid = int(nursery.stdout.readline())
            for _ in range(number):
                told = int(nursery.stdout.readline())
            os.kill(pid, signal.SIGKILL)
            while (word := nursery.stdout.readline()) != "gone\n":
                told = max(told, int(word))
            store = opened(path)
            assert keeper(store).works
            assert told <= store.ring.written <= told + 37, "what was told is there"
            untouched(store)
            keeper(store).release()
        nursery.stdin.close()
    assert nursery.returncode == 0


def untouched(store: FlowStore) -> None:
    """Each flow is the one that `fill` made at its position."""
    expected = FlowStore(cluster="default", node="node1", seed=store.seed, capacity=1024)
    while expected.ring.written < store.ring.written:
        fill(expected, min(500, store.ring.written - expected.ring.written))
    found = answer(store)
    assert len(found) >= min(store.ring.written, 1024 - 37)
    assert found == answer(expected)[-len(found) :]


def test_a_kill_between_any_two_steps_of_an_append_tears_no_flow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that changes a file is the last one of a process in turn."""

    class Killed(BaseException):
        pass

    store = opened(path)
    fill(store, 1500)
    keeper(store).release()
    steps = ("make_room", "reserve", "commit", "after")
    for step in steps:
        store = opened(path)
        before = store.ring.written
        real = getattr(RingFile, step, None)

        def die(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            if real is not None:
                patch.setattr(RingFile, step, die)
                with pytest.raises(Killed):
                    fill(store, 30)
            else:
                fill(store, 30)
        keeper(store).release()
        again = opened(path)
        assert again.ring.written == before + 30 * (step == "after")
        assert again.ring.oldest == before - 1024 + (30 if step in {"commit", "after"} else 0)
        fill(again, 40)
        untouched(again)
        keeper(again).release()


def flip(at: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes((byte ^ 0xFF,)))

    return damage


def cut(by: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, path.stat().st_size - by)


def of_tables(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda path: damage(path.with_name(path.name + SUFFIX))


def column(name: str) -> int:
    """Where the first row of a column lies."""
    return ringfile._places(1024)[0][name].offset


DAMAGES = {
    "magic": (flip(0), "it is no flow ring"),
    "empty": (lambda path: os.truncate(path, 0), "it is empty"),
    "header cut": (lambda path: os.truncate(path, 5000), "it ends after 5000 bytes"),
    "version": (flip(8), "it is of version 254, and this agent writes version 1"),
    "header": (flip(40), "its header is damaged"),
    "cut": (cut(1), "bytes instead of"),
    "grown": (cut(-1), "bytes instead of"),
    "written": (flip(8192 + 6), "contradict each other"),
    "reserved": (flip(8192 + 8 + 6), "contradict each other"),
    "floor": (flip(8192 + 16 + 3), "contradict each other"),
    "a number": (flip(column("src_meta") + 2), "a row names number"),
    "tables missing": (of_tables(Path.unlink), "is missing"),
    "tables foreign": (of_tables(flip(0)), "is no table file"),
    "tables version": (of_tables(flip(8)), "is of version 254"),
    "tables header": (of_tables(flip(13)), "is damaged"),
    "tables cut": (of_tables(cut(1)), "too early"),
    "tables cut to nothing": (of_tables(lambda path: os.truncate(path, 10)), "is no table file"),
    "tables frame": (of_tables(flip(60)), "is damaged or ends"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_replaced_with_a_line_that_says_why(
    path: Path, damage: Callable[[Path], None], reason: str, said: list[MutableMapping[str, Any]]
) -> None:
    store = opened(path)
    fill(store, 300)
    keeper(store).release()
    damage(path)
    again = opened(path, new_id=OTHER)
    (line,) = said
    assert line["event"] == "flow ring begins anew"
    assert reason in line["error"]
    assert keeper(again).works
    assert len(again.ring) == 0
    assert again.seed == OTHER
    fill(again, 5)
    before = answer(again)
    keeper(again).release()
    third = opened(path)
    assert answer(third) == before
    keeper(third).release()


def test_another_size_begins_anew_without_using_a_position_twice(path: Path) -> None:
    store = opened(path)
    fill(store, 300)
    keeper(store).release()
    again = opened(path, capacity=2048, new_id=OTHER)
    assert (again.ring.oldest, again.ring.written) == (300, 300)
    fill(again, 5)
    assert len(answer(again)) == 5
    keeper(again).release()


def test_a_stranger_in_the_rings_place_is_set_aside_and_not_lost(path: Path) -> None:
    path.write_bytes(b"somebody's only copy")
    keeper(opened(path)).release()
    assert (path.parent / (path.name + ASIDE)).read_bytes() == b"somebody's only copy"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_file_is_left_alone_and_flows_are_in_memory(
    path: Path, make: Callable[[Path], None], said: list[MutableMapping[str, Any]]
) -> None:
    make(path)
    store = opened(path)
    assert store.keeper is None
    assert [line["event"] for line in said] == ["flows are in memory only"]
    fill(store, 10)
    assert len(answer(store)) == 10


def test_a_file_of_another_agent_is_refused(path: Path) -> None:
    store = opened(path)
    with pytest.raises(FileInUse, match=r"hubble\.ring_path: .* is in use by another agent"):
        opened(path)
    keeper(store).release()
    keeper(opened(path)).release()


def test_after_a_crash_of_the_machine_the_rows_are_not_believed(path: Path) -> None:
    store = opened(path)
    fill(store, 30)
    keeper(store).release()
    again = opened(path, boot=NEXT_BOOT, new_id=OTHER)
    assert (again.ring.oldest, again.ring.written) == (30, 30)
    keeper(again).release()


def test_after_an_orderly_reboot_they_are(path: Path) -> None:
    store = opened(path)
    fill(store, 30)
    keeper(store).close()
    again = opened(path, boot=NEXT_BOOT)
    assert answer(again) == answer(store)
    keeper(again).release()
    third = opened(path, boot=BOOT)
    assert len(third.ring) == 0, "but not once more: it was not closed this time"
    keeper(third).release()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.slow
@pytest.mark.parametrize("room_kib", [256, 4096])
def test_a_full_disk_moves_the_flows_into_memory_and_no_position_is_used_twice(
    tmp_path: Path, room_kib: int, said: list[MutableMapping[str, Any]]
) -> None:
    capacity = 1 << 15  # 3.5 MiB, taken in two steps
    with small(tmp_path / "disk", room_kib) as disk:
        path = disk / "flows.ring"
        filler = disk / "filler"
        store = opened(path, capacity=capacity)
        assert (store.keeper is not None) is (room_kib == 4096)
        fill(store, 1000)
        if room_kib == 4096:
            with filler.open("wb") as file:
                file.truncate(0)
                room = os.statvfs(disk)
                os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
        memory = FlowStore(cluster="default", node="node1", seed=SEED, capacity=capacity)
        for _ in range(40):
            fill(store, 1000)
        for _ in range(41):
            fill(memory, 1000)
        assert answer(store) == answer(memory), "nothing is missing"
        assert [(line["event"], line["error"]) for line in said] == [
            ("flows are in memory only", "No space left on device")
        ]
        if room_kib == 4096:
            assert not keeper(store).works
            keeper(store).release()
            filler.unlink()
            del store
            gc.collect()  # a mapping keeps its file's blocks, and its filesystem busy
            again = opened(path, capacity=capacity, new_id=OTHER)
            assert (again.ring.oldest, again.ring.written) == (41_000, 41_000)
            keeper(again).release()
            del again
        gc.collect()


def test_a_table_file_that_cannot_grow_moves_the_flows_into_memory(
    path: Path, said: list[MutableMapping[str, Any]]
) -> None:
    store, world = opened(path), World()
    fill(store, 10)
    tables = keeper(store)._tables
    assert tables is not None
    kept_fd, tables._fd = tables._fd, os.open("/dev/full", os.O_RDWR)
    world.labels[5000] = ("k8s:app=new",)
    Parser(store, world).ingest(records({"dst_identity": 5000, "dst_lxc": 0}), START_NS)
    os.close(kept_fd)
    assert [(line["event"], line["error"]) for line in said] == [
        ("flows are in memory only", "No space left on device")
    ]
    assert len(answer(store)) == 11
    keeper(store).release()


def test_no_path_means_memory(tmp_path: Path) -> None:
    store = open_store("", cluster="default", node="node1", capacity=1024, new_id=SEED, boot=BOOT, start=7)
    assert store.keeper is None
    assert (store.ring.oldest, store.ring.written) == (7, 7)
    assert list(tmp_path.iterdir()) == []


def test_a_boot_has_an_id() -> None:
    assert len(kept.boot_id()) == 16
    assert kept.boot_id() == kept.boot_id()
