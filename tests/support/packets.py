"""Ethernet frames from fields and back: enough of every protocol to say what a test means."""

import ipaddress
import struct
from collections.abc import Sequence
from typing import NamedTuple

ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132
FIN, SYN, RST, ACK = 1, 2, 4, 16
POD_MAC = bytes.fromhex("020000000011")
NODE_MAC = bytes.fromhex("020000000001")


def packed(address: str) -> bytes:
    """4 or 16 bytes."""
    return ipaddress.ip_address(address).packed


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(payload: bytes, kind: int, *, source: bytes = POD_MAC, to: bytes = NODE_MAC) -> bytes:
    """One frame."""
    return to + source + struct.pack(">H", kind) + payload


def tcp(sport: int, dport: int, flags: int = SYN, payload: bytes = b"") -> bytes:
    """A header without options; the checksum stays zero, which no program reads."""
    return struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 5 << 4, flags, 1024, 0, 0) + payload


def udp(sport: int, dport: int, payload: bytes = b"x") -> bytes:
    """A datagram."""
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def sctp(sport: int, dport: int) -> bytes:
    """The common header."""
    return struct.pack(">HHII", sport, dport, 7, 0)


def icmp(kind: int, code: int = 0, ident: int = 0, payload: bytes = b"") -> bytes:
    """A message of either family, with the fields of an echo."""
    return struct.pack(">BBHHH", kind, code, 0, ident, 1) + payload


def ipv4(
    source: str,
    to: str,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    options: bytes = b"",
    fragment: int = 0,
    more: bool = False,
) -> bytes:
    """A packet; `fragment` is the offset in units of 8 bytes."""
    ihl = 5 + len(options) // 4
    head = struct.pack(
        ">BBHHHBBH4s4s",
        4 << 4 | ihl,
        0,
        ihl * 4 + len(payload),
        1,
        fragment | (0x2000 if more else 0),
        ttl,
        protocol,
        0,
        packed(source),
        packed(to),
    )
    head += options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(source: str, to: str, protocol: int, payload: bytes, *, hop_limit: int = 64) -> bytes:
    """A packet; extension headers are part of `payload`, and `protocol` is the first of them."""
    head = struct.pack(">IHBB16s16s", 6 << 28, len(payload), protocol, hop_limit, packed(source), packed(to))
    return head + payload


def extensions(headers: Sequence[int], protocol: int, payload: bytes) -> tuple[int, bytes]:
    """The payload behind extension headers of 8 bytes each (44 is a first fragment): first header, bytes."""
    following = [*headers, protocol][1:]
    out = b""
    for header, then in zip(headers, following, strict=True):
        # An authentication header counts in words of four bytes, less two.
        out += struct.pack(">BBHI", then, 0, 1 if header == 44 else 0, 0)
    return (headers[0] if headers else protocol), out + payload


def frame(source: str, to: str, protocol: int, payload: bytes, **more: int) -> bytes:
    """A frame with a packet of the addresses' family; `ttl` is the hop limit in IPv6."""
    if ":" in source:
        return ethernet(ipv6(source, to, protocol, payload, hop_limit=more.get("ttl", 64)), 0x86DD)
    return ethernet(ipv4(source, to, protocol, payload, ttl=more.get("ttl", 64)), 0x0800)


def arp(
    operation: int,
    sender: str,
    target: str,
    *,
    sender_mac: bytes = POD_MAC,
    target_mac: bytes = bytes(6),
    to: bytes = b"\xff" * 6,
) -> bytes:
    """RFC 826; 1 asks, 2 answers."""
    body = struct.pack(
        ">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, sender_mac, packed(sender), target_mac, packed(target)
    )
    return ethernet(body, 0x0806, source=sender_mac, to=to)


def icmp6_checksum(source: bytes, to: bytes, message: bytes) -> int:
    """RFC 8200 §8.1, of a message whose own field is zero."""
    return checksum(source + to + struct.pack(">II", len(message), ICMP6) + message)


def neighbour(
    kind: int,
    source: str,
    to: str,
    target: str,
    *,
    mac: bytes | None = POD_MAC,
    hop_limit: int = 255,
    flags: int = 0,
) -> bytes:
    """A neighbour solicitation (135) or advertisement (136), with its link-layer address option if `mac`."""
    body = struct.pack(">BBHI16s", kind, 0, 0, flags, packed(target))
    if mac is not None:
        body += struct.pack(">BB6s", 1 if kind == 135 else 2, 1, mac)
    body = body[:2] + struct.pack(">H", icmp6_checksum(packed(source), packed(to), body)) + body[4:]
    return ethernet(ipv6(source, to, ICMP6, body, hop_limit=hop_limit), 0x86DD, to=bytes.fromhex("3333ff000001"))


class Seen(NamedTuple):
    """What a program made of the headers."""

    to_mac: bytes
    from_mac: bytes
    ttl: int
    checksum_holds: bool


def read(data: bytes) -> Seen:
    """The parts of a frame that forwarding changes."""
    v6 = data[12:14] == b"\x86\xdd"
    ttl = data[14 + 7] if v6 else data[14 + 8]
    size = 0 if v6 else (data[14] & 15) * 4
    return Seen(data[:6], data[6:12], ttl, v6 or checksum(data[14 : 14 + size]) == 0)
