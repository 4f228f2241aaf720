"""What the proxy learns is known to the datapath before the answer is released, and counts as long as it should."""

from collections.abc import Collection, Mapping
from ipaddress import ip_address

import anyio
import pytest

from cplane.agent.fqdn import LearnedNames, NotLearned
from cplane.deciders import fqdn
from cplane.deciders.endpoint import DeleteEndpoint
from cplane.deciders.fqdn import Ended, ExpireNames
from cplane.domain.fqdncache import Limits
from cplane.engine.engine import Turn
from cplane.errors import Unavailable
from cplane.events.fqdn import NameExpired, NameResolved
from cplane.projections.addresses import prefix_key
from cplane.proxy.channel import Learned
from datapath.errors import DatapathError
from tests.support.engine import ListEngine
from tests.support.scenario import pod
from tests.unit.cplane.deciders.test_fqdn import names

pytestmark = pytest.mark.anyio

WEB = pod("web", "k8s:app=api")


class Time:
    """A clock that is set."""

    now = 1000.0

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)


class Node:
    """An engine with one pod, what learns for it, and connections that are open."""

    def __init__(self, *history, **limits) -> None:
        self.engine, self.time = ListEngine(WEB, *history), Time()
        self.open: set[str] = set()
        self.refuses = False
        self.names = LearnedNames(self.engine, self._connected, self.time, Limits(**limits))
        self.address = self.engine.world.endpoints[1].ipv4

    def _connected(self, wanted: Mapping[int, Collection[bytes]]) -> set[tuple[int, bytes]]:
        if self.refuses:
            raise DatapathError("no")
        return {(n, one) for n, some in wanted.items() for one in some if str(ip_address(one)) in self.open}

    def told(self, name: str, *ips: str, ttl: int = 30, by: str = "") -> Learned:
        return Learned(1, by or self.address, name, ips, ttl, 17, "10.96.0.10")

    def events(self, kind) -> list:
        return [one.event for one in self.engine.log.entries if isinstance(one.event, kind)]

    def row(self, ip: str):
        return self.engine.targets["ipcache"].rows.get(prefix_key(ip))


async def learned(node: Node, *told: Learned) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.names.run)
        for one in told:
            await node.names.learn(one)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


async def test_an_answer_is_in_the_datapath_when_it_has_been_learned() -> None:
    node = Node(names("a.example"))
    node.engine.lag = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.names.run)
        done = anyio.Event()

        async def learn() -> None:
            await node.names.learn(node.told("a.example.", "192.0.2.1"))
            done.set()

        tasks.start_soon(learn)
        await anyio.wait_all_tasks_blocked()
        assert not done.is_set()
        assert not node.row("192.0.2.1")
        node.engine.catch_up()
        await done.wait()
        assert node.row("192.0.2.1")
        tasks.cancel_scope.cancel()
    assert node.events(NameResolved)[0].server == "10.96.0.10"


async def test_nobody_waits_for_names_that_no_policy_selects_and_they_are_recorded() -> None:
    node = Node()
    node.engine.lag = True
    await learned(node, node.told("a.example.", "192.0.2.1"))
    assert len(node.events(NameResolved)) == 1


async def test_what_is_known_is_not_recorded_again_and_counts_longer() -> None:
    node = Node(names("a.example"))
    await learned(node, node.told("a.example.", "192.0.2.1"))
    node.time.now += 20
    await learned(node, node.told("a.example.", "192.0.2.1"))
    assert len(node.events(NameResolved)) == 1
    node.time.now += 20
    await node.names.expire()
    assert node.events(NameExpired) == []
    node.time.now += 11
    await node.names.expire()
    assert [one.reason for one in node.events(NameExpired)] == ["ttl"]
    assert not node.row("192.0.2.1")


async def test_an_address_is_kept_while_it_has_a_connection() -> None:
    node = Node(names("a.example"))
    await learned(node, node.told("a.example.", "192.0.2.1", "2001:db8::1"))
    node.time.now += 100
    node.open = {"2001:db8::1"}
    await node.names.expire()
    assert node.events(NameExpired)[0].ips == ("192.0.2.1",)
    assert node.row("2001:db8::1")
    node.open.clear()
    await node.names.expire()
    assert not node.row("2001:db8::1")


