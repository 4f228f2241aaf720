"""Copies of rings and archives say what the agent's own would; what cannot be trusted is left out or refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cplane.hubble.archive.segment import take, write
from cplane.hubble.copied import NotFlows, is_copied, open_copies
from cplane.hubble.kept import open_store
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.recorded import Recorded
from cplane.hubble.store import FlowStore
from cplane.timetravel.seen import Seen, Sight
from tests.support.flows import SEED, START_NS, World, records

BOOT = bytes(range(16))
TABLES = ".tables"


def verdicts(first: int, count: int) -> np.ndarray:
    return records(*({"type": 5, "time_ns": n * 10**9, "dport": n + 1} for n in range(first, first + count)))


class Agent:
    """Writes flows into a ring of 16."""

    def __init__(self, folder: Path, capacity: int = 16) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "flows.ring"
        self.store = open_store(
            str(self.path), cluster="default", node="node1", capacity=capacity, new_id=SEED, boot=BOOT
        )
        self._parser = Parser(self.store, World())

    def add(self, count: int) -> None:
        self._parser.ingest(verdicts(self.store.ring.written, count), START_NS)

    def close(self) -> None:
        assert self.store.keeper is not None
        self.store.keeper.close()


@pytest.fixture
def agent(tmp_path: Path):
    made = Agent(tmp_path / "state")
    yield made
    made.close()


def copy_of(agent: Agent, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for name in (agent.path, agent.path.with_name(agent.path.name + TABLES)):
        shutil.copy(name, to / name.name)
    return to / agent.path.name


def seen(*paths: Path) -> Seen:
    sight = Sight(0, 1 << 63)
    open_copies(map(str, paths)).fold(sight)
    return sight.seen()


def told(found: Seen) -> list[int]:
    return sorted(kind.port for kind in found.kinds)


def uuids(store: FlowStore) -> list[str]:
    return [store.ids.text(position) for position in range(store.ring.oldest, store.ring.written)]


def test_a_copy_of_a_closed_ring_has_all_of_its_flows(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "state")
    agent.add(8)
    agent.add(8)
    agent.add(4)
    agent.close()
    copied = open_copies([str(copy_of(agent, tmp_path / "copy"))])
    own = Recorded([agent.store])
    lines = {uuid: own.line(uuid) for uuid in uuids(agent.store)}
    assert len(lines) == 16

    def but_node(line: bytes | None) -> bytes:
        assert line is not None
        return line.replace(b'"node_name":"default/node1",', b"").replace(b'"node_name":"/",', b"")

    for uuid, line in lines.items():
        assert but_node(copied.line(uuid)) == but_node(line)
    assert told(seen(tmp_path / "copy")) == list(range(5, 21))


def test_what_may_have_been_written_over_while_it_was_copied_is_left_out(agent: Agent, tmp_path: Path) -> None:
    agent.add(8)
    agent.add(8)
    copied = copy_of(agent, tmp_path / "copy")
    assert told(seen(copied)) == list(range(3, 17)), "an eighth of the ring is 2"
    assert open_copies([str(copied)]).line(agent.store.ids.text(1)) is None


def test_in_a_ring_that_is_not_full_yet_nothing_could_have_been_written_over(agent: Agent, tmp_path: Path) -> None:
    agent.add(8)
    assert told(seen(copy_of(agent, tmp_path / "copy"))) == list(range(1, 9))


def test_the_ring_of_a_running_agent_can_be_read_where_it_is_and_nothing_is_held(agent: Agent) -> None:
    agent.add(8)
    recorded = open_copies([str(agent.path)])
    for _ in range(3):
        agent.add(8)
    assert recorded.line(agent.store.ids.text(3)) is None, "it was overwritten since"
    sight = Sight(0, 1 << 63)
    recorded.fold(sight)
    assert sight.seen().window.flows == 0
    assert told(seen(agent.path)) == list(range(19, 33))


def test_a_folder_is_taken_for_all_that_is_in_it(agent: Agent, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for start in range(0, 32, 8):
        agent.add(8)
        write(take(agent.store, start, start + 8), archive)
    ring = copy_of(agent, tmp_path / "copy")
    alone = seen(archive)
    assert told(alone) == list(range(1, 33))
    together = seen(ring, archive)
    assert (told(together), together.window.flows, together.window.lost) == (list(range(1, 33)), 32, 0)
    for one in archive.iterdir():
        shutil.copy(one, ring.parent)
    assert seen(ring.parent) == together
    assert seen(*sorted(archive.iterdir()), ring) == together
    assert seen(ring.parent, archive).window.flows == 32, "a segment that is named twice counts once"


def test_what_has_no_flows_is_refused_by_name(agent: Agent, tmp_path: Path) -> None:
    agent.add(4)
    ring = copy_of(agent, tmp_path / "copy")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(NotFlows, match="empty: the folder has no flows"):
        open_copies([str(empty)])
    whole = ring.read_bytes()
    for bad, reason in (
        (whole[:5000], "ends after 5000 bytes"),
        (whole[:-1], "bytes instead of"),
        (whole[:100] + b"x" + whole[101:], "header is damaged"),
        (whole[:12] + bytes(12) + whole[24:], "header is damaged"),
    ):
        ring.write_bytes(bad)
        with pytest.raises(NotFlows, match=f"flow ring cannot be read: .*{reason}"):
            open_copies([str(ring)])
    ring.write_bytes(whole)
    tables = ring.with_name(ring.name + TABLES)
    cut = tables.read_bytes()[:-1]
    tables.write_bytes(cut)
    with pytest.raises(NotFlows, match=r"too early; copy flows\.ring\.tables too, after the ring"):
        open_copies([str(ring)])
    assert tables.read_bytes() == cut, "a copy is only read"
    tables.unlink()
    with pytest.raises(NotFlows, match="is missing"):
        open_copies([str(ring)])
    named = tmp_path / "other.parquet"
    named.write_bytes(b"PAR1 and more")
    with pytest.raises(NotFlows, match="its name does not say what it has"):
        open_copies([str(named)])


def test_text_is_told_from_rings_and_segments(agent: Agent, tmp_path: Path) -> None:
    lines = tmp_path / "flows.jsonl"
    lines.write_text('{"flow":{}}\n')
    assert not is_copied(str(lines))
    lines.write_text("")
    assert not is_copied(str(lines))
    assert is_copied(str(agent.path))
    assert is_copied(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        is_copied(str(tmp_path / "none"))
