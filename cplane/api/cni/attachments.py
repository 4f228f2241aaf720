"""ADD, DEL, CHECK, GC and STATUS: a container's interface becomes an endpoint with a link, and stops being one."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_interface
from typing import Final, TypeVar, TypeVarTuple

import anyio
from anyio import CapacityLimiter, to_thread

from cplane.api.cni import wire
from cplane.api.cni.errors import cni_error
from cplane.api.cni.ports import Engine, Plumbing
from cplane.api.cni.request import NetworkConfig, Pod, Request, pod_of
from cplane.api.cni.result import result
from cplane.api.cni.turns import Turns
from cplane.api.cni.wire import CniError
from cplane.api.cni.wiring import gateways, wiring_of
from cplane.deciders.endpoint import CreateEndpoint, DeleteEndpoint
from cplane.domain.endpoint import Endpoint
from cplane.errors import CplaneError
from cplane.events.endpoint import EndpointCreated
from cplane.telemetry.log import line, logger
from datapath.errors import DatapathError
from datapath.netlink.attachment import Attachment, Link, Wiring

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Deliver = Callable[[dict[str, object]], Awaitable[None]]

ADD_DEADLINE_S: Final = 25.0  # less than the plugin's 30, so that the runtime hears why
UNDO_DEADLINE_S: Final = 10.0
PLUMBERS: Final = 8  # threads that make links at the same time; the kernel has one lock for all of them

log = logger("cni")


class Attachments:
    """Keeps endpoints and links together. Calls for one attachment take turns, others run at the same time."""

    def __init__(self, engine: Engine, plumbing: Plumbing) -> None:
        self._engine = engine
        self._plumbing = plumbing
        self._turns = Turns()
        self._plumbers = CapacityLimiter(PLUMBERS)

    async def add(self, request: Request, actor: str, deliver: Deliver) -> None:
        """The interface works, its policy is enforced, and the answer is delivered; asked again, the same answer.

        Whatever fails, the delivery included, nothing of a new attempt is left. An attachment that is known
        but not right any more (a new namespace, a link that somebody removed) is made again with the
        addresses that it had. Raises CniError, and what `deliver` raises.
        """
        pod = pod_of(request, self._engine.world.cluster)
        try:
            with anyio.fail_after(ADD_DEADLINE_S):
                async with self._turns.of(request.container, request.interface):
                    await self._add(request, pod, actor, deliver)
        except TimeoutError as late:
            reason = self._engine.failure or "the datapath has not taken it in"
            raise CniError(wire.TRY_AGAIN_LATER, f"not done in {ADD_DEADLINE_S:.0f} s: {reason}") from late
        except (CplaneError, DatapathError) as error:
            raise cni_error(error) from error

    async def delete(self, container: str, interface: str, actor: str) -> None:
        """Endpoint and link are gone, whatever there was of them. Raises CniError."""
        try:
            async with self._turns.of(container, interface):
                await self._remove(Attachment("", container, interface), actor)
        except (CplaneError, DatapathError) as error:
            raise cni_error(error) from error

    async def check(self, request: Request) -> None:
        """Everything that ADD made and the earlier result lists is there. Raises CniError."""
        try:
            async with self._turns.of(request.container, request.interface):
                problems = await self._problems(request)
        except (CplaneError, DatapathError) as error:
            raise cni_error(error) from error
        if problems:
            raise CniError(wire.UNHEALTHY, problems[0], "; ".join(problems[1:]))

    async def collect(self, config: NetworkConfig, actor: str) -> int:
        """Attachments of the network that the runtime does not know are gone; how many there were.

        All are tried; raises the CniError of the first that could not be removed. Links say which network
        they belong to. An endpoint whose link is gone says so no more, and is removed only when its
        namespace is gone as well, as at the start of the agent.
        """
        try:
            stale = await self._stale(config)
        except DatapathError as error:
            raise cni_error(error) from error
        failures: list[CniError] = []
        for container, interface in sorted(stale):
            try:
                await self.delete(container, interface, actor)
            except CniError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return len(stale)

    async def _stale(self, config: NetworkConfig) -> set[tuple[str, str]]:
        """Attachments of the network that nobody knows any more. Raises DatapathError."""
        valid = {(one.container, one.interface) for one in (*config.valid, *config.valid_too)}
        owned = await self._thread(self._plumbing.owned)
        linked = [link.attachment for link in owned.values() if link.attachment is not None]
        stale = {(one.container, one.interface) for one in linked if one.network == config.name} - valid
        known = {(one.container, one.interface) for one in linked} | valid
        for endpoint in tuple(self._engine.world.endpoints.values()):
            lost = endpoint.attachment not in known
            if lost and not await self._thread(self._plumbing.netns_exists, endpoint.netns):
                stale.add(endpoint.attachment)
        return stale

    def status(self) -> None:
        """ADD can be served. Raises CniError."""
        if self._engine.world.node is None:
            raise CniError(wire.NOT_AVAILABLE, "the agent is starting: the node has no pod prefixes yet")
        if self._engine.failure:
            reason = f"the datapath cannot be written: {self._engine.failure}"
            raise CniError(wire.LIMITED_CONNECTIVITY, reason)
        if not self._engine.in_sync:
            raise CniError(wire.NOT_AVAILABLE, "the agent is starting: the datapath is not in sync yet")

    async def _add(self, request: Request, pod: Pod, actor: str, deliver: Deliver) -> None:
        held = self._endpoint(request)
        if held is not None:
            wiring = self._wiring(held, request)
            if not await self._thread(self._plumbing.problems, wiring, ()):
                everything = ("::/0" if ":" in gateway else "0.0.0.0/0" for gateway in wiring.gateways)
                # Another interface of the container may have them; then the first answer did not list them either.
                led = [one for one in everything if not await self._thread(self._plumbing.problems, wiring, (one,))]
                await deliver(_document(request, wiring, tuple(led)))
                return
            pod = _keeping_addresses(pod, held)
        try:
            if held is not None:
                await self._remove(request.attachment, actor, cause="ADD found it broken")
            wiring, routed = await self._make(request, pod, actor)
            await deliver(_document(request, wiring, routed))
        except BaseException:
            await self._undo(request, actor)
            raise

    async def _make(self, request: Request, pod: Pod, actor: str) -> tuple[Wiring, tuple[str, ...]]:
        attachment, config = request.attachment, request.config
        link = await self._thread(self._plumbing.create, attachment, request.netns, config.mtu)
        committed = await self._engine.submit(_command(request, pod, link), actor=actor)
        created = next(event for event in committed.events if isinstance(event, EndpointCreated))
        wiring = Wiring(
            attachment=attachment,
            netns=request.netns,
            link=link,
            addresses=tuple(filter(None, (created.ipv4, created.ipv6))),
            gateways=gateways(self._engine.world.node, created.ipv4, created.ipv6),
        )
        # The reconciler writes the tables meanwhile, in threads of its own.
        routed = await self._thread(self._plumbing.configure, wiring)
        await self._engine.wait(committed.position)
        return wiring, routed

    async def _undo(self, request: Request, actor: str) -> None:
        """Nothing of the attachment is left, even when the caller is being cancelled.

        What cannot be removed is logged; the runtime's DEL, a GC or the agent's next start removes it.
        """
        reason = f"not done in {UNDO_DEADLINE_S:.0f} s"
        with anyio.move_on_after(UNDO_DEADLINE_S, shield=True):
            try:
                await self._remove(request.attachment, actor, cause="ADD failed")
                return
            except (CplaneError, DatapathError) as error:
                reason = str(error)
        log.error(line("cni", kind="cni.undo", container=request.container, error=reason))

    async def _remove(self, attachment: Attachment, actor: str, cause: str = "") -> None:
        """The endpoint goes first: a link without an endpoint is recognised and swept, the reverse is not."""
        command = DeleteEndpoint(container_id=attachment.container, container_interface=attachment.interface)
        await self._engine.submit(command, actor=actor, cause=cause)
        await self._thread(self._plumbing.delete, attachment.host_interface)

    async def _problems(self, request: Request) -> tuple[str, ...]:
        previous = request.config.previous
        assert previous is not None, "no CHECK without prevResult gets past wire.check"
        endpoint = self._endpoint(request)
        if endpoint is None:
            reason = f"container {request.container!r} has no endpoint for {request.interface!r}"
            raise CniError(wire.CONTAINER_UNKNOWN, reason)
        wiring = self._wiring(endpoint, request)
        routed = [route.dst for route in previous.routes if route.gw in wiring.gateways]
        found = await self._thread(self._plumbing.problems, wiring, routed)
        listed = {_address(ip.address) for ip in previous.ips}
        lost = (address for address in endpoint.addresses if address not in listed)
        return (*found, *(f"prevResult does not list the address {address}" for address in lost))

    def _endpoint(self, request: Request) -> Endpoint | None:
        world = self._engine.world
        number = world.endpoint.by_attachment.get((request.container, request.interface))
        return world.endpoints[number] if number is not None else None

    def _wiring(self, endpoint: Endpoint, request: Request) -> Wiring:
        config = request.config
        wiring = wiring_of(endpoint, self._engine.world.node, network=config.name, mtu=config.mtu)
        return replace(wiring, netns=request.netns)

    async def _thread(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await to_thread.run_sync(work, *args, limiter=self._plumbers)


def _command(request: Request, pod: Pod, link: Link) -> CreateEndpoint:
    return CreateEndpoint(
        container_id=request.container,
        container_interface=request.interface,
        netns=request.netns,
        host_interface=link.host_interface,
        host_ifindex=link.ifindex,
        mac=link.mac,
        host_mac=link.host_mac,
        namespace=pod.namespace,
        pod=pod.name,
        pod_uid=pod.uid,
        labels=pod.labels,
        named_ports=pod.named_ports,
        requested_ipv4=pod.requested_ipv4,
        requested_ipv6=pod.requested_ipv6,
        netns_cookie=link.netns_cookie,
    )


def _keeping_addresses(pod: Pod, held: Endpoint) -> Pod:
    """The pod with the addresses that its endpoint has, where it asks for no others."""
    return replace(
        pod,
        requested_ipv4=pod.requested_ipv4 or held.ipv4,
        requested_ipv6=pod.requested_ipv6 or held.ipv6,
    )


def _document(request: Request, wiring: Wiring, routed: tuple[str, ...]) -> dict[str, object]:
    return result(request.config.version, wiring, routed, request.config.dns)


def _address(text: str) -> str:
    try:
        return str(ip_interface(text).ip)
    except ValueError as error:
        reason = f"prevResult: {text!r} is not an address with a prefix length"
        raise CniError(wire.INVALID_CONFIG, reason) from error
