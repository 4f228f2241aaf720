"""ADD, DEL, CHECK, GC and STATUS against real decisions and links in memory."""

import json

import anyio
import pytest

from cplane.api.cni import attachments as module
from cplane.api.cni import request, wire
from cplane.api.cni.attachments import Attachments
from cplane.api.cni.sweep import sweep
from cplane.deciders.endpoint import CreateEndpoint
from cplane.errors import Unavailable
from datapath.errors import Unavailable as LinksUnavailable
from datapath.netlink.errors import InterfaceExists, KernelRefused
from datapath.netlink.memory import MemoryPlumbing
from tests.support.cni_engine import DecidingEngine

pytestmark = pytest.mark.anyio

NETNS = "/run/netns/x"


class Plumbing(MemoryPlumbing):
    """Links in memory that fail at one step, and namespaces that can be gone."""

    def __init__(self):
        super().__init__()
        self.fails = {}
        self.gone = set()

    def _step(self, name):
        if name in self.fails:
            raise self.fails[name]

    def create(self, attachment, path, mtu):
        self._step("before create")
        link = super().create(attachment, path, mtu)
        self._step("create")
        return link

    def configure(self, wiring):
        self._step("configure")
        return super().configure(wiring)

    def delete(self, host_interface):
        self._step("delete")
        return super().delete(host_interface)

    def owned(self):
        self._step("owned")
        return super().owned()

    def netns_exists(self, path):
        return path not in self.gone


class Node:
    """An engine, plumbing and the service between them; what is delivered is kept."""

    def __init__(self):
        self.engine = DecidingEngine()
        self.plumbing = Plumbing()
        self.service = Attachments(self.engine, self.plumbing)
        self.delivered = []

    async def deliver(self, document):
        self.delivered.append(json.loads(json.dumps(document)))

    async def add(self, container="box", interface="eth0", deliver=None, **config):
        await self.service.add(call("ADD", container, interface, **config), "uid:0(root)", deliver or self.deliver)
        return self.delivered[-1]

    async def check(self, result, container="box", interface="eth0"):
        await self.service.check(call("CHECK", container, interface, prevResult=result))

    async def gc(self, *valid, network="net"):
        listed = [{"containerID": container, "ifname": interface} for container, interface in valid]
        one = call("GC", "", "", name=network, **{"cni.dev/valid-attachments": listed})
        return await self.service.collect(one.config, "uid:0(root)")

    @property
    def empty(self):
        return not self.engine.endpoints and not self.plumbing.owned() and not self.taken

    @property
    def taken(self):
        return [address for pool in self.engine.world.pools.values() for address in pool.taken]


def call(verb, container, interface, version="1.1.0", netns=NETNS, **config):
    environment = {"CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": interface}
    return request.read({"verb": verb, "env": environment}, {"cniVersion": version, "name": "net", **config})


@pytest.fixture
def node():
    return Node()


@pytest.mark.parametrize("version", wire.VERSIONS)
async def test_the_result_has_the_form_of_each_version(node, version):
    document = await node.add(version=version, dns={"nameservers": ["10.9.0.53"]}, mtu=1400)
    old, new = version < "1.0.0", version >= "1.1.0"
    link = node.engine.endpoints[0]
    mtu = {"mtu": 1400} if new else {}
    assert document == {
        "cniVersion": version,
        "interfaces": [
            {"name": link.host_interface, "mac": link.host_mac, **mtu},
            {"name": "eth0", "mac": link.mac, "sandbox": NETNS, **mtu},
        ],
        "ips": [
            {"interface": 1, "address": "10.9.0.2/32", "gateway": "10.9.0.1", **({"version": "4"} if old else {})},
            {"interface": 1, "address": "fd09::2/128", "gateway": "fd09::1", **({"version": "6"} if old else {})},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}, {"dst": "::/0", "gw": "fd09::1"}],
        "dns": {"nameservers": ["10.9.0.53"]},
    }


async def test_an_endpoint_is_created_by_who_asked_with_what_was_said(node):
    await node.add(args={"cplane": {"namespace": "shop", "pod": "web", "labels": {"app": "web"}}})
    command, actor, _ = node.engine.submitted[0]
    assert isinstance(command, CreateEndpoint)
    assert actor == "uid:0(root)"
    assert (command.namespace, command.pod, command.netns) == ("shop", "web", NETNS)
    assert "k8s:app=web" in command.labels


