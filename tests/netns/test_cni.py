"""The plugin's binary, the agent's service and the kernel together, driven by an independent client."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from cplane.api.cni import queue, request, wire
from cplane.api.cni.attachments import Attachments
from cplane.api.cni.service import CniService
from cplane.api.cni.sweep import sweep
from cplane.telemetry.clock import SystemClock
from cplane.transport.address import UnixAddress
from datapath.netlink.plumbing import VethPlumbing
from tests.support.cni_client import CniClient
from tests.support.cni_engine import JOIN, DecidingEngine
from tests.support.netns import PATIENCE_S, Namespace, namespaces, ping

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

ROUTERS = ("10.9.0.1", "fd09::1")


class Node:
    """A node in a namespace of its own: an engine that outlives agents, and agents one after another."""

    def __init__(self, host: Namespace, folder) -> None:
        self.host = host
        self.engine = DecidingEngine()
        self.plumbing = VethPlumbing("n1")
        self.socket = str(folder / "cni.sock")
        self.client = CniClient(self.socket)
        host.run(lambda: self.plumbing.prepare_node(ROUTERS, (JOIN.ipv4_pod_cidr, JOIN.ipv6_pod_cidr)))

    @contextmanager
    def agent(self, plumbing=None):
        plumbing = plumbing or self.plumbing
        service = CniService(self.engine, plumbing, address=UnixAddress(self.socket), clock=SystemClock())
        with ExitStack() as stack:
            # The portal's thread is started by one that is in the node's namespace, so it is there too.
            portal = self.host.run(lambda: stack.enter_context(start_blocking_portal()))
            portal.call(sweep, self.engine, plumbing)
            future, _ = portal.start_task(service.run)
            try:
                yield
            finally:
                future.cancel()

    def links(self) -> set[str]:
        return {name for name in self.host.interfaces() if name.startswith("lxc")}

    def routes(self) -> list[str]:
        text = self.host.ip("route", "show", "proto", "190") + self.host.ip("-6", "route", "show", "proto", "190")
        return [line for line in text.splitlines() if "unreachable" not in line]

    @property
    def empty(self) -> bool:
        return not (self.links() or self.routes() or self.engine.endpoints)


@pytest.fixture
def spaces(tmp_path):
    with namespaces(3) as (host, *pods):
        yield Node(host, tmp_path), *pods


def introduce(pod: Namespace, document) -> None:
    """The IPv6 gateway's MAC, which the program on the link tells a pod where there is one."""
    mac = document["interfaces"][0]["mac"]
    pod.ip("neigh", "replace", ROUTERS[1], "lladdr", mac, "dev", "eth0", "nud", "permanent")


@pytest.mark.parametrize("version", wire.VERSIONS)
def test_pods_of_every_version_reach_each_other(spaces, version):
    node, one, two = spaces
    node.client.version = version
    with node.agent():
        first, second = node.client.add("a", one.path), node.client.add("b", two.path)
        assert first.ok and second.ok, (first, second)
        introduce(one, first.document)
        introduce(two, second.document)
        for address in second.document["ips"]:
            assert one.run(lambda address=address: ping(address["address"].split("/")[0]))
        assert two.run(lambda: ping("10.9.0.1", PATIENCE_S))
        assert node.host.run(lambda: ping("10.9.0.2", PATIENCE_S))
        sandbox = first.document["interfaces"][1]
        assert sandbox == {**sandbox, "name": "eth0", "sandbox": one.path}
        assert sandbox["mac"] in one.ip("link", "show", "eth0")
        assert node.client.delete("a", one.path).ok
        assert node.client.delete("b", two.path).ok
    assert node.empty
    assert one.interfaces() == two.interfaces() == set()


def test_adding_twice_and_deleting_twice_is_the_same_as_once(spaces):
    node, one, _ = spaces
    with node.agent():
        first = node.client.add("a", one.path)
        again = node.client.add("a", one.path)
        assert first.document == again.document
        assert len(node.links()) == 1
        for netns in (one.path, one.path, "", "/run/netns/cpt-no-such"):
            assert node.client.delete("a", netns).ok
        assert node.empty


def test_a_pod_whose_namespace_is_already_gone_is_deleted(spaces):
    node, *_ = spaces
    with node.agent():
        with namespaces(1) as (short,):
            assert node.client.add("a", short.path).ok
        assert node.client.delete("a", short.path).ok
        assert node.empty


def test_a_container_that_comes_back_in_a_new_namespace_keeps_its_address(spaces):
    node, one, two = spaces
    with node.agent():
        first = node.client.add("a", one.path)
        second = node.client.add("a", two.path)
        assert second.document["ips"] == first.document["ips"]
        assert (one.interfaces(), two.interfaces()) == (set(), {"eth0"})
        assert node.client.check("a", two.path).ok


