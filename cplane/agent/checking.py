"""Backends are tried from time to time: one that does not answer gets no new connections until it does again."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, NamedTuple

import anyio

from cplane.deciders.service import SetBackendState
from cplane.deciders.servicestate import BackendKey, ServiceState
from cplane.domain.ports import Protocol
from cplane.domain.service import BackendState
from cplane.engine.engine import Engine
from cplane.errors import CplaneError
from cplane.telemetry.log import line, logger

ACTOR: Final = "agent"
FAILURES_MAX: Final = 3  # in a row; then it is quarantined
TIMEOUT_S: Final = 2.0
AT_ONCE: Final = 64  # connections that are being made; others wait for their turn

Answers = Callable[[str, int], Awaitable[bool]]
"""Whether somebody accepts connections at an address and port."""

log = logger("services")


class Checked(NamedTuple):
    """A backend that is tried: one that takes connections, or was quarantined."""

    key: BackendKey
    quarantined: bool


def checked(state: ServiceState) -> Iterator[Checked]:
    """All of them, each once: those of TCP that are neither ending nor being worked on."""
    excused = {one.id for one in state.records() if one.state != BackendState.ACTIVE}
    for key, number in sorted(state.backends_by_key.items()):
        held = state.states.get(number, BackendState.ACTIVE)
        if key.protocol == Protocol.TCP.name and held is not BackendState.MAINTENANCE and number not in excused:
            yield Checked(key, held is BackendState.QUARANTINED)


async def answers(address: str, port: int) -> bool:
    """Whether a connection is accepted in time."""
    with anyio.move_on_after(TIMEOUT_S):
        try:
            stream = await anyio.connect_tcp(address, port)
        except OSError:
            return False
        await stream.aclose()
        return True
    return False


class Checking:
    """Counts the failures of each backend; `once` tries all of them."""

    def __init__(self, engine: Engine, ask: Answers = answers) -> None:
        self._engine, self._ask = engine, ask
        self._failures: dict[BackendKey, int] = {}
        self._turns = anyio.CapacityLimiter(AT_ONCE)

    async def once(self) -> None:
        """Every backend has been tried, and is quarantined or active as it should be."""
        found = tuple(checked(self._engine.world.service))
        keys = {one.key for one in found}
        self._failures = {key: count for key, count in self._failures.items() if key in keys}
        async with anyio.create_task_group() as tasks:
            for one in found:
                tasks.start_soon(self._check, one)

    async def _check(self, one: Checked) -> None:
        async with self._turns:
            alive = await self._ask(one.key.address, one.key.port)
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
    checking = Checking(engine)
    while True:
        await anyio.sleep(interval_s)
        await checking.once()
