"""Peers that lie, flap, hang, or speak something else: the others' flows come all the same."""

import ssl
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream

from cplane.hubble.peer import Peer
from cplane.hubble.relay.directory import server_name
from cplane.hubble.server import services
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2
from cplane.telemetry.clock import SystemClock
from cplane.transport.tls import client_context, server_context
from tests.support.flows import START_NS
from tests.support.relay_frames import flow_at, framed
from tests.support.relaying import Scripted, add, relaying, serve_node, served_tcp, store_at

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def uuids(answer: list[pb.GetFlowsResponse]) -> int:
    return len([one for one in answer if one.HasField("flow")])


def errors(answer: list[pb.GetFlowsResponse]) -> list[tuple[list[str], str]]:
    found = [one.node_status for one in answer if one.node_status.state_change == relay_pb2.NODE_ERROR]
    return [(list(one.node_names), one.message) for one in found]


async def hang(stream: Any) -> None:
    await stream.send_initial_metadata()
    await anyio.sleep_forever()


async def raw(stream: Any, data: bytes) -> None:
    await stream.send_initial_metadata()
    await stream._stream.send_data(data)


async def test_a_peer_that_hangs_is_given_up_and_named(tmp_path: Path) -> None:
    async with relaying(tmp_path, {"a": store_at("a", 1, 2), "b": Scripted(hang)}) as site:
        answer = await site.flows(number=5)
    assert uuids(answer) == 2
    assert errors(answer) == [(["b"], "it gave nothing for 1 s")]


async def test_a_peer_that_hangs_does_not_delay_those_who_follow(tmp_path: Path) -> None:
    store = store_at("a")
    async with relaying(tmp_path, {"a": store, "b": Scripted(hang)}) as site, site.follow() as stream:
        await stream.recv_message()
        await anyio.sleep(0.05)
        for time in range(3):
            add(store, time)
            with anyio.fail_after(5):
                assert (await stream.recv_message()).HasField("flow")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\0\x40abc", "it ends in the middle of a message"),
        (b"\1\0\0\0\1x", "it is compressed"),
        (b"\0\xff\xff\xff\xff", "a message of 4294967295 bytes"),
    ],
)
async def test_a_peer_that_sends_garbage_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    async def answer_so(stream: Any) -> None:
        await raw(stream, framed(flow_at(START_NS + 1)) + data)

    async with relaying(tmp_path, {"a": store_at("a", 1, 2), "b": Scripted(answer_so)}) as site:
        answer = await site.flows()
    assert uuids(answer) == 3
    ((names, told),) = errors(answer)
    assert names == ["b"]
    assert message in told


async def test_messages_that_do_not_decode_are_the_clients_to_judge(tmp_path: Path) -> None:
    """The relay does not decode, so it passes them on; it neither fails nor loses what comes with them."""

    async def answer_so(stream: Any) -> None:
        await raw(stream, b"\0\0\0\0\3\xff\xff\xff" + framed(flow_at(START_NS + 1)))

    async with relaying(tmp_path, {"a": Scripted(answer_so)}) as site:
        with pytest.raises(Exception, match="cannot be decoded"):
            await site.flows()
        assert site.pool.connected.keys() == {"a"}


async def test_a_peer_that_lies_about_its_times_does_not_stop_the_others(tmp_path: Path) -> None:
    async def lies(stream: Any) -> None:
        await stream.send_initial_metadata()
        while True:  # for ever, in the year 1970
            await stream._stream.send_data(framed(*(flow_at(1, "lie") for _ in range(50))))
            await anyio.sleep(0.05)

    store = store_at("a")
    async with relaying(tmp_path, {"a": store, "b": Scripted(lies)}) as site, site.follow() as stream:
        await anyio.sleep(0.1)
        add(store, 5)
        with anyio.fail_after(15):
            while (await stream.recv_message()).node_name != "default/a":
                pass


async def test_errors_of_the_same_words_are_one_notice(tmp_path: Path) -> None:
    nodes = {name: Scripted(hang) for name in "bcd"}
    async with relaying(tmp_path, {"a": store_at("a", 1), **nodes}) as site:
        answer = await site.flows()
    assert errors(answer) == [(["b", "c", "d"], "it gave nothing for 1 s")]


async def test_a_peer_that_fails_is_asked_again_for_what_it_did_not_give(tmp_path: Path) -> None:
    again = anyio.Event()

    async def breaks_off(stream: Any) -> None:
        if len(scripted.requests) > 1:
            again.set()
        await raw(stream, framed(flow_at(START_NS + 7)))

    scripted = Scripted(breaks_off)
    async with relaying(tmp_path, {"b": scripted}) as site, site.follow(number=3):
        with anyio.fail_after(20):
            await again.wait()
    first, second = scripted.requests[:2]
    assert (first.number, first.HasField("since")) == (3, False)
    assert (second.number, second.since.ToNanoseconds(), second.follow) == (0, START_NS + 8, True)


