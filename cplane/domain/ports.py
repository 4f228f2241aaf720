"""Transport protocols, port ranges, and the prefixes of (protocol, port) that a policy map can hold.

A prefix of (protocol, port) matches nothing at all (0 bits), the protocol (8), or the protocol and the first bits of
the port (9 to 24). ICMP has no ports: its message type stands in the place of the port.
"""

import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

PROTOCOL_BITS: Final = 8
PORT_BITS: Final = 16
FULL_BITS: Final = PROTOCOL_BITS + PORT_BITS
PORT_MAX: Final = 65_535
_NUMBER: Final = re.compile(r"[0-9]{1,5}")


class Protocol(IntEnum):
    """IANA numbers; ANY stands for every protocol that has ports."""

    ANY = 0
    ICMP = 1
    IGMP = 2
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    VRRP = 112
    SCTP = 132


PORT_PROTOCOLS: Final = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
PORTLESS_PROTOCOLS: Final = (Protocol.IGMP, Protocol.VRRP)


class NamedPort(NamedTuple):
    """What a container calls one of its ports; the name is in lower case."""

    protocol: Protocol
    name: str


NamedPorts = frozenset[tuple[NamedPort, int]]
"""Ports with names, and their numbers."""


def parse_named_ports(texts: Iterable[str]) -> NamedPorts:
    """The ports that texts like `http=8080/TCP` name. Raises ValueError with what is wrong."""
    found = set()
    for text in texts:
        name, equals, rest = text.partition("=")
        number, slash, protocol = rest.partition("/")
        if not equals or not name or not _NUMBER.fullmatch(number) or not 0 < int(number) <= PORT_MAX:
            raise ValueError(f"{text!r} is not name=number/protocol, for example http=8080/TCP")
        known = {one.name: one for one in PORT_PROTOCOLS}.get(protocol.upper() if slash else "TCP")
        if known is None:
            raise ValueError(f"{text!r}: the protocol {protocol!r} is none of TCP, UDP, SCTP")
        found.add((NamedPort(known, name.lower()), int(number)))
    return frozenset(found)


def named_port_texts(ports: NamedPorts) -> tuple[str, ...]:
    """The inverse of `parse_named_ports`, sorted."""
    return tuple(sorted(f"{one.name}={number}/{one.protocol.name}" for one, number in ports))


class L4Key(NamedTuple):
    """A prefix of (protocol, port); bits of the port behind the prefix are zero, and so is all that is not matched."""

    protocol: int
    port: int
    bits: int


ALL_L4: Final = L4Key(0, 0, 0)


def port_keys(protocol: Protocol, first: int, last: int) -> tuple[L4Key, ...]:
    """The fewest keys that match exactly the ports `first` to `last`, in order; ANY gives those of each protocol."""
    protocols = PORT_PROTOCOLS if protocol is Protocol.ANY else (protocol,)
    return tuple(L4Key(int(one), port, PROTOCOL_BITS + bits) for one in protocols for port, bits in cover(first, last))


def protocol_keys(protocol: Protocol) -> tuple[L4Key, ...]:
    """The keys that match all of a protocol; ANY gives those of each protocol that has ports."""
    return port_keys(protocol, 0, PORT_MAX)


@lru_cache(maxsize=4096)
def cover(first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The fewest (port, prefix length) pairs that cover `first` to `last`, both included, and nothing else.

    A range of 16-bit numbers needs at most 30 of them.
    """
    if not 0 <= first <= last <= PORT_MAX:
        raise ValueError(f"{first}-{last} is not a range of ports")
    return tuple(_cover(first, last))


def _cover(first: int, last: int) -> Iterator[tuple[int, int]]:
    while first <= last:
        # The largest block that begins here is bounded by the alignment of `first` and by what is left.
        free = PORT_BITS if first == 0 else (first & -first).bit_length() - 1
        free = min(free, (last - first + 1).bit_length() - 1)
        yield first, PORT_BITS - free
        first += 1 << free


def shortened(protocol: int, port: int, bits: int) -> L4Key:
    """The prefix of (`protocol`, `port`) that is `bits` long: 0, or 8 to 24."""
    if bits == 0:
        return ALL_L4
    behind = FULL_BITS - bits
    return L4Key(protocol, port >> behind << behind, bits)


def covers(broad: L4Key, narrow: L4Key) -> bool:
    """Whether every packet that `narrow` matches is matched by `broad`; a key covers itself."""
    return broad.bits <= narrow.bits and shortened(narrow.protocol, narrow.port, broad.bits) == broad
