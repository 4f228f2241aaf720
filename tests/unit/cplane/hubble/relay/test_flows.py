"""Flows of many nodes through a relay."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from cplane.hubble.parser.threefour import Parser
from cplane.hubble.peer import Peer
from cplane.hubble.ring import LossSource
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2
from tests.support.flows import START_NS, World, records
from tests.support.relaying import NS, Site, add, relaying, serve_node, store_at

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def times(answer: list[pb.GetFlowsResponse]) -> list[int]:
    """Of the flows, after START_NS."""
    return [one.time.ToNanoseconds() - START_NS for one in answer if one.HasField("flow")]


def nodes(answer: list[pb.GetFlowsResponse]) -> list[str]:
    return [one.node_name for one in answer if one.HasField("flow")]


def notices(answer: list[pb.GetFlowsResponse]) -> list[tuple[int, list[str], str]]:
    """(state, names, message) of the relay's own messages."""
    found = [one.node_status for one in answer if one.HasField("node_status")]
    return [(one.state_change, list(one.node_names), one.message) for one in found]


async def until_flow(stream: Any) -> pb.GetFlowsResponse:
    """The next flow of a stream."""
    with anyio.fail_after(20):
        while True:
            one = await stream.recv_message()
            assert one is not None, "the stream has ended"
            if one.HasField("flow"):
                return one


async def test_flows_of_all_nodes_come_by_time_and_with_their_node(tmp_path: Path) -> None:
    stores = {name: store_at(name, *range(index, 3000, 3)) for index, name in enumerate(("a", "b", "c"))}
    async with relaying(tmp_path, stores) as site:
        answer = await site.flows()
    assert times(answer) == list(range(3000))
    assert nodes(answer)[:4] == ["default/a", "default/b", "default/c", "default/a"]
    assert notices(answer) == [(relay_pb2.NODE_CONNECTED, ["a", "b", "c"], "")]
    assert answer[0].node_name == "relay"
    assert answer[0].HasField("time")


async def test_a_flow_is_passed_on_as_the_node_sent_it(tmp_path: Path) -> None:
    store = store_at("a", 1, 2)
    request = pb.GetFlowsRequest()
    request.field_mask.paths.extend(["verdict", "source.pod_name"])
    async with relaying(tmp_path, {"a": store}) as site:
        masked = await site.flows(field_mask=request.field_mask)
    assert masked[1].flow == flow_pb2.Flow(verdict=flow_pb2.FORWARDED, source=flow_pb2.Endpoint(pod_name="web-7f9"))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"number": 5}, [95, 96, 97, 98, 99]),
        ({"number": 5, "first": True}, [0, 1, 2, 3, 4]),
        ({"number": 1000}, list(range(100))),
        ({"number": 2**64 - 1}, list(range(100))),
    ],
)
async def test_a_number_is_that_of_all_nodes_together(
    tmp_path: Path, request_: dict[str, Any], expected: list[int]
) -> None:
    async with relaying(tmp_path, {"a": store_at("a", *range(60)), "b": store_at("b", *range(60, 100))}) as site:
        assert times(await site.flows(**request_)) == expected


async def test_since_and_until_are_the_nodes_business(tmp_path: Path) -> None:
    request = pb.GetFlowsRequest(number=3)
    request.since.FromNanoseconds(START_NS + 50)
    request.until.FromNanoseconds(START_NS + 90)
    async with relaying(tmp_path, {"a": store_at("a", *range(0, 99, 2)), "b": store_at("b", *range(1, 99, 2))}) as site:
        assert times(await site.flows(since=request.since, until=request.until)) == list(range(50, 91))
        assert times(await site.flows(since=request.since, number=3)) == [50, 51, 52]


