"""One event of every type, independent streams of events about a small world, and their interleavings."""

from dataclasses import dataclass, field
from typing import Final

from hypothesis import strategies as st

from cplane.domain.identity import LOCAL_MIN
from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.fqdn import AddressesForgotten, AddressesIdentified, NameExpired, NameResolved
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.events.service import (
    BackendRecord,
    BackendsChanged,
    BackendStateChanged,
    FrontendRecord,
    ServiceDeleted,
    ServiceOptionsChanged,
    ServiceUpserted,
)
from tests.support import random_policies
from tests.support.builders import DUAL_STACK, IPV4_ONLY, allocated, deleted, upserted
from tests.support.policies import IDENTITIES
from tests.support.random_policies import GROUPS
from tests.support.scenario import endpoint_created
from tests.support.strategies import CHANCE, documents

NUMBERS = {number: labels for number, (labels, _) in IDENTITIES.items() if number >= 256}
SUBJECTS = (300, 301, 303)
PORTS = ("http=80/TCP", "metrics=53/UDP")
OTHER_PORTS = ("http=8080/TCP",)
OTHER_POLICY = 1 << 27
"""Added to an identity: the policy of its endpoints that have the other ports."""

# Every field has a value of its own, so that no two can be taken for each other; texts need escaping, and UTF-8.
SAMPLES: Final[tuple[Event, ...]] = (
    NodeJoined(
        name="n1",
        cluster="c1",
        local=True,
        ipv4_pod_cidr="10.1.0.0/16",
        ipv6_pod_cidr="fd00:1::/64",
        ipv4_router="10.1.0.1",
        ipv6_router="fd00:1::1",
    ),
    NodeAddressesChanged(name="n1", addresses=("192.0.2.1", "2001:db8::1")),
    PoolAdded(pool="default4", cidr="10.1.0.0/16", reserved=("10.1.0.0", "10.1.0.1", "10.1.255.255")),
    AddressAllocated(pool="default4", address="10.1.0.2", owner="endpoint/c-1/eth0"),
    AddressReleased(pool="default4", address="10.1.0.2"),
    IdentityAllocated(number=256, labels=("k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop")),
    IdentityReleased(number=16777217),
    EndpointCreated(
        endpoint=7,
        container_id="c-1",
        container_interface="eth0",
        netns="/run/netns/c-1",
        host_interface="lxc1",
        host_ifindex=12,
        mac="02:00:00:00:00:01",
        host_mac="02:00:00:00:00:02",
        ipv4="10.1.0.2",
        ipv6="fd00:1::2",
        namespace="shop",
        pod="web-0",
        pod_uid="6f0c7e9e-0000-4000-8000-000000000001",
        labels=("k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop", "k8s:pod-template-hash=1"),
        identity=256,
        named_ports=("http=8080/TCP", "metrics=9100/TCP"),
        policy=134217728,
        audit=True,
    ),
    EndpointRelabelled(
        endpoint=7,
        labels=("k8s:app=café", "k8s:io.kubernetes.pod.namespace=shop"),
        identity=257,
        policy=134217729,
    ),
    EndpointConfigured(endpoint=7, audit=True),
    EndpointDeleted(endpoint=7),
    PolicyUpserted(
        kind="CiliumNetworkPolicy",
        namespace="shop",
        name="web",
        document='{"metadata":{"annotations":{"note":"a \\"quoted\\" \\\\ line\\nof café"},"name":"web"}}',
    ),
    PolicyDeleted(kind="CiliumClusterwideNetworkPolicy", namespace="", name="everything"),
    OptionsChanged(policy_enforcement="always", policy_audit=True),
    ServiceUpserted(
        namespace="shop",
        name="café",
        frontends=(
            FrontendRecord(id=7, address="10.96.0.1", port=80, protocol="TCP", kind="ClusterIP", port_name="http"),
            FrontendRecord(id=8, address="::", port=30080, protocol="UDP", kind="NodePort"),
        ),
        labels=("app=web", "tier=front"),
        selector=("app=web",),
        affinity_s=10800,
        external_local=True,
        internal_local=True,
        source_ranges=("192.0.2.0/24", "2001:db8::/32"),
        ranges_deny=True,
        algorithm="maglev",
        forwarding="dsr",
        health_check_port=32000,
        topology=True,
        drop=True,
    ),
    ServiceDeleted(namespace="shop", name="web"),
    BackendsChanged(
        namespace="shop",
        service="web",
        source="slice/web-1",
        backends=(
            BackendRecord(id=3, address="10.244.0.2", port=8080, protocol="TCP"),
            BackendRecord(
                id=4,
                address="fd00::2",
                port=8081,
                protocol="UDP",
                port_name="http",
                state="terminating",
                weight=7,
                node="n1",
                zones=("a", "b"),
            ),
        ),
    ),
    BackendStateChanged(backend=3, address="10.244.0.2", port=8080, protocol="TCP", state="quarantined"),
    ServiceOptionsChanged(
        algorithm="maglev",
        forwarding="dsr",
        maglev_size=251,
        maglev_seed="JLfvgnHc2kaSUFaI",
        external_cluster_ip=True,
        zone="a",
    ),
    NameResolved(
        endpoint=7,
        name="www.example.com.",
        ips=("192.0.2.80", "2001:db8::80"),
        ttl=30,
        server="10.96.0.53",
        resolved_at_ns=1_700_000_000_123_456_789,
    ),
    NameExpired(endpoint=7, name="www.example.com.", ips=("192.0.2.80",), reason="limit"),
    AddressesIdentified(identity=16777218, addresses=("192.0.2.80", "2001:db8::80")),
    AddressesForgotten(identity=16777218, addresses=("192.0.2.80",)),
)


