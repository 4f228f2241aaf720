"""Ranges of ports become prefixes that cover them exactly."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.ports import (
    ALL_L4,
    PORT_MAX,
    L4Key,
    NamedPort,
    Protocol,
    cover,
    covers,
    named_port_texts,
    parse_named_ports,
    port_keys,
    protocol_keys,
    shortened,
)

ports = st.integers(0, PORT_MAX)
ranges = st.tuples(ports, ports).map(sorted).map(tuple)
keys = st.builds(shortened, st.sampled_from((6, 17)), st.integers(0, 15), st.sampled_from((0, 8, *range(18, 25))))


@given(ranges)
def test_a_cover_is_exact_and_without_overlap(bounds):
    first, last = bounds
    expected = first
    for port, bits in cover(first, last):
        assert port == expected
        assert port % (1 << (16 - bits)) == 0
        expected = port + (1 << (16 - bits))
    assert expected == last + 1


@given(ranges)
def test_a_cover_is_short_and_has_no_two_pairs_that_could_be_one(bounds):
    pairs = cover(*bounds)
    assert len(pairs) <= 30
    for (one, bits), (two, other) in pairwise(pairs):
        mergeable = bits == other and one % (1 << (17 - bits)) == 0 and two == one + (1 << (16 - bits))
        assert not mergeable


def test_known_covers():
    assert cover(80, 80) == ((80, 16),)
    assert cover(0, PORT_MAX) == ((0, 0),)
    assert cover(80, 89) == ((80, 13), (88, 15))
    assert len(cover(1, PORT_MAX - 1)) == 30


@pytest.mark.parametrize("bounds", [(5, 4), (-1, 4), (0, 65536)])
def test_what_is_no_range_has_no_cover(bounds):
    with pytest.raises(ValueError, match="is not a range of ports"):
        cover(*bounds)


def test_any_is_every_protocol_that_has_ports():
    assert port_keys(Protocol.ANY, 53, 53) == (L4Key(6, 53, 24), L4Key(17, 53, 24), L4Key(132, 53, 24))
    assert protocol_keys(Protocol.ANY) == (L4Key(6, 0, 8), L4Key(17, 0, 8), L4Key(132, 0, 8))
    assert protocol_keys(Protocol.ICMP) == (L4Key(1, 0, 8),)


@given(keys, keys, st.sampled_from((6, 17)), st.integers(0, 15))
def test_a_key_covers_another_when_it_matches_all_that_the_other_matches(broad, narrow, protocol, port):
    def matches(key):
        return shortened(protocol, port, key.bits) == key

    if covers(broad, narrow) and matches(narrow):
        assert matches(broad)
    if covers(broad, narrow) and covers(narrow, broad):
        assert broad == narrow
    assert covers(ALL_L4, narrow)
    assert covers(narrow, narrow)


def test_named_ports_are_read_and_written_in_one_spelling():
    found = parse_named_ports(["HTTP=80", "dns=53/udp", "dns=53/UDP", "x=09/SCTP"])
    assert found == {
        (NamedPort(Protocol.TCP, "http"), 80),
        (NamedPort(Protocol.UDP, "dns"), 53),
        (NamedPort(Protocol.SCTP, "x"), 9),
    }
    assert named_port_texts(found) == ("dns=53/UDP", "http=80/TCP", "x=9/SCTP")
    assert parse_named_ports(named_port_texts(found)) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a", "is not name=number/protocol"), ("a=1/VRRP", "the protocol 'VRRP' is none of TCP, UDP, SCTP")],
)
def test_what_is_no_named_port_is_told(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_named_ports([text])
