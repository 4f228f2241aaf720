"""A client and two nodes on one wire, each node with pods: real packets through our programs.

    client 10.200.0.7 ─┐
    node a 10.200.0.1 ─┼─ bridge        pods of a: 10.201.0.11 …    pods of b: 10.202.0.11 …
    node b 10.200.0.2 ─┘

and the same with fd20::, fd21:: and fd22::.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datapath.kernel import syscall
from datapath.kernel.datapath import KernelDatapath, remove
from datapath.kernel.syscall import AttachPoint, ProgramKind
from tests.support.kernel import SIZES, Node, Pod
from tests.support.lb_tables import Services
from tests.support.netns import Namespace, namespaces, without_dad

CLIENT4, CLIENT6 = "10.200.0.7", "fd20::7"
# Maps that forget the least used must not, with thousands of connections.
_SIZES: Final = SIZES | dict.fromkeys(("cplane_ct4", "cplane_ct6", "cplane_lb_flow"), 32768)
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_STXCSUM: Final = 0x17
_ETHTOOL_SGRO: Final = 0x2C
PASSES: Final = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit


@dataclass
class Site:
    """One node: its namespace, its datapath, its pods by name."""

    name: str
    netns: Namespace
    ipv4: str
    ipv6: str
    net: Node
    services: Services
    eth0: int
    mac: bytes  # of eth0
    pods: dict[str, tuple[Pod, Namespace]] = field(default_factory=dict)

    def address(self, version: int) -> str:
        """The node's."""
        return self.ipv4 if version == 4 else self.ipv6


@dataclass
class Wire:
    """All of it."""

    client: Namespace
    switch: Namespace
    a: Site
    b: Site

    def serve(self, *, xdp: bool = False, xdp_behind: bool | None = None) -> None:
        """Both nodes serve who comes by the wire; node b as `xdp_behind` says, if it does."""
        for site in (self.a, self.b):
            if site is self.b and xdp_behind is not None:
                xdp = xdp_behind
            site.netns.run(lambda site=site: site.net.datapath.attach_netdev(site.eth0))  # type: ignore[misc]
            if xdp:
                site.netns.run(lambda site=site: site.net.datapath.attach_xdp(site.eth0))  # type: ignore[misc]
            else:
                site.netns.run(lambda site=site: site.net.datapath.detach_xdp(site.eth0))  # type: ignore[misc]


@contextmanager
def wire(cache: Path, pods: Mapping[str, int], configs: Mapping[str, int], *, offloads: bool = False) -> Iterator[Wire]:
    """`pods` says how many pods the nodes `a` and `b` have; gone afterwards whatever happens.

    `offloads`: devices are left as they are made, so senders leave checksums and the cutting of large packets to them,
    and they to whoever receives these.
    """
    with ExitStack() as stack:
        spaces = stack.enter_context(namespaces(4 + sum(pods.values())))
        client, switch, *rest = spaces
        for space in spaces:
            space.run(without_dad)
            space.ip("link", "set", "lo", "up")
        switch.ip("link", "add", "br0", "type", "bridge")
        switch.ip("link", "set", "br0", "up")
        passes = syscall.prog_load(ProgramKind.XDP, AttachPoint.XDP, PASSES, "cpt_pass")
        stack.callback(os.close, passes)
        _plug(stack, client, switch, "client", (CLIENT4, CLIENT6), None, offloads=offloads)
        sites = {}
        for number, name in enumerate(("a", "b"), 1):
            home = rest.pop(0)
            ipv4, ipv6 = f"10.200.0.{number}", f"fd20::{number}"
            _plug(stack, home, switch, name, (ipv4, ipv6), passes, offloads=offloads)
            sites[name] = stack.enter_context(_site(cache, name, home, (ipv4, ipv6), configs))
            for count in range(pods.get(name, 0)):
                _pod(sites[name], rest.pop(0), number, count)
        made = Wire(client, switch, sites["a"], sites["b"])
        for site, other in ((made.a, made.b), (made.b, made.a)):
            number = 2 if other.name == "b" else 1
            site.netns.ip("route", "add", f"10.20{number}.0.0/24", "via", other.ipv4)
            site.netns.ip("-6", "route", "add", f"fd2{number}::/64", "via", other.ipv6)
        for number, site in enumerate((made.a, made.b), 1):
            client.ip("route", "add", f"10.20{number}.0.0/24", "via", site.ipv4)
            client.ip("-6", "route", "add", f"fd2{number}::/64", "via", site.ipv6)
        yield made


