"""Endpoints: a container's interface becomes ours, changes its labels, goes away."""

from dataclasses import dataclass, field, replace
from typing import Final

from immutables import Map

from cplane.deciders import identity, ipam
from cplane.deciders.decider import NOTHING, Decision
from cplane.deciders.identity import IdentityState
from cplane.deciders.ipam import POOL_OF_FAMILY, IpamState
from cplane.domain.endpoint import MAX_ID, Endpoint, EndpointId, next_free_id
from cplane.domain.identity import NumericIdentity
from cplane.domain.labelfilter import identity_labels
from cplane.domain.labels import LabelSet
from cplane.domain.node import Node
from cplane.domain.ports import named_port_texts, parse_named_ports
from cplane.errors import NotFound, Rejected
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.envelope import ENDPOINT, IPAM

VARIANT_MIN: Final = 1 << 27
"""The first number of policies that are not of an identity; no identity is as great."""


class EndpointExists(Rejected):
    """The attachment already has an endpoint."""

    code = "endpoint.exists"

    def __init__(self, held: Endpoint) -> None:
        self.held = held

    def __str__(self) -> str:
        container, interface = self.held.attachment
        return (
            f"container {container!r} interface {interface!r} is endpoint {self.held.id} already: "
            f"delete it before it is added again"
        )


class EndpointsExhausted(Rejected):
    """Every endpoint number is taken."""

    code = "endpoint.exhausted"

    def __str__(self) -> str:
        return f"this node has {MAX_ID} endpoints, and no number for another"


class NoSuchEndpoint(NotFound):
    """There is no endpoint of that number."""

    code = "endpoint.not_found"

    def __init__(self, endpoint: int) -> None:
        self.endpoint = endpoint

    def __str__(self) -> str:
        return f"there is no endpoint {self.endpoint}: `cplane endpoint list` shows those that are"


class BadNamedPort(Rejected):
    """A named port cannot be read."""

    code = "endpoint.bad_named_port"


class NodeNotReady(Rejected):
    """The node has no prefixes yet."""

    code = "endpoint.node_not_ready"

    def __str__(self) -> str:
        return "the node has not joined yet, so there are no addresses to give"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateEndpoint:
    """A container's interface exists and is to be served. Requested addresses are optional."""

    container_id: str
    container_interface: str
    netns: str
    host_interface: str
    host_ifindex: int
    mac: str
    host_mac: str
    namespace: str
    pod: str
    pod_uid: str
    labels: tuple[str, ...]
    named_ports: tuple[str, ...] = ()
    requested_ipv4: str = ""
    requested_ipv6: str = ""
    netns_cookie: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigureEndpoint:
    """With `audit` nothing that policies would drop of its traffic is dropped."""

    endpoint: int
    audit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteEndpoint:
    """A container's interface is gone; nothing happens when it had no endpoint."""

    container_id: str
    container_interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RelabelEndpoint:
    """The endpoint has exactly these labels from now on."""

    endpoint: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndpointState:
    """`by_id`, the number of each attachment, how many endpoints each identity has, and the last number given."""

    by_id: Map[int, Endpoint] = field(default_factory=Map)
    by_attachment: Map[tuple[str, str], int] = field(default_factory=Map)
    users: Map[int, int] = field(default_factory=Map)
    last: int = 0


def decide_create(
    command: CreateEndpoint,
    state: EndpointState,
    node: Node | None,
    pools: IpamState,
    identities: IdentityState,
) -> Decision:
    """The addresses, the identity where it is new, and the endpoint: together or not at all."""
    if node is None:
        raise NodeNotReady
    held = state.by_attachment.get((command.container_id, command.container_interface))
    if held is not None:
        raise EndpointExists(state.by_id[held])
    number = next_free_id(state.by_id, state.last)
    if number is None:
        raise EndpointsExhausted
    owner = f"endpoint/{command.container_id}/{command.container_interface}"
    addresses: dict[int, str] = {4: "", 6: ""}
    allocated: Decision = NOTHING
    for family, cidr, requested in (
        (4, node.ipv4_pod_cidr, command.requested_ipv4),
        (6, node.ipv6_pod_cidr, command.requested_ipv6),
    ):
        if cidr:
            fact = ipam.allocate(pools, POOL_OF_FAMILY[family], owner, requested)
            addresses[family] = fact.address
            allocated += ((IPAM, fact),)
        elif requested:
            raise ipam.AddressNotFree(requested, f"IPv{family} is off on this node")
    labels = LabelSet.parse(command.labels)
    security_id, learned = identity.allocate(identities, identity_labels(labels), local=False)
    ports = _named_ports(command.named_ports)
    created = EndpointCreated(
        endpoint=number,
        container_id=command.container_id,
        container_interface=command.container_interface,
        netns=command.netns,
        host_interface=command.host_interface,
        host_ifindex=command.host_ifindex,
        mac=command.mac,
        host_mac=command.host_mac,
        ipv4=addresses[4],
        ipv6=addresses[6],
        namespace=command.namespace,
        pod=command.pod,
        pod_uid=command.pod_uid,
        labels=labels.texts(),
        identity=security_id,
        named_ports=ports,
        policy=_policy(security_id, ports, state),
        netns_cookie=command.netns_cookie,
    )
    return (*allocated, *learned, (ENDPOINT, created))


