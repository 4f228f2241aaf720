"""Endpoint rows: one for each address, one for each device."""

from cplane.events.endpoint import EndpointDeleted, EndpointRelabelled
from cplane.events.node import NodeAddressesChanged
from cplane.projections.addresses import packed
from cplane.projections.endpoints import address_projection, device_projection
from datapath.maps.endpoints import DeviceKey, EndpointKey
from tests.support.scenario import endpoint_created

CREATED = endpoint_created(endpoint=7, ipv4="10.1.0.5", ipv6="fd00::5", identity=300, host_ifindex=12)


def test_each_address_of_an_endpoint_has_a_row_that_says_where_to_deliver():
    projection = address_projection()
    delta = projection.apply(CREATED)
    assert set(delta.upserts) == {EndpointKey(*packed("10.1.0.5")), EndpointKey(*packed("fd00::5"))}
    row = delta.upserts[EndpointKey(*packed("10.1.0.5"))]
    assert (row.ifindex, row.identity, row.policy_id, row.lxc_id) == (12, 300, 300, 7)


def test_a_device_knows_the_only_addresses_that_may_send_from_it():
    row = device_projection().apply(CREATED).upserts[DeviceKey(12)]
    assert (row.ipv4, row.ipv6) == (packed("10.1.0.5")[1][:4], packed("fd00::5")[1])


def test_new_labels_switch_identity_and_policy_in_one_row():
    projection = device_projection()
    projection.apply(CREATED)
    delta = projection.apply(EndpointRelabelled(endpoint=7, labels=(), identity=400))
    assert (delta.upserts[DeviceKey(12)].identity, delta.upserts[DeviceKey(12)].policy_id) == (400, 400)
    assert not delta.deletes


def test_a_deleted_endpoint_leaves_nothing():
    for projection in (address_projection(), device_projection()):
        projection.apply(CREATED)
        projection.apply(EndpointDeleted(endpoint=7))
        assert not projection.table()


def test_other_facts_change_nothing():
    assert not device_projection().apply(NodeAddressesChanged(name="n", addresses=()))


def test_an_endpoint_that_was_never_created_cannot_change_anything():
    assert not device_projection().apply(EndpointDeleted(endpoint=9))
    assert not device_projection().apply(EndpointRelabelled(endpoint=9, labels=(), identity=1))