def _forward() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")


def _plug(
    stack: ExitStack,
    home: Namespace,
    switch: Namespace,
    name: str,
    addresses: tuple[str, str],
    passes: int | None,
    *,
    offloads: bool,
) -> None:
    """A device eth0 on the wire. XDP programs can send by it only where its other end runs one, too (`passes`); it then
    gives no large packets to that end, as the kernel cuts them before.
    """
    end = f"to-{name}"
    home.ip("link", "add", "eth0", "type", "veth", "peer", "name", end, "netns", switch.name)
    switch.ip("link", "set", end, "master", "br0", "up")
    home.ip("link", "set", "eth0", "up")
    home.ip("address", "add", f"{addresses[0]}/24", "dev", "eth0")
    home.ip("address", "add", f"{addresses[1]}/64", "dev", "eth0", "nodad")

    def prepare() -> None:
        if not offloads:
            sum_in_software(end)
        if passes is not None:
            index = socket.if_nametoindex(end)
            stack.callback(os.close, syscall.link_create(passes, index, AttachPoint.XDP, name, 1 << 2))

    switch.run(prepare)
    if not offloads:
        home.run(lambda: sum_in_software("eth0"))


def sum_in_software(device: str) -> None:
    """Checksums are in packets, as on a wire, and not left to whoever receives them."""
    _set(device, _ETHTOOL_STXCSUM, 0)


def gather(device: str, *, on: bool) -> None:
    """The device makes large packets of small ones that it receives (GRO), or does not."""
    _set(device, _ETHTOOL_SGRO, int(on))


def _set(device: str, what: int, number: int) -> None:
    value = ctypes.create_string_buffer(struct.pack("II", what, number))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(value)))


@contextmanager
def _site(
    cache: Path, name: str, home: Namespace, addresses: tuple[str, str], configs: Mapping[str, int]
) -> Iterator[Site]:
    root = Path(f"/sys/fs/bpf/cptwire{name}{os.getpid()}")
    remove(root)
    home.run(_forward)
    opened = KernelDatapath.open(root, cache=cache, sizes=_SIZES, config=configs)
    try:
        net = Node(opened)
        net.reset()
        services = Services(net)
        eth0 = home.run(lambda: socket.if_nametoindex("eth0"))
        mac = _mac(home, "eth0")
        services.device(eth0, *addresses, mac)
        for address in addresses:
            net.host(address)
        yield Site(name, home, *addresses, net, services, eth0, mac)
    finally:
        opened.close()
        remove(root)


def _pod(site: Site, netns: Namespace, number: int, count: int) -> None:
    """A pod of the node, judged by our programs, which allow everything."""
    device, host4, host6 = f"lxc{count}", "10.200.0.254", "fd20::fe"
    pod_addresses = (f"10.20{number}.0.{11 + count}", f"fd2{number}::{11 + count}")
    site.netns.ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", netns.name)
    site.netns.ip("link", "set", device, "up")
    netns.ip("link", "set", "eth0", "up")
    netns.ip("addr", "add", f"{pod_addresses[0]}/32", "dev", "eth0")
    netns.ip("addr", "add", f"{pod_addresses[1]}/128", "dev", "eth0", "nodad")
    for family, router, address, bits in (("-4", host4, pod_addresses[0], 32), ("-6", host6, pod_addresses[1], 128)):
        netns.ip(family, "route", "add", router, "dev", "eth0")
        netns.ip(family, "route", "add", "default", "via", router, "dev", "eth0")
        site.netns.ip(family, "route", "add", f"{address}/{bits}", "dev", device)
    pod = Pod(
        20 + count,
        400 + count,
        int(site.netns.ip("-o", "link", "show", "dev", device).split(":")[0]),
        *pod_addresses,
        mac=_mac(netns, "eth0"),
        node_mac=_mac(site.netns, device),
    )
    site.net.device(pod, pod.device)
    site.net.endpoint(pod)
    site.net.allow_all(pod)
    site.netns.run(lambda: site.net.datapath.attach(pod.device))
    site.pods[f"{site.name}{count}"] = (pod, netns)


def _mac(namespace: Namespace, device: str) -> bytes:
    words = namespace.ip("-o", "link", "show", "dev", device).split()
    return bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))
