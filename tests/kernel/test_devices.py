"""Real devices: links that outlive us, traffic between real pods, and what only the wire can carry."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from datapath.kernel import syscall
from datapath.kernel.datapath import KernelDatapath, remove
from datapath.kernel.pin import Pins
from datapath.kernel.programs import PROGRAMS
from datapath.kernel.syscall import AttachPoint
from datapath.maps.endpoints import DeviceKey
from datapath.targets.program import ProgramTarget
from tests.support.asking import until
from tests.support.kernel import EGRESS, HOST, HOST4, HOST6, INGRESS, SIZES, A, B, Node, Pod
from tests.support.netns import Namespace, namespaces, ping, without_dad
from tests.support.packets import TCP, UDP, ethernet, ipv4, udp

pytestmark = [pytest.mark.root, pytest.mark.slow]

T = TypeVar("T")


@dataclass
class World:
    """A node's namespace with two pods; their devices exist but are not attached."""

    root: Path
    cache: Path
    home: Namespace
    pods: dict[Pod, Namespace]
    net: Node

    def on_node(self, work: Callable[[], T]) -> T:
        return self.home.run(work)

    def attach(self) -> None:
        def every() -> None:
            for pod in self.pods:
                self.net.datapath.attach(pod.device)

        self.on_node(every)

    def close(self) -> None:
        self.net.datapath.close()

    def reopen(self, **config: int) -> None:
        self.net.datapath.close()
        self.net = Node(KernelDatapath.open(self.root, cache=self.cache, sizes=SIZES, config=config))


def _mac(namespace: Namespace, device: str) -> bytes:
    words = namespace.ip("-o", "link", "show", "dev", device).split()
    return bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))


def _build(home: Namespace, namespace: Namespace, pod: Pod, number: int) -> Pod:
    host = f"cpth{number}"
    home.ip("link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", namespace.name)
    home.ip("link", "set", host, "up")
    for device in ("lo", "eth0"):
        namespace.ip("link", "set", device, "up")
    namespace.ip("addr", "add", f"{pod.ipv4}/32", "dev", "eth0")
    namespace.ip("addr", "add", f"{pod.ipv6}/128", "dev", "eth0", "nodad")
    # No static neighbours: pods find everyone because the programs answer for everyone.
    for family, router in (("-4", HOST4), ("-6", HOST6)):
        namespace.ip(family, "route", "add", router, "dev", "eth0")
        namespace.ip(family, "route", "add", "default", "via", router, "dev", "eth0")
    home.ip("route", "add", f"{pod.ipv4}/32", "dev", host)
    home.ip("-6", "route", "add", f"{pod.ipv6}/128", "dev", host)
    index = int(home.ip("-o", "link", "show", "dev", host).split(":")[0])
    return replace(pod, device=index, mac=_mac(namespace, "eth0"), node_mac=_mac(home, host))


@pytest.fixture
def world(cache: Path) -> Iterator[World]:
    root = Path(f"/sys/fs/bpf/cptdev{os.getpid()}")
    with ExitStack() as stack:
        home, first, second = stack.enter_context(namespaces(3))
        stack.callback(remove, root)
        for namespace in (home, first, second):
            namespace.run(without_dad)
        home.ip("link", "set", "lo", "up")
        home.ip("addr", "add", f"{HOST4}/32", "dev", "lo")
        home.ip("addr", "add", f"{HOST6}/128", "dev", "lo", "nodad")
        pods = {_build(home, ns, pod, n): ns for n, (pod, ns) in enumerate(((A, first), (B, second)))}
        made = World(root, cache, home, pods, Node(KernelDatapath.open(root, cache=cache, sizes=SIZES)))
        stack.callback(made.close)
        made.net.reset()
        for pod in pods:
            made.net.device(pod, pod.device)
            made.net.endpoint(pod)
        yield made


def _serve(namespace: Namespace, address: str) -> socket.socket:
    def listen() -> socket.socket:
        return socket.create_server((address, 5001), family=socket.AF_INET6 if ":" in address else socket.AF_INET)

    return namespace.run(listen)


def _connects(namespace: Namespace, address: str, timeout_s: float = 2.0) -> bool:
    def attempt() -> bool:
        try:
            socket.create_connection((address, 5001), timeout=timeout_s).close()
        except TimeoutError:
            return False
        return True

    return namespace.run(attempt)