@st.composite
def identity_stream(draw):
    """Identities that come and go, and stand for the same labels each time."""
    present, found = set(), []
    for number in draw(st.lists(st.sampled_from(sorted(NUMBERS)), max_size=14)):
        if number in present:
            present.discard(number)
            found.append(IdentityReleased(number=number))
        else:
            present.add(number)
            found.append(allocated(number, NUMBERS[number]))
    return found


def created(endpoint, number):
    """Every second endpoint calls other ports by the same names, so that it obeys another policy."""
    ports, policy = (OTHER_PORTS, OTHER_POLICY + number) if endpoint % 2 == 0 else (PORTS, 0)
    labels = NUMBERS[number].texts()
    return endpoint_created(
        endpoint=endpoint, ipv4="", ipv6="", identity=number, labels=labels, named_ports=ports, policy=policy
    )


def relabelled(endpoint, number):
    """The event that gives an endpoint another identity."""
    made = created(endpoint, number)
    return EndpointRelabelled(endpoint=endpoint, labels=made.labels, identity=number, policy=made.policy)


@st.composite
def endpoint_stream(draw):
    """Endpoints that are created, relabelled and deleted."""
    present, found = set(), []
    for endpoint, number, change in draw(
        st.lists(st.tuples(st.integers(1, 4), st.sampled_from(SUBJECTS), st.booleans()), max_size=8)
    ):
        if endpoint not in present:
            present.add(endpoint)
            found.append(created(endpoint, number))
        elif change:
            found.append(relabelled(endpoint, number))
        else:
            present.discard(endpoint)
            found.append(EndpointDeleted(endpoint=endpoint))
    return found


@st.composite
def policy_stream(draw, max_size=6):
    """Policies that come, change and go."""
    found = []
    for document, remove in draw(st.lists(st.tuples(documents(names=("p1", "p2")), st.booleans()), max_size=max_size)):
        found.append(upserted(document))
        if remove:
            found.append(deleted(document))
    return found


@st.composite
def group_stream(draw):
    """Groups of prefixes that come, change and go."""
    found = []
    for name, chance, remove in draw(st.lists(st.tuples(st.sampled_from(GROUPS), CHANCE, st.booleans()), max_size=3)):
        document = random_policies.cidr_group(chance, name)
        found.append(upserted(document))
        if remove:
            found.append(deleted(document))
    return found


BACKENDS = {number: f"10.244.0.{number}" for number in range(1, 6)}


@st.composite
def service_stream(draw):
    """Services and backends that come, change and go; backends are named in several places."""
    found, services, users = [], set(), {}
    for name, source, numbers, act in draw(
        st.lists(
            st.tuples(
                st.sampled_from((1, 2)),
                st.sampled_from(("s1", "s2")),
                st.sets(st.sampled_from(sorted(BACKENDS)), max_size=3),
                st.integers(0, 4),
            ),
            max_size=12,
        )
    ):
        if act == 0 and name in services:
            services.discard(name)
            found.append(ServiceDeleted(namespace="shop", name=f"svc{name}"))
        elif act < 2:
            services.add(name)
            found.append(service_upserted(name, affinity_s=60 * act, maglev=len(numbers) == 2))
        elif act == 2 and (known := sorted(set().union(*users.values()))):
            address = BACKENDS[known[0]]
            state = "quarantined" if numbers else "active"
            found.append(BackendStateChanged(backend=known[0], address=address, port=8080, protocol="TCP", state=state))
        else:
            users[name, source] = numbers
            records = tuple(
                BackendRecord(id=number, address=BACKENDS[number], port=8080, protocol="TCP", weight=1 + number % 2)
                for number in sorted(numbers)
            )
            found.append(BackendsChanged(namespace="shop", service=f"svc{name}", source=source, backends=records))
    return found


def service_upserted(number, *, affinity_s=0, maglev=False):
    """A service with a cluster address and a node port."""
    return ServiceUpserted(
        namespace="shop",
        name=f"svc{number}",
        frontends=(
            FrontendRecord(id=number, address=f"10.96.0.{number}", port=80, protocol="TCP", kind="ClusterIP"),
            FrontendRecord(id=10 + number, address="0.0.0.0", port=30000 + number, protocol="TCP", kind="NodePort"),
        ),
        affinity_s=affinity_s,
        source_ranges=("192.0.2.0/24",),
        algorithm="maglev" if maglev else "",
    )


