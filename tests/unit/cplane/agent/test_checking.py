"""Backends that do not answer are quarantined, and active again when they do."""

import anyio
import pytest

from cplane.agent.checking import FAILURES_MAX, Checking, answers, checked
from cplane.deciders.service import ApplyServices, SetBackendState
from cplane.deciders.world import World
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, BackendState, Frontend, Service, ServiceName
from cplane.reactors.reaction import settle
from tests.support.scenario import JOIN, given

WEB = ServiceName("shop", "web")
PLACES = (
    Backend("10.1.0.1", 80, Protocol.TCP),
    Backend("10.1.0.2", 80, Protocol.TCP),
    Backend("10.1.0.3", 53, Protocol.UDP),
    Backend("10.1.0.4", 80, Protocol.TCP, state=BackendState.TERMINATING),
)
APPLY = ApplyServices(
    services=(Service(name=WEB, frontends=(Frontend("10.96.0.1", 80, Protocol.TCP),)),),
    backends=(Backends(WEB, "s1", PLACES),),
)


class Decided:
    """As much of an engine as is needed."""

    def __init__(self) -> None:
        self.world: World = given(JOIN, APPLY)

    async def submit(self, command, *, actor: str, cause: str = "") -> None:
        """The command is decided."""
        assert (actor, cause) == ("agent", "health check")
        _, self.world = settle(command, self.world)

    @property
    def states(self) -> dict[str, str]:
        """What was set of backends."""
        held = self.world.service
        keys = {number: key for key, number in held.backends_by_key.items()}
        return {keys[number].address: state.value for number, state in held.states.items()}


def test_only_those_are_tried_that_could_take_connections() -> None:
    assert [one.key.address for one in checked(given(JOIN, APPLY).service)] == ["10.1.0.1", "10.1.0.2"]
    kept = SetBackendState(address="10.1.0.2", port=80, protocol=Protocol.TCP, state=BackendState.MAINTENANCE)
    assert [one.key.address for one in checked(given(JOIN, APPLY, kept).service)] == ["10.1.0.1"]


@pytest.mark.anyio
async def test_a_backend_is_quarantined_after_failures_in_a_row_and_comes_back_at_once() -> None:
    engine, down = Decided(), {"10.1.0.2"}

    async def ask(address: str, port: int) -> bool:
        assert port == 80
        return address not in down

    checking = Checking(engine, ask)  # type: ignore[arg-type]  # as much of an engine as is needed
    for _ in range(FAILURES_MAX - 1):
        await checking.once()
    assert engine.states == {}
    down.clear()
    await checking.once()
    down.add("10.1.0.2")
    for _ in range(FAILURES_MAX - 1):
        await checking.once()
    assert engine.states == {}, "an answer in between begins the count anew"
    await checking.once()
    assert engine.states == {"10.1.0.2": "quarantined"}
    await checking.once()
    down.clear()
    await checking.once()
    assert engine.states == {}


@pytest.mark.anyio
async def test_a_listener_answers_and_a_free_port_does_not() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        _, port = listener.extra(anyio.abc.SocketAttribute.local_address)
        assert await answers("127.0.0.1", port)
    assert not await answers("127.0.0.1", port)
