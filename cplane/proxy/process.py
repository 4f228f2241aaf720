"""A process that outlives the agent: in a session of its own, found again by its pid file, replaced when it dies.

The pid file says who it is (process id, the kernel's start time of it, and its command), so that no other process that
has the number by now is taken for it.
"""

import os
import resource
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import msgspec

from cplane.telemetry.clock import SystemClock
from cplane.telemetry.fault import Fault
from cplane.telemetry.log import line, logger

log = logger("proxy")

BACK_OFF_S: Final = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Before each start in a row; the last one stands for all that follow."""

STABLE_S: Final = 10.0
"""Who has lived so long is started at once again."""

LOG_BYTES_MAX: Final = 16 << 20
FILES_MAX: Final = 1 << 20
_LOOK_S: Final = 60.0
_BLIND_S: Final = 1.0
_END_S: Final = 5.0
_RETIRED_S: Final = 20.0
_SECOND_NS: Final = 1_000_000_000
_SHELL: Final = "/bin/sh"
_TOLD: Final = 3
_ORPHANED: Final = f'"$@" {_TOLD}>&- & echo $! >&{_TOLD}'


@dataclass(frozen=True, slots=True)
class Program:
    """What is run: `name` is that of its files in `folder`.

    `epoch`, where there is one, is the option by which a process takes over the sockets of one before it, which has the
    number below; that one then ends by itself.
    """

    name: str
    folder: Path
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    epoch: str = ""

    def of_epoch(self, number: int) -> tuple[str, ...]:
        """The command of a process that is the successor of so many."""
        return (*self.command, *((self.epoch, str(number)) if self.epoch else ()))

    def epoch_of(self, command: tuple[str, ...]) -> int:
        """The number that a process of this command, or of an older one, has; 0 also where there is none."""
        number = command[-1] if self.epoch and command[-2:-1] == (self.epoch,) else ""
        return int(number) if number.isdecimal() else 0

    @property
    def pid_file(self) -> Path:
        """Who runs."""
        return self.folder / f"{self.name}.pid"

    @property
    def log_file(self) -> Path:
        """What it prints."""
        return self.folder / f"{self.name}.log"


class Identity(msgspec.Struct, frozen=True):
    """One process, also after its number has been given to another."""

    pid: int
    started: int  # clock ticks after the machine started, as /proc/<pid>/stat says it
    command: tuple[str, ...]


class Process:
    """Runs a program as long as `run` lasts, and leaves it running then."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._clock = SystemClock()
        self._identity: Identity | None = None
        self._stopped = False
        self._hindrance = Fault(self._not_started)
        self.starts = 0
        """Processes that were started here; one that was found running is not."""

    @property
    def pid(self) -> int:
        """Its process id; 0: none runs."""
        return self._identity.pid if self._identity is not None else 0

    async def run(self) -> None:
        """The program runs, until this is cancelled and also afterwards. One of another command is replaced."""
        async with anyio.create_task_group() as group:
            predecessor = await self._adopt()
            if predecessor is not None:
                group.start_soon(retire, predecessor)
            await self._keep(predecessor)
            group.cancel_scope.cancel()

    async def _keep(self, predecessor: Identity | None) -> None:
        """There is a process, until it is stopped."""
        failures = 0
        while True:
            identity = self._identity
            if identity is None:
                await anyio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])
                identity = self._identity = await self._started(0)
                if identity is None:
                    if self._is_over():
                        return
                    failures += 1
                    continue
            began = self._clock.monotonic_ns()
            if self._is_over():
                await self.stop()  # while it was started
                return
            await self._ended(identity)
            if self._is_over():
                return
            if predecessor is not None:  # who did not get on with it, as it may be if their versions differ
                await end(predecessor)
                predecessor = None
            lived_s = (self._clock.monotonic_ns() - began) / _SECOND_NS
            failures = 0 if lived_s >= STABLE_S else failures + 1
            self._tell_end(identity)
            self._identity = None

    def _is_over(self) -> bool:
        """Whether `stop` was called, at any time before."""
        return self._stopped

    async def stop(self) -> None:
        """No process of the program runs, and `run` ends. One that does not go by itself is killed. Idempotent."""
        self._stopped = True
        found = self._identity or read_identity(self._program.pid_file)
        if found is not None and is_alive(found):
            await end(found)
        self._identity = None
        with suppress(OSError):  # who is named there does not run, which whoever reads it sees
            self._program.pid_file.unlink(missing_ok=True)

    async def _adopt(self) -> Identity | None:
        """One that runs is ours, if it is the right one, else replaced; who that was if it still hands over."""
        program = self._program
        found = read_identity(program.pid_file)
        if found is None or not is_alive(found):
            return None
        epoch = program.epoch_of(found.command)
        if found.command == program.of_epoch(epoch):
            self._identity = found
            log.info(line("proxy found running", kind=program.name, pid=found.pid))
            return None
        log.info(line("proxy of another version is replaced", kind=program.name, pid=found.pid))
        self._identity = await self._started(epoch + 1) if program.epoch else None
        if self._identity is None:
            await end(found)
            return None
        return found

    async def _started(self, epoch: int) -> Identity | None:
        """A new process; None: there is none, as on a full disk, and the log says why, once."""
        try:
            made = await anyio.to_thread.run_sync(self._start, epoch)
        except OSError as error:
            self._hindrance.now(str(error))
            return None
        self._hindrance.now("")
        self.starts += 1
        return made

    def _not_started(self, error: str) -> None:
        log.warning(line("proxy not started", kind=self._program.name, error=error))

    def _start(self, epoch: int) -> Identity:
        """A new process, which is in the pid file; it takes a few milliseconds. Raises OSError: there is none."""
        self._program.folder.mkdir(parents=True, exist_ok=True)
        self._trim()
        command = self._program.of_epoch(epoch)
        pid = _spawn(self._program, command)
        with suppress(OSError, ValueError):  # our own limit does for it then
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            most = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))
        identity = Identity(pid, started_at(pid), command)
        try:
            write_identity(self._program.pid_file, identity)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # nobody would find it again
            raise
        log.info(line("proxy started", kind=self._program.name, pid=pid))
        return identity

    async def _ended(self, identity: Identity) -> None:
        """It is no more."""
        while True:
            try:
                descriptor = os.pidfd_open(identity.pid)
                break
            except ProcessLookupError:
                return
            except OSError:  # there are too many open files, say: then it is looked at, as it tells nobody
                if not is_alive(identity):
                    return
            await anyio.sleep(_BLIND_S)
        try:
            if not is_alive(identity):
                return
            while True:
                with anyio.move_on_after(_LOOK_S):
                    await anyio.wait_readable(descriptor)
                    return
                self._trim()
        finally:
            os.close(descriptor)

    def _tell_end(self, identity: Identity) -> None:
        status = _reap(identity.pid)
        detail = "" if status is None else f"status {status}"
        log.error(line("proxy ended", kind=self._program.name, pid=identity.pid, detail=detail))

    def _trim(self) -> None:
        """The log does not grow without bounds: one that is over the limit begins anew, if it can be."""
        with suppress(OSError):
            if self._program.log_file.stat().st_size > LOG_BYTES_MAX:
                os.truncate(self._program.log_file, 0)


