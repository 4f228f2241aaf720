"""What the agent puts right when it starts: links and endpoints that lost each other while it was away."""

from collections.abc import Mapping
from dataclasses import dataclass

from anyio import to_thread

from cplane.api.cni.ports import Engine, Plumbing
from cplane.api.cni.request import DEFAULT_MTU
from cplane.api.cni.wiring import wiring_of
from cplane.deciders.endpoint import DeleteEndpoint
from cplane.domain.endpoint import Endpoint
from cplane.telemetry.log import line, logger
from datapath.netlink.attachment import OwnedLink

ACTOR = "agent"

log = logger("cni")


@dataclass(frozen=True, slots=True)
class Swept:
    """How many links and endpoints were removed."""

    links: int
    endpoints: int


async def sweep(engine: Engine, plumbing: Plumbing) -> Swept:
    """Every link of ours belongs to an endpoint, and no endpoint is left of a pod that is gone.

    To be called when the engine runs and before the CNI socket is served, so no ADD is under way.

    - A link with our mark and no endpoint is what a killed ADD or DEL left behind: it is deleted. Links
      without our mark are nobody's business here.
    - An endpoint without link *and* without namespace is a pod that went with a reboot: it is deleted.
      Without link but with a namespace, the pod may live on, and its runtime believes that it has its
      address; the endpoint stays, so nobody else gets that address, until the runtime says CHECK, ADD or
      DEL.
    - For the rest the node's side (routes, neighbours, settings) is put right.

    Raises what engine and plumbing raise; called again, it goes on.
    """
    owned = await to_thread.run_sync(plumbing.owned)
    endpoints = tuple(engine.world.endpoints.values())
    links = _strays(owned, endpoints)
    for name in links:
        await to_thread.run_sync(plumbing.delete, name)
    gone = await to_thread.run_sync(_gone, plumbing, owned, endpoints)
    for endpoint in gone:
        container, interface = endpoint.attachment
        command = DeleteEndpoint(container_id=container, container_interface=interface)
        await engine.submit(command, actor=ACTOR, cause="link and namespace are gone")
    left = [endpoint for endpoint in endpoints if endpoint not in gone]
    node = engine.world.node
    wirings = [wiring_of(endpoint, node, network="", mtu=DEFAULT_MTU) for endpoint in left]
    await to_thread.run_sync(plumbing.restore, wirings)
    swept = Swept(len(links), len(gone))
    log.info(line("cni", kind="cni.sweep", entries=len(left), deletes=swept.links + swept.endpoints))
    return swept


def _strays(owned: Mapping[str, OwnedLink], endpoints: tuple[Endpoint, ...]) -> list[str]:
    used = {(endpoint.host_interface, endpoint.host_ifindex) for endpoint in endpoints}
    return [name for name, link in owned.items() if (name, link.ifindex) not in used]


def _gone(plumbing: Plumbing, owned: Mapping[str, OwnedLink], endpoints: tuple[Endpoint, ...]) -> list[Endpoint]:
    linked = {(link.host_interface, link.ifindex) for link in owned.values()}
    return [
        endpoint
        for endpoint in endpoints
        if (endpoint.host_interface, endpoint.host_ifindex) not in linked and not plumbing.netns_exists(endpoint.netns)
    ]