async def test_adding_twice_gives_the_same_answer_and_changes_nothing(node):
    first = await node.add()
    before = len(node.engine.submitted)
    assert await node.add() == first
    assert len(node.engine.submitted) == before


async def test_an_attachment_that_broke_is_made_again_with_its_addresses(node):
    first = await node.add()
    await node.add("other")
    node.plumbing.delete(node.engine.endpoints[0].host_interface)
    assert (await node.add())["ips"] == first["ips"]
    assert len(node.engine.endpoints) == 2


async def test_a_requested_address_is_given_or_refused_without_a_trace(node):
    assert (await node.add(runtimeConfig={"ips": ["10.9.0.7"]}))["ips"][0]["address"] == "10.9.0.7/32"
    with pytest.raises(wire.CniError) as caught:
        await node.add("other", runtimeConfig={"ips": ["10.9.0.7"]})
    assert caught.value.code == wire.INVALID_CONFIG
    assert len(node.plumbing.owned()) == len(node.engine.endpoints) == 1


@pytest.mark.parametrize("step", ["before create", "create", "configure"])
@pytest.mark.parametrize("error", [LinksUnavailable("no memory"), InterfaceExists("eth0", NETNS)])
async def test_a_step_that_fails_leaves_nothing(node, step, error):
    node.plumbing.fails[step] = error
    with pytest.raises(wire.CniError) as caught:
        await node.add()
    expected = wire.TRY_AGAIN_LATER if isinstance(error, LinksUnavailable) else wire.INVALID_ENVIRONMENT
    assert caught.value.code == expected
    assert node.empty


async def test_an_interface_that_exists_names_the_variable(node):
    node.plumbing.fails["create"] = InterfaceExists("eth0", NETNS)
    with pytest.raises(wire.CniError, match="CNI_IFNAME"):
        await node.add()


async def test_a_log_that_cannot_be_written_means_try_again_and_leaves_no_link(node):
    node.engine.refuse = Unavailable("no space left on device")
    with pytest.raises(wire.CniError, match="no space") as caught:
        await node.add()
    assert caught.value.code == wire.TRY_AGAIN_LATER
    node.engine.refuse = None
    assert (await sweep(node.engine, node.plumbing)).links == 1
    assert node.empty


async def test_a_datapath_that_does_not_follow_means_try_again_and_leaves_nothing(node, monkeypatch):
    monkeypatch.setattr(module, "ADD_DEADLINE_S", 0.05)
    node.engine.caught_up = False
    node.engine.failure = "map full"
    with pytest.raises(wire.CniError, match="map full") as caught:
        await node.add()
    assert caught.value.code == wire.TRY_AGAIN_LATER
    assert node.empty


async def test_an_answer_that_nobody_takes_takes_everything_back(node):
    class Gone(Exception):
        pass

    async def nobody(document):
        raise Gone

    with pytest.raises(Gone):
        await node.add(deliver=nobody)
    assert node.empty


async def test_an_add_that_is_cancelled_leaves_nothing(node):
    node.engine.caught_up = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.add)
        while not node.engine.endpoints:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert node.empty


async def test_an_exhausted_pool_means_try_again(node):
    for number in range(253):
        await node.add(f"box{number}")
    with pytest.raises(wire.CniError, match="no free address") as caught:
        await node.add("one-more")
    assert caught.value.code == wire.TRY_AGAIN_LATER
    assert len(node.plumbing.owned()) == 253


async def test_many_at_once_get_addresses_of_their_own_and_one_at_once_stays_one(node):
    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(node.add, f"box{number % 6}")
    assert len(node.engine.endpoints) == 6
    assert len(node.delivered) == 12
    assert len(node.taken) == len(set(node.taken)) == 12


async def test_deleting_is_idempotent_and_takes_everything(node):
    await node.add()
    for _ in range(3):
        await node.service.delete("box", "eth0", "x")
    await node.service.delete("never-seen", "eth0", "x")
    assert node.empty


