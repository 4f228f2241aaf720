"""Endpoint rows: one for each address, one for each device."""

from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointDeleted, EndpointRelabelled
from cplane.events.node import NodeAddressesChanged
from cplane.projections.addresses import packed
from cplane.projections.endpoints import address_projection, device_projection
from datapath.maps.endpoints import FLAG_AUDIT, DeviceKey, EndpointKey
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


def flags(projection):
    return {row.flags for row in projection.table().values()}


def test_an_endpoint_that_is_audited_says_so_in_all_of_its_rows():
    for projection in (address_projection(), device_projection()):
        projection.apply(CREATED)
        assert flags(projection) == {0}
        delta = projection.apply(EndpointConfigured(endpoint=7, audit=True))
        assert flags(projection) == {FLAG_AUDIT}
        assert delta.upserts.keys() == projection.table().keys()
        assert not delta.deletes
        assert not projection.apply(EndpointConfigured(endpoint=7, audit=True))
        projection.apply(EndpointRelabelled(endpoint=7, labels=(), identity=400))
        assert flags(projection) == {FLAG_AUDIT}
        projection.apply(EndpointConfigured(endpoint=7, audit=False))
        assert flags(projection) == {0}


def test_where_the_node_is_audited_every_endpoint_is_also_one_that_comes_later():
    for projection in (address_projection(), device_projection()):
        projection.apply(CREATED)
        projection.apply(OptionsChanged(policy_enforcement="default", policy_audit=True))
        projection.apply(endpoint_created(endpoint=8, ipv4="10.1.0.6", ipv6="", identity=300, host_ifindex=13))
        assert flags(projection) == {FLAG_AUDIT}
        assert not projection.apply(OptionsChanged(policy_enforcement="always", policy_audit=True))
        projection.apply(EndpointConfigured(endpoint=8, audit=True))
        projection.apply(OptionsChanged(policy_enforcement="default", policy_audit=False))
        assert flags(projection) == {0, FLAG_AUDIT}


def test_an_endpoint_may_obey_another_policy_than_its_identitys():
    projection = device_projection()
    projection.apply(endpoint_created(endpoint=7, ipv4="", ipv6="", identity=300, host_ifindex=12, policy=1 << 27))
    row = projection.table()[DeviceKey(12)]
    assert (row.identity, row.policy_id) == (300, 1 << 27)
    projection.apply(EndpointRelabelled(endpoint=7, labels=(), identity=400))
    assert projection.table()[DeviceKey(12)].policy_id == 400


def test_an_endpoint_may_be_audited_from_the_start():
    projection = device_projection()
    projection.apply(endpoint_created(endpoint=7, ipv4="", ipv6="", identity=300, audit=True))
    assert flags(projection) == {FLAG_AUDIT}
    assert not projection.apply(EndpointConfigured(endpoint=9, audit=True))
