"""A node with clients outside: its devices in a namespace of its own, tables of services, packets in and out.

    client 10.200.0.7 ── eth0 (10.200.0.1) node (10.203.0.1) eth1 ── router 10.203.0.9 ── 10.202.0.0/24
                          │
                     router 10.200.0.9 ── 10.201.0.0/24

and the same with fd20:: to fd24::. Backends of other nodes are behind the routers. Neighbours are there for good, but
for those of 10.204.0.0/24, which nobody has ever heard of.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from datapath.kernel import testrun
from datapath.kernel.testrun import Outcome
from datapath.maps.lb import LbFlags, NetdevFlags
from tests.support.headers import Headers, read, sealed
from tests.support.kernel import SIZES, Node, node
from tests.support.lb_tables import NO_FLAGS, Services
from tests.support.netns import Namespace, namespace
from tests.support.packets import ethernet, ipv4, ipv6

CLIENT_MAC: Final = bytes.fromhex("02000000c107")
ROUTER_MAC: Final = bytes.fromhex("02000000c109")
FAR_MAC: Final = bytes.fromhex("02000000d109")
ETH0_MAC: Final = bytes.fromhex("02000000aa01")
ETH1_MAC: Final = bytes.fromhex("02000000bb01")
OUTSIDE: Final = LbFlags.OUTSIDE


class Family(NamedTuple):
    """The addresses of one family."""

    version: int
    client: str
    other_client: str
    node: str  # on eth0, where clients are
    far_node: str  # on eth1
    near: str  # backends behind eth0: a prefix to put a number to
    far: str  # behind eth1
    unheard: str  # behind eth1, by a neighbour whose MAC nobody knows
    vip: str
    any: str

    def __repr__(self) -> str:
        return f"v{self.version}"


V4: Final = Family(
    4, "10.200.0.7", "10.200.0.8", "10.200.0.1", "10.203.0.1", "10.201.0.", "10.202.0.", "10.204.0.", "203.0.113.80",
    "0.0.0.0",
)  # fmt: skip
V6: Final = Family(6, "fd20::7", "fd20::8", "fd20::1", "fd23::1", "fd21::", "fd22::", "fd24::", "2001:db8:80::80", "::")
FAMILIES: Final = (V4, V6)


class Went(NamedTuple):
    """What became of a packet: `action` is pass (to the stack), drop or forward (by `took`, the program's name)."""

    action: str
    frame: bytes
    took: str

    @property
    def headers(self) -> Headers:
        """As a receiver reads them."""
        return read(self.frame)


class Outside(Services):
    """The node."""

    def __init__(self, net: Node, home: Namespace) -> None:
        super().__init__(net)
        self.home = home
        self.eth0, self.eth1 = (self._ifindex(name) for name in ("eth0", "eth1"))

    def _ifindex(self, name: str) -> int:
        return self.home.run(lambda: socket.if_nametoindex(name))

    def reset(self) -> None:
        """No services, nothing remembered; both devices have their addresses."""
        self.net.reset()
        self.forget()
        for name, ifindex in (("node", self.eth0), ("far_node", self.eth1)):
            self.netdev(ifindex, getattr(V4, name), getattr(V6, name))
        for family in FAMILIES:
            for address in (family.node, family.far_node):
                self.net.host(address)

    def netdev(self, ifindex: int, ipv4: str, ipv6: str, flags: NetdevFlags = NO_FLAGS) -> None:
        """A device's addresses."""
        self.device(ifindex, ipv4, ipv6, ETH0_MAC if ifindex == self.eth0 else ETH1_MAC, flags)

    def arrives(self, data: bytes, *, xdp: bool = False, ifindex: int = 0) -> Went:
        """A frame comes in by eth0, or another device; with `xdp` the XDP program sees it first."""
        device = ifindex or self.eth0
        if xdp:
            first = self.run_xdp(data, device)
            action = {1: "drop", 2: "pass", 3: "forward", 4: "forward"}[first.action]
            if action != "pass":
                return Went(action, first.packet, "xdp_netdev")
            assert first.packet == data, "what XDP leaves to the stack it leaves as it was"
        return self._run("from_netdev", data, device, device)

    def run_xdp(self, data: bytes, ifindex: int = 0, *, repeat: int = 1) -> Outcome:
        """The XDP program alone."""
        program, device = self.net.datapath.program("xdp_netdev"), ifindex or self.eth0
        return self.home.run(lambda: testrun.run_xdp(program, data, ifindex=device, repeat=repeat))

    def leaves(self, data: bytes, *, ifindex: int = 0, came_in: int = 0) -> Went:
        """The stack sends a frame by eth0, or another device."""
        return self._run("to_netdev", data, ifindex or self.eth0, came_in)

    def _run(self, name: str, data: bytes, ifindex: int, came_in: int) -> Went:
        program = self.net.datapath.program(name)
        out = self.home.run(lambda: testrun.run(program, data, ifindex=ifindex, ingress_ifindex=came_in))
        return Went({0: "pass", 2: "drop", 7: "forward"}[out.action], out.packet, name)

    def pod_sends(self, data: bytes) -> Went:
        """Pod A, which is behind the loopback of the namespace here, sends a frame."""
        return self._run("from_container", data, 1, 0)


def sent(source: str, to: str, protocol: int, payload: bytes, **more: int) -> bytes:
    """A frame of the client to the node, with its checksum."""
    if ":" in source:
        data = ethernet(ipv6(source, to, protocol, payload, hop_limit=more.get("ttl", 64)), 0x86DD, **_TO_NODE)
    else:
        data = ethernet(ipv4(source, to, protocol, payload, ttl=more.get("ttl", 64)), 0x0800, **_TO_NODE)
    return sealed(data)


_TO_NODE: Final = {"source": CLIENT_MAC, "to": ETH0_MAC}


@contextmanager
def outside(name: str, cache: Path, sizes: Mapping[str, int] = SIZES, **config: int) -> Iterator[Outside]:
    """A node of its own, gone afterwards whatever happens."""
    with namespace() as home, node(name, cache, sizes, **config) as net:
        _wire(home)
        yield Outside(net, home)


def _wire(home: Namespace) -> None:
    for name, mac in (("eth0", ETH0_MAC), ("eth1", ETH1_MAC)):
        home.ip("link", "add", name, "address", mac.hex(":"), "type", "veth", "peer", "name", f"{name}peer")
        home.ip("link", "set", f"{name}peer", "up")
        home.ip("link", "set", name, "up")
    home.ip("link", "set", "lo", "up")
    for family, bits in ((V4, "24"), (V6, "64")):
        more = ("nodad",) if family is V6 else ()
        home.ip("address", "add", f"{family.node}/{bits}", "dev", "eth0", *more)
        home.ip("address", "add", f"{family.far_node}/{bits}", "dev", "eth1", *more)
    for near, far, unheard in (("10.200.0.9", "10.203.0.9", "10.203.0.10"), ("fd20::9", "fd23::9", "fd23::10")):
        _neighbour(home, near, ROUTER_MAC, "eth0")
        _neighbour(home, far, FAR_MAC, "eth1")
        behind = ("10.201.0.0/24", "10.202.0.0/24", "10.204.0.0/24")
        if ":" in near:
            behind = ("fd21::/64", "fd22::/64", "fd24::/64")
        for prefix, via in zip(behind, (near, far, unheard), strict=True):
            home.ip("route", "add", prefix, "via", via)
    for family in FAMILIES:
        _neighbour(home, family.client, CLIENT_MAC, "eth0")
        _neighbour(home, family.other_client, CLIENT_MAC, "eth0")

    def forwards() -> None:
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", path).write_text("1")

    home.run(forwards)


def _neighbour(home: Namespace, address: str, mac: bytes, device: str) -> None:
    home.ip("neighbour", "replace", address, "lladdr", mac.hex(":"), "dev", device, "nud", "permanent")
