"""What an agent does before it serves: the node joins, and what was left behind is put right."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_network

import anyio
from anyio import to_thread

from cplane.agent.attempts import Attempts
from cplane.agent.datapaths import Datapath
from cplane.api.cni.sweep import sweep
from cplane.config.model import AgentConfig
from cplane.deciders.config import ChangeOptions
from cplane.deciders.node import JoinNode, SetNodeAddresses
from cplane.deciders.service import ChangeServiceOptions
from cplane.deciders.world import World
from cplane.domain.service import Algorithm, Forwarding, ServiceOptions
from cplane.engine.engine import Engine
from cplane.errors import Corrupt, Unavailable
from cplane.telemetry.log import line, logger
from datapath.errors import DatapathError

log = logger("agent")

ACTOR = "agent"
ADDRESSES_INTERVAL_S = 10.0
COLLECT_INTERVAL_S = 60.0


class LogBehind(Corrupt):
    """The log ends before what the kernel enforces, so it is not, or not all of, what it was."""

    code = "agent.log_behind"

    def __init__(self, log: str, head: int, enforced: int, bpf_root: str) -> None:
        self.log, self.head, self.enforced, self.bpf_root = log, head, enforced, bpf_root

    def __str__(self) -> str:
        return (
            f"{self.log} ends at position {self.head}, but the kernel enforces position {self.enforced}: events are "
            f"missing at its end, or it is another log. The kernel goes on as it is; restore the log, or remove "
            f"{self.bpf_root} to begin anew without policies and pods"
        )


def agree(config: AgentConfig, head: int, enforced: int) -> None:
    """Raises LogBehind when the log cannot have led to the position that the kernel enforces.

    A shorter log is sound in itself, and following it would take away what later events had decided. A log in memory
    begins anew with every agent, and that is what was asked for.
    """
    if config.log != "memory" and enforced > head:
        raise LogBehind(config.log_path or config.log_shown, head, enforced, config.bpf_root)


async def boot(config: AgentConfig, engine: Engine, datapath: Datapath) -> None:
    """The node has joined, options that were given hold, and no link or endpoint has lost the other.

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
    options = ChangeOptions(policy_enforcement=config.policy_enforcement, policy_audit=config.policy_audit_mode)
    await engine.submit(options, actor=ACTOR, cause="start")
    services = ChangeServiceOptions(options=service_options(config, engine.world))
    await engine.submit(services, actor=ACTOR, cause="start")
    node = engine.world.node
    assert node is not None
    prefixes = tuple(cidr for cidr in (node.ipv4_pod_cidr, node.ipv6_pod_cidr) if cidr)
    try:
        await to_thread.run_sync(datapath.prepare_node, node.routers, prefixes)
        await learn_addresses(engine, datapath)
        await sweep(engine, datapath.plumbing)
    except DatapathError as error:
        raise Unavailable(f"the node's network cannot be prepared: {error}") from error


def service_options(config: AgentConfig, world: World) -> ServiceOptions:
    """What the log has, but for what was given."""
    names = ("algorithm", "forwarding", "maglev_size", "maglev_seed", "external_cluster_ip", "zone")
    given = {name: value for name in names if (value := getattr(config.lb, name)) is not None}
    if "algorithm" in given:
        given["algorithm"] = Algorithm(given["algorithm"])
    if "forwarding" in given:
        given["forwarding"] = Forwarding(given["forwarding"])
    return replace(world.service.options, **given)


async def learn_addresses(engine: Engine, datapath: Datapath) -> None:
    """The log has the addresses that the node has now."""
    addresses = await to_thread.run_sync(datapath.local_addresses)
    await engine.submit(SetNodeAddresses(addresses=addresses), actor=ACTOR, cause="addresses of this node")


async def keep_addresses(engine: Engine, datapath: Datapath) -> None:
    """The log follows the node's addresses until this is cancelled."""
    attempts = Attempts(partial(learn_addresses, engine, datapath), _again("addresses"))
    while True:
        await anyio.sleep(ADDRESSES_INTERVAL_S)
        await attempts.once()


async def follow_devices(datapath: Datapath) -> None:
    """Clients outside are served by the devices that there are, until this is cancelled."""
    attempts = Attempts(partial(to_thread.run_sync, datapath.follow_devices), _again("devices"))
    while True:
        await anyio.sleep(ADDRESSES_INTERVAL_S)
        await attempts.once()


async def collect_often(datapath: Datapath) -> None:
    """What time makes superfluous is removed, now and until this is cancelled.

    At the start that is what pods left which went while nobody was there: their devices took the links along, and only
    the pins are left.
    """
    attempts = Attempts(partial(to_thread.run_sync, datapath.collect), _again("collection"))
    while True:
        await attempts.once()
        await anyio.sleep(COLLECT_INTERVAL_S)


def _again(kind: str) -> Callable[[str], None]:
    """Tells what hinders something that is done again and again."""
    return lambda failure: log.error(line("datapath", kind=kind, error=failure, detail="tried again and again"))


def _canonical(cidr: str) -> str:
    return str(ip_network(cidr)) if cidr else ""
