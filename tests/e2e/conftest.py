"""Sites for end-to-end tests: one for each module, or one for a single test; and proof that nothing of them is left."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath.kernel.compile import compiled
from tests.support.agent import Agent, running
from tests.support.site import PREFIX, Site, site

PODS = ("frontend", "backend", "visitor")


@pytest.fixture(scope="session", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes find bytecode, also where they may not write it beside the sources: a start takes half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Afterwards no namespace, pin, mount or process of ours is there."""
    yield
    mine = f"{PREFIX}{os.getpid():x}"
    names = [path.name for place in ("/run/netns", "/sys/fs/bpf") for path in Path(place).glob(f"{mine}*")]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if mine in line]
    running = subprocess.run(["pgrep", "-fa", mine], capture_output=True, text=True, check=False).stdout.splitlines()
    assert (names, mounts, running) == ([], [], [])


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled programs, for every agent."""
    if os.geteuid() != 0:
        pytest.skip("needs root: BPF programs are loaded")
    folder = tmp_path_factory.mktemp("programs")
    compiled(folder, {})
    return folder


@pytest.fixture(scope="session")
def with_lb(programs: Path) -> Path:
    """The compiled programs of agents that serve clients outside."""
    for dispatch in (1, 2, 3):
        compiled(programs, {"lb": 1} | ({"dsr_dispatch": dispatch} if dispatch != 1 else {}))
    return programs


@pytest.fixture(scope="module")
def shared(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with three pods, host and world, for all tests of a module."""
    with site(tmp_path_factory.mktemp("site"), programs, PODS) as made:
        made.serve()
        yield made


@pytest.fixture
def place(shared: Site) -> Iterator[Site]:
    """The module's site, without policies."""
    yield shared
    shared.lift()


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent on the memory datapath, which needs no privileges, for all tests of a module."""
    with running(tmp_path_factory.mktemp("laptop"), f"{PREFIX}{os.getpid():x}-laptop", datapath="memory") as agent:
        yield agent
