"""What Hubble is told of what the engine does: events of the agent, and how others reach this node's observer."""

from collections.abc import Iterator, Mapping
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Final, Protocol

import anyio

from cplane.config.model import AgentConfig
from cplane.deciders.world import World
from cplane.domain.endpoint import Endpoint
from cplane.domain.labels import LabelSet
from cplane.domain.node import Node
from cplane.domain.policy import Policy, PolicyRef
from cplane.engine.engine import Turn
from cplane.engine.ports import Clock
from cplane.engine.reconcile import AnyDelta
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.hubble.eventring import EventRing
from cplane.hubble.peer import Peer, Peers, peer_name, tls_name
from cplane.pb.flow import flow_pb2
from cplane.projections.addresses import unpacked
from cplane.projections.tables import IPCACHE, POLICY
from cplane.transport.address import host_port
from datapath.maps.ipcache import IpcacheInfo, IpcacheKey
from datapath.maps.policy import AUDIT_PLANE
from datapath.maps.spread import policies_of

_PATIENCE_S: Final = 1.0  # between looks at whether the datapath fails
_OF_ENDPOINTS: Final = EndpointCreated | EndpointRelabelled | EndpointConfigured | EndpointDeleted


class Enforcement(Protocol):
    """How far the datapath is; the engine fits."""

    @property
    def applied(self) -> int:
        """Position whose tables are all in the kernel."""
        ...

    @property
    def failure(self) -> str:
        """Why the datapath could not be written the last time; empty when it could."""
        ...

    async def wait(self, position: int) -> None:
        """Returns when the kernel has everything up to `position`."""
        ...


class Telling:
    """All that Hubble is told, kept in step with the engine's turns."""

    def __init__(self, config: AgentConfig, clock: Clock) -> None:
        self.ring: EventRing[flow_pb2.AgentEvent] = EventRing()
        self.agent_events = AgentEvents(self.ring, clock)
        self.peers = Peers()
        self._tcp, self._tls = config.hubble.tcp, bool(config.hubble.tls_cert)

    def started(self, world: World) -> None:
        """The agent runs, and the world is what its log says."""
        self.agent_events.started(world)
        self.peers.set(reached(world.node, self._tcp, tls=self._tls))

    def turn(self, turn: Turn) -> None:
        """The engine has taken a command."""
        self.agent_events.turn(turn)
        if turn.after.node != turn.before.node:
            self.peers.set(reached(turn.after.node, self._tcp, tls=self._tls))


class AgentEvents:
    """Fills a ring with what the engine does, as Hubble's agent events.

    An endpoint is regenerated when the datapath has what was decided about it. The messages are made when somebody
    reads them: a command may change thousands of rows, and nobody waits for it because of us.
    """

    def __init__(self, ring: EventRing[flow_pb2.AgentEvent], clock: Clock, *, patience_s: float = _PATIENCE_S) -> None:
        self._ring, self._clock, self._patience_s = ring, clock, patience_s
        self._endpoints: Mapping[int, Endpoint] = {}
        self._pending: dict[int, int] = {}  # endpoints that wait for the datapath, and for which position
        self._more = anyio.Event()

    def started(self, world: World) -> None:
        """The agent runs, and all of its endpoints are regenerated."""
        now = self._clock.now_ns()
        self._ring.add(now, partial(_started, now))
        self._endpoints = world.endpoints
        self._wait_for(world.endpoints, world.position)

    def turn(self, turn: Turn) -> None:
        """The engine has taken a command."""
        now = self._clock.now_ns()
        before, after = turn.before, turn.after
        revision = before.policy_revision
        touched: dict[str, Endpoint] = {}
        for event in turn.events:
            match event:
                case PolicyUpserted() | PolicyDeleted():
                    revision += 1
                    world = after if isinstance(event, PolicyUpserted) else before
                    policy = world.policies.get(PolicyRef(event.kind, event.namespace, event.name))
                    if isinstance(policy, Policy):
                        self._ring.add(now, partial(_policy, policy, revision, gone=world is before))
                case EndpointCreated() | EndpointRelabelled() | EndpointConfigured() | EndpointDeleted():
                    gone = isinstance(event, EndpointDeleted)
                    held = (before if gone else after).endpoints.get(event.endpoint)
                    if held is None:
                        continue  # it came and went in one command
                    touched.update(dict.fromkeys(held.addresses, held))
                    if gone or isinstance(event, EndpointCreated):
                        self._ring.add(now, partial(_endpoint, held, gone=gone))
                case _:
                    pass
        self._rows(turn.deltas.get(IPCACHE), touched, after.node, now)
        self._endpoints = after.endpoints
        self._wait_for(_concerned(turn), after.position)

    def _rows(self, delta: AnyDelta | None, touched: Mapping[str, Endpoint], node: Node | None, now: int) -> None:
        if delta is None:
            return
        # what the ring would forget at once need not enter it
        changed = [*((key, delta.upserts[key]) for key in delta.upserts), *((key, None) for key in delta.deletes)]
        for key, row in changed[-self._ring.capacity :]:
            self._ring.add(now, partial(_row, key, row, delta.before.get(key), touched, node))

    def _wait_for(self, endpoints: "Mapping[int, Endpoint] | set[int]", position: int) -> None:
        self._pending.update(dict.fromkeys(endpoints, position))
        if self._pending:
            self._more.set()

    async def follow(self, engine: Enforcement) -> None:
        """Endpoints are told as regenerated when the datapath has them, and as failed while it cannot be written."""
        told = ""
        while True:
            self._more = anyio.Event()
            if not self._pending:
                await self._more.wait()
                continue
            with anyio.move_on_after(self._patience_s):
                await engine.wait(min(self._pending.values()))
            done = [one for one, position in self._pending.items() if position <= engine.applied]
            self._tell(done, "")
            for one in done:
                del self._pending[one]
            if engine.failure and engine.failure != told:
                self._tell(list(self._pending), engine.failure)
            told = engine.failure

    def _tell(self, endpoints: list[int], error: str) -> None:
        now = self._clock.now_ns()
        for one in endpoints:
            held = self._endpoints.get(one)
            if held is not None:
                self._ring.add(now, partial(_regenerated, held, error))


