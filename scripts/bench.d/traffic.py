"""Traffic between two network namespaces, by the C program beside this module."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from fates import Run
from report import WrongError

from tests.support.netns import Namespace

KINDS: Final = ("stream", "rr", "crr")
_SOURCE: Final = Path(__file__).with_name("traffic.c")
_PATIENT_MS: Final = 15_000  # more than any round takes
_PROBE_PORT: Final = 9000
_PROBE_MS: Final = 120_000


class Pair(NamedTuple):
    """Two places that speak with one another, and the server's IPv4 address, or one that stands for it.

    `group`: the client is in this cgroup.
    """

    client: Namespace
    server: Namespace
    address: str
    group: Path | None = None


class Traffic:
    """The program, and the one processor that both ends of a measurement run on.

    On two the scheduler moves them apart and together as it likes, and a round of request-response is one of
    two quite different numbers.
    """

    def __init__(self, folder: Path) -> None:
        self._program = folder / "traffic"
        self._cpu = max(os.sched_getaffinity(0))
        flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11")
        done = subprocess.run(
            [compiler(), *flags, str(_SOURCE), "-o", str(self._program)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise WrongError(f"{_SOURCE.name} does not compile:\n{done.stderr}")

    def rate(self, kind: str, pair: Pair, port: int, ms: int) -> float:
        """Bytes (stream), exchanges (rr) or connections (crr, connect) per second. Raises WrongError."""
        with self._serving(kind, pair.server, port):
            command = self._inside(pair.client, kind, pair.address, str(port), str(ms))
            if pair.group is not None:
                command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(pair.group / "cgroup.procs"), *command]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENT_MS / 1000, check=False)
        if done.returncode:
            raise WrongError(f"{kind} to {pair.address}: {done.stderr.strip() or done.returncode}")
        count, took_ns = map(int, done.stdout.split())
        return count / (took_ns / 1e9)

    @contextmanager
    def probing(self, pair: Pair, interval_us: int) -> Iterator["Prober"]:
        """Datagrams flow all the time."""
        made = Prober([str(self._program), "probe"], pair, interval_us)
        try:
            yield made
        finally:
            made.close()

    @contextmanager
    def _serving(self, kind: str, where: Namespace, port: int) -> Iterator[None]:
        command = self._inside(where, "serve", kind, str(port), str(_PATIENT_MS))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                said = server.stdout.readline()
                if said != "ready\n":
                    raise WrongError(f"the server of {kind} said {said!r}")
                yield
            finally:
                server.kill()

    def _inside(self, where: Namespace, *arguments: str) -> list[str]:
        pinned = ["taskset", "-c", str(self._cpu)]
        return [*pinned, "nsenter", f"--net={where.path}", "--", str(self._program), *arguments]


class Prober:
    """Datagrams from one namespace of a pair to the other, and what became of each."""

    def __init__(self, command: Sequence[str], pair: Pair, interval_us: int) -> None:
        where = [pair.client.path, pair.server.path, pair.address, str(_PROBE_PORT)]
        self._process = subprocess.Popen(
            [*command, *where, str(interval_us), str(_PROBE_MS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if said != "ready\n":
            self.close()
            raise WrongError(f"the probe to {pair.address} said {said!r}")

    def end(self) -> list[Run]:
        """No more is sent; the fates of all that was."""
        out, told = self._process.communicate(timeout=_PATIENT_MS / 1000)
        if self._process.returncode:
            raise WrongError(f"the probe: {told.strip() or self._process.returncode}")
        return [Run.parse(line) for line in out.splitlines()]

    def close(self) -> None:
        """The process is gone. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def compiler() -> str:
    """A compiler of C. Raises WrongError."""
    for name in ("clang-16", "clang"):
        if path := shutil.which(name):
            return path
    raise WrongError("no clang: run scripts/setup, or install clang-16")
