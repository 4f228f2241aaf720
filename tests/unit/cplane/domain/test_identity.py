"""Numbers and the labels they stand for."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.identity import Reserved, cidr_label, cidr_labels, cidr_of_label, is_local, world_of
from cplane.domain.labels import Label


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("10.0.0.0/24", "cidr:10.0.0.0/24="),
        ("::1/128", "cidr:0--1/128="),
        ("2001:db8::/32", "cidr:2001-db8--0/32="),
        ("::/8", "cidr:0--0/8="),
    ],
)
def test_a_prefix_has_a_label_without_colons(prefix, text):
    assert str(cidr_label(ip_network(prefix))) == text


@given(st.ip_addresses(), st.integers(0, 128))
def test_the_label_of_a_prefix_gives_the_prefix_back(address, length):
    prefix = ip_network((address, min(length, address.max_prefixlen)), strict=False)
    assert cidr_of_label(cidr_label(prefix)) == prefix


def test_other_labels_name_no_prefix():
    assert cidr_of_label(Label("app", "k8s", "web")) is None


def test_a_prefix_is_in_the_world_of_its_family_and_the_widest_is_the_world():
    assert cidr_labels(ip_network("10.0.0.0/8"), dual_stack=True).texts() == (
        "cidr:10.0.0.0/8=", "reserved:world-ipv4=",
    )  # fmt: skip
    assert cidr_labels(ip_network("::/0"), dual_stack=True).texts() == ("reserved:world-ipv6=",)
    assert cidr_labels(ip_network("::/0"), dual_stack=False).texts() == ("reserved:world=",)


def test_the_world_is_divided_only_where_there_are_two_families():
    assert [world_of(f, dual_stack=True) for f in (4, 6)] == [Reserved.WORLD_IPV4, Reserved.WORLD_IPV6]
    assert [world_of(f, dual_stack=False) for f in (4, 6)] == [Reserved.WORLD] * 2


def test_reserved_labels():
    assert Reserved.HOST.labels.texts() == ("reserved:host=",)
    assert Reserved.KUBE_APISERVER.labels.texts() == ("reserved:kube-apiserver=", "reserved:remote-node=")


def test_local_numbers_are_those_of_one_scope():
    assert [is_local(n) for n in (1, 65535, 1 << 24, (1 << 24) | 5, 2 << 24)] == [False, False, True, True, False]