def test_a_device_that_only_xdp_was_attached_to_is_known_by_who_comes_next(world: World) -> None:
    device = next(iter(world.pods)).device
    world.on_node(lambda: world.net.datapath.attach_xdp(device))
    world.reopen()
    assert world.on_node(world.net.datapath.attached_netdevs) == {device}
    world.on_node(lambda: world.net.datapath.detach_xdp(device))
    assert world.on_node(world.net.datapath.attached_netdevs) == set()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_pods_reach_each_other_as_policy_says(world: World, family: str) -> None:
    world.attach()
    (a, at_a), (b, at_b) = world.pods.items()
    target = str(getattr(b, family))
    world.net.rule(a, EGRESS)
    key = world.net.rule(b, INGRESS, a.identity, TCP, 5001)
    with _serve(at_b, target):
        assert _connects(at_a, target)
        assert not at_a.run(lambda: ping(target, 0.2))
        world.net.maps["cplane_policy"].delete(key.pack())
        assert not _connects(at_a, target, 0.2)
    assert 133 in world.net.dropped()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_node_and_its_pods_reach_each_other(world: World, family: str) -> None:
    world.attach()
    a, at_a = next(iter(world.pods.items()))
    world.net.rule(a, INGRESS, HOST)
    host = HOST6 if family == "ipv6" else HOST4
    own = str(getattr(a, family))
    assert world.on_node(lambda: ping(own))
    assert not at_a.run(lambda: ping(host, 0.2))
    world.net.rule(a, EGRESS, HOST)
    assert at_a.run(lambda: ping(host))
    with _serve(world.home, host):
        assert _connects(at_a, host)


def test_a_cut_packet_on_the_wire_is_dropped_with_its_reason(world: World) -> None:
    world.attach()
    world.net.allow_all(*world.pods)
    a, at_a = next(iter(world.pods.items()))
    cut = [ethernet(b"\x45" + bytes(9), 0x0800), ethernet(b"\x60" + bytes(20), 0x86DD)]

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for data in cut:
                raw.send(data)

    at_a.run(send)
    drops = [r for r in world.net.records() if r["type"] == 1 and r["length"] < 40]
    assert [(int(r["subtype"]), int(r["ifindex"])) for r in drops] == [(134, a.device)] * 2


def test_headers_outside_of_the_linear_part_are_fetched(world: World) -> None:
    world.attach()
    (a, at_a), (b, at_b) = world.pods.items()
    world.net.allow_all(a, b)
    for number, namespace in enumerate((at_a, at_b)):
        namespace.ip("link", "set", "eth0", "mtu", "9000")
        world.home.ip("link", "set", f"cpth{number}", "mtu", "9000")
    payload = os.urandom(6000)
    data = ethernet(ipv4(a.ipv4, b.ipv4, UDP, udp(7, 5001, payload)), 0x0800, source=a.mac, to=a.node_mac)

    def receive() -> socket.socket:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((b.ipv4, 5001))
        receiver.settimeout(2)
        return receiver

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR: says how much of a frame is linear
            raw.bind(("eth0", 0))
            raw.send(struct.pack("<BBHHHH", 0, 0, 14, 0, 0, 0) + data)

    with at_b.run(receive) as receiver:
        at_a.run(send)
        assert receiver.recv(9000) == payload
    (verdict, *_) = (r for r in world.net.records() if r["type"] == 5 and r["protocol"] == UDP)
    assert (int(verdict["sport"]), int(verdict["dport"])) == (7, 5001)


def test_a_segment_far_larger_than_a_packet_passes_whole(world: World) -> None:
    world.attach()
    (a, at_a), (b, at_b) = world.pods.items()
    world.net.allow_all(a, b)
    payload = os.urandom(1 << 20)
    with (
        _serve(at_b, b.ipv6) as server,
        at_a.run(lambda: socket.create_connection((b.ipv6, 5001), timeout=5)) as client,
    ):
        peer, _ = server.accept()
        with peer:
            received = bytearray()
            while len(received) < len(payload):
                client.send(payload[len(received) : len(received) + (1 << 16)])
                want = min(len(received) + (1 << 16), len(payload))
                while len(received) < want:
                    received += peer.recv(1 << 17)
    assert bytes(received) == payload