async def test_filters_reach_the_nodes_and_their_refusal_reaches_the_client(tmp_path: Path) -> None:
    store = store_at("a", 1)
    Parser(store, World()).ingest(records({"dport": 443}), START_NS)
    port = flow_pb2.FlowFilter(destination_port=["443"])
    async with relaying(tmp_path, {"a": store, "b": store_at("b", 1)}) as site:
        assert len(times(await site.flows(whitelist=[port]))) == 1
        with pytest.raises(GRPCError) as caught:
            await site.flows(whitelist=[flow_pb2.FlowFilter(source_ip=["x"])])
        assert caught.value.status is Status.INVALID_ARGUMENT
        assert "neither an IP address nor a CIDR" in (caught.value.message or "")
        with pytest.raises(GRPCError) as caught:
            await site.flows(first=True, follow=True)
        assert caught.value.message == "first cannot be specified with follow"


async def test_losses_of_nodes_are_passed_on(tmp_path: Path) -> None:
    store = store_at("a", 1)
    store.ring.add_loss(LossSource.KERNEL_RING, 7, START_NS + 2, START_NS + 3)
    add(store, 9)
    async with relaying(tmp_path, {"a": store, "b": store_at("b", 5)}) as site:
        for request in ({}, {"number": 1}):
            answer = await site.flows(**request)
            assert [one.lost_events.num_events_lost for one in answer if one.HasField("lost_events")] == [7]


async def test_a_follower_gets_the_last_flows_and_then_what_happens(tmp_path: Path) -> None:
    one, other = store_at("a", *range(0, 100, 2)), store_at("b", *range(1, 100, 2))
    async with relaying(tmp_path, {"a": one, "b": other}) as site, site.follow(number=2) as stream:
        before = [await until_flow(stream) for _ in range(4)]
        assert times(before) == [96, 97, 98, 99]
        add(other, 200)
        assert times([await until_flow(stream)]) == [200]
        add(one, 300)
        assert times([await until_flow(stream)]) == [300]


async def test_a_follower_meets_nodes_that_come_and_is_told_of_those_that_go(tmp_path: Path) -> None:
    async with relaying(tmp_path, {"a": store_at("a", 1)}) as site, site.follow() as stream:
        await joined(site, stream, "b")
        site.peers.set([one for one in site.peers.now.values() if one.name != "b"])
        with anyio.fail_after(20):
            while True:
                told = await stream.recv_message()
                if told.node_status.state_change == relay_pb2.NODE_GONE:
                    break
        assert list(told.node_status.node_names) == ["b"]


async def joined(site: Site, stream: Any, name: str) -> None:
    """A node comes, and a flow of it reaches the stream."""
    store = store_at(name)
    peer = await serve_node(site.stack, site.folder, name, store)
    site.peers.set([*site.peers.now.values(), peer])
    with anyio.fail_after(20):
        while name not in (told := await stream.recv_message()).node_status.node_names:
            pass
    assert told.node_status.state_change == relay_pb2.NODE_CONNECTED
    await anyio.sleep(0.05)  # until the node has the request
    add(store, 7)
    assert (await until_flow(stream)).node_name == f"default/{name}"


async def test_a_relay_in_front_of_a_relay_answers_alike(tmp_path: Path) -> None:
    inner, outer = tmp_path / "in", tmp_path / "out"
    inner.mkdir()
    outer.mkdir()
    async with (
        relaying(inner, {"a": store_at("a", 1, 3), "b": store_at("b", 2, 4)}) as site,
        relaying(outer, {"relay": Peer("relay", site.address)}) as over,
    ):
        answer = await over.flows(number=3)
    assert times(answer) == [2, 3, 4]


async def test_a_client_that_goes_ends_its_call_everywhere(tmp_path: Path) -> None:
    store = store_at("a", 1)
    async with relaying(tmp_path, {"a": store}) as site:
        with anyio.move_on_after(0.3):
            async with site.follow() as stream:
                while True:
                    await stream.recv_message()
        await anyio.sleep(0.1)
        assert times(await site.flows()) == [1]
        assert site.pool.connected.keys() == {"a"}


async def test_one_nanosecond_counts(tmp_path: Path) -> None:
    stores = {"a": store_at("a", NS, NS + 2), "b": store_at("b", NS + 1, NS + 3)}
    async with relaying(tmp_path, stores) as site:
        assert nodes(await site.flows()) == ["default/a", "default/b", "default/a", "default/b"]