def _spawn(program: Program, command: tuple[str, ...]) -> int:
    """The id of a new process, in a session of its own. It is no child of ours, as Envoy ends with its parent.

    Of ours it has the environment, the directory and nothing else.
    """
    output = os.open(program.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    told, telling = os.pipe2(os.O_CLOEXEC)
    try:
        shell = os.posix_spawn(
            _SHELL,
            [_SHELL, "-c", _ORPHANED, _SHELL, *command],
            {**os.environ, **program.environment},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                (os.POSIX_SPAWN_DUP2, telling, _TOLD),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
        )
        os.waitpid(shell, 0)
        return int(os.read(told, 32))
    finally:
        for one in (output, told, telling):
            os.close(one)


def _reap(pid: int) -> int | None:
    """Exit status, negative: the signal; None: it is no child of ours, as we are not who gets orphans."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if found else None


def read_identity(path: Path) -> Identity | None:
    """Who the pid file names; None: there is none, or nobody can be read from it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def write_identity(path: Path, identity: Identity) -> None:
    """The pid file names the process; never half of one."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(identity))
    temporary.replace(path)


def started_at(pid: int) -> int:
    """When the process started, in clock ticks; 0: there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def is_alive(identity: Identity) -> bool:
    """Whether that process, and no other of its number, runs."""
    return identity.started != 0 and started_at(identity.pid) == identity.started


async def retire(identity: Identity) -> None:
    """The process is no more, a while after another one was started to take over from it."""
    with anyio.move_on_after(_RETIRED_S):
        while is_alive(identity):  # noqa: ASYNC110  # it tells nobody
            await anyio.sleep(_RETIRED_S / 100)
        return
    await end(identity)


async def end(identity: Identity) -> None:
    """The process is no more: it was asked to go, and killed when it did not."""
    for number, patience_s in ((signal.SIGTERM, _END_S), (signal.SIGKILL, _END_S)):
        with suppress(ProcessLookupError):
            os.kill(identity.pid, number)
        with anyio.move_on_after(patience_s):
            while is_alive(identity):  # noqa: ASYNC110  # it may be nobody's child, and tells nobody
                await anyio.sleep(0.01)
            _reap(identity.pid)
            return
