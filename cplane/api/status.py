"""How the agent is, over gRPC."""

from typing import Final

import anyio
import anyio.to_thread

from cplane.api.errors import NotInTime
from cplane.api.ports import Agent, Engine
from cplane.domain.identity import RESERVED_BY_NUMBER
from cplane.errors import Unavailable
from cplane.pb.cplane.admin import v1 as pb

_NS: Final = 1_000_000_000


class StatusService(pb.StatusServiceBase):
    """Tells what the agent is and how far it is."""

    def __init__(self, engine: Engine, agent: Agent) -> None:
        self._engine, self._agent = engine, agent
        self._started_ns = agent.clock.monotonic_ns()

    async def get(self, message: pb.GetStatusRequest) -> pb.GetStatusResponse:
        """Everything at one glance."""
        engine, agent, world = self._engine, self._agent, self._engine.world
        node, monitor = world.node, agent.monitor()
        tables = [pb.TableCount(table=name, entries=len(engine.desired(name))) for name in sorted(engine.targets)]
        return pb.GetStatusResponse(
            version=agent.version,
            node=node.name if node else "",
            cluster=world.cluster,
            datapath=agent.datapath,
            head=engine.head,
            applied=engine.applied,
            in_sync=engine.in_sync and engine.applied >= engine.head,
            failure=engine.failure,
            uptime_ns=agent.clock.monotonic_ns() - self._started_ns,
            endpoints=len(world.endpoints),
            identities=len(world.identities) + len(RESERVED_BY_NUMBER),
            policies=len(world.policies),
            policy_revision=world.policy_revision,
            tables=tables,
            ipv4_pod_cidr=node.ipv4_pod_cidr if node else "",
            ipv6_pod_cidr=node.ipv6_pod_cidr if node else "",
            log=agent.log_location,
            digest=await self._digest(),
            monitor=pb.MonitorStatus(enabled=monitor.enabled, seen=monitor.seen, lost=monitor.lost),
            served_devices=[
                pb.ServedDevice(name=one.name, present=one.present, xdp=one.xdp, detail=one.detail)
                for one in agent.served_devices()
            ],
            proxies=[
                pb.ProxyStatus(
                    kind=one.kind,
                    pid=one.pid,
                    connected=one.connected,
                    redirects=one.redirects,
                    failing=one.failing,
                    connections=one.connections,
                )
                for one in await agent.proxies()
            ],
        )

    async def wait(self, message: pb.WaitRequest) -> pb.WaitResponse:
        """The datapath has everything up to the position. Raises NotInTime."""
        patience_s = message.timeout_ns / _NS if message.timeout_ns else None
        try:
            with anyio.fail_after(patience_s):
                await self._engine.wait(message.position)
        except TimeoutError:
            engine = self._engine
            because = f"; the datapath refuses: {engine.failure}" if engine.failure else ""
            raise NotInTime(
                f"position {message.position} is not in the datapath after {patience_s:g} s: "
                f"it has {engine.applied}, the log has {engine.head}{because}"
            ) from None
        return pb.WaitResponse(applied=self._engine.applied)

    async def doctor(self, message: pb.DoctorRequest) -> pb.DoctorResponse:
        """What this machine has and lacks."""
        checks = await anyio.to_thread.run_sync(self._agent.doctor)
        return pb.DoctorResponse(
            checks=[
                pb.Check(name=one.name, ok=one.ok, detail=one.detail, needed_for=one.needed_for, remedy=one.remedy)
                for one in checks
            ]
        )

    async def _digest(self) -> str:
        """Empty while the log cannot be read: then most of all somebody wants to know how the agent is."""
        log = self._engine.log
        try:
            last = await log.read(after=log.head - 1, limit=1) if log.head else ()
        except Unavailable:
            return ""
        return last[-1].digest.hex() if last else ""