async def test_too_many_addresses_of_a_name_do_not_end_connections() -> None:
    node = Node(names("a.example"), ips_per_name=1)
    await learned(node, node.told("a.example.", "192.0.2.1"), node.told("a.example.", "192.0.2.2"))
    node.open = {"192.0.2.1"}
    await node.names.expire()
    assert node.row("192.0.2.1")
    node.open.clear()
    await node.names.expire()
    assert (node.row("192.0.2.1"), node.events(NameExpired)[0].reason) == (None, "limit")
    assert node.row("192.0.2.2")


async def test_strangers_and_nonsense_teach_nothing() -> None:
    node = Node(names("a.example"))
    for by in ("203.0.113.9", "nobody", ""):
        with pytest.raises(BaseExceptionGroup) as caught:
            await learned(node, Learned(1, by, "a.example.", ("192.0.2.1",), 30, 1, ""))
        assert caught.group_contains(NotLearned)
    await learned(node, node.told("a.example.", "no address"))
    assert node.events(NameResolved) == []


async def test_what_cannot_be_recorded_is_said() -> None:
    node = Node(names("a.example"))
    node.engine.broken = "the disk is full"
    with pytest.raises(BaseExceptionGroup) as caught:
        await learned(node, node.told("a.example.", "192.0.2.1"))
    assert caught.group_contains(Unavailable, match="disk")


async def test_an_endpoint_that_was_told_too_much_is_said(monkeypatch) -> None:
    monkeypatch.setattr(fqdn, "ADDRESSES_MAX", 1)
    node = Node(names("a.example"))
    with pytest.raises(BaseExceptionGroup) as caught:
        await learned(node, node.told("a.example.", "192.0.2.1", "192.0.2.2"))
    assert caught.group_contains(NotLearned)


async def test_an_agent_that_starts_gives_what_was_learned_its_time_again() -> None:
    node = Node(names("a.example"))
    await learned(node, node.told("a.example.", "192.0.2.1"))
    node.time.now += 29
    node.names = LearnedNames(node.engine, node._connected, node.time, Limits())
    await learned(node)
    node.time.now += 29
    await node.names.expire()
    assert node.row("192.0.2.1")
    node.time.now += 1
    await node.names.expire()
    assert not node.row("192.0.2.1")


async def test_endpoints_that_are_gone_are_forgotten_and_a_datapath_that_refuses_is_asked_again() -> None:
    node = Node(names("a.example"))
    await learned(node, node.told("a.example.", "192.0.2.1"))
    node.time.now += 100
    node.refuses = True
    with pytest.raises(DatapathError):
        await node.names.expire()
    assert node.row("192.0.2.1")
    node.engine.execute(DeleteEndpoint(container_id="c-web", container_interface="eth0"), actor="cni")
    await node.names.expire()
    assert len(node.names.lifetimes) == 0


async def test_the_proxy_tells_again_what_is_not_known_any_more() -> None:
    node, again = Node(names("a.example")), []
    node.names = LearnedNames(node.engine, node._connected, node.time, Limits(), again.append)
    await learned(node, node.told("a.example.", "192.0.2.1", "192.0.2.2"))
    addresses = list(node.engine.world.endpoints[1].addresses)
    for reason, expected in (("ttl", []), ("forgotten", addresses)):
        before = node.engine.world
        done = node.engine.execute(ExpireNames(names=(Ended(1, "a.example.", ("192.0.2.1",), reason),)), actor="test")
        node.names.turn(Turn(before, node.engine.world, done.events, {}))
        assert again == expected
        await learned(node, node.told("a.example.", "192.0.2.1"))
    again.clear()
    before = node.engine.world
    gone = node.engine.execute(DeleteEndpoint(container_id="c-web", container_interface="eth0"), actor="cni")
    node.names.turn(Turn(before, node.engine.world, gone.events, {}))
    assert again == addresses
