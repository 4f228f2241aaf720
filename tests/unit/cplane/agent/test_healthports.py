"""What balancers are answered that ask whether a node has backends of a service."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from cplane.agent.healthports import HealthPorts, backends_here, ports
from cplane.deciders.service import ApplyServices, DeleteServices, SetBackendState
from cplane.deciders.world import World
from cplane.domain.ports import Protocol
from cplane.domain.service import Backend, Backends, BackendState, Frontend, FrontendKind, Service, ServiceName
from cplane.reactors.reaction import settle
from tests.support.scenario import JOIN, given

WEB, API = ServiceName("shop", "web"), ServiceName("shop", "api")
NODE = JOIN.name


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn's


def service(port: int, name: ServiceName = WEB, *, address: str = "203.0.113.1", local: bool = True) -> Service:
    front = Frontend(address, 80, Protocol.TCP, FrontendKind.LOAD_BALANCER)
    return Service(name=name, frontends=(front,), external_local=local, health_check_port=port)


def backends(*places: Backend) -> Backends:
    return Backends(WEB, "slice", places)


HERE = Backend("10.1.0.1", 8080, Protocol.TCP, node=NODE)
HERE_TOO = Backend("10.1.0.2", 8080, Protocol.TCP, node=NODE)
THERE = Backend("10.2.0.1", 8080, Protocol.TCP, node="another")


def world_of(*places: Backend) -> World:
    return given(JOIN, ApplyServices(services=(service(32000),), backends=(backends(*places),)))


def test_only_services_whose_traffic_stays_on_the_node_have_a_port() -> None:
    asked = ApplyServices(
        services=(
            service(32000),
            service(32001, API, address="203.0.113.2", local=False),
            replace(service(0), name=ServiceName("shop", "none"), frontends=()),
        )
    )
    assert ports(given(JOIN, asked).service) == {32000: WEB}


def test_one_port_is_one_services() -> None:
    asked = ApplyServices(services=(service(32000), service(32000, API, address="203.0.113.2")))
    assert ports(given(JOIN, asked).service) == {32000: API}


@pytest.mark.parametrize(
    ("places", "count"),
    [
        ((), 0),
        ((THERE,), 0),
        ((HERE, THERE), 1),
        ((HERE, HERE_TOO, THERE), 2),
        ((HERE, HERE._replace(port=9090)), 1),
        ((HERE._replace(state=BackendState.TERMINATING),), 0),
        ((HERE._replace(weight=0),), 0),
    ],
)
def test_backends_of_the_node_that_take_connections_are_counted(places: tuple[Backend, ...], count: int) -> None:
    assert backends_here(world_of(*places), WEB) == count


def test_a_backend_that_was_set_aside_does_not_count() -> None:
    aside = SetBackendState(address="10.1.0.1", port=8080, protocol=Protocol.TCP, state=BackendState.QUARANTINED)
    _, world = settle(aside, world_of(HERE, HERE_TOO))
    assert backends_here(world, WEB) == 1


class Decided:
    """As much of an engine as is needed."""

    def __init__(self, world: World) -> None:
        self.world, self.failure = world, ""

    def submit(self, command: object) -> None:
        """The command is decided."""
        _, self.world = settle(command, self.world)  # type: ignore[arg-type]  # one of the commands


@asynccontextmanager
async def answering(engine: Decided) -> AsyncIterator[tuple[HealthPorts, anyio.abc.TaskGroup]]:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            made = HealthPorts(engine, "127.0.0.1")  # type: ignore[arg-type]  # as much of an engine as is needed
            await made.once(tasks)
            yield made, tasks
            tasks.cancel_scope.cancel()


async def ask(port: int, path: str = "/healthz") -> tuple[int, str, dict[str, object]]:
    """Status, head and body of the answer."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join([part async for part in stream])
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), head, json.loads(body)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@pytest.mark.anyio
async def test_balancers_are_answered_as_kubernetes_answers_them() -> None:
    port = free_port()
    engine = Decided(given(JOIN, ApplyServices(services=(service(port),), backends=(backends(HERE, THERE),))))
    async with answering(engine) as (made, tasks):
        for path in ("/", "/healthz", "/any/path"):
            status, head, body = await ask(port, path)
            assert status == 200
            assert body == {
                "service": {"namespace": "shop", "name": "web"},
                "localEndpoints": 1,
                "serviceProxyHealthy": True,
            }
            assert "content-type: application/json" in head
            assert "x-load-balancing-endpoint-weight: 1" in head
        engine.failure = "the kernel refuses"
        status, _, body = await ask(port)
        assert (status, body["serviceProxyHealthy"]) == (503, False)
        engine.failure = ""
        engine.submit(ApplyServices(backends=(backends(THERE),)))
        status, _, body = await ask(port)
        assert (status, body["localEndpoints"]) == (503, 0)
        engine.submit(DeleteServices(names=(WEB,)))
        await made.once(tasks)
        while True:
            try:
                await ask(port)
            except OSError:
                break
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_a_port_that_somebody_else_has_is_tried_again() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = int(taken.getsockname()[1])
    engine = Decided(given(JOIN, ApplyServices(services=(service(port),), backends=(backends(HERE),))))
    async with answering(engine) as (made, tasks):
        taken.close()
        await made.once(tasks)
        assert (await ask(port))[0] == 200
        engine.submit(DeleteServices(names=(WEB,)))
        engine.submit(ApplyServices(services=(service(port, API),)))
        await made.once(tasks)
        status, _, body = await ask(port)
        assert (status, body["service"]) == (503, {"namespace": "shop", "name": "api"})
