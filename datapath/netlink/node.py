"""The node's own part: an interface that holds the gateway addresses, and a kernel that forwards."""

import errno
import os
from collections.abc import Sequence
from typing import Final

from datapath.maps import marks
from datapath.netlink import addresses, links, routes, rtnl, rules
from datapath.netlink.errors import KernelRefused
from datapath.netlink.families import family_of
from datapath.netlink.rtnl import Rtnl

HOST: Final = "cplane_host"
PEER: Final = "cplane_net"
_LOOPBACK: Final = "lo"
_TO_PROXY: Final = rules.Marked(priority=9, mark=marks.TO_PROXY, mask=marks.MASK, table=2004)
FAMILIES: Final = (family_of("0.0.0.0"), family_of("::"))  # noqa: S104  # families, not sockets


def prepare(routers: Sequence[str], prefixes: Sequence[str]) -> None:
    """The node answers under the gateway addresses, forwards, and sends nothing for unknown pods elsewhere.

    What programs mark for a proxy is for the node itself, whatever its address; what comes in again by PEER to get
    there may have an address of the node as its source.

    `routers` are addresses, `prefixes` the pod prefixes (`10.244.0.0/24`). Idempotent. Raises
    KernelRefused, and NameTaken when somebody else's link has our name.
    """
    _forward(ipv6=any(":" in router for router in routers))
    with Rtnl() as kernel:
        links.create_node_pair(kernel, HOST, PEER)
        for name in (HOST, PEER):
            rtnl.write_sysctl(f"ipv4/conf/{name}/rp_filter", "0")
            rtnl.write_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
        rtnl.write_sysctl(f"ipv4/conf/{PEER}/accept_local", "1")
        index = rtnl.index_of(HOST)
        loopback = rtnl.index_of(_LOOPBACK)
        held = addresses.of_interface(kernel, index)
        kernel.do(
            links.set_up(index, HOST),
            links.set_up(rtnl.index_of(PEER), PEER),
            *(addresses.add(index, HOST, router) for router in routers if router not in held),
            *(routes.nowhere(prefix) for prefix in prefixes),
            links.set_up(loopback, _LOOPBACK),
            *(routes.to_ourselves(family, _TO_PROXY.table, loopback) for family in FAMILIES),
        )
        for family in FAMILIES:
            rules.add(kernel, family, _TO_PROXY)


def remove() -> None:
    """The node's pair and every route of ours are gone; forwarding stays as it is, others may need it by now."""
    with Rtnl() as kernel:
        for family in FAMILIES:
            routes.delete_ours(kernel, family)
            rules.delete(kernel, family, _TO_PROXY)
            kernel.attempt([routes.from_ourselves(family, _TO_PROXY.table)])
        if links.is_ours(kernel, HOST):
            kernel.do(links.deletion(rtnl.index_of(HOST), HOST))


def local_addresses() -> tuple[str, ...]:
    """The node's own addresses, sorted, without the gateways' and those of pods' links."""
    with Rtnl() as kernel:
        return addresses.local(kernel, frozenset({HOST, PEER}))


def _forward(*, ipv6: bool) -> None:
    rtnl.write_sysctl("ipv4/ip_forward", "1")
    if ipv6 and _read("ipv6/conf/all/forwarding") == "0":
        # A forwarding node ignores router advertisements unless accept_ra is 2 (ip-sysctl); a machine that
        # has its default route from one would lose it.
        for device in _devices():
            if device not in {"all", "default"} and _read(f"ipv6/conf/{device}/accept_ra") == "1":
                rtnl.write_sysctl(f"ipv6/conf/{device}/accept_ra", "2")
        rtnl.write_sysctl("ipv6/conf/all/forwarding", "1")


def _devices() -> list[str]:
    try:
        return os.listdir("/proc/sys/net/ipv6/conf")
    except OSError as error:
        raise KernelRefused("list the devices of IPv6", error.errno or errno.EIO) from error


def _read(name: str) -> str:
    try:
        with open(f"/proc/sys/net/{name}", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise KernelRefused(f"read net/{name}", error.errno or errno.EIO) from error