async def test_a_deletion_that_fails_halfway_is_completed_by_the_next(node):
    await node.add()
    node.plumbing.fails["delete"] = LinksUnavailable("busy")
    with pytest.raises(wire.CniError) as caught:
        await node.service.delete("box", "eth0", "x")
    assert caught.value.code == wire.TRY_AGAIN_LATER
    node.plumbing.fails.clear()
    await node.service.delete("box", "eth0", "x")
    assert node.empty


async def test_check_passes_what_add_made_and_names_what_is_lost(node):
    result = await node.add()
    await node.check(result)
    node.plumbing.delete(node.engine.endpoints[0].host_interface)
    with pytest.raises(wire.CniError, match="no link") as caught:
        await node.check(result)
    assert caught.value.code == wire.UNHEALTHY


async def test_check_compares_with_the_earlier_result(node):
    result = await node.add()
    with pytest.raises(wire.CniError, match=r"does not list the address 10\.9\.0\.2"):
        await node.check({**result, "ips": result["ips"][1:]})
    with pytest.raises(wire.CniError) as caught:
        await node.check({**result, "ips": [{"address": "nonsense"}]})
    assert caught.value.code == wire.INVALID_CONFIG


async def test_check_of_an_unknown_container_says_so(node):
    with pytest.raises(wire.CniError) as caught:
        await node.check({"ips": []})
    assert caught.value.code == wire.CONTAINER_UNKNOWN


async def test_gc_keeps_what_is_valid_and_what_is_of_other_networks(node):
    await node.add("a")
    await node.add("b")
    await node.add("b", "eth1")
    await node.add("c", name="other")
    assert await node.gc(("a", "eth0"), ("b", "eth1")) == 1
    left = {endpoint.attachment for endpoint in node.engine.endpoints}
    assert left == {("a", "eth0"), ("b", "eth1"), ("c", "eth0")}
    assert await node.gc(network="other") == 1


async def test_gc_takes_null_for_an_empty_list_as_libcni_writes_it(node):
    await node.add("a")
    of_libcni = {"cni.dev/valid-attachments": None, "cni.dev/attachments": None}
    one = call("GC", "", "", **of_libcni)
    assert await node.service.collect(one.config, "uid:0(root)") == 1
    assert node.empty


async def test_gc_takes_endpoints_whose_link_and_namespace_are_gone(node):
    await node.add("a")
    node.plumbing.delete(node.engine.endpoints[0].host_interface)
    assert await node.gc() == 0
    node.plumbing.gone.add(NETNS)
    assert await node.gc() == 1
    assert node.empty


async def test_gc_that_cannot_look_means_try_again_and_takes_nothing(node):
    await node.add("a")
    node.plumbing.fails["owned"] = KernelRefused("open a routing socket", 24)
    with pytest.raises(wire.CniError) as caught:
        await node.gc()
    assert caught.value.code == wire.TRY_AGAIN_LATER
    assert len(node.engine.endpoints) == 1


async def test_status_tells_starting_from_failing_from_ready(node):
    node.service.status()
    node.engine.in_sync = False
    with pytest.raises(wire.CniError) as caught:
        node.service.status()
    assert caught.value.code == wire.NOT_AVAILABLE
    node.engine.failure = "map full"
    with pytest.raises(wire.CniError, match="map full") as caught:
        node.service.status()
    assert caught.value.code == wire.LIMITED_CONNECTIVITY


async def test_the_sweep_removes_links_without_endpoints(node):
    await node.add()
    node.plumbing.create(call("ADD", "stray", "eth0").attachment, NETNS, 1500)
    assert (await sweep(node.engine, node.plumbing)).links == 1
    assert len(node.plumbing.owned()) == 1


async def test_the_sweep_removes_endpoints_only_when_link_and_namespace_are_gone(node):
    await node.add()
    node.plumbing.delete(node.engine.endpoints[0].host_interface)
    node.plumbing.gone.add(NETNS)
    assert (await sweep(node.engine, node.plumbing)).endpoints == 1
    assert node.empty


async def test_an_agent_without_a_kernel_finds_its_pods_again(node):
    result = await node.add()
    restarted = Node()
    restarted.engine = node.engine
    restarted.service = Attachments(node.engine, restarted.plumbing)
    swept = await sweep(restarted.engine, restarted.plumbing)
    assert (swept.links, swept.endpoints) == (0, 0)
    await restarted.check(result)
    assert await restarted.add() == result
