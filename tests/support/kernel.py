"""A datapath of its own for tests: two pods, their tables, packets in, outcomes and records out."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datapath.kernel import testrun
from datapath.kernel.datapath import KernelDatapath, remove
from datapath.kernel.testrun import Outcome
from datapath.maps import catalog, conntrack, endpoints, ipcache, metrics, policy
from datapath.maps.conntrack import CtEntry, CtKey
from datapath.maps.endpoints import DeviceInfo, DeviceKey, EndpointInfo, EndpointKey
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6, IpcacheInfo, IpcacheKey
from datapath.maps.metrics import MetricsDirection, MetricsKey, MetricsValue
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.maps.state import MonitorFlags
from datapath.notify.records import RecordType
from tests.support.packets import NODE_MAC, POD_MAC, TCP, frame, packed

SIZES = {
    "cplane_ipcache": 1024,
    "cplane_policy": 8192,
    "cplane_lxc": 64,
    "cplane_devices": 64,
    "cplane_ct4": 1024,
    "cplane_ct6": 1024,
    "cplane_events": 1 << 16,
    "cplane_lb_svc": 1024,
    "cplane_lb_slot": 8192,
    "cplane_lb_back": 8192,
    "cplane_lb_magl": 8192,
    "cplane_lb_aff": 1024,
    "cplane_lb_memb": 1024,
    "cplane_lb_rng": 1024,
    "cplane_lb_sock": 1024,
    "cplane_lb_skip": 1024,
    "cplane_lb_flow": 1024,
    "cplane_lb_frag": 1024,
    "cplane_lb_dev": 16,
}
INGRESS, EGRESS = 0, 1
PASS, DROP, REDIRECT = 0, 2, 7
HOST, WORLD = 1, 2


@dataclass(frozen=True)
class Pod:
    """One endpoint. `device` is where the tests say that it lives; test runs only ever happen on the loopback, 1."""

    lxc_id: int
    identity: int
    device: int
    ipv4: str
    ipv6: str
    mac: bytes = POD_MAC
    node_mac: bytes = NODE_MAC


A = Pod(11, 300, 1, "10.9.0.1", "fd09::1")
B = Pod(12, 301, 99, "10.9.0.2", "fd09::2", bytes.fromhex("020000000022"), bytes.fromhex("020000000002"))
HOST4, HOST6 = "10.9.0.254", "fd09::fe"
WORLD4, WORLD6 = "192.0.2.7", "2001:db8::7"


class Node:
    """Tables and packets. Pod A stands behind the device of the test runs, pod B elsewhere on the node."""

    def __init__(self, datapath: KernelDatapath) -> None:
        self.datapath = datapath
        self.maps = datapath.maps

    def reset(self) -> None:
        """Both pods, the host and the world are known, nothing is allowed yet, nothing is remembered."""
        for spec in (
            ipcache.SPEC,
            policy.SPEC,
            endpoints.ADDRESS_SPEC,
            endpoints.DEVICE_SPEC,
            conntrack.SPEC4,
            conntrack.SPEC6,
        ):
            table = self.maps[spec.name]
            table.delete_batch(list(table.dump()))
        self.datapath.set_monitor(MonitorFlags.ALL)
        self.datapath.set_position(42)
        while self.datapath.ring.drain(1 << 16).size:
            pass
        self.device(A)
        self.endpoint(A)
        self.endpoint(B)
        for address in (HOST4, HOST6):
            self.host(address)
        self.prefix("0.0.0.0/0", WORLD)
        self.prefix("::/0", WORLD)

    def device(self, pod: Pod, ifindex: int = 1, *, flags: int = 0) -> None:
        """The pod stands behind the device."""
        info = DeviceInfo(
            pod.identity, pod.identity, pod.lxc_id, flags, packed(pod.ipv4), packed(pod.ipv6), pod.mac, pod.node_mac
        )
        self.maps["cplane_devices"].update(DeviceKey(ifindex).pack(), info.pack())

    def endpoint(self, pod: Pod, *, flags: int = 0) -> None:
        """The pod's addresses are local."""
        info = EndpointInfo(pod.device, pod.identity, pod.identity, pod.lxc_id, flags, pod.mac, pod.node_mac)
        self.lxc(pod.ipv4, info)
        self.lxc(pod.ipv6, info)

    def host(self, address: str) -> None:
        """The address is one of the node's own."""
        self.prefix(f"{address}/{32 if '.' in address else 128}", HOST)

    def lxc(self, address: str, info: EndpointInfo) -> None:
        """One local address."""
        raw = packed(address)
        key = EndpointKey(FAMILY_V4 if len(raw) == 4 else FAMILY_V6, raw.ljust(16, b"\0"))
        self.maps["cplane_lxc"].update(key.pack(), info.pack())

    def prefix(self, prefix: str, identity: int) -> None:
        """One ipcache entry."""
        address, bits = prefix.split("/")
        raw = packed(address)
        key = IpcacheKey(FAMILY_V4 if len(raw) == 4 else FAMILY_V6, raw.ljust(16, b"\0"), int(bits))
        self.maps["cplane_ipcache"].update(key.pack(), IpcacheInfo(identity).pack())

    def entry(self, key: PolicyKey, entry: PolicyEntry) -> None:
        """One policy entry."""
        self.maps["cplane_policy"].update(key.pack(), entry.pack())

    def rule(
        self,
        pod: Pod,
        direction: int,
        identity: int = 0,
        protocol: int = 0,
        port: int = 0,
        *,
        bits: int | None = None,
        deny: bool = False,
        precedence: int | None = None,
        cookie: int = 0,
        proxy_port: int = 0,
        auth_type: int = 0,
        audited: bool = False,
        plane: bool = False,
    ) -> PolicyKey:
        """An allow or deny entry; `bits` follow from protocol and port unless given. `plane`: in the audit plane."""
        if bits is None:
            bits = 24 if port else 8 if protocol else 0
        policy_id = pod.identity | (policy.AUDIT_PLANE if plane else 0)
        key = PolicyKey(policy_id, identity, direction, protocol, port, bits)
        strength = precedence if precedence is not None else (0xFFFFFFFF if deny else 0xFFFFFF01)
        self.entry(key, PolicyEntry(deny, strength, bits, cookie, proxy_port, auth_type, audited))
        return key

    def audit(self, pod: Pod, *, on: bool = True) -> None:
        """The pod is in audit mode, or not any more, wherever it is judged."""
        flags = endpoints.FLAG_AUDIT if on else 0
        if pod is A:
            self.device(pod, flags=flags)
        self.endpoint(pod, flags=flags)

    def allow_all(self, *pods: Pod) -> None:
        """No policy in either direction."""
        for pod in pods or (A, B):
            self.rule(pod, INGRESS)
            self.rule(pod, EGRESS)

    def out(self, frame: bytes, **more: int) -> Outcome:
        """The pod behind the test device sends a frame."""
        return testrun.run(self.datapath.program("from_container"), frame, **more)

    def into(self, frame: bytes, *, came_in: int = 0, mark: int = 0) -> Outcome:
        """The stack sends a frame to the pod behind the test device; it came into the node by device `came_in`."""
        return testrun.run(self.datapath.program("to_container"), frame, ingress_ifindex=came_in, mark=mark)

    def one_way(self, direction: int, own: str, peer: str, segment: bytes, protocol: int = TCP) -> Outcome:
        """A packet of pod A: to the peer, or from a peer outside of the node."""
        if direction == EGRESS:
            return self.out(frame(own, peer, protocol, segment))
        return self.into(frame(peer, own, protocol, segment), came_in=5)

    def records(self) -> list[np.void]:
        """All records since the last call."""
        return list(self.datapath.ring.drain(1 << 16))

    def dropped(self) -> list[int]:
        """Reasons of all drop records since the last call."""
        return [int(r["subtype"]) for r in self.records() if r["type"] == RecordType.DROP]

    def connections(self) -> dict[CtKey, CtEntry]:
        """All conntrack entries of both families."""
        return {
            CtKey.unpack(key): CtEntry.unpack(value)
            for name in ("cplane_ct4", "cplane_ct6")
            for key, value in self.maps[name].dump().items()
        }

    def write(self, key: CtKey, entry: CtEntry) -> None:
        """One conntrack entry."""
        self.maps["cplane_ct4" if len(key.low) == 4 else "cplane_ct6"].update(key.pack(), entry.pack())

    def counted(self, reason: int, direction: MetricsDirection) -> MetricsValue:
        """One counter's total."""
        value = self.maps[metrics.SPEC.name].lookup(MetricsKey(reason, direction).pack())
        assert value is not None
        return MetricsValue.total(value)


@contextmanager
def node(name: str, cache: Path, sizes: Mapping[str, int] = SIZES, **config: int) -> Iterator[Node]:
    """A datapath under a pin folder of its own, gone afterwards whatever happens."""
    root = Path(f"/sys/fs/bpf/cpt{name}{os.getpid()}")
    remove(root)
    opened = KernelDatapath.open(root, cache=cache, sizes=sizes, config=config)
    try:
        yield Node(opened)
    finally:
        opened.close()
        remove(root)


assert {*SIZES} <= {spec.name for spec in catalog.SPECS}