SERVICE_OPTIONS = st.lists(st.sampled_from(("random", "maglev")), max_size=2).map(
    lambda found: [
        ServiceOptionsChanged(
            algorithm=algorithm,
            forwarding="snat",
            maglev_size=251,
            maglev_seed="JLfvgnHc2kaSUFaI",
            external_cluster_ip=False,
            zone="",
        )
        for algorithm in found
    ]
)
MODES = st.lists(st.sampled_from(("default", "always", "never")), max_size=2).map(
    lambda modes: [OptionsChanged(policy_enforcement=mode, policy_audit=False) for mode in modes]
)
ADDRESSES = tuple(f"198.51.100.{number}" for number in range(1, 5))


@st.composite
def address_stream(draw):
    """Addresses that get, change and lose an identity for their names."""
    found, numbers = [], {}
    for address, number in draw(st.lists(st.tuples(st.sampled_from(ADDRESSES), st.integers(0, 2)), max_size=8)):
        if number:
            numbers[address] = LOCAL_MIN + 1000 + number
            found.append(AddressesIdentified(identity=numbers[address], addresses=(address,)))
        elif address in numbers:
            found.append(AddressesForgotten(identity=numbers.pop(address), addresses=(address,)))
    return found


NODES = st.sampled_from(([DUAL_STACK], [IPV4_ONLY], [IPV4_ONLY, DUAL_STACK]))


@st.composite
def histories(draw):
    """Two interleavings of the same streams."""
    streams = [
        draw(stream)
        for stream in (
            identity_stream(),
            endpoint_stream(),
            policy_stream(),
            group_stream(),
            service_stream(),
            address_stream(),
            SERVICE_OPTIONS,
            MODES,
            NODES,
        )
    ]
    return draw(interleaved(streams)), draw(interleaved(streams))


@st.composite
def interleaved(draw, streams):
    """The events of the streams, each stream in its own order."""
    order = [index for index, stream in enumerate(streams) for _ in stream]
    left = [iter(stream) for stream in streams]
    return [next(left[index]) for index in draw(st.permutations(order))]


@dataclass
class Settled:
    """What is true after a history."""

    identities: dict[int, IdentityAllocated] = field(default_factory=dict)
    endpoints: dict[int, EndpointCreated] = field(default_factory=dict)
    policies: dict[tuple[str, str, str], PolicyUpserted] = field(default_factory=dict)
    node: NodeJoined | None = None
    options: OptionsChanged | None = None
    services: dict[str, ServiceUpserted] = field(default_factory=dict)
    backends: dict[tuple[str, str], BackendsChanged] = field(default_factory=dict)
    states: dict[int, BackendStateChanged] = field(default_factory=dict)
    service_options: ServiceOptionsChanged | None = None
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, event):
        """One event more."""
        match event:
            case IdentityAllocated():
                self.identities[event.number] = event
            case IdentityReleased():
                del self.identities[event.number]
            case EndpointCreated() | EndpointRelabelled():
                is_new = isinstance(event, EndpointCreated)
                self.endpoints[event.endpoint] = event if is_new else created(event.endpoint, event.identity)
            case EndpointDeleted():
                del self.endpoints[event.endpoint]
            case PolicyUpserted():
                self.policies[event.kind, event.namespace, event.name] = event
            case PolicyDeleted():
                del self.policies[event.kind, event.namespace, event.name]
            case NodeJoined():
                self.node = event
            case OptionsChanged():
                self.options = event
            case AddressesIdentified() | AddressesForgotten():
                for address in event.addresses:
                    self.numbers.pop(address, None)
                    if isinstance(event, AddressesIdentified):
                        self.numbers[address] = event.identity
            case _:
                self._add_service(event)

    def _add_service(self, event):
        match event:
            case ServiceUpserted():
                self.services[event.name] = event
            case ServiceDeleted():
                del self.services[event.name]
            case ServiceOptionsChanged():
                self.service_options = event
            case BackendsChanged():
                self.backends[event.service, event.source] = event
                present = {one.id for held in self.backends.values() for one in held.backends}
                self.states = {number: held for number, held in self.states.items() if number in present}
            case BackendStateChanged():
                self.states.pop(event.backend, None)
                if event.state != "active":
                    self.states[event.backend] = event


def settled(history):
    """The fewest events that say what is true after the history, in another order than it had."""
    found = Settled()
    for event in history:
        found.add(event)
    yield from reversed(list(found.policies.values()))
    yield from reversed(list(found.endpoints.values()))
    if found.options is not None:
        yield found.options
    yield from reversed(list(found.backends.values()))
    yield from found.states.values()
    for address, number in reversed(list(found.numbers.items())):
        yield AddressesIdentified(identity=number, addresses=(address,))
    if found.service_options is not None:
        yield found.service_options
    yield from reversed(list(found.services.values()))
    yield from sorted(found.identities.values(), key=lambda event: -event.number)
    if found.node is not None:
        yield found.node
