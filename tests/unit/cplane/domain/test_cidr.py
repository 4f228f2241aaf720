"""Prefixes: read strictly, compared by containment, found by it."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.cidr import PrefixIndex, contains, parse_prefix, parse_prefix_or_address


def nearby(version):
    """Prefixes around one corner of the address space, so that they contain each other."""
    bits = 32 if version == 4 else 128
    return st.builds(
        lambda address, length: ip_network((address << (bits - 6), length), strict=False),
        st.integers(0, 63),
        st.sampled_from((0, 1, 2, 3, 4, 5, 6, bits)),
    )


prefixes = st.one_of(nearby(4), nearby(6))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.0.0.0/8", "10.0.0.0/8"), ("10.1.2.3/8", "10.0.0.0/8"), ("::/0", "::/0"), ("2001:DB8::1/32", "2001:db8::/32")],
)
def test_a_prefix_is_read_and_its_host_bits_dropped(text, expected):
    assert str(parse_prefix(text)) == expected
    assert parse_prefix_or_address(text) == parse_prefix(text)


@pytest.mark.parametrize(
    "text",
    ["", "/8", "10.0.0.1", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0/8/8",
     "10.0.0.0/0.0.0.255", "10.0.0/8", "::/129", "fe80::1%eth0/64", "10.0.0.0/٨", " 10.0.0.0/8", "10.0.0.0/ 8"],
)  # fmt: skip
def test_what_is_no_prefix_is_refused(text):
    with pytest.raises(ValueError):
        parse_prefix(text)


def test_an_address_alone_is_the_prefix_of_that_address():
    assert str(parse_prefix_or_address("10.0.0.1")) == "10.0.0.1/32"
    assert str(parse_prefix_or_address("2001:db8::1")) == "2001:db8::1/128"
    with pytest.raises(ValueError):
        parse_prefix_or_address("fe80::1%eth0")


@given(prefixes, prefixes)
def test_contains_is_what_the_standard_library_calls_a_subnet(outer, inner):
    same_family = outer.version == inner.version
    assert contains(outer, inner) == (same_family and inner.subnet_of(outer))


@given(st.lists(prefixes, max_size=30), st.lists(st.integers(0, 29)), prefixes)
def test_an_index_finds_what_a_scan_would_find(added, removed, asked):
    index, held = PrefixIndex(), []
    for number, prefix in enumerate(added):
        index.add(prefix, number)
        held.append((prefix, number))
    for place in removed:
        if place < len(held):
            index.remove(*held.pop(place))
    assert sorted(index.containing(asked)) == sorted(n for p, n in held if contains(p, asked))
    assert sorted(index.within(asked)) == sorted(n for p, n in held if contains(asked, p))


def test_what_is_not_in_an_index_cannot_be_removed():
    index = PrefixIndex()
    index.add(ip_network("10.0.0.0/8"), 1)
    with pytest.raises(KeyError):
        index.remove(ip_network("10.0.0.0/8"), 2)
    with pytest.raises(KeyError):
        index.remove(ip_network("::/0"), 1)
