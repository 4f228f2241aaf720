"""Names and marks of links follow from what they are for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapath.netlink.attachment import Attachment, BadAlias, parse_alias

NAMES = st.text(alphabet="abcXYZ019_.-", min_size=1, max_size=40)


@given(NAMES, NAMES, NAMES, NAMES)
def test_an_alias_names_its_attachment_to_its_own_instance_only(instance, network, container, interface):
    attachment = Attachment(network, container, interface)
    alias = attachment.alias(instance)
    assert parse_alias(alias, instance) == attachment
    assert parse_alias(alias, instance + "x") is None


@pytest.mark.parametrize("alias", ["", "cplane", "cplane:n1:net:box", "other:n1:net:box:eth0", "a:b:c:d:e:f"])
def test_other_aliases_name_nothing(alias):
    assert parse_alias(alias, "n1") is None


@pytest.mark.parametrize(("instance", "container"), [("n:1", "box"), ("", "box"), ("n1", "b" * 240), ("n1", "")])
def test_names_that_do_not_fit_into_an_alias_are_refused(instance, container):
    with pytest.raises(BadAlias):
        Attachment("net", container, "eth0").alias(instance)


@given(NAMES, NAMES)
def test_the_node_side_fits_an_interface_name_and_both_macs_are_local_unicast(container, interface):
    attachment = Attachment("net", container, interface)
    assert len(attachment.host_interface) == 15
    assert attachment.mac != attachment.host_mac
    for mac in (attachment.mac, attachment.host_mac):
        assert int(mac[:2], 16) & 3 == 2


def test_interfaces_and_containers_have_links_of_their_own_and_networks_share_them():
    links = {Attachment("net", c, i).host_interface for c in ("a", "b", "ab") for i in ("eth0", "bc", "c")}
    assert len(links) == 9
    assert Attachment("one", "a", "eth0").host_interface == Attachment("two", "a", "eth0").host_interface
