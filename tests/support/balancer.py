"""Services in the kernel's tables, backends that say who they are, and clients whose sockets are served.

pod ──veth── node        the node has the backends, one on each of some ports; both have clients
"""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from datapath.kernel.datapath import KernelDatapath
from datapath.maps import lb
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6, IpcacheInfo, IpcacheKey
from datapath.maps.lb import (
    BackendEntry,
    BackendKey,
    LbFlags,
    LbKind,
    MemberKey,
    Present,
    ServiceEntry,
    ServiceKey,
    SlotKey,
)
from datapath.maps.state import MonitorFlags
from datapath.netlink.netns import own_cookie
from tests.support.cgroup import SubGroup
from tests.support.clients import SocketClient, socket_client
from tests.support.netns import Namespace

NODE4, NODE6, POD4, POD6 = "10.7.0.1", "fd07::1", "10.7.0.2", "fd07::2"
TCP, UDP = 6, 17
HOST = 1
NO_FLAGS = LbFlags(0)
_SERVER: Final = Path(__file__).with_name("pod_server.py")
_TABLES: Final = (lb.SERVICES, lb.SKIPS, lb.SLOTS, lb.MEMBERS, lb.BACKENDS, lb.AFFINITY, lb.SOCKS)


def padded(address: str) -> tuple[int, bytes]:
    """Family and 16 bytes."""
    if ":" in address:
        return FAMILY_V6, socket.inet_pton(socket.AF_INET6, address)
    return FAMILY_V4, socket.inet_aton(address).ljust(16, b"\0")


class Balancer:
    """Writes what an agent would write. The number of a backend is its port, that of a frontend is given."""

    def __init__(self, datapath: KernelDatapath, node: SocketClient, pod: SocketClient, netns: Sequence[Namespace]):
        self.datapath, self.maps = datapath, datapath.maps
        self.node, self.pod = node, pod
        self.node_netns, self.pod_netns = netns

    def reset(self) -> None:
        """No services, nothing remembered, no records; the node's addresses are known."""
        for spec in _TABLES:
            table = self.maps[spec.name]
            table.delete_batch(list(table.dump()))
        peers, nothing = self.maps[lb.PEERS.name], bytes(lb.PEER_VALUE.size)
        for cookie in self.datapath.peers.cookies():
            peers.update((cookie % lb.PEERS_MAX).to_bytes(4, "little"), nothing)
        self.datapath.set_monitor(MonitorFlags(0))
        while self.datapath.ring.drain(1 << 16).size:
            pass
        for address in (NODE4, NODE6):
            family, raw = padded(address)
            key = IpcacheKey(family, raw, 32 if family == FAMILY_V4 else 128)
            self.maps["cplane_ipcache"].update(key.pack(), IpcacheInfo(HOST).pack())

    def service(
        self,
        address: str,
        port: int,
        backends: Sequence[int],
        *,
        number: int = 1,
        protocol: int = TCP,
        kind: LbKind = LbKind.CLUSTER_IP,
        flags: LbFlags = NO_FLAGS,
        affinity_s: int = 0,
        local: int = 0,
        beneath: bool = False,
    ) -> ServiceKey:
        """A frontend with backends on these ports of the node; the last `local` of them are on its own node.

        `beneath`: another one has taken its place.
        """
        family, raw = padded(address)
        _, own = padded(NODE4 if family == FAMILY_V4 else NODE6)
        for slot, backend in enumerate(backends, 1):
            entry = BackendEntry(own, backend, protocol, family, backend).pack()
            self.maps[lb.BACKENDS.name].update(BackendKey(backend).pack(), entry)
            self.maps[lb.SLOTS.name].update(SlotKey(number, slot).pack(), entry)
            self.maps[lb.MEMBERS.name].update(MemberKey(number, backend).pack(), Present().pack())
        count = len(backends)
        first = count - local + 1 if local else 0
        key = ServiceKey(raw, port, protocol, family | (lb.BENEATH if beneath else 0))
        entry = ServiceEntry(affinity_s, number, count, first, local, flags, kind)
        self.maps[lb.SERVICES.name].update(key.pack(), entry.pack())
        return key


@contextmanager
def balancer(
    datapath: KernelDatapath, group: SubGroup, node: Namespace, pod: Namespace, ports: Sequence[int]
) -> Iterator[Balancer]:
    """Both namespaces connected, a backend on each of the ports, sockets of the group served."""
    _connect(node, pod)
    assert group.path is not None
    folder = group.path
    node.run(lambda: datapath.attach_cgroup(folder, own_cookie()))
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(_backend(node, port))
        clients = [stack.enter_context(socket_client(netns, group)) for netns in (node, pod)]
        yield Balancer(datapath, *clients, (node, pod))
    datapath.detach_cgroup()


def _connect(node: Namespace, pod: Namespace) -> None:
    node.ip("link", "add", "pod", "type", "veth", "peer", "name", "eth0", "netns", pod.name)
    for netns, device, addresses in ((node, "pod", (NODE4, NODE6)), (pod, "eth0", (POD4, POD6))):
        netns.ip("link", "set", "lo", "up")
        netns.ip("link", "set", device, "up")
        for address in addresses:
            netns.ip("addr", "add", f"{address}/{64 if ':' in address else 24}", "dev", device, *_at_once(address))


def _at_once(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()


@contextmanager
def _backend(netns: Namespace, port: int) -> Iterator[None]:
    process = subprocess.Popen(
        ["nsenter", f"--net={netns.path}", "--", sys.executable, "-I", "-S", str(_SERVER), str(port), f"b{port}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
