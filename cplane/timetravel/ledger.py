"""What is so after an event, as a fold that is cheap: objects by name, each with the last fact about it.

A world is dear: it is made anew for every event, and it reads every policy. A ledger keeps facts as they were recorded
and says what they mean only when it is asked. It is equal to `evolve` over the same events, and tests hold it to that.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Self

import msgspec
from immutables import Map

from cplane.deciders import config, fqdn, node, servicestate
from cplane.deciders.endpoint import EndpointState, endpoint_of
from cplane.deciders.fqdn import FqdnState, Lookup
from cplane.deciders.identity import IdentityState
from cplane.deciders.ipam import IpamState, Pool
from cplane.deciders.policy import PolicyState
from cplane.deciders.servicestate import ServiceState, options_of
from cplane.deciders.world import World
from cplane.domain.cidr import Prefix
from cplane.domain.endpoint import Endpoint
from cplane.domain.identity import CLUSTER_MIN, LOCAL_MIN, NumericIdentity, is_local
from cplane.domain.labels import RESERVED, LabelSet
from cplane.domain.node import Node
from cplane.domain.policy import CidrGroup, Policy, PolicyRef, parse_text
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.rule import ServiceRef
from cplane.domain.service import BackendState, ServiceOptions
from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.envelope import StreamId
from cplane.events.fqdn import AddressesForgotten, AddressesIdentified, NameExpired, NameResolved
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.events.service import (
    BackendsChanged,
    BackendStateChanged,
    ServiceDeleted,
    ServiceOptionsChanged,
    ServiceUpserted,
)

_NOBODY: Final = "default"  # the cluster, before the node has joined one


class PoolRecord(msgspec.Struct, gc=False):
    """A pool as it was added, the owner of each address that is taken, and the address that was given last."""

    added: PoolAdded
    taken: dict[str, str] = {}
    last: str = ""


class Record(msgspec.Struct, gc=False):
    """All that a ledger knows, as it is dumped. Endpoints are as created; what came later stands beside them."""

    position: int = 0
    versions: dict[str, int] = {}
    joined: NodeJoined | None = None
    addresses: tuple[str, ...] = ()
    options: OptionsChanged | None = None
    pools: dict[str, PoolRecord] = {}
    identities: dict[int, tuple[str, ...]] = {}
    last_cluster: int = CLUSTER_MIN - 1
    last_local: int = LOCAL_MIN - 1
    endpoints: dict[int, EndpointCreated] = {}
    relabelled: dict[int, EndpointRelabelled] = {}
    audited: dict[int, bool] = {}
    last_endpoint: int = 0
    policies: dict[tuple[str, str, str], str] = {}
    services: dict[tuple[str, str], ServiceUpserted] = {}
    backends: dict[tuple[str, str, str], BackendsChanged] = {}  # by service and source
    states: dict[int, BackendStateChanged] = {}
    service_options: ServiceOptionsChanged | None = None
    last_frontend: int = 0
    last_backend: int = 0
    backend_users: dict[int, int] = {}
    answers: dict[int, dict[tuple[str, str], Lookup]] = {}  # by endpoint, of a name and an address
    numbers: dict[str, int] = {}  # by address, of those that have an identity for their names
    early: dict[tuple[str, str, str], bool] = {}  # policies that were read before the node had joined a cluster


_DICTS: Final = (
    "versions",
    "pools",
    "identities",
    "endpoints",
    "relabelled",
    "audited",
    "policies",
    "early",
    "services",
    "backends",
    "states",
    "backend_users",
    "answers",
    "numbers",
)
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Record, strict=True)


class Ledger:
    """A fold of events that changes in place. It is at position 0 when it is made."""

    def __init__(self) -> None:
        self._record = Record()

    @property
    def position(self) -> int:
        """Position of the last event."""
        return self._record.position

    @property
    def joined(self) -> NodeJoined | None:
        """The node and its cluster; None before it joined."""
        return self._record.joined

    @property
    def versions(self) -> Mapping[str, int]:
        """How many events each stream has."""
        return self._record.versions

    def apply(self, stream: StreamId, event: Event) -> None:
        """One more fact, one position on. Total over history."""
        record = self._record
        record.position += 1
        record.versions[stream] = record.versions.get(stream, 0) + 1
        _APPLY[type(event)](record, event)

    def fold(self, events: Iterable[tuple[StreamId, Event]]) -> None:
        """All of these facts, in their order."""
        record = self._record
        for stream, event in events:
            record.position += 1
            record.versions[stream] = record.versions.get(stream, 0) + 1
            _APPLY[type(event)](record, event)

    def absorb(self, events: Iterable[Event], to: int, versions: Mapping[str, int]) -> None:
        """All facts up to the position: `events` are those that matter, in order.

        `versions` are those at the position, of all streams that have facts among them.
        """
        record = self._record
        for event in events:
            _APPLY[type(event)](record, event)
        record.versions.update(versions)
        record.position = to

    def copy(self) -> "Ledger":
        """Another ledger that is the same now."""
        return self.load(self.dump())

    def dump(self) -> bytes:
        """All of it; equal for equal ledgers, however they came about."""
        record = self._record
        for name in _DICTS:
            held: dict[Any, object] = getattr(record, name)  # Any: keys are of one type in each
            setattr(record, name, dict(sorted(held.items())))
        for pool in record.pools.values():
            pool.taken = dict(sorted(pool.taken.items()))
        record.answers = {endpoint: dict(sorted(held.items())) for endpoint, held in record.answers.items()}
        return _ENCODER.encode(record)

    @classmethod
    def load(cls, dumped: bytes) -> Self:
        """What was dumped. Raises ValueError for anything else."""
        made = cls()
        made._record = _DECODER.decode(dumped)
        return made

    def facts(self) -> Iterator[Event]:
        """The fewest events that say what is true now, in an order that folds: what `Tables` need.

        As `deciders.world.facts` of the world, which need not be made for it.
        """
        record = self._record
        if record.joined is not None:
            yield msgspec.structs.replace(record.joined, local=True)
            yield NodeAddressesChanged(name=record.joined.name, addresses=record.addresses)
        if record.options is not None and config.evolve(record.options) != config.Options():
            yield config.changed(config.evolve(record.options))
        for number, labels in record.identities.items():
            yield IdentityAllocated(number=number, labels=labels)
        for (kind, namespace, name), document in record.policies.items():
            yield PolicyUpserted(kind=kind, namespace=namespace, name=name, document=document)
        for number in record.endpoints:
            yield _created(record, number)
        if record.service_options is not None and options_of(record.service_options) != ServiceOptions():
            yield record.service_options
        yield from record.backends.values()
        yield from record.services.values()
        yield from record.states.values()
        yield from fqdn.facts_of(record.answers, record.numbers)

    def pod_of(self, endpoint: int) -> str:
        """What people know an endpoint by; empty for one that is not there."""
        one = self._record.endpoints.get(endpoint)
        if one is None:
            return ""
        return f"{one.namespace}/{one.pod}" if one.pod else one.container_id[:12]

    def told(self) -> Mapping[int, Mapping[tuple[str, str], Lookup]]:
        """What endpoints were told by DNS, and still counts: by endpoint, then name and address."""
        return self._record.answers

    def world(self) -> World:
        """The same as `evolve` makes of the same events."""
        record = self._record
        return World(
            node=_node(record),
            ipam=IpamState(Map({name: _pool(one) for name, one in record.pools.items()})),
            identity=_identities(record),
            endpoint=_endpoints(record),
            policy=_policies(record),
            service=_services(record),
            fqdn=_names(record),
            options=config.Options() if record.options is None else config.evolve(record.options),
            versions=Map({StreamId(name): version for name, version in record.versions.items()}),
            position=record.position,
        )


def _node(record: Record) -> Node | None:
    if record.joined is None:
        return None
    joined = node.evolve(None, record.joined)
    assert joined is not None, "a node that has joined is there"
    return node.evolve(joined, NodeAddressesChanged(name=joined.name, addresses=record.addresses))


def _pool(one: PoolRecord) -> Pool:
    return Pool(one.added.pool, one.added.cidr, one.added.reserved, Map(one.taken), one.last)


def _identities(record: Record) -> IdentityState:
    labels = {number: LabelSet.parse(texts, RESERVED) for number, texts in record.identities.items()}
    numbers = {one.serialise(): number for number, one in labels.items()}
    return IdentityState(Map(labels), Map(numbers), record.last_cluster, record.last_local)


def _endpoints(record: Record) -> EndpointState:
    by_id: dict[int, Endpoint] = {}
    users: dict[int, int] = {}
    for number in record.endpoints:
        one = by_id[number] = endpoint_of(_created(record, number))
        users[one.identity] = users.get(one.identity, 0) + 1
    by_attachment = {one.attachment: number for number, one in by_id.items()}
    return EndpointState(Map(by_id), Map(by_attachment), Map(users), record.last_endpoint)


def _created(record: Record, number: int) -> EndpointCreated:
    """The event that would create the endpoint as it is now."""
    created, changed, audit = record.endpoints[number], record.relabelled.get(number), record.audited.get(number)
    if changed is not None:
        replaced = {"labels": changed.labels, "identity": changed.identity, "policy": changed.policy}
        created = msgspec.structs.replace(created, **replaced)
    return created if audit is None else msgspec.structs.replace(created, audit=audit)


def _policies(record: Record) -> PolicyState:
    cluster = _NOBODY if record.joined is None else record.joined.cluster
    documents: dict[PolicyRef, str] = {}
    policies: dict[PolicyRef, Policy | CidrGroup] = {}
    prefixes: Counter[Prefix] = Counter()
    services: Counter[ServiceRef] = Counter()
    names: Counter[DnsRule] = Counter()
    for key, document in record.policies.items():
        ref = PolicyRef(*key)
        policy = parse_text(document, cluster=_NOBODY if key in record.early else cluster)
        documents[ref], policies[ref] = document, policy
        prefixes.update(policy.cidrs())
        services.update(policy.services())
        names.update(policy.names())
    return PolicyState(Map(documents), Map(policies), Map(prefixes), Map(services), Map(names))


def _services(record: Record) -> ServiceState:
    state = servicestate.gathered(record.services.values(), record.backends.values(), record.states.values())
    options = ServiceOptions() if record.service_options is None else options_of(record.service_options)
    return replace(state, last_frontend=record.last_frontend, last_backend=record.last_backend, options=options)


def _names(record: Record) -> FqdnState:
    return fqdn.gathered(record.answers, record.numbers)


def _joined(record: Record, event: NodeJoined) -> None:
    record.joined = event


def _addresses_changed(record: Record, event: NodeAddressesChanged) -> None:
    if record.joined is not None:
        record.addresses = event.addresses


def _pool_added(record: Record, event: PoolAdded) -> None:
    record.pools[event.pool] = PoolRecord(event, {})


def _address_allocated(record: Record, event: AddressAllocated) -> None:
    pool = record.pools[event.pool]
    pool.taken[event.address] = event.owner
    pool.last = event.address


def _address_released(record: Record, event: AddressReleased) -> None:
    record.pools[event.pool].taken.pop(event.address, None)


def _identity_allocated(record: Record, event: IdentityAllocated) -> None:
    record.identities[event.number] = event.labels
    if is_local(NumericIdentity(event.number)):
        record.last_local = event.number
    else:
        record.last_cluster = event.number


def _identity_released(record: Record, event: IdentityReleased) -> None:
    record.identities.pop(event.number, None)


def _endpoint_created(record: Record, event: EndpointCreated) -> None:
    record.endpoints[event.endpoint] = event
    record.relabelled.pop(event.endpoint, None)
    record.audited.pop(event.endpoint, None)
    record.answers.pop(event.endpoint, None)
    record.last_endpoint = event.endpoint


def _endpoint_relabelled(record: Record, event: EndpointRelabelled) -> None:
    if event.endpoint in record.endpoints:
        record.relabelled[event.endpoint] = event


def _endpoint_configured(record: Record, event: EndpointConfigured) -> None:
    if event.endpoint in record.endpoints:
        record.audited[event.endpoint] = event.audit


def _endpoint_deleted(record: Record, event: EndpointDeleted) -> None:
    record.endpoints.pop(event.endpoint, None)
    record.relabelled.pop(event.endpoint, None)
    record.audited.pop(event.endpoint, None)
    record.answers.pop(event.endpoint, None)


def _policy_upserted(record: Record, event: PolicyUpserted) -> None:
    key = (event.kind, event.namespace, event.name)
    record.policies[key] = event.document
    if record.joined is None:
        record.early[key] = True
    else:
        record.early.pop(key, None)


def _policy_deleted(record: Record, event: PolicyDeleted) -> None:
    key = (event.kind, event.namespace, event.name)
    record.policies.pop(key, None)
    record.early.pop(key, None)


def _options_changed(record: Record, event: OptionsChanged) -> None:
    record.options = event


def _service_upserted(record: Record, event: ServiceUpserted) -> None:
    key = (event.namespace, event.name)
    held = record.services.get(key)
    known = {one.id for one in held.frontends} if held is not None else ()
    for one in event.frontends:
        if one.id not in known:
            record.last_frontend = one.id
    record.services[key] = event


def _service_deleted(record: Record, event: ServiceDeleted) -> None:
    record.services.pop((event.namespace, event.name), None)


def _backends_changed(record: Record, event: BackendsChanged) -> None:
    key, users = (event.namespace, event.service, event.source), record.backend_users
    held = record.backends.pop(key, None)
    for one in event.backends:
        if one.id not in users:
            record.last_backend = one.id
        users[one.id] = users.get(one.id, 0) + 1
    for one in held.backends if held is not None else ():
        users[one.id] -= 1
        if not users[one.id]:
            del users[one.id]
            record.states.pop(one.id, None)
    if event.backends:
        record.backends[key] = event


def _backend_state_changed(record: Record, event: BackendStateChanged) -> None:
    if event.backend not in record.backend_users:
        return
    if event.state == BackendState.ACTIVE:
        record.states.pop(event.backend, None)
    else:
        record.states[event.backend] = event


def _service_options_changed(record: Record, event: ServiceOptionsChanged) -> None:
    record.service_options = event


def _name_resolved(record: Record, event: NameResolved) -> None:
    if event.endpoint in record.endpoints:
        lookup = Lookup(event.ttl, event.resolved_at_ns, event.server)
        record.answers.setdefault(event.endpoint, {}).update(((event.name, ip), lookup) for ip in event.ips)


def _name_expired(record: Record, event: NameExpired) -> None:
    held = record.answers.get(event.endpoint, {})
    for ip in event.ips:
        held.pop((event.name, ip), None)
    if not held:
        record.answers.pop(event.endpoint, None)


def _addresses_identified(record: Record, event: AddressesIdentified) -> None:
    record.numbers.update((one, event.identity) for one in event.addresses)


def _addresses_forgotten(record: Record, event: AddressesForgotten) -> None:
    for one in event.addresses:
        record.numbers.pop(one, None)


_APPLY: Final[Mapping[type[Event], Callable[[Record, Any], None]]] = {  # Any: each takes events of its own type
    NodeJoined: _joined,
    NodeAddressesChanged: _addresses_changed,
    PoolAdded: _pool_added,
    AddressAllocated: _address_allocated,
    AddressReleased: _address_released,
    IdentityAllocated: _identity_allocated,
    IdentityReleased: _identity_released,
    EndpointCreated: _endpoint_created,
    EndpointRelabelled: _endpoint_relabelled,
    EndpointConfigured: _endpoint_configured,
    EndpointDeleted: _endpoint_deleted,
    PolicyUpserted: _policy_upserted,
    PolicyDeleted: _policy_deleted,
    OptionsChanged: _options_changed,
    ServiceUpserted: _service_upserted,
    ServiceDeleted: _service_deleted,
    BackendsChanged: _backends_changed,
    BackendStateChanged: _backend_state_changed,
    ServiceOptionsChanged: _service_options_changed,
    NameResolved: _name_resolved,
    NameExpired: _name_expired,
    AddressesIdentified: _addresses_identified,
    AddressesForgotten: _addresses_forgotten,
}
