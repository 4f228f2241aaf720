"""Headers of frames as a receiver reads them, and checksums as a sender makes them."""

import ipaddress
import struct
from typing import NamedTuple

from tests.support.packets import ICMP, ICMP6, SCTP, TCP, UDP, checksum

_CHECK_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}
_EXTENSIONS = {0, 43, 60}
_FRAGMENT = 44


class Headers(NamedTuple):
    """What a frame says. `options` are IPv4's, or IPv6's extension headers; `body` begins with the L4 header."""

    source: str
    to: str
    protocol: int
    sport: int
    dport: int
    ttl: int
    options: bytes
    body: bytes
    sums_hold: bool

    @property
    def ends(self) -> tuple[str, int, str, int]:
        """(source, its port, destination, its port)."""
        return self.source, self.sport, self.to, self.dport


class _Packet(NamedTuple):
    v6: bool
    at: int  # where the L4 header begins
    protocol: int
    pseudo: bytes
    end: int
    piece: bool  # not the first fragment, or not all of one


def sealed(frame: bytes) -> bytes:
    """The frame with the right checksum in its transport header."""
    packet = _packet(frame)
    offset = _CHECK_AT.get(packet.protocol)
    if offset is None or packet.piece:
        return frame
    at = packet.at + offset
    frame = frame[:at] + b"\0\0" + frame[at + 2 :]
    return frame[:at] + struct.pack(">H", _sum(frame, packet) or 0xFFFF) + frame[at + 2 :]


def unsummed(frame: bytes) -> bytes:
    """The frame with the checksum in its TCP or UDP header left to whoever receives it, as the kernel leaves it."""
    packet = _packet(frame)
    at = packet.at + _CHECK_AT[packet.protocol]
    return frame[:at] + struct.pack(">H", ~checksum(packet.pseudo) & 0xFFFF) + frame[at + 2 :]


def read(frame: bytes) -> Headers:
    """The headers of a frame with an IP packet."""
    packet = _packet(frame)
    ip = frame[14:]
    body = frame[packet.at : packet.end]
    ports = packet.protocol in {TCP, UDP, SCTP} and len(body) >= 4
    sport, dport = struct.unpack_from(">HH", body) if ports else (0, 0)
    if packet.v6:
        addresses, ttl, options, holds = (ip[8:24], ip[24:40]), ip[7], frame[54 : packet.at], True
    else:
        addresses, ttl, options = (ip[12:16], ip[16:20]), ip[8], frame[34 : packet.at]
        holds = checksum(frame[14 : packet.at]) == 0
    if not packet.piece and packet.protocol in _CHECK_AT:
        absent = packet.protocol == UDP and body[6:8] == b"\0\0"
        holds = holds and (absent or _sum(frame, packet) == 0)
    source, to = (str(ipaddress.ip_address(one)) for one in addresses)
    return Headers(source, to, packet.protocol, sport, dport, ttl, options, body, holds)


def _sum(frame: bytes, packet: _Packet) -> int:
    pseudo = b"" if packet.protocol == ICMP else packet.pseudo
    return checksum(pseudo + frame[packet.at : packet.end])


def _packet(frame: bytes) -> _Packet:
    if frame[12:14] == b"\x86\xdd":
        return _packet6(frame)
    size = (frame[14] & 15) * 4
    total, _, fragment = struct.unpack_from(">HHH", frame, 16)
    protocol = frame[23]
    pseudo = frame[26:34] + struct.pack(">BBH", 0, protocol, total - size)
    return _Packet(False, 14 + size, protocol, pseudo, 14 + total, bool(fragment & 0x3FFF))


def _packet6(frame: bytes) -> _Packet:
    (length,) = struct.unpack_from(">H", frame, 18)
    header, at, piece = frame[20], 54, False
    while header in _EXTENSIONS or header == _FRAGMENT:
        if header == _FRAGMENT:
            piece = struct.unpack_from(">H", frame, at + 2)[0] & 0xFFF9 != 0
        header, at = frame[at], at + (8 if header == _FRAGMENT else 8 * (frame[at + 1] + 1))
        if piece:
            break
    end = 54 + length
    pseudo = frame[22:54] + struct.pack(">II", end - at, header)
    return _Packet(True, at, header, pseudo, end, piece)
