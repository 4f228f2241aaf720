"""What suites measure on: agents in network namespaces of their own, pods, and a folder on a real disk."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from report import WrongError

from tests.support.agent import Agent
from tests.support.netns import Namespace
from tests.support.pods import Pod, Pods

ROOT: Final = Path(__file__).resolve().parents[2]
_END_S: Final = 60.0  # in which a child has ended
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class Rig:
    """One run of the benchmark: everything it makes is named `name`-something or lies in `folder`."""

    def __init__(self) -> None:
        self.name = f"cpb{os.getpid():x}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=_disk_folder()))
        self._began = time.monotonic()
        self._made: list[Bed | Place] = []

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)

    @property
    def programs(self) -> Path:
        """The compiled programs that agents of this run share; not there before the first of them has started."""
        return self.folder / "programs"

    @contextmanager
    def bed(self, name: str, *options: str, warm: bool = True) -> Iterator["Bed"]:
        """An agent that is not started; gone afterwards with its pods. `warm`: it finds its programs compiled."""
        if warm:
            self._warm()
        made = Bed(self, name, options)
        with self._removed(made):
            made.node.make()
            if warm:
                made.seed()
            yield made

    @contextmanager
    def place(self, name: str) -> Iterator["Place"]:
        """A network namespace with lo up, gone afterwards."""
        made = Place(f"{self.name}-{name}")
        with self._removed(made):
            made.make()
            yield made

    @contextmanager
    def _removed(self, made: "Bed | Place") -> Iterator[None]:
        """Gone at the end of the block; if that is interrupted, `Rig.remove` finishes it."""
        self._made.append(made)
        try:
            yield
        finally:
            made.remove()
            self._made.remove(made)

    def remove(self) -> list[str]:
        """Everything is gone, after a failure or an interruption too; what is left all the same."""
        for made in reversed(self._made):
            made.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
        places = (Path("/run/netns"), Path("/sys/fs/bpf"))
        return [str(path) for place in places for path in place.glob(f"{self.name}*")]

    def _warm(self) -> None:
        """An agent has compiled the programs, if none has yet."""
        if self.programs.exists():
            return
        with self.bed("compiler", warm=False) as first:
            first.agent.start()
            self.keep_programs(first)

    def keep_programs(self, bed: "Bed") -> None:
        """What this agent has compiled is there for others."""
        if not self.programs.exists():
            shutil.copytree(bed.agent.state / "programs", self.programs)


class Place(Namespace):
    """A network namespace of ours."""

    def make(self) -> None:
        """It exists, with lo up."""
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.ip("link", "set", "lo", "up")

    def remove(self) -> None:
        """It does not exist. Idempotent."""
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "delete", self.name], check=True, capture_output=True)


class Bed:
    """A node with an agent, and its pods, which are made through the plugin."""

    def __init__(self, rig: Rig, name: str, options: tuple[str, ...]) -> None:
        self.rig, self.name = rig, f"{rig.name}-{name}"
        self.node = Place(f"{self.name}-node")
        self.agent = Agent(rig.folder / name, self.name, node=self.node, options=options)
        self.pods = Pods(self.agent, self.name)

    def seed(self) -> None:
        """The agent finds its programs compiled."""
        shutil.copytree(self.rig.programs, self.agent.state / "programs", dirs_exist_ok=True)

    def add(self, name: str, role: str = "bench", *, serve: bool = False) -> Pod:
        """A pod, by default one in which nothing runs, labelled `app=<name>` and `role=<role>`."""
        return self.pods.add(name, serve=serve, app=name, role=role)

    def rss_mb(self) -> float:
        """Memory that the agent's process has resident, in units of 2^20 bytes."""
        pages = int(Path(f"/proc/{self.agent.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)

    def cpu_s(self) -> float:
        """CPU time that the agent's process has taken, in seconds."""
        return cpu_s(self.agent.pid)

    def remove(self) -> None:
        """Pods, process, pins, namespace and files are gone. Idempotent."""
        self.pods.remove()
        self.agent.remove()
        self.node.remove()
        shutil.rmtree(self.agent.folder, ignore_errors=True)


def cpu_s(process: int) -> float:
    """CPU time that a process has taken, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def child(script: str, *arguments: object) -> Iterator[tuple[int, list[str]]]:
    """A script beside this one serves inside the block; its process id, and what it said after `ready`.

    Raises WrongError when it does not start. It ends when its standard input does.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if said[:1] != ["ready"]:
            raise WrongError(f"{script} did not start")
        try:
            yield process.pid, said[1:]
        finally:
            process.stdin.close()
            process.wait(_END_S)


def compile_python() -> None:
    """The byte code of the product is where installation puts it, so that no start has to make it."""
    imported = "import cplane.agent.wire, cplane.agent.__main__, cplane.cni.main"
    subprocess.run([sys.executable, "-c", imported], check=True, cwd=ROOT)


def disk_of(folder: Path) -> str:
    """Device and file system that the folder is on."""
    best = ("", "", "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind = line.split()[:3]
        if (folder == Path(mount) or Path(mount) in folder.parents) and len(mount) >= len(best[0]):
            best = (mount, device, kind)
    return f"{best[1]} ({best[2]})"


def _disk_folder() -> Path:
    """Where temporary files go, or another place where that is memory: commits must meet a disk."""
    candidates = (Path(tempfile.gettempdir()), Path("/var/tmp"), ROOT)
    for one in candidates:
        if one.is_dir() and not any(f"({kind})" in disk_of(one.resolve()) for kind in _IN_MEMORY):
            return one
    return candidates[0]
