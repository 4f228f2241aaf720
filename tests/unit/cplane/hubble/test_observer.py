"""The observer over gRPC."""

import os
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from cplane.hubble.encode import BATCH
from cplane.hubble.eventring import EventRing
from cplane.hubble.filters import cel
from cplane.hubble.origin import TYPE_URL
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.peer import Peer, Peers
from cplane.hubble.ring import FlowRing
from cplane.hubble.store import FlowStore
from cplane.pb.cplane.flow.v1 import extension_pb2
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2
from tests.support.flows import SEED, START_NS, World, records, store_of
from tests.support.observing import StillClock, get_flows, observed, unary

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hubble.sock"


async def test_flows_arrive_complete_and_framed(path: Path) -> None:
    store = store_of(records(*({"dport": port} for port in range(2000))), capacity=2048)
    async with observed(store, path) as channel:
        answer = await get_flows(channel)(pb.GetFlowsRequest())
    assert [one.flow.l4.TCP.destination_port for one in answer] == list(range(2000))
    assert {one.node_name for one in answer} == {"default/node1"}
    assert answer[3].time == answer[3].flow.time


async def test_the_version_stands_in_the_headers(path: Path) -> None:
    async with observed(store_of(records({})), path) as channel, get_flows(channel).open() as stream:
        await stream.send_message(pb.GetFlowsRequest(), end=True)
        await stream.recv_initial_metadata()
        assert stream.initial_metadata is not None
        assert stream.initial_metadata["hubble-server-version"] == "1.2.3"
        assert await stream.recv_message() is not None
        assert await stream.recv_message() is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.GetFlowsRequest(first=True, follow=True), "first cannot be specified with follow"),
        (
            pb.GetFlowsRequest(whitelist=[flow_pb2.FlowFilter(source_ip=["x"])]),
            "filter source_ip: 'x' is neither an IP address nor a CIDR",
        ),
        (
            pb.GetFlowsRequest(
                blacklist=[flow_pb2.FlowFilter(experimental=flow_pb2.FlowFilter.Experimental(cel_expression=["1"]))]
            ),
            "filter experimental.cel_expression: '1': a CEL expression must be a bool here, and this is a int",
        ),
    ],
)
async def test_a_bad_request_is_an_invalid_argument(path: Path, request_: pb.GetFlowsRequest, message: str) -> None:
    async with observed(store_of(records({})), path) as channel:
        with pytest.raises(GRPCError) as caught:
            await get_flows(channel)(request_)
    assert (caught.value.status, caught.value.message) == (Status.INVALID_ARGUMENT, message)


