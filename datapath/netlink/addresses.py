"""Addresses of interfaces: given, read, and the node's own."""

from ipaddress import ip_address
from typing import Final

from datapath.netlink import rtnl
from datapath.netlink.attachment import HOST_PREFIX
from datapath.netlink.families import bits_of, family_of
from datapath.netlink.messages import ifaddrmsg
from datapath.netlink.rtnl import Message, Request, Rtnl

_NO_DAD: Final = 0x02  # IFA_F_NODAD: usable at once; the agent gives no address twice
_UNIVERSE: Final = 0  # RT_SCOPE_UNIVERSE


def add(index: int, name: str, address: str) -> Request:
    """The interface has the address, alone in its prefix (/32 or /128)."""
    message = ifaddrmsg()
    message["index"], message["family"] = index, family_of(address)
    message["prefixlen"], message["flags"] = bits_of(address), _NO_DAD
    message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    return Request(f"give {name} the address {address}", rtnl.NEW_ADDRESS, rtnl.CREATE, message)


def of_interface(kernel: Rtnl, index: int) -> set[str]:
    """The addresses that the interface has, as text."""
    return {text(found) for found in kernel.dump(rtnl.GET_ADDRESS, ifaddrmsg()) if found["index"] == index}


def local(kernel: Rtnl, skip: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The node's own addresses, sorted: of global scope, without those of pods' links and of interfaces in `skip`."""
    ours = {rtnl.index_of(name) for name in skip}
    found = {
        text(message)
        for message in kernel.dump(rtnl.GET_ADDRESS, ifaddrmsg())
        if is_global(message) and message["index"] not in ours and not _is_pod_link(message["index"])
    }
    return tuple(sorted(found, key=lambda one: (ip_address(one).version, ip_address(one))))


def is_global(message: Message) -> bool:
    """Whether the address is good for all the world, and not for a link or this node only."""
    return bool(message["scope"] == _UNIVERSE)


def text(message: Message) -> str:
    """The address that the message is about."""
    # On a point-to-point link IFA_ADDRESS is the far end; IPv6 has IFA_LOCAL only there (linux/if_addr.h).
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))


def _is_pod_link(index: int) -> bool:
    return rtnl.name_of(index).startswith(HOST_PREFIX)
