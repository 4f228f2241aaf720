"""Given these commands, when this command, then these events: the form of every decider test."""

from collections.abc import Sequence

from cplane.deciders.endpoint import CreateEndpoint
from cplane.deciders.node import JoinNode
from cplane.deciders.world import Command, World, evolve
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated
from cplane.reactors.reaction import settle

JOIN = JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.244.0.0/28", ipv6_pod_cidr="fd00:10:244::/120")


def given(*commands: Command) -> World:
    """The world after the commands, from nothing."""
    world = World()
    for command in commands:
        _, world = settle(command, world)
    return world


def when(world: World, command: Command) -> list[Event]:
    """The events that the command leads to, reactions included."""
    return [event for _, event in settle(command, world)[0]]


def replayed(history: Sequence[Command]) -> World:
    """The world that folding the events of the commands gives, without deciding anything."""
    world, log = World(), []
    for command in history:
        decided, world = settle(command, world)
        log.extend(decided)
    folded = World()
    for stream, event in log:
        folded = evolve(folded, stream, event)
    return folded


def pod(
    name: str,
    *labels: str,
    namespace: str = "shop",
    ifindex: int = 10,
    container: str = "",
    named_ports: tuple[str, ...] = (),
    netns_cookie: int = 0,
) -> CreateEndpoint:
    """A command that creates an endpoint for a pod."""
    return CreateEndpoint(
        container_id=container or f"c-{name}",
        container_interface="eth0",
        netns=f"/run/netns/{name}",
        host_interface=f"lxc{name}",
        host_ifindex=ifindex,
        mac="02:00:00:00:00:01",
        host_mac="02:00:00:00:00:02",
        namespace=namespace,
        pod=name,
        pod_uid="",
        labels=(
            *labels,
            f"k8s:io.kubernetes.pod.namespace={namespace}",
            "k8s:io.cilium.k8s.policy.cluster=default",
        ),
        named_ports=named_ports,
        netns_cookie=netns_cookie,
    )


def endpoint_created(
    *,
    endpoint: int,
    ipv4: str,
    ipv6: str,
    identity: int,
    host_ifindex: int = 10,
    labels: tuple[str, ...] = (),
    named_ports: tuple[str, ...] = (),
    policy: int = 0,
    audit: bool = False,
) -> EndpointCreated:
    """The fact that an endpoint exists, for folds that start in the middle."""
    return EndpointCreated(
        endpoint=endpoint,
        container_id=f"c-{endpoint}",
        container_interface="eth0",
        netns="",
        host_interface=f"lxc{endpoint}",
        host_ifindex=host_ifindex,
        mac="02:00:00:00:00:01",
        host_mac="02:00:00:00:00:02",
        ipv4=ipv4,
        ipv6=ipv6,
        namespace="shop",
        pod=f"p{endpoint}",
        pod_uid="",
        labels=labels,
        identity=identity,
        named_ports=named_ports,
        policy=policy,
        audit=audit,
    )