def _concerned(turn: Turn) -> set[int]:
    """The endpoints that what was decided changes something for."""
    found = {event.endpoint for event in turn.events if isinstance(event, _OF_ENDPOINTS)}
    delta = turn.deltas.get(POLICY)
    if delta is not None:
        changed = policies_of(delta.before) | policies_of(delta.after)
        policies = {number & ~AUDIT_PLANE for number in changed}
        found.update(one.id for one in turn.after.endpoints.values() if one.policy_id in policies)
    return found.intersection(turn.after.endpoints)


def _started(now_ns: int) -> flow_pb2.AgentEvent:
    told = flow_pb2.AgentEvent(type=flow_pb2.AGENT_STARTED)
    told.agent_start.time.FromNanoseconds(now_ns)
    return told


def _policy(policy: Policy, revision: int, *, gone: bool) -> flow_pb2.AgentEvent:
    told = flow_pb2.AgentEvent(type=flow_pb2.POLICY_DELETED if gone else flow_pb2.POLICY_UPDATED)
    told.policy_update.labels.extend(sorted({text for rule in policy.rules for text in _texts(rule.labels)}))
    told.policy_update.revision = revision
    told.policy_update.rule_count = len(policy.rules)
    return told


def _endpoint(endpoint: Endpoint, *, gone: bool) -> flow_pb2.AgentEvent:
    told = flow_pb2.AgentEvent(type=flow_pb2.ENDPOINT_DELETED if gone else flow_pb2.ENDPOINT_CREATED)
    update = told.endpoint_update
    update.id, update.pod_name, update.namespace = endpoint.id, endpoint.pod, endpoint.namespace
    update.labels.extend(_texts(endpoint.labels))
    return told


def _regenerated(endpoint: Endpoint, error: str) -> flow_pb2.AgentEvent:
    kind = flow_pb2.ENDPOINT_REGENERATE_FAILURE if error else flow_pb2.ENDPOINT_REGENERATE_SUCCESS
    told = flow_pb2.AgentEvent(type=kind)
    told.endpoint_regenerate.id, told.endpoint_regenerate.error = endpoint.id, error
    told.endpoint_regenerate.labels.extend(_texts(endpoint.labels))
    return told


def _row(
    key: IpcacheKey,
    row: IpcacheInfo | None,
    before: IpcacheInfo | None,
    touched: Mapping[str, Endpoint],
    node: Node | None,
) -> flow_pb2.AgentEvent:
    """A row of the ipcache that is there now, or is gone when there is none."""
    told = flow_pb2.AgentEvent(type=flow_pb2.IPCACHE_DELETED if row is None else flow_pb2.IPCACHE_UPSERTED)
    update, held = told.ipcache_update, row or before
    assert held is not None, key
    address = unpacked(key.family, key.addr)
    update.cidr = str(ip_network((address, key.prefix_bits)))
    update.identity, update.encrypt_key = held.identity, held.encrypt_key
    pod = touched.get(str(address))
    if pod is not None:
        update.namespace, update.pod_name = pod.namespace, pod.pod
    host = _first(node, address.version) if pod is not None else ""
    if row is not None:
        update.host_ip = host
        if before is not None:
            update.old_identity.value = before.identity
    return told


def _texts(labels: LabelSet) -> list[str]:
    return [text.removesuffix("=") for text in labels.texts()]


def _first(node: Node | None, *families: int) -> str:
    """The node's first address of the first family that it has one of; empty when there is none."""
    return next((text for family in families for text in _addresses(node) if ip_address(text).version == family), "")


def _addresses(node: Node | None) -> Iterator[str]:
    """Where others reach the node: neither its loopback nor what is good for one link only."""
    for text in node.addresses if node is not None else ():
        address = ip_address(text)
        if not (address.is_loopback or address.is_link_local):
            yield text


def _anywhere(host: str) -> tuple[int, ...]:
    """The families of whose addresses a listener takes all; none: it listens at one address, or a name."""
    if not host:
        return 4, 6
    try:
        address = ip_address(host)
    except ValueError:
        return ()
    return (address.version,) if address.is_unspecified else ()


def reached(node: Node | None, tcp: tuple[str, int] | None, *, tls: bool) -> list[Peer]:
    """This node as others find it, once it has joined. `tcp` is where its observer listens, None: nowhere."""
    if node is None:
        return []
    name = peer_name(node.cluster, node.name)
    if tcp is None:
        return [Peer(name)]
    host, port = tcp
    if families := _anywhere(host):
        host = _first(node, *families)
    return [Peer(name, host_port(host, port) if host else "", tls_name(node.cluster, node.name) if tls else "")]
