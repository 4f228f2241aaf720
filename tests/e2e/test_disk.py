"""A disk that is full, and a log that cannot be written: commands say so, and enforcement goes on as it is."""

import errno
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support import asking, pinned
from tests.support.agent import Agent, running
from tests.support.mounts import mounts
from tests.support.pods import Asked
from tests.support.site import PREFIX, Site, policy, site

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces and mounts needs root")
pytestmark = pytest.mark.slow

PODS = ("frontend", "backend", "visitor")
FRONTEND_ONLY = policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]")
OPEN = policy("backend", "backend", "ingress:\n- fromEntities: [all]")
DISK_BYTES = 4 << 20


def frontend_only(asked: Asked) -> bool:
    """What FRONTEND_ONLY says."""
    return asked.target != "backend" or asked.source == "frontend"


class Disk:
    """A small one, with the agent's state and its output on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fill(self) -> None:
        """There is no room for another byte."""
        with (self._folder / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1 << 12))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """There is room again."""
        (self._folder / "filler").unlink()


@pytest.fixture
def small(programs: Path, tmp_path: Path) -> Iterator[tuple[Site, Disk]]:
    """A site whose agent has a small disk."""
    state = tmp_path / "state"
    state.mkdir()
    with (
        mounts(f"mount -t tmpfs -o size={DISK_BYTES} cplane-test '{state}'") as there,
        site(tmp_path, programs, start=False, prefix=there.prefix) as place,
    ):
        place.agent.output = there.path(state) / "agent.log"
        place.seed(there.path(state))
        place.agent.start()
        for name in PODS:
            place.pods.add(name)
        place.apply(FRONTEND_ONLY)
        yield place, Disk(there.path(state))


@pytest.mark.root
@needs_root
def test_on_a_full_disk_commands_fail_and_enforcement_goes_on_until_there_is_room_again(
    small: tuple[Site, Disk],
) -> None:
    place, disk = small
    before, tables = asking.status(place.agent), pinned.tables(place.agent.bpf_root)
    disk.fill()
    refused = place.agent.cplane("policy", "apply", "-f", "-", given=OPEN, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "database or disk is full" in refused.stderr
    assert "nothing was written, check space, permissions and the disk" in refused.stderr
    attached = place.pods.client.add("late", place["visitor"].netns.path, "net1")
    assert attached.code == 11, attached
    assert "database or disk is full" in attached.document["msg"]
    assert place["visitor"].netns.interfaces() == {"eth0"}
    after = asking.status(place.agent)
    assert (after.head, after.in_sync, after.digest) == (before.head, True, before.digest)
    assert place.unequal() == []
    assert pinned.tables(place.agent.bpf_root) == tables
    assert place.wrong(frontend_only, place.questions(PODS, ("tcp", "icmp"))) == []
    disk.free()
    assert place.apply(OPEN) == before.head + 1
    assert place.wrong(lambda _: True, place.questions(PODS, ("tcp",))) == []
    assert "sound" in place.agent.cplane("log", "verify").stdout


@pytest.mark.root
@needs_root
def test_an_agent_that_is_killed_on_a_full_disk_comes_back_when_there_is_room(small: tuple[Site, Disk]) -> None:
    place, disk = small
    disk.fill()
    refused = place.agent.cplane("policy", "apply", "-f", "-", given=OPEN, check=False)
    assert refused.returncode == 1
    place.agent.kill()
    assert place.wrong(frontend_only, place.questions(PODS, ("tcp",))) == []
    disk.free()
    place.agent.start()
    assert place.unequal() == []
    assert place.wrong(frontend_only, place.questions(PODS, ("tcp",))) == []
    place.apply(OPEN)


@pytest.mark.root
@needs_root
def test_a_log_on_a_read_only_disk_is_refused_and_the_kernel_goes_on(programs: Path, tmp_path: Path) -> None:
    with site(tmp_path, programs, PODS) as place:
        place.apply(FRONTEND_ONLY)
        state = place.agent.state
        place.agent.stop()
        with mounts(f"mount --bind '{state}' '{state}'", f"mount -o remount,bind,ro '{state}'") as there:
            locked_out = Agent(tmp_path, place.name, node=place.node, prefix=there.prefix)
            status, words = locked_out.fails_to_start()
            assert status == 1
            assert str(state / "log.db") in words
            assert "Read-only file system" in words
            shown = locked_out.cplane("log", "verify", "--file", str(there.path(state) / "log.db"))
            assert "sound" in shown.stdout
        assert place.wrong(frontend_only, place.questions(PODS, ("tcp",))) == []
        place.agent.start()
        assert place.unequal() == []


@contextmanager
def no_file_grows(agent: Agent, limit: int) -> Iterator[None]:
    """Inside, the agent's process cannot write behind that many bytes of any file."""
    soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_is_told_and_the_next_one_that_can_be_done_is(tmp_path: Path) -> None:
    with running(tmp_path, f"{PREFIX}{os.getpid():x}-disk", datapath="memory") as agent:
        agent.cplane("policy", "apply", "-f", "-", given=FRONTEND_ONLY)
        before = asking.status(agent)
        with no_file_grows(agent, (agent.state / "log.db-wal").stat().st_size):
            refused = agent.cplane("policy", "apply", "-f", "-", given=OPEN, check=False)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "nothing was written, check space, permissions and the disk" in refused.stderr
            assert asking.status(agent).digest == before.digest
        agent.cplane("policy", "apply", "-f", "-", "--wait", given=OPEN)
        assert asking.status(agent).head == before.head + 1
        assert asking.ask(agent, asking.unequal_rows) == []
        agent.kill()
        agent.start()
        assert asking.status(agent).head == before.head + 1


def test_a_log_that_somebody_else_holds_is_told_and_written_when_it_is_let_go(tmp_path: Path) -> None:
    with running(tmp_path, f"{PREFIX}{os.getpid():x}-disk", datapath="memory") as agent:
        before = asking.status(agent).head
        with closing(sqlite3.connect(agent.state / "log.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = agent.cplane("policy", "apply", "-f", "-", given=OPEN, check=False)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "database is locked" in refused.stderr
            assert "nothing was written" in refused.stderr
            other.execute("ROLLBACK")
        agent.cplane("policy", "apply", "-f", "-", given=OPEN)
        assert asking.status(agent).head == before + 1


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    agent = Agent(tmp_path, f"{PREFIX}{os.getpid():x}-disk", datapath="memory")
    agent.folder.joinpath("state").write_text("a file where a folder should be")
    status, words = agent.fails_to_start()
    assert status == 1
    assert words.startswith("cplane-agent: a folder that the agent needs cannot be made: ")
    assert str(agent.state) in words


def test_an_agent_whose_output_nobody_takes_works_all_the_same(tmp_path: Path) -> None:
    agent = Agent(tmp_path, f"{PREFIX}{os.getpid():x}-disk", datapath="memory")
    agent.output = Path("/dev/full")
    try:
        agent.start(wait=False)
        asking.until((agent.run_dir / "hubble.sock").exists, "the last socket is there", patience_s=60)
        agent.cplane("policy", "apply", "-f", "-", "--wait", given=OPEN)
        assert agent.stop() == 0
    finally:
        agent.remove()
