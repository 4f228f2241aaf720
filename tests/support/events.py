"""Independent streams of events about a small world, and their interleavings."""

from hypothesis import strategies as st

from cplane.domain.labels import LabelSet
from cplane.events.endpoint import EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityReleased
from tests.support.builders import DUAL_STACK, IPV4_ONLY, allocated, deleted, upserted
from tests.support.policies import identities
from tests.support.scenario import endpoint_created
from tests.support.strategies import documents

NUMBERS = {number: labels for number, (labels, _) in identities().items() if number >= 256}
SUBJECTS = (300, 301, 303)


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
