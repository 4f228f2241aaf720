"""A mount namespace for agents: what is mounted there is seen nowhere else, and is gone with the last process in it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Mounts:
    """A mount namespace that a process of ours keeps."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command there, put before it."""
        return ("nsenter", f"--mount=/proc/{self._pid}/ns/mnt", "--")

    def path(self, path: Path) -> Path:
        """The path as it is there, for us."""
        return Path(f"/proc/{self._pid}/root{path}")


@contextmanager
def mounts(*commands: str) -> Iterator[Mounts]:
    """A namespace in which the shell has run these commands.

    Network namespaces that are made later are seen there too (propagation `slave`). Who keeps it reads from us, so it
    ends when we do, however that comes.
    """
    script = "\n".join((*commands, "echo ready", "exec cat"))
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-ec", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            said = keeper.stdout.readline()
            assert said == "ready\n", f"mounting said {said!r}"
            yield Mounts(keeper.pid)
        finally:
            keeper.stdin.close()
            keeper.wait()
