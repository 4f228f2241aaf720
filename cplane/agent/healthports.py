"""Balancers in front of the nodes ask each of them, at a port of each service, whether it has backends of it.

That is for services whose traffic from outside stays on the node (`external_local`). The answers are those of
Kubernetes: 200 or 503 for any path, and how many there are.
"""

import json
from typing import Final

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup, TaskStatus

from cplane.deciders.servicestate import ServiceState
from cplane.deciders.world import World
from cplane.domain.service import BackendState, ServiceName
from cplane.engine.engine import Engine
from cplane.telemetry.log import line, logger
from cplane.transport.address import TcpAddress
from cplane.transport.sockets import CannotListen

INTERVAL_S: Final = 1.0

log = logger("services")


def ports(state: ServiceState) -> dict[int, ServiceName]:
    """Which service is asked about at a port; of several the first by name."""
    found: dict[int, ServiceName] = {}
    for name, service in sorted(state.services.items()):
        if service.health_check_port and service.external_local:
            found.setdefault(service.health_check_port, name)
    return found


def backends_here(world: World, name: ServiceName) -> int:
    """How many of this node's addresses take new connections to the service."""
    mine = {address for one in world.endpoints.values() for address in (one.ipv4, one.ipv6) if address}
    node = world.node.name if world.node else ""
    return len(
        {
            one.address
            for one in world.service.backends(name)
            if (one.node == node if one.node else one.address in mine)
            and one.weight
            and world.service.state_of(one) is BackendState.ACTIVE
        }
    )


class HealthPorts:
    """The ports that are listened at. Those of services that come and go are followed in a second."""

    def __init__(self, engine: Engine, host: str = "") -> None:
        self._engine, self._host = engine, host
        self._seen: object = None
        self._names: dict[int, ServiceName] = {}
        self._listening: dict[int, CancelScope] = {}
        self._refused: dict[int, str] = {}

    async def run(self) -> None:
        """Ports are answered until this is cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self.once(tasks)
                await anyio.sleep(INTERVAL_S)

    async def once(self, tasks: TaskGroup) -> None:
        """Every port that is wanted now is listened at, or was tried; no other is."""
        services = self._engine.world.service.services
        if services is self._seen and not self._refused:
            return
        self._seen, self._names = services, ports(self._engine.world.service)
        for port in self._listening.keys() - self._names.keys():
            self._listening.pop(port).cancel()
        self._refused = {port: told for port, told in self._refused.items() if port in self._names}
        for port, name in self._names.items():
            if port not in self._listening:
                await self._listen(tasks, port, name)

    async def _listen(self, tasks: TaskGroup, port: int, name: ServiceName) -> None:
        scope = CancelScope()
        try:
            await tasks.start(self._serve, port, name, scope)
        except CannotListen as error:
            if self._refused.get(port) != str(error):
                log.warning(line("services", kind="health.port", error=str(error), detail=f"of service {name}"))
            self._refused[port] = str(error)
        else:
            self._refused.pop(port, None)
            self._listening[port] = scope

    async def _serve(
        self, port: int, name: ServiceName, scope: CancelScope, *, task_status: TaskStatus[TcpAddress]
    ) -> None:
        from cplane.transport.http import Answer, serve  # what it imports costs every other agent 10 MB

        async def answer(_accept: str) -> Answer:
            whose = self._names.get(port, name)
            count, healthy = backends_here(self._engine.world, whose), not self._engine.failure
            told = {
                "service": {"namespace": whose.namespace, "name": whose.name},
                "localEndpoints": count,
                "serviceProxyHealthy": healthy,
            }
            headers = {"x-content-type-options": "nosniff", "x-load-balancing-endpoint-weight": str(count)}
            return Answer(json.dumps(told).encode(), "application/json", 200 if count and healthy else 503, headers)

        with scope:
            await serve({"/{path:path}": answer}, TcpAddress(self._host, port), task_status=task_status)