@pytest.mark.slow
async def test_an_expression_selects_flows_and_is_ended_when_it_proves_too_slow(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(records(*({"dport": port} for port in range(2000))), capacity=2048)
    wanted = flow_pb2.FlowFilter()
    wanted.experimental.cel_expression.append("_flow.l4.TCP.destination_port >= 1990u")
    async with observed(store, path) as channel:
        answer = await get_flows(channel)(pb.GetFlowsRequest(whitelist=[wanted], number=5))
        assert [one.flow.l4.TCP.destination_port for one in answer] == list(range(1995, 2000))
        monkeypatch.setattr(cel, "_SPENT_FREE_NS", 0)
        monkeypatch.setattr(cel, "_EACH_MAX_NS", 0)
        with pytest.raises(GRPCError) as caught:
            await get_flows(channel)(pb.GetFlowsRequest(whitelist=[wanted]))
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert "for each flow; make it simpler" in (caught.value.message or "")


async def test_a_mask_keeps_the_fields_it_names_and_passes_over_those_it_invents(path: Path) -> None:
    request = pb.GetFlowsRequest()
    request.field_mask.paths.extend(["verdict", "source.pod_name", "from_the_future"])
    async with observed(store_of(records({})), path) as channel:
        (answer,) = await get_flows(channel)(request)
    expected = flow_pb2.Flow(verdict=flow_pb2.FORWARDED, source=flow_pb2.Endpoint(pod_name="web-7f9"))
    assert answer.flow == expected
    assert answer.HasField("time")


async def test_only_who_asks_gets_the_log_position(path: Path) -> None:
    asking = pb.GetFlowsRequest()
    asking.extensions.type_url = TYPE_URL
    async with observed(store_of(records({"position": 42})), path) as channel:
        (plain,) = await get_flows(channel)(pb.GetFlowsRequest())
        (extended,) = await get_flows(channel)(asking)
    assert not plain.flow.HasField("extensions")
    origin = extension_pb2.Origin()
    assert extended.flow.extensions.Unpack(origin)
    assert origin.position == 42


async def test_times_beyond_every_flow_are_no_error(path: Path) -> None:
    async with observed(store_of(records({})), path) as channel:
        for seconds, expected in ((-(2**62), 1), (2**62, 0)):
            request = pb.GetFlowsRequest()
            request.since.seconds = seconds
            assert len(await get_flows(channel)(request)) == expected


async def test_status_counts_flows_and_tells_their_rate(path: Path) -> None:
    clock = StillClock()
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    parser = Parser(store, World())
    async with observed(store, path, clock) as channel:
        clock.advance(10)
        parser.ingest(records(*({} for _ in range(40))), START_NS + 9 * 10**9)
        status = await unary(channel, "ServerStatus")
        assert (status.num_flows, status.max_flows, status.seen_flows) == (40, 64, 40)
        assert (status.uptime_ns, status.version, status.flows_rate) == (10 * 10**9, "1.2.3", 4.0)
        assert not status.HasField("num_connected_nodes")
        clock.advance(120)
        parser.ingest(records(*({} for _ in range(6))), START_NS + 129 * 10**9)
        assert (await unary(channel, "ServerStatus")).flows_rate == pytest.approx(0.1)


async def test_flows_of_an_observer_before_are_there_and_were_not_seen(path: Path) -> None:
    ring = FlowRing(64, start=1000)
    store = FlowStore(cluster="default", node="node1", seed=SEED, ring=ring)
    async with observed(store, path) as channel:
        Parser(store, World()).ingest(records({}, {}), START_NS)
        status = await unary(channel, "ServerStatus")
        (node,) = (await unary(channel, "GetNodes")).nodes
    assert (status.seen_flows, node.seen_flows) == (2, 2)


async def test_the_rate_of_a_ring_shorter_than_a_minute_is_that_of_its_span(path: Path) -> None:
    clock = StillClock()
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=64)
    async with observed(store, path, clock) as channel:
        clock.advance(300)
        rows = records(*({"time_ns": n * 10**8} for n in range(128)))
        Parser(store, World()).ingest(rows, START_NS + 300 * 10**9 - 128 * 10**8)
        assert (await unary(channel, "ServerStatus")).flows_rate == pytest.approx(10)


async def test_namespaces_are_listed_in_order(path: Path) -> None:
    store = store_of(records({}, {"src_lxc": 13, "src_identity": 777}))
    async with observed(store, path) as channel:
        answer = await unary(channel, "GetNamespaces")
    assert [(one.cluster, one.namespace) for one in answer.namespaces] == [("default", "data"), ("default", "shop")]


async def test_a_node_lists_itself_and_how_it_is_reached(path: Path) -> None:
    clock = StillClock()
    peers = Peers([Peer("node1", "192.0.2.1:4244", "node1.default.hubble-grpc.cilium.io"), Peer("node2")])
    async with observed(store_of(records({}, {}), capacity=64), path, clock, peers=peers) as channel:
        clock.advance(5)
        (node,) = (await unary(channel, "GetNodes")).nodes
    assert (node.name, node.address, node.version) == ("node1", "192.0.2.1:4244", "1.2.3")
    assert (node.tls.enabled, node.tls.server_name) == (True, "node1.default.hubble-grpc.cilium.io")
    assert node.state == relay_pb2.NODE_CONNECTED
    assert (node.uptime_ns, node.num_flows, node.max_flows, node.seen_flows) == (5 * 10**9, 2, 64, 2)