def decide_relabel(command: RelabelEndpoint, state: EndpointState, identities: IdentityState) -> Decision:
    """The identity where it is new, and the labels; nothing when they are the same."""
    held = state.by_id.get(command.endpoint)
    if held is None:
        raise NoSuchEndpoint(command.endpoint)
    labels = LabelSet.parse(command.labels)
    if labels == held.labels:
        return NOTHING
    security_id, learned = identity.allocate(identities, identity_labels(labels), local=False)
    others = replace(state, by_id=state.by_id.delete(held.id))
    policy = _policy(security_id, held.named_ports, others)
    event = EndpointRelabelled(endpoint=held.id, labels=labels.texts(), identity=security_id, policy=policy)
    return (*learned, (ENDPOINT, event))


def decide_configure(command: ConfigureEndpoint, state: EndpointState) -> Decision:
    """EndpointConfigured, where anything differs."""
    held = state.by_id.get(command.endpoint)
    if held is None:
        raise NoSuchEndpoint(command.endpoint)
    if held.audit == command.audit:
        return NOTHING
    return ((ENDPOINT, EndpointConfigured(endpoint=held.id, audit=command.audit)),)


def decide_delete(command: DeleteEndpoint, state: EndpointState, pools: IpamState) -> Decision:
    """The endpoint is gone and its addresses are free."""
    number = state.by_attachment.get((command.container_id, command.container_interface))
    if number is None:
        return NOTHING
    held = state.by_id[number]
    released: Decision = NOTHING
    for address in held.addresses:
        released += ipam.release(pools, address)
    return ((ENDPOINT, EndpointDeleted(endpoint=number)), *released)


def evolve(
    state: EndpointState, event: EndpointCreated | EndpointRelabelled | EndpointConfigured | EndpointDeleted
) -> EndpointState:
    """The state after one more fact."""
    if isinstance(event, EndpointCreated):
        created = endpoint_of(event)
        return EndpointState(
            state.by_id.set(created.id, created),
            state.by_attachment.set(created.attachment, created.id),
            _count(state.users, created.identity, +1),
            created.id,
        )
    held = state.by_id.get(event.endpoint)
    if held is None:
        return state
    if isinstance(event, EndpointConfigured):
        return replace(state, by_id=state.by_id.set(held.id, replace(held, audit=event.audit)))
    users = _count(state.users, held.identity, -1)
    if isinstance(event, EndpointDeleted):
        return EndpointState(
            state.by_id.delete(held.id), state.by_attachment.delete(held.attachment), users, state.last
        )
    changed = replace(
        held, labels=LabelSet.parse(event.labels), identity=NumericIdentity(event.identity), policy=event.policy
    )
    users = _count(users, changed.identity, +1)
    return EndpointState(state.by_id.set(held.id, changed), state.by_attachment, users, state.last)


def endpoint_of(event: EndpointCreated) -> Endpoint:
    """The endpoint that the event describes."""
    return Endpoint(
        id=EndpointId(event.endpoint),
        container_id=event.container_id,
        container_interface=event.container_interface,
        netns=event.netns,
        host_interface=event.host_interface,
        host_ifindex=event.host_ifindex,
        mac=event.mac,
        host_mac=event.host_mac,
        ipv4=event.ipv4,
        ipv6=event.ipv6,
        namespace=event.namespace,
        pod=event.pod,
        pod_uid=event.pod_uid,
        labels=LabelSet.parse(event.labels),
        identity=NumericIdentity(event.identity),
        named_ports=event.named_ports,
        policy=event.policy,
        audit=event.audit,
        netns_cookie=event.netns_cookie,
    )


def _named_ports(texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return named_port_texts(parse_named_ports(texts))
    except ValueError as error:
        raise BadNamedPort(str(error)) from None


def _policy(identity_number: int, ports: tuple[str, ...], state: EndpointState) -> int:
    """The policy of an endpoint with these ports: that of its identity, unless others call other ports by its names."""
    if not state.users.get(identity_number, 0):
        return 0
    peers = [one for one in state.by_id.values() if one.identity == identity_number]
    for one in peers:
        if one.named_ports == ports:
            return one.policy
    taken = {one.policy for one in state.by_id.values()}
    if all(one.policy for one in peers):
        return 0
    return next(number for number in range(VARIANT_MIN, VARIANT_MIN + MAX_ID + 1) if number not in taken)


def _count(users: Map[int, int], number: int, step: int) -> Map[int, int]:
    count = users.get(number, 0) + step
    return users.set(number, count) if count > 0 else users.delete(number)
