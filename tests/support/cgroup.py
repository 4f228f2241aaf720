"""A sub-cgroup of the unified hierarchy for processes of a test, never its root."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datapath.kernel.probes import cgroup2_mount

LEAVING_S = 5.0


class SubGroup:
    """A cgroup of our own. Where the machine gives us none, `path` is None and `add` does nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def add(self, pid: int) -> None:
        """The process, and what it starts from now on, is in the group."""
        if self.path is not None:
            (self.path / "cgroup.procs").write_text(str(pid))

    def processes(self) -> list[int]:
        """Who is in it."""
        return [] if self.path is None else [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        """The group is gone; its processes were killed before, and leave it a moment later. Idempotent."""
        if self.path is not None and self.path.exists():
            deadline = time.monotonic() + LEAVING_S
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.01)  # other processes' ends: there is nothing to wait on
            self.path.rmdir()


def make(name: str) -> SubGroup:
    """The group `name` under the unified hierarchy, wherever that is mounted, in hybrid set-ups too."""
    mount = cgroup2_mount(Path("/proc/self/mounts").read_text())
    if mount is None:
        return SubGroup(None)
    path = mount / name
    try:
        path.mkdir(exist_ok=True)
    except OSError:  # read-only, as containers often have it
        return SubGroup(None)
    return SubGroup(path)


@contextmanager
def subgroup(name: str) -> Iterator[SubGroup]:
    """The group, gone afterwards."""
    made = make(name)
    try:
        yield made
    finally:
        made.remove()
