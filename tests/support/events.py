"""One event of every type, independent streams of events about a small world, and their interleavings."""

from typing import Final

from hypothesis import strategies as st

from cplane.domain.labels import LabelSet
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated, EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from tests.support.builders import DUAL_STACK, IPV4_ONLY, allocated, deleted, upserted
from tests.support.policies import identities
from tests.support.scenario import endpoint_created
from tests.support.strategies import documents

NUMBERS = {number: labels for number, (labels, _) in identities().items() if number >= 256}
SUBJECTS = (300, 301, 303)

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
    ),
    EndpointRelabelled(endpoint=7, labels=("k8s:app=café", "k8s:io.kubernetes.pod.namespace=shop"), identity=257),
    EndpointDeleted(endpoint=7),
    PolicyUpserted(
        kind="CiliumNetworkPolicy",
        namespace="shop",
        name="web",
        document='{"metadata":{"annotations":{"note":"a \\"quoted\\" \\\\ line\\nof café"},"name":"web"}}',
    ),
    PolicyDeleted(kind="CiliumClusterwideNetworkPolicy", namespace="", name="everything"),
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


@st.composite
def endpoint_stream(draw):
    """Endpoints that are created, relabelled and deleted."""
    present, found = set(), []
    for endpoint, number, change in draw(
        st.lists(st.tuples(st.integers(1, 3), st.sampled_from(SUBJECTS), st.booleans()), max_size=8)
    ):
        labels = NUMBERS[number].texts()
        if endpoint not in present:
            present.add(endpoint)
            found.append(endpoint_created(endpoint=endpoint, ipv4="", ipv6="", identity=number, labels=labels))
        elif change:
            found.append(EndpointRelabelled(endpoint=endpoint, labels=labels, identity=number))
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
def histories(draw):
    """Two interleavings of the same streams."""
    streams = [
        draw(identity_stream()),
        draw(endpoint_stream()),
        draw(policy_stream()),
        draw(st.sampled_from(([DUAL_STACK], [IPV4_ONLY], [IPV4_ONLY, DUAL_STACK]))),
    ]
    return draw(interleaved(streams)), draw(interleaved(streams))


@st.composite
def interleaved(draw, streams):
    """The events of the streams, each stream in its own order."""
    order = [index for index, stream in enumerate(streams) for _ in stream]
    left = [iter(stream) for stream in streams]
    return [next(left[index]) for index in draw(st.permutations(order))]


def settled(history):
    """The fewest events that say what is true after the history, in another order than it had."""
    identities_, endpoints, policies, node = {}, {}, {}, None
    for event in history:
        name = type(event).__name__
        if name == "IdentityAllocated":
            identities_[event.number] = event
        elif name == "IdentityReleased":
            del identities_[event.number]
        elif name == "EndpointDeleted":
            del endpoints[event.endpoint]
        elif name.startswith("Endpoint"):
            endpoints[event.endpoint] = (event.identity, event.labels)
        elif name == "PolicyUpserted":
            policies[event.kind, event.namespace, event.name] = event
        elif name == "PolicyDeleted":
            del policies[event.kind, event.namespace, event.name]
        else:
            node = event
    yield from reversed(list(policies.values()))
    for number, (identity, labels) in sorted(endpoints.items(), reverse=True):
        yield endpoint_created(
            endpoint=number, ipv4="", ipv6="", identity=identity, labels=LabelSet.parse(labels).texts()
        )
    yield from sorted(identities_.values(), key=lambda event: -event.number)
    if node is not None:
        yield node
