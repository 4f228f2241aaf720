"""The CNI socket: good requests, bad clients, deletions that waited."""

import json
import os
import socket
import stat
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from cplane.api.cni import queue, service, wire
from cplane.api.cni.service import CniService
from cplane.errors import Unavailable
from cplane.telemetry.clock import SystemClock
from cplane.transport import sockets
from cplane.transport.address import UnixAddress
from cplane.transport.sockets import AddressInUse
from datapath.netlink.memory import MemoryPlumbing
from tests.support.cni_engine import DecidingEngine
from tests.support.exhausted import files_left

pytestmark = pytest.mark.anyio

NETNS = "/run/netns/x"


class Agent:
    """A served socket and what is behind it."""

    def __init__(self, folder):
        self.path = str(folder / "cni.sock")
        self.engine = DecidingEngine()
        self.plumbing = MemoryPlumbing()
        self.folder = queue.folder_of(self.path)

    @asynccontextmanager
    async def serving(self):
        cni = CniService(self.engine, self.plumbing, address=UnixAddress(self.path), clock=SystemClock())
        async with anyio.create_task_group() as tasks:
            await tasks.start(cni.run)
            yield
            tasks.cancel_scope.cancel()

    async def ask(self, data):
        async with await anyio.connect_unix(self.path) as stream:
            await stream.send(data)
            return await self.answer(stream)

    async def answer(self, stream):
        """Status and document; None when there is no answer."""
        received = b""
        try:
            while received.count(b"\n") < 2:
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return None
        status, document, _ = received.split(b"\n")
        return int(status), json.loads(document) if document else None

    async def call(self, verb, container="box", **config):
        return await self.ask(lines(message(verb, container, **config)))

    @property
    def containers(self):
        return sorted(endpoint.container_id for endpoint in self.engine.endpoints)


def message(verb, container="box", **config):
    return {
        "verb": verb,
        "env": {"CNI_CONTAINERID": container, "CNI_NETNS": NETNS, "CNI_IFNAME": "eth0", "CNI_ARGS": ""},
        "config": {"cniVersion": "1.1.0", "name": "net", **config},
    }


def lines(request):
    head, body = {**request, "config": None}, request["config"]
    return b"%s\n%s\n" % (json.dumps(head).encode(), json.dumps(body).encode())


def put(path, text):
    Path(path).write_text(text)


@pytest.fixture
def agent(tmp_path):
    return Agent(tmp_path)


async def test_every_verb_is_served(agent):
    async with agent.serving():
        status, added = await agent.call("ADD")
        assert status == 0
        assert added["ips"][0]["address"] == "10.9.0.2/32"
        assert await agent.call("CHECK", prevResult=added) == (0, None)
        assert await agent.call("STATUS") == (0, None)
        listed = {"cni.dev/valid-attachments": [{"containerID": "box", "ifname": "eth0"}]}
        assert await agent.call("GC", **listed) == (0, None)
        assert agent.containers == ["box"]
        assert await agent.call("DEL") == (0, None)
        assert agent.containers == []


async def test_the_caller_is_the_actor_and_others_may_not_open_the_socket(agent):
    async with agent.serving():
        await agent.call("ADD")
        assert stat.S_IMODE(os.stat(agent.path).st_mode) == 0o660
    assert agent.engine.submitted[0][1].startswith(f"uid:{os.getuid()}")
    assert "cni.sock" not in os.listdir(os.path.dirname(agent.path))


@pytest.mark.parametrize("data", [b"nonsense", b"[]", b"7", b"\xff", b'{"x": "\xff"}', b"[" * 50_000])
async def test_what_cannot_be_read_is_answered_with_a_decode_failure(agent, data):
    good = lines(message("ADD")).split(b"\n")[0]
    async with agent.serving():
        for bad in (data + b"\n{}\n", good + b"\n" + data + b"\n"):
            status, document = await agent.ask(bad)
            assert (status, document["code"]) == (1, wire.DECODE_FAILURE)
        assert (await agent.call("ADD"))[0] == 0


async def test_the_agent_checks_what_the_plugin_would_have_checked(agent):
    async with agent.serving():
        assert (await agent.call("ADD", container="../x"))[1]["code"] == wire.INVALID_ENVIRONMENT
        assert (await agent.call("ADD", bogus=1))[1]["code"] == wire.UNSUPPORTED_FIELD
        zero = lines(message("ADD")).replace(NETNS.encode(), b"/run\\u0000")
        assert (await agent.ask(zero))[1]["code"] == wire.INVALID_ENVIRONMENT
    assert agent.containers == []


async def test_a_mistake_of_ours_is_told_and_the_next_request_is_served(agent, monkeypatch):
    async with agent.serving():
        with monkeypatch.context() as patch:
            patch.setattr(MemoryPlumbing, "create", None)
            status, document = await agent.call("ADD")
        assert (status, document["code"]) == (1, wire.REFUSED)
        assert document["msg"].startswith("a mistake of cplane's own (TypeError: ")
        assert (await agent.call("ADD"))[0] == 0


async def test_a_request_without_end_is_cut_off(agent):
    async with agent.serving():
        async with await anyio.connect_unix(agent.path) as stream:
            with pytest.raises(anyio.BrokenResourceError):
                await stream.send(b"x" * (wire.CONFIG_BYTES_MAX * 8))
        assert (await agent.call("ADD"))[0] == 0


