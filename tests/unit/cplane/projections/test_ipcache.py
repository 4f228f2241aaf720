"""ipcache rows follow from endpoints, node addresses and the prefixes of policies."""

from ipaddress import ip_network

from cplane.domain.identity import LOCAL_MIN, cidr_labels
from cplane.events.endpoint import EndpointDeleted, EndpointRelabelled
from cplane.events.identity import IdentityAllocated, IdentityReleased
from cplane.events.node import NodeAddressesChanged, NodeJoined
from cplane.projections.addresses import prefix_key
from cplane.projections.ipcache import IpcacheProjection
from tests.support.scenario import endpoint_created

JOINED = NodeJoined(
    name="n1",
    cluster="c",
    local=True,
    ipv4_pod_cidr="10.1.0.0/24",
    ipv6_pod_cidr="fd00::/64",
    ipv4_router="10.1.0.1",
    ipv6_router="fd00::1",
)


def identities(projection):
    return {key: info.identity for key, info in projection.table().items()}


def prefix_learned(prefix, number=LOCAL_MIN):
    return IdentityAllocated(number=number, labels=cidr_labels(ip_network(prefix), dual_stack=True).texts())


def test_a_node_brings_the_world_of_each_family_and_its_routers_as_host():
    projection = IpcacheProjection()
    delta = projection.apply(JOINED)
    assert identities(projection) == {
        prefix_key("0.0.0.0/0"): 9,
        prefix_key("::/0"): 10,
        prefix_key("10.1.0.1"): 1,
        prefix_key("fd00::1"): 1,
    }
    assert dict(delta.upserts) == dict(projection.table())


def test_a_single_family_has_one_undivided_world():
    projection = IpcacheProjection()
    projection.apply(NodeJoined(name="n", cluster="c", local=True, ipv4_pod_cidr="10.1.0.0/24", ipv4_router="10.1.0.1"))
    assert identities(projection) == {prefix_key("0.0.0.0/0"): 2, prefix_key("10.1.0.1"): 1}


def test_node_addresses_replace_each_other_and_routers_stay():
    projection = IpcacheProjection()
    projection.apply(JOINED)
    projection.apply(NodeAddressesChanged(name="n1", addresses=("192.0.2.1",)))
    delta = projection.apply(NodeAddressesChanged(name="n1", addresses=("192.0.2.2",)))
    assert list(delta.upserts) == [prefix_key("192.0.2.2")]
    assert list(delta.deletes) == [prefix_key("192.0.2.1")]
    assert identities(projection)[prefix_key("10.1.0.1")] == 1


def test_a_pod_hides_a_policys_prefix_for_its_address_and_gives_it_back():
    projection = IpcacheProjection()
    projection.apply(prefix_learned("10.1.0.5/32"))
    projection.apply(endpoint_created(endpoint=7, ipv4="10.1.0.5", ipv6="", identity=300))
    assert identities(projection) == {prefix_key("10.1.0.5"): 300}
    projection.apply(EndpointRelabelled(endpoint=7, labels=(), identity=301))
    assert identities(projection) == {prefix_key("10.1.0.5"): 301}
    projection.apply(EndpointDeleted(endpoint=7))
    assert identities(projection) == {prefix_key("10.1.0.5"): LOCAL_MIN}
    delta = projection.apply(IdentityReleased(number=LOCAL_MIN))
    assert list(delta.deletes) == [prefix_key("10.1.0.5")]
    assert not projection.table()


def test_identities_of_pods_are_no_prefixes():
    assert not IpcacheProjection().apply(IdentityAllocated(number=256, labels=("k8s:app=web",)))
