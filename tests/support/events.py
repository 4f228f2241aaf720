"""One event of every type, independent streams of events about a small world, and their interleavings."""

from dataclasses import dataclass, field
from typing import Final

from hypothesis import strategies as st

from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
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


MODES = st.lists(st.sampled_from(("default", "always", "never")), max_size=2).map(
    lambda modes: [OptionsChanged(policy_enforcement=mode, policy_audit=False) for mode in modes]
)
NODES = st.sampled_from(([DUAL_STACK], [IPV4_ONLY], [IPV4_ONLY, DUAL_STACK]))


@st.composite
def histories(draw):
    """Two interleavings of the same streams."""
    streams = [
        draw(stream) for stream in (identity_stream(), endpoint_stream(), policy_stream(), group_stream(), MODES, NODES)
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

    def add(self, event):
        """One event more."""
        match event:
            case IdentityAllocated():
                self.identities[event.number] = event
            case IdentityReleased():
                del self.identities[event.number]
            case EndpointCreated():
                self.endpoints[event.endpoint] = event
            case EndpointRelabelled():
                self.endpoints[event.endpoint] = created(event.endpoint, event.identity)
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


def settled(history):
    """The fewest events that say what is true after the history, in another order than it had."""
    found = Settled()
    for event in history:
        found.add(event)
    yield from reversed(list(found.policies.values()))
    yield from reversed(list(found.endpoints.values()))
    if found.options is not None:
        yield found.options
    yield from sorted(found.identities.values(), key=lambda event: -event.number)
    if found.node is not None:
        yield found.node
