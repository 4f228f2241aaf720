"""Everything that decisions depend on, as one immutable value: fold events into it, ask it for decisions."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import assert_never, cast

from immutables import Map

from cplane.deciders import (
    config,
    endpoint,
    fqdn,
    identity,
    ipam,
    node,
    policy,
    prefixes,
    restore,
    service,
    servicestate,
)
from cplane.deciders.config import ChangeOptions, Options
from cplane.deciders.decider import Decision
from cplane.deciders.endpoint import ConfigureEndpoint, CreateEndpoint, DeleteEndpoint, EndpointState, RelabelEndpoint
from cplane.deciders.fqdn import ExpireNames, FqdnState, RecordAnswers, SettleAddresses
from cplane.deciders.identity import IdentityState
from cplane.deciders.ipam import IpamState, Pool
from cplane.deciders.node import JoinNode, SetNodeAddresses
from cplane.deciders.policy import ApplyPolicies, DeletePolicies, PolicyState
from cplane.deciders.prefixes import SettlePrefixes
from cplane.deciders.restore import Restore
from cplane.deciders.service import ApplyServices, ChangeServiceOptions, DeleteServices, SetBackendState
from cplane.deciders.servicestate import ServiceState
from cplane.domain.endpoint import Endpoint
from cplane.domain.labels import LabelSet
from cplane.domain.node import Node
from cplane.domain.policy import CidrGroup, Policy, PolicyRef
from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.envelope import POLICY, StreamId
from cplane.events.fqdn import AddressesForgotten, AddressesIdentified, NameExpired, NameResolved
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.events.service import (
    BackendsChanged,
    BackendStateChanged,
    ServiceDeleted,
    ServiceEvent,
    ServiceOptionsChanged,
    ServiceUpserted,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseIdentity:
    """An endpoint stopped using the number."""

    number: int


Command = (
    JoinNode
    | SetNodeAddresses
    | CreateEndpoint
    | RelabelEndpoint
    | ConfigureEndpoint
    | DeleteEndpoint
    | ApplyPolicies
    | DeletePolicies
    | SettlePrefixes
    | ReleaseIdentity
    | ChangeOptions
    | Restore
    | ApplyServices
    | DeleteServices
    | SetBackendState
    | ChangeServiceOptions
    | RecordAnswers
    | ExpireNames
    | SettleAddresses
)


@dataclass(frozen=True, slots=True)
class World:
    """The state of every decider, and the version of every stream."""

    node: Node | None = None
    ipam: IpamState = field(default_factory=IpamState)
    identity: IdentityState = field(default_factory=IdentityState)
    endpoint: EndpointState = field(default_factory=EndpointState)
    policy: PolicyState = field(default_factory=PolicyState)
    options: Options = field(default_factory=Options)
    service: ServiceState = field(default_factory=ServiceState)
    fqdn: FqdnState = field(default_factory=FqdnState)
    versions: Map[StreamId, int] = field(default_factory=Map)
    position: int = 0

    @property
    def pools(self) -> Map[str, Pool]:
        """Address pools by name."""
        return self.ipam.pools

    @property
    def identities(self) -> Map[int, LabelSet]:
        """Allocated identities; the reserved ones are in `domain.identity`."""
        return self.identity.labels

    @property
    def endpoints(self) -> Map[int, Endpoint]:
        """Endpoints by number."""
        return self.endpoint.by_id

    @property
    def policies(self) -> Map[PolicyRef, Policy | CidrGroup]:
        """Policies, and groups of prefixes, by name."""
        return self.policy.policies

    @property
    def policy_revision(self) -> int:
        """How often policies changed."""
        return self.versions.get(POLICY, 0)

    @property
    def cluster(self) -> str:
        """The cluster's name; `default` until the node has joined."""
        return self.node.cluster if self.node else "default"


def decide(command: Command, world: World) -> Decision:
    """The events that the command leads to. Raises Rejected or NotFound."""
    match command:
        case JoinNode():
            return node.decide_join(command, world.node, world.ipam)
        case SetNodeAddresses():
            return node.decide_addresses(command, world.node)
        case CreateEndpoint() | RelabelEndpoint() | ConfigureEndpoint() | DeleteEndpoint():
            return _decide_endpoint(command, world)
        case ApplyPolicies():
            return policy.decide_apply(command, world.policy, world.cluster)
        case DeletePolicies():
            return policy.decide_delete(command, world.policy)
        case SettlePrefixes():
            dual_stack = world.node is not None and world.node.dual_stack
            return prefixes.decide_settle(command, world.policy, world.service, world.identity, dual_stack=dual_stack)
        case ReleaseIdentity():
            users = world.endpoint.users.get(command.number, 0)
            return identity.release(world.identity, command.number, users)
        case ChangeOptions():
            return config.decide_change(command, world.options)
        case Restore():
            return restore.decide_restore(
                command, world.policy, world.options, world.endpoint, world.service, world.cluster
            )
        case ApplyServices() | DeleteServices() | SetBackendState() | ChangeServiceOptions():
            return service.decide(command, world.service)
        case RecordAnswers() | ExpireNames() | SettleAddresses():
            return _decide_names(command, world)
        case _:
            assert_never(command)