async def test_a_peer_that_flaps_is_lost_and_found(tmp_path: Path) -> None:
    async with relaying(tmp_path, {"a": store_at("a", 1)}) as site:
        for turn in range(2):
            async with AsyncExitStack() as stack:
                peer = await serve_node(stack, tmp_path, "b", store_at("b", 2))
                site.peers.set([*(one for one in site.peers.now.values() if one.name != "b"), peer])
                await site.until(connected=2)
                assert uuids(await site.flows()) == 2, turn
            await site.until(connected=1)
            answer = await site.flows()
            assert uuids(answer) == 1
            states = {one.node_status.state_change: [*one.node_status.node_names] for one in answer}
            assert states[relay_pb2.NODE_UNAVAILABLE] == ["b"]


async def test_nobody_there_something_else_and_silence_are_unavailable_and_say_why(tmp_path: Path) -> None:
    async def mumble(end: SocketStream) -> None:
        async with end:
            await end.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await anyio.sleep(0.2)

    async def say_nothing(end: SocketStream) -> None:
        async with end:
            await anyio.sleep_forever()

    async with (
        await anyio.create_unix_listener(tmp_path / "mumble") as other,
        await anyio.create_unix_listener(tmp_path / "silent") as silent,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(other.serve, mumble)
        tasks.start_soon(silent.serve, say_nothing)
        nodes = {
            "a": store_at("a", 1),
            "absent": Peer("absent", f"unix://{tmp_path}/absent"),
            "addressless": Peer("addressless"),
            "other": Peer("other", f"unix://{tmp_path}/mumble"),
            "silent": Peer("silent", f"unix://{tmp_path}/silent"),
        }
        async with relaying(tmp_path, nodes, connected=1) as site:
            answer = await site.flows()
            with anyio.fail_after(20):
                while any("not reached yet" in one.reason for one in site.pool.links.values() if not one.channel):
                    await site.pool.changed.wait()
            reasons = {name: one.reason for name, one in site.pool.links.items()}
        tasks.cancel_scope.cancel()
    assert uuids(answer) == 1
    assert "there is no such socket" in reasons["absent"]
    assert "knows no address" in reasons["addressless"]
    assert "the connection broke" in reasons["other"]
    assert "no answer within 1.5 s" in reasons["silent"]


async def test_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good = authority.issue("good", server_name("node.1"))
    client = authority.issue("client", "relay.hubble-relay.cilium.io")
    stranger = authority.issue("stranger", server_name("somebody-else"))

    def tls() -> ssl.SSLContext:
        return client_context(authorities=[authority.path], certificate=client[0], key=client[1])

    def observer(name: str) -> Any:
        return services(store_at(name, 1), SystemClock(), version="1.2.3")

    async with (
        served_tcp(*observer("n"), tls=server_context(*good, authority.path)) as right,
        served_tcp(*observer("n"), tls=server_context(*stranger)) as wrong,
        served_tcp(*observer("n")) as plain,
    ):
        nodes = {
            "node.1": Peer("node.1", right, server_name("node.1")),
            "nameless": Peer("nameless", wrong),
            "plain": Peer("plain", plain, server_name("plain")),
        }
        async with relaying(tmp_path, nodes, tls=tls, connected=1) as site:
            assert uuids(await site.flows()) == 1
            assert site.pool.connected.keys() == {"node.1"}
            with anyio.fail_after(20):
                while any("not reached yet" in one.reason for one in site.pool.links.values() if not one.channel):
                    await site.pool.changed.wait()
            reasons = {name: one.reason for name, one in site.pool.links.items()}
    assert "its certificate is not trusted" in reasons["nameless"]
    assert "TLS failed" in reasons["plain"]


class Authority:
    """Issues certificates for a day."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path, self._key = str(folder / "ca.pem"), str(folder / "ca.key")
        self._openssl("req", "-x509", *self._new(self._key), "-out", self.path, "-days", "2", "-subj", "/CN=ca")

    def issue(self, name: str, host: str) -> tuple[str, str]:
        """Paths of a certificate for the host, and of its key."""
        certificate, key = str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")
        self._openssl(
            *("req", "-x509", *self._new(key), "-out", certificate, "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:{host}", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-CA", self.path, "-CAkey", self._key),
        )
        return certificate, key

    @staticmethod
    def _new(key: str) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key]

    @staticmethod
    def _openssl(*words: str) -> None:
        try:
            subprocess.run(["openssl", *words], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("openssl is not installed")
