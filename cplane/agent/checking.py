"""Backends are tried from time to time: one that does not answer gets no new connections until it does again."""

import errno
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, NamedTuple

import anyio
from anyio.abc import ByteStream

from cplane.agent.attempts import Attempts
from cplane.deciders.service import SetBackendState
from cplane.deciders.servicestate import BackendKey, ServiceState
from cplane.domain.ports import Protocol
from cplane.domain.service import BackendState
from cplane.engine.engine import Engine
from cplane.errors import CplaneError, Unavailable
from cplane.telemetry.log import line, logger
from cplane.transport.address import host_port

ACTOR: Final = "agent"
FAILURES_MAX: Final = 3  # in a row; then it is quarantined
TIMEOUT_S: Final = 2.0
AT_ONCE: Final = 64  # connections that are being made; others wait for their turn
_STATUS_LINE_MAX: Final = 1024  # bytes in which the status must have been said
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r\n]")

_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""What says something of this machine, and nothing of who was to be asked."""

Answers = Callable[[str, int, str], Awaitable[bool]]
"""Whether a backend is well at an address and port: by the answer to GET of a path, or without one by accepting.

Raises CannotAsk where nobody knows.
"""

log = logger("services")


class CannotAsk(Unavailable):
    """No backend can be asked now, as with too many open files."""

    code = "services.cannot_ask"

    def __init__(self, error: OSError) -> None:
        self.error = error

    def __str__(self) -> str:
        return f"backends cannot be tried: {self.error.strerror or self.error}"


class Checked(NamedTuple):
    """A backend that is tried: one that takes connections, or was quarantined.

    `paths` are those that its services want to be asked for, each once; none: a connection is enough for all of them.
    """

    key: BackendKey
    quarantined: bool
    paths: tuple[str, ...] = ()


def checked(state: ServiceState) -> Iterator[Checked]:
    """All of them, each once: those of TCP that are neither ending nor being worked on."""
    excused = {one.id for one in state.records() if one.state != BackendState.ACTIVE}
    paths = _paths(state)
    for key, number in sorted(state.backends_by_key.items()):
        held = state.states.get(number, BackendState.ACTIVE)
        if key.protocol == Protocol.TCP.name and held is not BackendState.MAINTENANCE and number not in excused:
            yield Checked(key, held is BackendState.QUARANTINED, tuple(sorted(paths.get(number, ()))))


def _paths(state: ServiceState) -> Mapping[int, set[str]]:
    """By backend, what its services want it to be asked for; few services want anything."""
    found: dict[int, set[str]] = {}
    for name, service in state.services.items():
        if service.health_path:
            for one in state.backends(name):
                found.setdefault(one.id, set()).add(service.health_path)
    return found


async def answers(address: str, port: int, path: str) -> bool:
    """Whether a connection is accepted in time, and where there is a path, it is found there (200 to 399).

    Raises CannotAsk.
    """
    with anyio.move_on_after(TIMEOUT_S):
        try:
            async with await anyio.connect_tcp(address, port) as stream:
                return not path or await _finds(stream, address, port, path)
        except (OSError, anyio.BrokenResourceError) as error:
            reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
            if isinstance(reason, OSError) and reason.errno in _OURS:
                raise CannotAsk(reason) from error
            return False
    return False


async def _finds(stream: ByteStream, address: str, port: int, path: str) -> bool:
    await stream.send(request(address, port, path))
    head = b""
    while len(head) < _STATUS_LINE_MAX and b"\n" not in head:
        try:
            head += await stream.receive(_STATUS_LINE_MAX)
        except anyio.EndOfStream:
            break
    return 200 <= status(head) < 400


def request(address: str, port: int, path: str) -> bytes:
    """GET of a path, as a client that asks once (RFC 9112, section 3)."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host_port(address, port)}",
        "User-Agent: cplane-health",
        "Accept: */*",
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def status(head: bytes) -> int:
    """The status of an answer of HTTP/1 that begins so; 0 where it is none."""
    found = _STATUS.match(head)
    return int(found[1]) if found else 0


class Checking:
    """Counts the failures of each backend; `once` tries all of them."""

    def __init__(self, engine: Engine, ask: Answers = answers) -> None:
        self._engine, self._ask = engine, ask
        self._failures: dict[BackendKey, int] = {}
        self._turns = anyio.CapacityLimiter(AT_ONCE)
        self._hindrance: CannotAsk | None = None

    async def once(self) -> None:
        """Every backend has been tried, and is quarantined or active as it should be.

        Raises CannotAsk: some could not be tried, and are what they were.
        """
        found = tuple(checked(self._engine.world.service))
        keys = {one.key for one in found}
        self._failures = {key: count for key, count in self._failures.items() if key in keys}
        async with anyio.create_task_group() as tasks:
            for one in found:
                tasks.start_soon(self._check, one)
        error, self._hindrance = self._hindrance, None
        if error is not None:
            raise error

    async def _check(self, one: Checked) -> None:
        try:
            async with self._turns:
                alive = True
                for path in one.paths or ("",):
                    alive = alive and await self._ask(one.key.address, one.key.port, path)
        except CannotAsk as error:
            self._hindrance = error
            return
        if alive:
            self._failures.pop(one.key, None)
            if one.quarantined:
                await self._set(one.key, BackendState.ACTIVE)
            return
        failures = self._failures[one.key] = self._failures.get(one.key, 0) + 1
        if failures >= FAILURES_MAX and not one.quarantined:
            await self._set(one.key, BackendState.QUARANTINED)

    async def _set(self, key: BackendKey, state: BackendState) -> None:
        command = SetBackendState(address=key.address, port=key.port, protocol=Protocol[key.protocol], state=state)
        try:
            await self._engine.submit(command, actor=ACTOR, cause="health check")
        except CplaneError as error:  # it is gone, or another state was set meanwhile
            log.warning(line("services", kind="health", error=str(error)))


async def check_often(engine: Engine, interval_s: float) -> None:
    """Backends are tried every so many seconds until this is cancelled."""
    attempts = Attempts(Checking(engine).once, lambda error: log.error(line("services", kind="health", error=error)))
    while True:
        await anyio.sleep(interval_s)
        await attempts.once()
