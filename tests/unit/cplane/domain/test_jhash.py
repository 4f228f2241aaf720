"""Jenkins' hash: published values, and what the kernel's programs take of a packet."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.jhash import flow_hash, jhash, jhash_3words

WORDS = st.integers(0, 0xFFFF_FFFF)
SAYING = b"Four score and seven years ago"


@pytest.mark.parametrize(
    ("data", "seed", "value"),
    [
        (b"", 0, 0xDEADBEEF),
        (b"", 0xDEADBEEF, 0xBD5B7DDE),
        (SAYING, 0, 0x17770551),
        (SAYING, 1, 0xCD628161),
    ],
)
def test_values_are_those_that_the_author_published(data: bytes, seed: int, value: int) -> None:
    """Source: the comments of lookup3.c, driver5."""
    assert jhash(data, seed) == value


@given(WORDS, WORDS, WORDS, WORDS)
def test_three_words_are_as_their_bytes(first: int, second: int, third: int, seed: int) -> None:
    assert jhash_3words(first, second, third, seed) == jhash(struct.pack("<3I", first, second, third), seed)


@given(st.integers(0, 65_535), st.integers(0, 65_535), WORDS)
def test_a_packet_is_its_source_its_ports_as_they_lie_and_its_protocol(source_port: int, port: int, seed: int) -> None:
    address = ip_address("192.0.2.1").packed
    # A little-endian processor that loads the source's and then the destination's port has this word.
    (ports,) = struct.unpack("<I", struct.pack(">HH", source_port, port))
    expected = jhash_3words(struct.unpack("<I", address)[0], ports, 6, seed)
    assert flow_hash(address, source_port, port, 6, seed) == expected


def test_all_of_a_source_counts() -> None:
    sources = [ip_address(text).packed for text in ("fd00::1", "fd00::2", "fd00:0:0:1::1", "fd00:1::1", "fd01::1")]
    assert len({flow_hash(source, 1234, 80, 6, 7) for source in sources}) == len(sources)
    assert len({flow_hash(sources[0], port, 80, 6, 7) for port in range(1000)}) == 1000
