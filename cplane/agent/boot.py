"""What an agent does before it serves: the node joins, and what was left behind is put right."""

from ipaddress import ip_network

import anyio
from anyio import to_thread

from cplane.agent.datapaths import Datapath
from cplane.api.cni.sweep import sweep
from cplane.config.model import AgentConfig
from cplane.deciders.node import JoinNode, SetNodeAddresses
from cplane.engine.engine import Engine
from cplane.errors import Unavailable
from datapath.errors import DatapathError

ACTOR = "agent"
ADDRESSES_INTERVAL_S = 10.0
COLLECT_INTERVAL_S = 60.0


async def boot(config: AgentConfig, engine: Engine, datapath: Datapath) -> None:
    """The node has joined, its host side is ready, and no link or endpoint has lost the other.

    The engine runs and does not drive the datapath yet: after a reboot the log may name interfaces that are
    somebody else's by now, and nothing must be attached to those. Raises CplaneError.
    """
    join = JoinNode(
        name=config.node_name,
        cluster=config.cluster_name,
        ipv4_pod_cidr=_canonical(config.ipv4_pod_cidr),
        ipv6_pod_cidr=_canonical(config.ipv6_pod_cidr),
    )
    await engine.submit(join, actor=ACTOR, cause="start")
    node = engine.world.node
    assert node is not None
    prefixes = tuple(cidr for cidr in (node.ipv4_pod_cidr, node.ipv6_pod_cidr) if cidr)
    try:
        await to_thread.run_sync(datapath.prepare_node, node.routers, prefixes)
        await learn_addresses(engine, datapath)
        await sweep(engine, datapath.plumbing)
    except DatapathError as error:
        raise Unavailable(f"the node's network cannot be prepared: {error}") from error


async def learn_addresses(engine: Engine, datapath: Datapath) -> None:
    """The log has the addresses that the node has now."""
    addresses = await to_thread.run_sync(datapath.local_addresses)
    await engine.submit(SetNodeAddresses(addresses=addresses), actor=ACTOR, cause="addresses of this node")


async def keep_addresses(engine: Engine, datapath: Datapath) -> None:
    """The log follows the node's addresses until this is cancelled."""
    while True:
        await anyio.sleep(ADDRESSES_INTERVAL_S)
        await learn_addresses(engine, datapath)


async def collect_often(datapath: Datapath) -> None:
    """What time makes superfluous is removed until this is cancelled."""
    while True:
        await anyio.sleep(COLLECT_INTERVAL_S)
        await to_thread.run_sync(datapath.collect)


def _canonical(cidr: str) -> str:
    return str(ip_network(cidr)) if cidr else ""
