"""Backends that do not answer are quarantined, and active again when they do."""

import anyio
import pytest

from cplane.agent.checking import FAILURES_MAX, CannotAsk, Checking, answers, checked, request, status
from cplane.deciders.service import ApplyServices, SetBackendState
from cplane.deciders.world import World
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, BackendState, Frontend, Service, ServiceName
from cplane.reactors.reaction import settle
from tests.support.exhausted import files_left
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

    def __init__(self, *more: ApplyServices) -> None:
        self.world: World = given(JOIN, APPLY, *more)

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

    async def ask(address: str, port: int, path: str) -> bool:
        assert (port, path) == (80, "")
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


def asking(name: str, path: str, *places: Backend) -> ApplyServices:
    """A service whose backends are asked for a path."""
    full = ServiceName("shop", name)
    return ApplyServices(
        services=(Service(name=full, frontends=(), health_path=path),), backends=(Backends(full, "s1", places),)
    )


def test_a_backend_is_asked_for_the_paths_of_all_its_services() -> None:
    state = given(
        JOIN, APPLY, asking("api", "/ready", PLACES[0], PLACES[2]), asking("all", "/healthz", *PLACES)
    ).service
    assert [(one.key.address, one.paths) for one in checked(state)] == [
        ("10.1.0.1", ("/healthz", "/ready")),
        ("10.1.0.2", ("/healthz",)),
    ]
    assert {one.paths for one in checked(given(JOIN, APPLY).service)} == {()}


@pytest.mark.anyio
async def test_a_backend_that_fails_one_of_its_services_is_quarantined() -> None:
    engine, asked = Decided(asking("api", "/ready", PLACES[0])), []

    async def ask(address: str, port: int, path: str) -> bool:
        asked.append((address, path))
        return path != "/ready"

    checking = Checking(engine, ask)  # type: ignore[arg-type]  # as above
    for _ in range(FAILURES_MAX):
        await checking.once()
    assert engine.states == {"10.1.0.1": "quarantined"}
    assert set(asked) == {("10.1.0.1", "/ready"), ("10.1.0.2", "")}


@pytest.mark.anyio
async def test_a_listener_answers_and_a_free_port_does_not() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        _, port = listener.extra(anyio.abc.SocketAttribute.local_address)
        assert await answers("127.0.0.1", port, "")
    for path in ("", "/healthz"):
        assert not await answers("127.0.0.1", port, path)


@pytest.mark.anyio
async def test_that_nobody_can_be_asked_says_nothing_of_a_backend() -> None:
    engine = Decided()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        _, port = listener.extra(anyio.abc.SocketAttribute.local_address)

        async def ask(_address: str, _port: int, path: str) -> bool:
            return await answers("127.0.0.1", port, path)

        checking = Checking(engine, ask)  # type: ignore[arg-type]  # as above
        for _ in range(FAILURES_MAX):
            with files_left(), pytest.raises(CannotAsk, match="Too many open files"):
                await checking.once()
    assert engine.states == {}


OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "well"),
    [
        ((OK,), True),
        ((b"HTTP/1.0 204\r\n\r\n",), True),
        ((b"HTTP/1.1 3", b"02 Found\r\nLocation: /login\r\n\r\n"), True),
        ((b"HTTP/1.1 404 Not Found\r\n\r\n",), False),
        ((b"HTTP/1.1 503 Service Unavailable\r\n\r\n",), False),
        ((b"one GET /healthz HTTP/1.1\r\n",), False),
        ((b"HTTP/1.1 ",), False),
        ((b"\0" * 4096, OK), False),
        ((), False),
    ],
)
async def test_who_is_asked_for_a_path_must_have_it(said: tuple[bytes, ...], well: bool) -> None:
    heard = []

    async def answer(client: anyio.abc.SocketStream) -> None:
        async with client:
            heard.append(await client.receive())
            for part in said:
                await client.send(part)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        _, port = listener.extra(anyio.abc.SocketAttribute.local_address)
        assert await answers("127.0.0.1", port, "/healthz?deep=1") is well
        tasks.cancel_scope.cancel()
    assert heard == [request("127.0.0.1", port, "/healthz?deep=1")]


def test_it_is_asked_as_http_has_it() -> None:
    lines = request("fd00::1", 8080, "/a?b=%20").split(b"\r\n")
    assert lines[:2] == [b"GET /a?b=%20 HTTP/1.1", b"Host: [fd00::1]:8080"]
    assert b"Connection: close" in lines
    assert lines[-2:] == [b"", b""]


@pytest.mark.parametrize(("head", "expected"), [(b"HTTP/1.1 200 OK\r\n", 200), (b"HTTP/1.1 2000\r\n", 0), (b"", 0)])
def test_a_status_is_what_stands_where_it_should(head: bytes, expected: int) -> None:
    assert status(head) == expected
