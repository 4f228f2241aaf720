"""How far an export is: after a kill at any write each flow is in the files once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cplane.hubble.exporter import run as exporting
from cplane.hubble.exporter.config import Export
from cplane.hubble.exporter.mark import Mark, Place, Step, mark_name
from cplane.hubble.exporter.run import Exports
from cplane.hubble.kept import Kept, open_store
from cplane.hubble.ring import FlowRing
from cplane.hubble.store import FlowStore
from tests.support.effort import QUICK
from tests.support.exporting import FLOWS
from tests.support.flows import SEED, store_of
from tests.unit.cplane.hubble.exporter.test_run import come, flow_logs, ports, running, until

OTHER = "f" * 32


def exported(folder: Path) -> list[dict[str, object]]:
    """All lines, the oldest first; every one is whole."""
    names = sorted(folder.glob("flows-*.log"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(line) for path in (*names, folder / "flows.log") for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_after_a_kill_at_any_write_each_flow_is_there_once(tmp_path: Path) -> None:
    step = 3 if QUICK else 1
    command = [sys.executable, "-m", "tests.support.exporting", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def live(count: int) -> str:
            process.stdin.write(f"{count}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert live(0) == "done"
        lives, killed = 1, 0
        for count in range(1, 100, step):
            lives += 1
            if live(count) == "done":
                break
            killed += 1
        lives += 1
        assert live(0) == "done"
        process.stdin.close()
        assert process.wait(10) == 0
    assert killed > 12 // step, "the mark and the file, before and after, in each of some batches"
    lines = exported(tmp_path)
    flows = [line["flow"]["l4"]["TCP"]["source_port"] for line in lines if "flow" in line]  # type: ignore[index]
    store = open_store(f"{tmp_path}/ring", cluster="c", node="n", capacity=1024, new_id=OTHER, boot=bytes(16))
    seen, absences = store.ring.written, len(store.ring.all_losses())
    assert isinstance(store.keeper, Kept)
    store.keeper.release()
    assert killed * FLOWS // 2 < seen <= lives * FLOWS
    assert flows == [*range(1, seen + 1)]
    assert len([line for line in lines if "lost_events" in line]) == absences > killed // 2, "each is told once"


def opened(folder: Path, seed: str = SEED, target: str = "/nonexistent") -> Mark:
    return Mark.open(str(folder), "one/of: them", seed, target)


def test_what_is_reached_is_read_again(tmp_path: Path) -> None:
    mark = opened(tmp_path)
    assert mark.reached is None
    mark.done(Step(7, 3))
    mark.close()
    again = opened(tmp_path)
    assert (again.reached, again.is_of_ring) == (Step(7, 3), True)
    assert [path.name for path in tmp_path.iterdir()] == [mark_name("one/of: them")]


@pytest.mark.parametrize(
    ("there", "position", "left"),
    [(b"a\n", 7, b"a\n"), (b"a\nb", 7, b"a\n"), (b"a\nb\nc\n", 9, b"a\nb\nc\n"), (b"a\nb\nc\nd\n", 9, b"a\nb\nc\nd\n")],
    ids=["nothing", "a part", "all", "more"],
)
def test_what_was_begun_is_there_as_a_whole_or_not(tmp_path: Path, there: bytes, position: int, left: bytes) -> None:
    target = tmp_path / "flows.log"
    target.write_bytes(there)
    place = Place(target.stat().st_dev, target.stat().st_ino, 2)
    mark = opened(tmp_path / "marks")
    mark.done(Step(7))
    mark.begin(Step(9), place, 4)
    mark.close()
    again = opened(tmp_path / "marks", target=str(target))
    assert (again.reached, target.read_bytes()) == (Step(position), left)


def test_a_file_that_is_another_one_by_now_says_nothing(tmp_path: Path) -> None:
    target = tmp_path / "flows.log"
    target.write_bytes(b"a\nb\nc\n")
    mark = opened(tmp_path / "marks")
    mark.done(Step(7))
    mark.begin(Step(9), Place(target.stat().st_dev, target.stat().st_ino + 1, 2), 4)
    assert opened(tmp_path / "marks", target=str(target)).reached == Step(7)
    target.unlink()
    assert opened(tmp_path / "marks", target=str(target)).reached == Step(7)


@pytest.mark.parametrize("damage", [b"", b"x" * 200, b"cplexmk1"])
def test_a_damaged_mark_is_none(tmp_path: Path, damage: bytes) -> None:
    mark = opened(tmp_path)
    mark.done(Step(7))
    mark.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage + path.read_bytes()[len(damage) : 30])
    assert opened(tmp_path).reached is None


def test_a_mark_of_another_ring_says_so(tmp_path: Path) -> None:
    opened(tmp_path).done(Step(7))
    found = opened(tmp_path, OTHER)
    assert (found.reached, found.is_of_ring) == (Step(7), False)
    found.done(Step(8))
    assert found.is_of_ring


def test_names_of_exports_do_not_leave_the_folder_and_differ() -> None:
    names = ["..", "/etc/passwd", "a/b", "a_b", "ä", "x" * 300, "x" * 301, ""]
    made = [mark_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert not [name for name in made if "/" in name or name.startswith(".") or len(name) > 80]


def test_where_it_cannot_be_kept_the_export_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    mark = Mark.open(str(tmp_path / "file"), "x", SEED, "/nonexistent")
    mark.begin(Step(1), Place(0, 0, 0), 1)
    mark.done(Step(2))
    mark.close()
    assert mark.reached == Step(2)


def reached(exports: Exports) -> Step | None:
    running = exports._running.get("static")
    return running[0].mark.reached if running is not None else None


@pytest.fixture
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_REST_S", 0.01)
    monkeypatch.setattr(exporting, "_WATCH_S", 0.01)


@pytest.mark.anyio
@pytest.mark.usefixtures("_quickly")
class TestExports:
    """What marks do for exports at work."""

    async def test_an_export_goes_on_with_what_came_while_nobody_exported(self, tmp_path: Path) -> None:
        store, path = store_of(), tmp_path / "flows.log"
        one = Export(name="static", path=str(path))
        async with running(store, static=one, marks=str(tmp_path / "marks")):
            come(store, {"sport": 1}, {"sport": 2})
            await until(lambda: ports(path) == [1, 2])
        come(store, {"sport": 3})
        async with running(store, static=one, marks=str(tmp_path / "marks")):
            await until(lambda: ports(path) == [1, 2, 3])

    async def test_what_nobody_wanted_is_not_looked_at_again(self, tmp_path: Path) -> None:
        store = store_of(capacity=4)
        one = Export(name="static", path=str(tmp_path / "a"), exclude=(b"",))
        async with running(store, static=one, marks=str(tmp_path / "marks")) as exports:
            come(store, *({"sport": number} for number in range(4)))
            await until(lambda: reached(exports) == Step(4))
        come(store, *({"sport": number} for number in range(4)))
        async with running(store, static=one, marks=str(tmp_path / "marks")) as exports:
            await until(lambda: reached(exports) == Step(8))
        assert not (tmp_path / "a").exists(), "no loss is told"

    async def test_an_export_that_is_removed_begins_anew(self, tmp_path: Path) -> None:
        store, config = store_of(), tmp_path / "flowlogs.yaml"
        first, second = tmp_path / "first.log", tmp_path / "second.log"
        marks = str(tmp_path / "marks")
        flow_logs(config, one=str(first), two=str(second))
        async with running(store, watched=str(config), marks=marks) as exports:
            await until(lambda: len(exports._running) == 2)
            come(store, {"sport": 1})
            await until(lambda: ports(first) == ports(second) == [1])
            flow_logs(config, two=str(second))
            await until(lambda: [path.name for path in Path(marks).iterdir()] == [mark_name("two")])
            come(store, {"sport": 2})
            await until(lambda: ports(second) == [1, 2])
        flow_logs(config, one=str(first), two=str(second))
        come(store, {"sport": 3})
        async with running(store, watched=str(config), marks=marks) as exports:
            await until(lambda: ports(second) == [1, 2, 3] and len(exports._running) == 2)
            come(store, {"sport": 4})
            await until(lambda: ports(first) == [1, 4])

    async def test_flows_of_a_ring_that_is_gone_are_told_as_lost_where_positions_went_on(self, tmp_path: Path) -> None:
        path, marks = tmp_path / "flows.log", str(tmp_path / "marks")
        one = Export(name="static", path=str(path))
        async with running(store_of(), static=one, marks=marks) as exports:
            await until(lambda: reached(exports) is not None)
        later = FlowStore(cluster="default", node="n", seed=OTHER, ring=FlowRing(16, start=5))
        async with running(later, static=one, marks=marks):
            come(later, {"sport": 6})
            await until(lambda: ports(path) == [6])
        lost = json.loads(path.read_text().splitlines()[0])["lost_events"]
        assert (lost["source"], lost["num_events_lost"]) == ("HUBBLE_RING_BUFFER", "5")
        again = FlowStore(cluster="default", node="n", seed=SEED, ring=FlowRing(16))
        async with running(again, static=one, marks=marks):
            come(again, {"sport": 7})
            await until(lambda: ports(path) == [6, 7])
