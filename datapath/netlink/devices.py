"""Devices by which the node reaches the outside, as the kernel has them now."""

from ipaddress import ip_address
from typing import Final, NamedTuple

from datapath.netlink import addresses, links, rtnl
from datapath.netlink.messages import ifaddrmsg
from datapath.netlink.rtnl import Message, Rtnl

_ETHERNET: Final = 1  # ARPHRD_ETHER
_USELESS: Final = 0x01 | 0x20 | 0x40  # IFA_F_SECONDARY (IPv6: TEMPORARY), IFA_F_DEPRECATED, IFA_F_TENTATIVE


class Netdev(NamedTuple):
    """An Ethernet device. `kind` is that of its driver, where it has one (`veth`, `bond`).

    Addresses are packed, the first ones that are good for all the world and there to stay; zeroes where it has none.
    """

    ifindex: int
    mac: bytes
    kind: str
    ipv4: bytes
    ipv6: bytes


def find(name: str) -> Netdev | None:
    """The device of this name in the network namespace of the calling thread; None: there is no such Ethernet device.

    Raises KernelRefused.
    """
    index = rtnl.index_of(name)
    with Rtnl() as kernel:
        link = links.get(kernel, index) if index else None
        if link is None or link["ifi_type"] != _ETHERNET:
            return None
        given = [one for one in kernel.dump(rtnl.GET_ADDRESS, ifaddrmsg()) if one["index"] == index]
    mac = bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))
    return Netdev(index, mac, _kind(link), _first(given, 4), _first(given, 6))


def _kind(link: Message) -> str:
    information = link.get_attr("IFLA_LINKINFO")
    return str(information.get_attr("IFLA_INFO_KIND")) if information else ""


def _first(given: list[Message], version: int) -> bytes:
    for one in given:
        address = ip_address(addresses.text(one))
        if address.version == version and addresses.is_global(one) and not one["flags"] & _USELESS:
            return address.packed
    return bytes(4 if version == 4 else 16)
