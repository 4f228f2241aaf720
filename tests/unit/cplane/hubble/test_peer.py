"""Who is told of which node."""

from pathlib import Path

import anyio
import pytest
from grpclib.client import Channel, UnaryStreamMethod
from hypothesis import given
from hypothesis import strategies as st

from cplane.hubble.peer import Peer, Peers, changes, peer_name, tls_name
from cplane.pb.peer import peer_pb2 as pb
from tests.support.flows import records, store_of
from tests.support.observing import observed

NODES = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.sampled_from(["", "10.0.0.1:4244", "10.0.0.2:4244"]), st.sampled_from("xy"))
).map(lambda found: {name: Peer(name, *rest) for name, rest in found.items()})


def notify(channel: Channel) -> UnaryStreamMethod[pb.NotifyRequest, pb.ChangeNotification]:
    return UnaryStreamMethod(channel, "/peer.Peer/Notify", pb.NotifyRequest, pb.ChangeNotification)


@given(before=NODES, after=NODES)
def test_who_is_told_the_changes_knows_what_there_is(before: dict[str, Peer], after: dict[str, Peer]) -> None:
    known = {name: (one.address, one.tls_name) for name, one in before.items()}
    for one in changes(before, after):
        if one.type == pb.PEER_DELETED:
            del known[one.name]
            continue
        assert (one.name in known) == (one.type == pb.PEER_UPDATED)
        known[one.name] = (one.address, one.tls.server_name)
    assert known == {name: (one.address, one.tls_name) for name, one in after.items()}


def test_a_node_of_the_default_cluster_is_named_without_it() -> None:
    assert (peer_name("default", "n1"), peer_name("", "n1"), peer_name("east", "n1")) == ("n1", "n1", "east/n1")


def test_a_certificate_is_for_the_node_and_its_cluster() -> None:
    assert tls_name("default", "n1.example.org") == "n1-example-org.default.hubble-grpc.cilium.io"
    assert tls_name("east.1", "n1") == "n1.east-1.hubble-grpc.cilium.io"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_learns_of_every_node_and_then_of_changes(tmp_path: Path) -> None:
    peers = Peers([Peer("n1", "10.0.0.1:4244"), Peer("n2", "10.0.0.2:4244", "n2.default.hubble-grpc.cilium.io")])
    told: list[pb.ChangeNotification] = []

    async def hear(count: int) -> list[tuple[str, str, str]]:
        for _ in range(count):
            one = await stream.recv_message()
            assert one is not None
            told.append(one)
        return [(one.name, one.address, pb.ChangeNotificationType.Name(one.type)) for one in told[-count:]]

    with anyio.fail_after(10):
        async with (
            observed(store_of(records({})), tmp_path / "s", peers=peers) as channel,
            notify(channel).open() as stream,
        ):
            await stream.send_message(pb.NotifyRequest(), end=True)
            assert await hear(2) == [("n1", "10.0.0.1:4244", "PEER_ADDED"), ("n2", "10.0.0.2:4244", "PEER_ADDED")]
            assert [one.HasField("tls") for one in told] == [False, True]
            peers.set([Peer("n1", "10.0.0.9:4244"), Peer("n3")])
            assert await hear(3) == [
                ("n2", "10.0.0.2:4244", "PEER_DELETED"),
                ("n1", "10.0.0.9:4244", "PEER_UPDATED"),
                ("n3", "", "PEER_ADDED"),
            ]
            await stream.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_node_alone_names_itself(tmp_path: Path) -> None:
    with anyio.fail_after(10):
        async with observed(store_of(records({})), tmp_path / "s") as channel, notify(channel).open() as stream:
            await stream.send_message(pb.NotifyRequest(), end=True)
            assert await stream.recv_message() == pb.ChangeNotification(name="node1", type=pb.PEER_ADDED)
            await stream.cancel()
