"""Addresses as map bytes."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from struct import Struct
from typing import Final

from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6, IpcacheKey

_ipv4: Final = Struct("4B12x").pack


def packed(text: str) -> tuple[int, bytes]:
    """Family and 16 bytes of an address, an IPv4 one in the first four."""
    if ":" not in text:  # there may be a hundred thousand: the library takes ten times as long
        first, second, third, fourth = text.split(".")
        return FAMILY_V4, _ipv4(int(first), int(second), int(third), int(fourth))
    address = ip_address(text)
    family = FAMILY_V4 if address.version == 4 else FAMILY_V6
    return family, address.packed.ljust(16, b"\0")


def unpacked(family: int, data: bytes) -> IPv4Address | IPv6Address:
    """The address that `packed` made these of."""
    return IPv4Address(data[:4]) if family == FAMILY_V4 else IPv6Address(data)


def prefix_key(text: str) -> IpcacheKey:
    """The ipcache key of a prefix or of a single address."""
    prefix = ip_network(text)
    family = FAMILY_V4 if prefix.version == 4 else FAMILY_V6
    return IpcacheKey(family, prefix.network_address.packed.ljust(16, b"\0"), prefix.prefixlen)


def mac_bytes(text: str) -> bytes:
    """The six bytes of `aa:bb:cc:dd:ee:ff`; zero for an empty text."""
    return bytes.fromhex(text.replace(":", "")) if text else bytes(6)