def test_one_container_can_have_two_interfaces(spaces):
    node, one, _ = spaces
    with node.agent():
        assert node.client.add("a", one.path, "eth0").ok
        second = node.client.add("a", one.path, "net1")
        assert second.ok
        assert second.document["routes"] == []  # the first has the default routes
        assert node.client.check("a", one.path, "net1").ok
        assert node.client.delete("a", one.path, "eth0").ok
        assert one.interfaces() == {"net1"}


def test_what_has_an_address_of_an_interface_leaves_by_it_and_leaves_no_rules_behind(spaces):
    node, one, _ = spaces
    with node.agent():
        node.client.add("a", one.path, "eth0")
        for _ in range(2):
            second = node.client.add("a", one.path, "net1")
            assert node.client.add("a", one.path, "net1").document == second.document
            for router, given in zip(ROUTERS, second.document["ips"], strict=True):
                way = one.ip("route", "get", "fd99::1" if ":" in router else "192.0.2.1", "from", address_of(given))
                assert f"via {router} dev net1" in way
            assert [len(rules_of_ours(one, family)) for family in ("-4", "-6")] == [1, 1]
            assert node.client.delete("a", one.path, "net1").ok


def address_of(given) -> str:
    return given["address"].partition("/")[0]


def rules_of_ours(pod: Namespace, family: str) -> list[str]:
    return [line for line in pod.ip(family, "rule", "show").splitlines() if "proto 190" in line]


def test_check_sees_what_was_damaged(spaces):
    node, one, _ = spaces
    with node.agent():
        node.client.add("a", one.path)
        assert node.client.check("a", one.path).ok
        one.ip("address", "del", "10.9.0.2/32", "dev", "eth0")
        reply = node.client.check("a", one.path)
        assert reply.code == wire.UNHEALTHY
        assert "10.9.0.2" in reply.document["msg"]
        assert node.client.check("b", one.path, prevResult={}).code == wire.CONTAINER_UNKNOWN


def test_gc_removes_what_the_runtime_does_not_know(spaces):
    node, one, two = spaces
    node.client.version = "1.1.0"
    with node.agent():
        assert node.client.status().ok
        node.client.add("a", one.path)
        node.client.add("b", two.path)
        assert node.client.gc(("b", "eth0")).ok
        assert (one.interfaces(), two.interfaces()) == (set(), {"eth0"})
        assert len(node.engine.endpoints) == len(node.links()) == 1


def test_an_interface_name_that_is_taken_is_refused_and_nothing_is_left(spaces):
    node, one, _ = spaces
    one.ip("link", "add", "eth0", "type", "veth", "peer", "other")
    with node.agent():
        reply = node.client.add("a", one.path)
        assert reply.code == wire.INVALID_ENVIRONMENT
        assert "CNI_IFNAME" in reply.document["msg"]
        assert node.empty


def test_a_namespace_that_is_none_is_refused_and_nothing_is_left(spaces, tmp_path):
    node, *_ = spaces
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with node.agent():
        for path in ("/run/netns/cpt-no-such", "/etc/hostname", str(fifo), node.host.path):
            reply = node.client.add("a", path)
            assert reply.code == wire.INVALID_ENVIRONMENT
            assert "CNI_NETNS" in reply.document["msg"]
        assert node.empty


def test_a_deletion_while_the_agent_is_away_is_done_when_it_is_back(spaces):
    node, one, two = spaces
    with node.agent():
        node.client.add("a", one.path)
        node.client.add("b", two.path)
    assert node.client.add("c", one.path).code == wire.TRY_AGAIN_LATER
    assert node.client.delete("a", "").ok
    assert one.interfaces() == {"eth0"}
    with node.agent():
        assert one.interfaces() == set()
        assert list(queue.waiting(queue.folder_of(node.socket))) == []
        assert node.client.check("b", two.path).ok


def test_after_a_reboot_nothing_of_the_pods_is_left(spaces):
    node, *_ = spaces
    with namespaces(1) as (short,), node.agent():
        node.client.add("a", short.path)
    assert node.engine.endpoints
    for _ in range(1000):  # the kernel removes a dead namespace's links a little later
        if not node.links():
            break
    with node.agent():
        assert node.empty
        assert not any(pool.taken for pool in node.engine.world.pools.values())


def test_an_endpoint_without_link_keeps_its_address_while_the_pod_may_live(spaces):
    node, one, _ = spaces
    with node.agent():
        node.client.add("a", one.path)
        one.ip("link", "del", "eth0")
    with node.agent():
        assert len(node.engine.endpoints) == 1
        assert node.client.check("a", one.path).code == wire.UNHEALTHY
        assert node.client.delete("a", one.path).ok
        assert node.empty


