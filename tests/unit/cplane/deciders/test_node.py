"""The node joins with its prefixes; a log belongs to one node."""

from dataclasses import replace

import pytest

from cplane.deciders.ipam import PoolInUse
from cplane.deciders.node import BadPrefix, OtherNode, SetNodeAddresses
from cplane.deciders.world import World
from cplane.errors import Rejected
from cplane.events.ipam import PoolAdded
from cplane.events.node import NodeAddressesChanged, NodeJoined
from tests.support.scenario import JOIN, given, pod, when


def test_joining_adds_a_pool_for_each_family_and_picks_the_routers():
    joined, v4, v6 = when(World(), JOIN)
    assert isinstance(joined, NodeJoined)
    assert (joined.ipv4_router, joined.ipv6_router) == ("10.244.0.1", "fd00:10:244::1")
    assert v4 == PoolAdded(pool="ipv4", cidr="10.244.0.0/28", reserved=("10.244.0.0", "10.244.0.1", "10.244.0.15"))
    assert v6 == PoolAdded(pool="ipv6", cidr="fd00:10:244::/120", reserved=("fd00:10:244::", "fd00:10:244::1"))


def test_joining_again_changes_nothing():
    assert when(given(JOIN), JOIN) == []


def test_a_log_of_another_node_is_refused():
    with pytest.raises(OtherNode, match="belongs to node 'n1'"):
        when(given(JOIN), replace(JOIN, name="n2"))


def test_a_prefix_with_pods_in_it_stays():
    with pytest.raises(PoolInUse, match="1 addresses in use"):
        when(given(JOIN, pod("web")), replace(JOIN, ipv4_pod_cidr="10.1.0.0/24"))


@pytest.mark.parametrize(
    ("cidr", "reason"),
    [
        ("10.0.0.1/24", "host bits"),
        ("fd00::/64", "not an IPv4 prefix"),
        ("10.0.0.0/31", "no pod would fit"),
        ("x", "'x'"),
    ],
)
def test_a_bad_prefix_is_refused_by_name(cidr, reason):
    with pytest.raises(BadPrefix, match=reason):
        when(World(), replace(JOIN, ipv4_pod_cidr=cidr))


def test_addresses_are_a_fact_when_they_change_and_routers_are_not_among_them():
    world = given(JOIN)
    events = when(world, SetNodeAddresses(addresses=("192.0.2.7", "10.244.0.1", "192.0.2.7")))
    assert events == [NodeAddressesChanged(name="n1", addresses=("192.0.2.7",))]
    assert (
        when(
            given(JOIN, SetNodeAddresses(addresses=("192.0.2.7",))),
            SetNodeAddresses(addresses=("192.0.2.7",)),
        )
        == []
    )


def test_addresses_of_a_node_that_has_not_joined_are_refused():
    with pytest.raises(Rejected, match="not joined"):
        when(World(), SetNodeAddresses(addresses=()))