async def test_agent_events_are_told_with_their_time_and_followed(path: Path) -> None:
    ring: EventRing[flow_pb2.AgentEvent] = EventRing()
    started = flow_pb2.AgentEvent(type=flow_pb2.AGENT_STARTED)
    for second in range(3):
        ring.add(START_NS + second * 10**9, lambda: started)
    with anyio.fail_after(10):
        async with observed(store_of(records({})), path, agent_events=ring) as channel:
            method = events(channel, "Agent")
            answer = await method(pb.GetAgentEventsRequest(number=2))
            assert [one.time.ToNanoseconds() for one in answer] == [START_NS + 10**9, START_NS + 2 * 10**9]
            assert {(one.node_name, one.agent_event.type) for one in answer} == {("default/node1", 2)}
            async with method.open() as stream:
                await stream.send_message(pb.GetAgentEventsRequest(follow=True), end=True)
                await stream.recv_initial_metadata()
                ring.add(START_NS + 9 * 10**9, lambda: started)
                told = await stream.recv_message()
                assert told is not None
                assert told.time.ToNanoseconds() == START_NS + 9 * 10**9
                await stream.cancel()


async def test_without_debug_records_the_debug_events_are_empty_and_their_followers_wait(path: Path) -> None:
    with anyio.fail_after(10):
        async with observed(store_of(records({})), path) as channel:
            method = events(channel, "Debug")
            assert await method(pb.GetDebugEventsRequest()) == []
            async with method.open() as stream:
                await stream.send_message(pb.GetDebugEventsRequest(follow=True), end=True)
                with anyio.move_on_after(0.05) as waited:
                    await stream.recv_message()
                assert waited.cancelled_caught
                await stream.cancel()


@pytest.mark.parametrize("kind", ["Agent", "Debug"])
async def test_events_too_cannot_be_the_first_and_followed(path: Path, kind: str) -> None:
    async with observed(store_of(records({})), path) as channel:
        with pytest.raises(GRPCError) as caught:
            await events(channel, kind)(getattr(pb, f"Get{kind}EventsRequest")(first=True, follow=True))
    assert caught.value.status is Status.INVALID_ARGUMENT


async def test_the_observer_is_healthy(path: Path) -> None:
    check: UnaryUnaryMethod[Any, Any]
    async with observed(store_of(records({})), path) as channel:
        check = UnaryUnaryMethod(channel, "/grpc.health.v1.Health/Check", HealthCheckRequest, HealthCheckResponse)
        answer = await check(HealthCheckRequest(service="observer.Observer"))
    assert answer.status == HealthCheckResponse.SERVING


async def test_a_follower_sees_new_flows_at_once(path: Path) -> None:
    store = store_of(records({"dport": 1}))
    parser = Parser(store, World())
    with anyio.fail_after(10):
        async with observed(store, path) as channel, get_flows(channel).open() as stream:
            await stream.send_message(pb.GetFlowsRequest(follow=True, number=1), end=True)
            first = await stream.recv_message()
            parser.ingest(records({"dport": 2}), START_NS)
            store.changed.notify()
            second = await stream.recv_message()
            await stream.cancel()
    assert first is not None
    assert second is not None
    assert [one.flow.l4.TCP.destination_port for one in (first, second)] == [1, 2]


async def test_a_client_that_does_not_read_stops_nobody_and_learns_what_it_missed(path: Path) -> None:
    """Its windows fill (16 MiB in our own client), the ring runs over it, and memory stays where it is."""
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=8 * BATCH)
    parser = Parser(store, World())
    batch = records(*({"dport": port} for port in range(BATCH)))
    with anyio.fail_after(60):
        async with observed(store, path) as slow, get_flows(slow).open() as stream:
            await stream.send_message(pb.GetFlowsRequest(follow=True, since={"seconds": 1}), end=True)
            await stream.recv_initial_metadata()
            for _ in range(150):  # 36 MB, more than the windows and both sockets hold
                parser.ingest(batch, START_NS)
                store.changed.notify()
                for _ in range(4):
                    await anyio.lowlevel.checkpoint()
            rss_then = resident()
            for _ in range(100):
                parser.ingest(batch, START_NS)
            store.changed.notify()
            assert resident() - rss_then < 8 << 20
            lost = flows = 0
            while lost + flows < store.ring.written:
                response = await stream.recv_message()
                assert response is not None
                lost += response.lost_events.num_events_lost
                flows += response.HasField("flow")
            assert lost > 0
            assert lost + flows == store.ring.written
            await stream.cancel()


def events(channel: Channel, kind: str) -> UnaryStreamMethod[Any, Any]:
    """The method that gives events of a kind."""
    request, response = (getattr(pb, f"Get{kind}Events{part}") for part in ("Request", "Response"))
    return UnaryStreamMethod(channel, f"/observer.Observer/Get{kind}Events", request, response)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