def test_pods_come_and_go_at_the_same_time(spaces):
    node, *_ = spaces
    with namespaces(12) as pods, node.agent(), ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda pair: node.client.add(f"c{pair[0]}", pair[1].path), enumerate(pods)))
        assert all(reply.ok for reply in added), added
        assert len({reply.document["ips"][0]["address"] for reply in added}) == 12
        assert len(node.links()) == 12
        assert all(pool.map(lambda number: node.client.delete(f"c{number}").ok, range(12)))
        assert node.empty


class KilledError(BaseException):
    """The agent's process is gone from here on."""


class Dying(VethPlumbing):
    """Plumbing of a process that is killed at one step: nothing that it does afterwards has an effect."""

    def __init__(self, step: str) -> None:
        super().__init__("n1")
        self._step = step
        self.dead = False

    def at(self, step: str) -> None:
        self.dead = self.dead or step == self._step
        if self.dead:
            raise KilledError

    def create(self, attachment, path, mtu):
        self.at("before create")
        link = super().create(attachment, path, mtu)
        self.at("create")
        return link

    def configure(self, wiring):
        self.at("before configure")
        routed = super().configure(wiring)
        self.at("configure")
        return routed

    def delete(self, host_interface):
        self.at("before delete")
        return super().delete(host_interface)


class DyingEngine:
    """The same for decisions."""

    def __init__(self, engine: DecidingEngine, plumbing: Dying) -> None:
        self._engine, self._plumbing = engine, plumbing

    def __getattr__(self, name):
        return getattr(self._engine, name)

    async def submit(self, command, *, actor, cause=""):
        kind = type(command).__name__
        self._plumbing.at(f"before {kind}")
        committed = await self._engine.submit(command, actor=actor, cause=cause)
        self._plumbing.at(kind)
        return committed


def attach(node: Node, plumbing: Dying, pod: Namespace, verb: str) -> None:
    """The verb, up to where the process is killed."""
    service = Attachments(DyingEngine(node.engine, plumbing), plumbing)
    one = request.read(
        {"verb": verb, "env": {"CNI_CONTAINERID": "a", "CNI_NETNS": pod.path, "CNI_IFNAME": "eth0"}},
        {"cniVersion": "1.0.0", "name": "cptnet"},
    )

    async def deliver(document):
        plumbing.at("deliver")

    async def main():
        if verb == "ADD":
            await service.add(one, "uid:0(root)", deliver)
        else:
            await service.delete("a", "eth0", "uid:0(root)")

    with pytest.raises(KilledError):
        node.host.run(lambda: anyio.run(main))


ADD_STEPS = [
    "before create",
    "create",
    "before CreateEndpoint",
    "CreateEndpoint",
    "before configure",
    "configure",
    "deliver",
]


@pytest.mark.parametrize("step", ADD_STEPS)
def test_whatever_an_add_was_killed_at_the_next_agent_can_add_and_delete(spaces, step):
    node, one, _ = spaces
    attach(node, Dying(step), one, "ADD")
    with node.agent():
        assert len(node.links()) == len(node.engine.endpoints)
        added = node.client.add("a", one.path)
        assert added.ok, added
        assert node.client.check("a", one.path).ok
        assert node.client.delete("a", one.path).ok
        assert node.empty
        assert one.interfaces() == set()


@pytest.mark.parametrize("step", ADD_STEPS)
def test_whatever_an_add_was_killed_at_a_delete_leaves_nothing(spaces, step):
    node, one, _ = spaces
    attach(node, Dying(step), one, "ADD")
    with node.agent():
        assert node.client.delete("a", one.path).ok
        assert node.empty
        assert one.interfaces() == set()


@pytest.mark.parametrize("step", ["before DeleteEndpoint", "DeleteEndpoint", "before delete"])
def test_whatever_a_delete_was_killed_at_the_next_agent_completes_it(spaces, step):
    node, one, _ = spaces
    with node.agent():
        assert node.client.add("a", one.path).ok
    attach(node, Dying(step), one, "DEL")
    with node.agent():
        assert len(node.links()) == len(node.engine.endpoints)
        assert node.client.delete("a", one.path).ok
        assert node.empty


def test_adding_a_pod_takes_no_longer_than_it_may(spaces):
    node, *_ = spaces
    took: list[float] = []
    with namespaces(8) as pods, node.agent():
        for number, pod in enumerate(pods):
            started = time.perf_counter()
            assert node.client.add(f"c{number}", pod.path).ok
            took.append(time.perf_counter() - started)
    assert min(took) < 0.25  # the aim is 0.06 on an idle machine; this finds only what is broken
