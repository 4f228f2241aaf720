"""Packets of a batch, read all at once: each step is one for all of them.

A packet is what a sample holds of it, which may end anywhere. What is not there is read as zeros, and a layer counts
only when all of its fixed part is there.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
IGMP, TCP, UDP, ICMP, ICMP6, VRRP, SCTP = 2, 6, 17, 1, 58, 112, 132
_VLAN: Final = (0x8100, 0x88A8)
_VLANS_MAX: Final = 2
_EXTENSIONS: Final = (0, 43, 60, 44, 51)  # hop-by-hop, routing, destination, fragment, authentication (RFC 8200, 4)
_FRAGMENT, _AUTHENTICATION = 44, 51
_EXTENSIONS_MAX: Final = 8
# bytes of a layer that must be there for it to count
_LEAST: Final = {TCP: 20, UDP: 8, SCTP: 12, ICMP: 4, ICMP6: 4, VRRP: 8, IGMP: 8}
_VXLAN_BYTES: Final = 8
_GENEVE_BYTES: Final = 8


class Samples:
    """Byte strings of different lengths as one matrix."""

    def __init__(self, samples: "list[bytes]", longest: int) -> None:
        kept = [sample[:longest] for sample in samples]
        self.lengths: Ints = np.fromiter(map(len, kept), np.int64, len(kept))
        self._width = max(1, int(self.lengths.max(initial=0)))
        padded = b"".join(sample.ljust(self._width, b"\0") for sample in kept)
        self.matrix: Bytes = np.frombuffer(padded, np.uint8).reshape(len(kept), self._width)
        self._rows: Ints = np.arange(len(kept))

    def __len__(self) -> int:
        return len(self.lengths)

    def has(self, at: Ints, width: int) -> Bools:
        """Where all of so many bytes are there."""
        return np.asarray((at >= 0) & (at + width <= self.lengths))

    def take(self, at: Ints, width: int) -> Bytes:
        """So many bytes of each, zeros where there are none."""
        places = at[:, None] + np.arange(width)
        found = self.matrix[self._rows[:, None], np.clip(places, 0, self._width - 1)]
        return np.where((places >= 0) & (places < self.lengths[:, None]), found, 0).astype(np.uint8)

    def number(self, at: Ints, width: int) -> Ints:
        """A big-endian number of at most 7 bytes of each."""
        value = np.zeros(len(self), np.int64)
        for byte in self.take(at, width).T:
            value = value << 8 | byte
        return value


@dataclass(slots=True)
class Packets:
    """What the packets say, as columns. `ip_version` is flow.IPVersion, `layer4` says where there is such a layer."""

    smac: Bytes
    dmac: Bytes
    ip_version: Ints
    source: Bytes  # 16 bytes, an IPv4 address in the first four
    destination: Bytes
    protocol: Ints
    layer4: Bools
    sport: Ints
    dport: Ints
    tcp_flags: Ints
    nonce_sum: Bools
    icmp_type: Ints
    icmp_code: Ints
    payload: Ints  # where the fourth layer begins

    def replaced_by(self, other: "Packets", where: Bools) -> "Packets":
        """The other ones there, these elsewhere."""
        columns = {}
        for name in self.__slots__:
            mine, its = getattr(self, name), getattr(other, name)
            columns[name] = np.where(where[:, None] if mine.ndim == 2 else where, its, mine)
        return Packets(**columns)


def read(samples: Samples, at: Ints, *, bare: Bools, bare_is_v6: Bools) -> Packets:
    """The packets that begin at `at`; where `bare`, with their third layer."""
    count = len(samples)
    ethernet = ~bare & samples.has(at, 14)
    kind = np.where(bare, np.where(bare_is_v6, IPV6, IPV4), np.where(ethernet, samples.number(at + 12, 2), 0))
    layer3 = np.where(bare, at, at + 14)
    for _ in range(_VLANS_MAX):
        tagged = ethernet & np.isin(kind, _VLAN) & samples.has(layer3, 4)
        kind = np.where(tagged, samples.number(layer3 + 2, 2), kind)
        layer3 = layer3 + 4 * tagged
    version = samples.number(layer3, 1) >> 4
    v4 = (kind == IPV4) & (version == 4) & samples.has(layer3, 20)
    v6 = (kind == IPV6) & (version == 6) & samples.has(layer3, 40)
    source, destination = np.zeros((count, 16), np.uint8), np.zeros((count, 16), np.uint8)
    for out, at4, at6 in ((source, 12, 8), (destination, 16, 24)):
        out[:, :4] = np.where(v4[:, None], samples.take(layer3 + at4, 4), 0)
        out[:] = np.where(v6[:, None], samples.take(layer3 + at6, 16), out)
    size4 = (samples.number(layer3, 1) & 15) * 4
    protocol = np.where(v4, samples.number(layer3 + 9, 1), np.where(v6, samples.number(layer3 + 6, 1), 0))
    first = ~(v4 & (samples.number(layer3 + 6, 2) & 0x1FFF != 0))
    layer4 = layer3 + np.where(v4, size4, 40)
    protocol, layer4, first = _after_extensions(samples, v6, protocol, layer4, first)
    whole = np.zeros(count, np.bool_)
    for number, least in _LEAST.items():
        whole |= (protocol == number) & samples.has(layer4, least)
    usable = (v4 & (size4 >= 20) | v6) & first & whole
    ported, tcp = usable & np.isin(protocol, (TCP, UDP, SCTP)), usable & (protocol == TCP)
    icmp = usable & (np.isin(protocol, (ICMP, ICMP6)))

    def where(mask: Bools, offset: int, width: int) -> Ints:
        return np.where(mask, samples.number(layer4 + offset, width), 0)

    return Packets(
        smac=np.where(ethernet[:, None], samples.take(at + 6, 6), 0).astype(np.uint8),
        dmac=np.where(ethernet[:, None], samples.take(at, 6), 0).astype(np.uint8),
        ip_version=np.where(v4, 1, np.where(v6, 2, 0)),
        source=source,
        destination=destination,
        protocol=protocol,
        layer4=usable,
        sport=where(ported, 0, 2),
        dport=where(ported, 2, 2),
        tcp_flags=where(tcp, 13, 1),
        nonce_sum=(where(tcp, 12, 1) & 1) != 0,
        icmp_type=where(icmp, 0, 1),
        icmp_code=where(icmp, 1, 1),
        payload=layer4,
    )


def _after_extensions(
    samples: Samples, v6: Bools, protocol: Ints, layer4: Ints, first: Bools
) -> tuple[Ints, Ints, Bools]:
    """Protocol and place behind IPv6 extension headers, and whether the packet is whole or its first fragment."""
    for _ in range(_EXTENSIONS_MAX):
        more = v6 & np.isin(protocol, _EXTENSIONS) & samples.has(layer4, 8)
        if not more.any():
            break
        fragment = more & (protocol == _FRAGMENT)
        first = first & ~(fragment & (samples.number(layer4 + 2, 2) >> 3 != 0))
        length = samples.number(layer4 + 1, 1)
        size = np.where(protocol == _AUTHENTICATION, (length + 2) * 4, (length + 1) * 8)
        size = np.where(fragment, 8, size)
        protocol = np.where(more, samples.number(layer4, 1), protocol)
        layer4 = np.where(more, layer4 + size, layer4)
    return protocol, layer4, first


def inner(samples: Samples, outer: Packets, vxlan: Bools, geneve: Bools) -> tuple[Packets, Bools, Ints]:
    """The packets within VXLAN (RFC 7348, 5) and Geneve (RFC 8926, 3.4), where there are any, and their networks."""
    header = outer.payload + 8
    wrapped = outer.layer4 & (outer.protocol == UDP) & (vxlan | geneve) & samples.has(header, 8)
    options = (samples.number(header, 1) & 0x3F) * 4
    at = header + np.where(geneve, _GENEVE_BYTES + options, _VXLAN_BYTES)
    nothing = np.zeros(len(samples), np.bool_)
    found = read(samples, at, bare=nothing, bare_is_v6=nothing)
    return found, wrapped & (found.ip_version != 0), np.where(wrapped, samples.number(header + 4, 3), 0)
