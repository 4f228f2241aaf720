"""What a relay answers beside flows, and the commands in front of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner
from grpclib.client import UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from cplane import __version__
from cplane.hubble.cli.main import cli as hubble
from cplane.hubble.peer import Peer, Peers, PeerService
from cplane.hubble.relay.main import cli
from cplane.hubble.server import services
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2
from cplane.telemetry.clock import SystemClock
from cplane.transport.client import ClientChannel, Unreachable, connect
from tests.support.observing import get_flows, unary
from tests.support.relaying import Scripted, Site, add, relaying, store_at
from tests.support.serving import served
from tests.support.tree import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def health(channel: ClientChannel, service: str) -> int:
    method: UnaryUnaryMethod[HealthCheckRequest, HealthCheckResponse] = UnaryUnaryMethod(
        channel, "/grpc.health.v1.Health/Check", HealthCheckRequest, HealthCheckResponse
    )
    return (await method(HealthCheckRequest(service=service))).status


async def fail(stream: object) -> None:
    raise GRPCError(Status.UNAVAILABLE, "not today")


async def test_status_and_nodes_count_who_is_connected(tmp_path: Path) -> None:
    nodes = {"a": store_at("a", 1, 2), "b": Scripted(fail), "gone": Peer("gone", f"unix://{tmp_path}/none")}
    async with relaying(tmp_path, nodes, connected=2) as site:
        status = await unary(site.channel, "ServerStatus")
        listed = await unary(site.channel, "GetNodes")
    assert (status.num_flows, status.seen_flows, status.version) == (3, 5, "1.2.3")
    assert (status.num_connected_nodes.value, status.num_unavailable_nodes.value) == (2, 1)
    assert list(status.unavailable_nodes) == ["gone"]
    connected, away = relay_pb2.NODE_CONNECTED, relay_pb2.NODE_UNAVAILABLE
    assert [(one.name, one.state) for one in listed.nodes] == [("a", connected), ("b", connected), ("gone", away)]
    assert not listed.nodes[0].tls.enabled


async def test_namespaces_are_those_of_all_nodes_and_some_cannot_tell(tmp_path: Path) -> None:
    store = store_at("a")
    store.namespaces._seen = {("default", "shop"): SystemClock().now_ns()}
    async with relaying(tmp_path, {"a": store, "b": Scripted(fail)}) as site:
        answer = await unary(site.channel, "GetNamespaces")
    assert [(one.cluster, one.namespace) for one in answer.namespaces] == [("default", "shop")]


@pytest.mark.parametrize("name", ["GetAgentEvents", "GetDebugEvents"])
async def test_events_of_agents_are_unimplemented(tmp_path: Path, name: str) -> None:
    async with relaying(tmp_path, {"a": store_at("a")}) as site:
        with pytest.raises(GRPCError) as caught:
            await unary(site.channel, name)
    assert caught.value.status is Status.UNIMPLEMENTED


async def test_it_is_healthy_while_the_peer_service_and_some_peer_answer(tmp_path: Path) -> None:
    async with relaying(tmp_path, {"a": store_at("a")}) as site:
        assert isinstance(site.channel, ClientChannel)
        await until_health(site, HealthCheckResponse.SERVING)
        site.peers.set([])
        await until_health(site, HealthCheckResponse.NOT_SERVING)


async def until_health(site: Site, expected: int) -> None:
    with anyio.fail_after(20):
        while True:
            if {await health(site.channel, name) for name in ("", "observer.Observer")} == {expected}:
                return
            await anyio.sleep(0.02)


async def test_the_version_stands_in_the_headers(tmp_path: Path) -> None:
    async with relaying(tmp_path, {"a": store_at("a")}) as site, site.follow() as stream:
        await stream.recv_initial_metadata()
        assert stream.initial_metadata["hubble-relay-version"] == "1.2.3"


async def test_a_client_that_never_reads_does_not_stop_the_others(tmp_path: Path) -> None:
    store = store_at("a", *range(3000), capacity=1 << 16)
    async with (
        relaying(tmp_path, {"a": store}) as site,
        connect(site.address) as stuck,
        get_flows(stuck).open() as stream,
    ):
        protocol = await stuck.__connect__()
        protocol.connection._transport.pause_reading()
        await stream.send_message(pb.GetFlowsRequest(follow=True, number=3000), end=True)
        for turn in range(3):
            add(store, *range(3000 + turn, 3100 + turn))
            assert len(await site.flows(number=50)) == 51
        protocol.connection._transport.resume_reading()
        await stream.cancel()


async def test_the_hubble_command_works_against_it(tmp_path: Path) -> None:
    async with relaying(tmp_path, {"a": store_at("a", 1), "b": store_at("b", 2)}) as site:
        await until_health(site, HealthCheckResponse.SERVING)
        environment = {"HUBBLE_SERVER": site.address, "XDG_CONFIG_HOME": str(tmp_path)}

        async def run(*words: str) -> str:
            done = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(hubble, words, env=environment))
            assert done.exit_code == 0, done.output
            return done.stdout

        assert "Connected Nodes: 2/2" in await run("status")
        assert [line.split("]")[0] for line in (await run("observe", "--print-node-name")).splitlines()] == [
            "Jul 24 10:02:11.000 [default/a",
            "Jul 24 10:02:11.000 [default/b",
        ]


async def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    served_peers = services(store_at("a", 1), SystemClock(), version="1")
    async with (
        served(*served_peers, path=tmp_path / "a.sock") as address,
        served(PeerService(Peers([Peer("a", address)])), path=tmp_path / "peer.sock") as service,
    ):
        command = [
            *(sys.executable, "-m", "cplane.hubble.relay.main", "serve", "--disable-client-tls=true"),
            *("--listen-address", f"unix://{tmp_path}/relay.sock"),
            *("--health-listen-address", f"unix://{tmp_path}/health.sock"),
        ]
        environment = os.environ | {"RELAY_DISABLE_SERVER_TLS": "true", "RELAY_PEER_SERVICE": service}
        process = start(command, environment)
        try:
            with anyio.fail_after(60):
                await until_serving(f"unix://{tmp_path}/health.sock")
                async with connect(f"unix://{tmp_path}/relay.sock") as channel:
                    assert len(await get_flows(channel)(pb.GetFlowsRequest())) == 2
            process.send_signal(signal.SIGTERM)
            _, told = await anyio.to_thread.run_sync(process.communicate)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, told
    assert "started" in told
    assert not (tmp_path / "relay.sock").exists()


def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


async def until_serving(address: str) -> None:
    while True:
        try:
            async with connect(address) as channel:
                if await health(channel, "") == HealthCheckResponse.SERVING:
                    return
        except Unreachable:
            pass
        await anyio.sleep(0.1)


def test_a_command_that_cannot_run_says_why(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.touch()
    done = CliRunner().invoke(cli, ["serve", "--config", str(config), "--disable-client-tls"])
    assert done.exit_code == 1
    assert "tls-relay-server-cert-file" in done.stderr


def test_the_command_tells_its_version() -> None:
    assert CliRunner().invoke(cli, ["version"]).stdout.startswith(f"hubble-relay v{__version__} ")
    assert CliRunner().invoke(cli, ["--version"], prog_name="hubble-relay").stdout == f"hubble-relay v{__version__}\n"
