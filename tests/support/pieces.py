"""Packets in two fragments, and these as their receiver puts them together."""

import struct
from typing import Final

from tests.support.headers import Headers, read, sealed
from tests.support.outside import CLIENT_MAC, ETH0_MAC, V4, Family
from tests.support.packets import UDP, checksum, ethernet, frame, ipv4, ipv6

_TO_NODE: Final = {"source": CLIENT_MAC, "to": ETH0_MAC}


def pieces(
    family: Family, source: str, to: str, datagram: bytes, number: int = 77, *, protocol: int = UDP
) -> list[bytes]:
    """The datagram, or segment, in two fragments."""
    whole = read(sealed(frame(source, to, protocol, datagram))).body
    first, rest = whole[:24], whole[24:]
    if family is V4:
        parts = [
            ipv4(source, to, protocol, first, more=True),
            ipv4(source, to, protocol, rest, fragment=3),
        ]
        parts = [_numbered(part, number) for part in parts]
        return [ethernet(part, 0x0800, **_TO_NODE) for part in parts]
    return [
        ethernet(ipv6(source, to, 44, struct.pack(">BBHI", protocol, 0, 1, number) + first), 0x86DD, **_TO_NODE),
        ethernet(ipv6(source, to, 44, struct.pack(">BBHI", protocol, 0, 3 << 3, number) + rest), 0x86DD, **_TO_NODE),
    ]


def _numbered(packet: bytes, number: int) -> bytes:
    head = packet[:4] + struct.pack(">H", number) + packet[6:10] + b"\0\0" + packet[12:20]
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + packet[20:]


def joined(frames: list[bytes], *, protocol: int = UDP) -> Headers:
    """The datagram, or segment, that the fragments make."""
    seen = [read(one) for one in frames]
    assert len({(one.source, one.to) for one in seen}) == 1
    return read(frame(seen[0].source, seen[0].to, protocol, b"".join(one.body for one in seen)))