def _decide_names(command: RecordAnswers | ExpireNames | SettleAddresses, world: World) -> Decision:
    match command:
        case RecordAnswers():
            return fqdn.decide_record(command, world.fqdn, world.endpoint)
        case ExpireNames():
            return fqdn.decide_expire(command, world.fqdn)
        case SettleAddresses():
            dual_stack = world.node is not None and world.node.dual_stack
            return fqdn.decide_settle(
                command, world.fqdn, world.policy, world.service, world.identity, dual_stack=dual_stack
            )


def _decide_endpoint(
    command: CreateEndpoint | RelabelEndpoint | ConfigureEndpoint | DeleteEndpoint, world: World
) -> Decision:
    match command:
        case CreateEndpoint():
            return endpoint.decide_create(command, world.endpoint, world.node, world.ipam, world.identity)
        case RelabelEndpoint():
            return endpoint.decide_relabel(command, world.endpoint, world.identity)
        case ConfigureEndpoint():
            return endpoint.decide_configure(command, world.endpoint)
        case DeleteEndpoint():
            return endpoint.decide_delete(command, world.endpoint, world.ipam)


def evolve(world: World, stream: StreamId, event: Event) -> World:
    """The world after one more fact, one position on. Total over history."""
    # One replacement for all that changes: this runs for every event of a log when an agent starts.
    versions, position = world.versions.set(stream, world.versions.get(stream, 0) + 1), world.position + 1
    match event:
        case NodeJoined() | NodeAddressesChanged():
            return replace(world, versions=versions, position=position, node=node.evolve(world.node, event))
        case PoolAdded() | AddressAllocated() | AddressReleased():
            return replace(world, versions=versions, position=position, ipam=ipam.evolve(world.ipam, event))
        case IdentityAllocated() | IdentityReleased():
            state = identity.evolve(world.identity, event)
            return replace(world, versions=versions, position=position, identity=state)
        case EndpointCreated() | EndpointRelabelled() | EndpointConfigured() | EndpointDeleted():
            names = world.fqdn
            if isinstance(event, EndpointCreated | EndpointDeleted):
                names = fqdn.without_endpoint(names, event.endpoint)
            endpoints = endpoint.evolve(world.endpoint, event)
            return replace(world, versions=versions, position=position, endpoint=endpoints, fqdn=names)
        case PolicyUpserted() | PolicyDeleted():
            policies = policy.evolve(world.policy, event, world.cluster)
            return replace(world, versions=versions, position=position, policy=policies)
        case OptionsChanged():
            return replace(world, versions=versions, position=position, options=config.evolve(event))
        case ServiceUpserted() | ServiceDeleted() | BackendsChanged() | BackendStateChanged() | ServiceOptionsChanged():
            return replace(
                world, versions=versions, position=position, service=servicestate.evolve(world.service, event)
            )
        case NameResolved() | NameExpired() if event.endpoint not in world.endpoints:
            return replace(world, versions=versions, position=position)
        case NameResolved() | NameExpired() | AddressesIdentified() | AddressesForgotten():
            return replace(world, versions=versions, position=position, fqdn=fqdn.evolve(world.fqdn, event))
        case _:
            assert_never(event)


def evolve_services(world: World, decided: Decision) -> World:
    """As `evolve` for each, of facts about services alone, of which one command may decide ten thousands."""
    counts = Counter(stream for stream, _ in decided)
    versions = world.versions.update({stream: world.versions.get(stream, 0) + more for stream, more in counts.items()})
    facts_ = (cast("ServiceEvent", event) for _, event in decided)
    service = servicestate.evolve_all(world.service, facts_)
    return replace(world, versions=versions, position=world.position + len(decided), service=service)


def facts(world: World) -> Iterator[Event]:
    """The fewest events that say what is true now, in an order that folds.

    Tables depend on facts and never on the path to them, so projections that fold these equal those that folded
    the history.
    """
    held = world.node
    if held is not None:
        joined = {name: getattr(held, name) for name in NodeJoined.__struct_fields__ if name != "local"}
        yield NodeJoined(local=True, **joined)
        yield NodeAddressesChanged(name=held.name, addresses=held.addresses)
    if world.options != Options():
        yield config.changed(world.options)
    for number, labels in world.identities.items():
        yield IdentityAllocated(number=number, labels=labels.texts())
    for ref, document in world.policy.documents.items():
        yield PolicyUpserted(kind=ref.kind, namespace=ref.namespace, name=ref.name, document=document)
    for one in world.endpoints.values():
        yield created(one)
    yield from servicestate.facts_of(world.service)
    yield from fqdn.facts_of(world.fqdn.answers, world.fqdn.numbers)


def created(one: Endpoint) -> EndpointCreated:
    """The event that would create the endpoint as it is now."""
    fields = {
        name: getattr(one, name) for name in EndpointCreated.__struct_fields__ if name not in {"endpoint", "labels"}
    }
    return EndpointCreated(endpoint=one.id, labels=one.labels.texts(), **fields)