async def test_a_client_that_says_nothing_is_dropped(agent, monkeypatch):
    monkeypatch.setattr(service, "READ_DEADLINE_S", 0.05)
    async with agent.serving(), await anyio.connect_unix(agent.path) as stream:
        await stream.send(b'{"verb"')
        assert await agent.answer(stream) is None


async def test_what_is_added_for_a_client_that_goes_away_is_taken_back(agent):
    agent.engine.caught_up = False
    async with agent.serving():
        async with await anyio.connect_unix(agent.path) as stream:
            await stream.send(lines(message("ADD")))
            while not agent.containers:
                await anyio.lowlevel.checkpoint()
        agent.engine.released.set()
        while agent.containers:
            await anyio.lowlevel.checkpoint()
    assert agent.plumbing.owned() == {}


async def test_silent_clients_up_to_the_limit_do_not_keep_others_waiting_for_ever(agent, monkeypatch):
    monkeypatch.setattr(service, "READ_DEADLINE_S", 0.2)
    monkeypatch.setattr(service, "CONNECTIONS_MAX", 2)
    async with agent.serving():
        silent = [await anyio.connect_unix(agent.path) for _ in range(4)]
        with anyio.fail_after(5):
            assert (await agent.call("ADD"))[0] == 0
        for stream in silent:
            await stream.aclose()


async def test_a_second_agent_is_refused(agent):
    async with agent.serving():
        other = CniService(agent.engine, agent.plumbing, address=UnixAddress(agent.path), clock=SystemClock())
        with pytest.raises(AddressInUse):
            await other.run()
        assert (await agent.call("ADD"))[0] == 0


async def test_deletions_that_waited_are_done_before_the_first_request(agent):
    async with agent.serving():
        for name in ("a", "b", "c"):
            await agent.call("ADD", name)
    queue.push(agent.folder, message("DEL", "a"))
    queue.push(agent.folder, message("DEL", "b"))
    async with agent.serving():
        assert agent.containers == ["c"]
        assert list(queue.waiting(agent.folder)) == []


async def test_a_deletion_that_waits_comes_before_an_add_of_the_same_container(agent):
    async with agent.serving():
        first = await agent.call("ADD")
        queue.push(agent.folder, message("DEL"))
        second = await agent.call("ADD")
        assert first[1]["ips"] != second[1]["ips"]
        assert agent.containers == ["box"]


async def test_deletions_are_found_while_the_agent_runs(agent, monkeypatch):
    monkeypatch.setattr(service, "DRAIN_INTERVAL_S", 0.01)
    async with agent.serving():
        await agent.call("ADD")
        queue.push(agent.folder, message("DEL"))
        with anyio.fail_after(5):
            while agent.containers or list(queue.waiting(agent.folder)):
                await anyio.lowlevel.checkpoint()


async def test_a_deletion_that_cannot_be_done_stays_with_those_behind_it(agent):
    queue.push(agent.folder, message("DEL", "a"))
    queue.push(agent.folder, message("DEL", "b"))
    agent.engine.refuse = Unavailable("no space")
    async with agent.serving():
        assert len(list(queue.waiting(agent.folder))) == 2
    agent.engine.refuse = None
    async with agent.serving():
        assert list(queue.waiting(agent.folder)) == []


async def test_what_is_no_deletion_is_set_aside_and_does_not_block_the_others(agent):
    async with agent.serving():
        await agent.call("ADD")
    queue.push(agent.folder, message("ADD", "evil"))
    queue.push(agent.folder, {"nonsense": True})
    queue.push(agent.folder, message("DEL"))
    async with agent.serving():
        assert agent.containers == []
    assert sorted(name for name in os.listdir(agent.folder) if name.endswith(".bad")) == [
        "0000000000000001.bad",
        "0000000000000002.bad",
    ]


async def test_too_many_open_files_end_no_agent(agent, monkeypatch):
    monkeypatch.setattr(sockets, "ACCEPT_AGAIN_S", 0.001)
    monkeypatch.setattr(service, "DRAIN_INTERVAL_S", 0.001)
    async with agent.serving():
        with socket.socket(socket.AF_UNIX) as raw:
            with files_left():
                raw.connect(agent.path)
                await anyio.sleep(0.05)
            raw.setblocking(False)
            async with await anyio.abc.UNIXSocketStream.from_socket(raw.dup()) as stream:
                await stream.send(lines(message("STATUS")))
                assert await agent.answer(stream) == (0, None)


async def test_a_queue_that_cannot_be_read_is_read_when_it_can(agent, monkeypatch):
    monkeypatch.setattr(service, "DRAIN_INTERVAL_S", 0.001)
    put(agent.folder, "in its place")
    async with agent.serving():
        assert (await agent.call("ADD"))[0] == 0
        os.unlink(agent.folder)
        queue.push(agent.folder, message("DEL"))
        with anyio.fail_after(5):
            while agent.containers:  # noqa: ASYNC110  # nobody is told
                await anyio.sleep(0.001)


async def test_what_is_nested_too_deep_to_be_a_deletion_is_set_aside(agent):
    os.mkdir(agent.folder)
    put(os.path.join(agent.folder, "0000000000000001.json"), "[" * 100_000)
    async with agent.serving():
        assert os.listdir(agent.folder) == ["0000000000000001.bad"]