def test_links_outlive_us_and_are_adopted(world: World) -> None:
    world.attach()
    (a, at_a), (b, _) = world.pods.items()
    world.net.allow_all(a, b)
    target = ProgramTarget(world.net.datapath)
    assert target.dump() == {DeviceKey(pod.device): None for pod in world.pods}
    world.net.datapath.close()
    assert at_a.run(lambda: ping(b.ipv4))
    world.reopen()
    assert world.net.datapath.attached() == {pod.device for pod in world.pods}
    world.attach()
    assert at_a.run(lambda: ping(b.ipv4))


def test_new_programs_take_over_without_new_links(world: World) -> None:
    world.attach()
    (a, at_a), (b, _) = world.pods.items()
    world.net.allow_all(a, b)
    before = world.on_node(lambda: syscall.prog_query(a.device, AttachPoint.TCX_INGRESS))
    world.reopen(report_interval_s=9)
    after = world.on_node(lambda: syscall.prog_query(a.device, AttachPoint.TCX_INGRESS))
    assert len(before) == len(after) == 1
    assert before != after
    assert after[0] == syscall.prog_info(world.net.datapath.program("from_container")).id
    assert at_a.run(lambda: ping(b.ipv6))


@pytest.mark.parametrize("missing", ["from_container", "to_container"])
def test_half_an_attachment_is_none_until_it_is_finished(world: World, missing: str) -> None:
    world.attach()
    a, b = world.pods
    (world.root / "links" / f"{a.device}_{missing}").unlink()
    point = PROGRAMS[missing].point
    # The kernel lets go of a link some time after its last name is gone.
    until(lambda: not world.on_node(lambda: syscall.prog_query(a.device, point)), f"no {missing}")
    assert world.net.datapath.attached() == {b.device}
    world.attach()
    assert world.net.datapath.attached() == {a.device, b.device}


def test_a_detached_device_runs_free(world: World) -> None:
    target = ProgramTarget(world.net.datapath)
    (a, at_a), _ = world.pods.items()
    world.on_node(lambda: target.upsert({DeviceKey(a.device): None}))
    assert not at_a.run(lambda: ping(HOST4, 0.2))
    target.delete([DeviceKey(a.device)])
    target.delete([DeviceKey(a.device)])
    assert target.dump() == {}
    assert world.on_node(lambda: syscall.prog_query(a.device, AttachPoint.TCX_EGRESS)) == ()


def test_the_pins_of_a_device_that_is_gone_are_swept(world: World) -> None:
    world.attach()
    a, b = world.pods
    world.home.ip("link", "delete", "cpth0")
    assert world.net.datapath.attached() == {b.device}
    assert world.net.datapath.sweep() == 2
    assert {ifindex for ifindex, _, _ in Pins(world.root).links()} == {b.device}
    world.net.datapath.detach(a.device)


def test_removal_frees_the_devices(world: World) -> None:
    world.attach()
    a = next(iter(world.pods))
    remove(world.root)
    assert world.on_node(lambda: syscall.prog_query(a.device, AttachPoint.TCX_INGRESS)) == ()
    assert not world.root.exists()


def test_a_process_killed_at_any_point_leaves_what_the_next_one_finishes(world: World) -> None:
    world.net.datapath.close()
    script = (
        "import sys; from pathlib import Path; from datapath.kernel.datapath import KernelDatapath, remove\n"
        "from tests.support.kernel import SIZES\n"
        "root, cache = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    opened = KernelDatapath.open(root, cache=cache, sizes=SIZES)\n"
        "    for index in map(int, sys.argv[3:]): opened.attach(index)\n"
        "    opened.close()\n"
        "    remove(root)\n"
    )
    devices = [str(pod.device) for pod in world.pods]
    for delay_ms in range(0, 60, 6):

        def storm(delay_ms: int = delay_ms) -> None:
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(world.root), str(world.cache), *devices], stdout=subprocess.PIPE
            )
            with process:
                assert process.stdout is not None
                process.stdout.readline()
                try:
                    process.wait(delay_ms / 1000)
                except subprocess.TimeoutExpired:
                    process.kill()

        world.on_node(storm)
        world.net = Node(KernelDatapath.open(world.root, cache=world.cache, sizes=SIZES))
        world.attach()
        assert world.net.datapath.attached() == {pod.device for pod in world.pods}
        world.net.datapath.close()
    world.net = Node(KernelDatapath.open(world.root, cache=world.cache, sizes=SIZES))
