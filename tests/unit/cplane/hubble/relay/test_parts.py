"""The pure parts of a relay: limits, notices, pauses, the directory of peers, and answers of many nodes as one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.hubble.relay.answers import UNAVAILABLE_MAX, Said, namespaces, nodes, server_status
from cplane.hubble.relay.dial import room_for
from cplane.hubble.relay.directory import PEERS_MAX, Directory, Peer, server_name
from cplane.hubble.relay.limit import First, Last
from cplane.hubble.relay.merge import Merged
from cplane.hubble.relay.notices import NAMES_MAX, WINDOW_NS, Errors, Notices
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.peer import peer_pb2
from cplane.pb.relay import relay_pb2
from cplane.transport.backoff import Backoff
from tests.support.relay_frames import batch_of, cut, flow_at, loss_at, parsed

kinds = st.lists(st.lists(st.booleans(), min_size=1, max_size=6), max_size=8)


def merged(flows: list[bool], start: int) -> Merged:
    """Flows and losses, numbered from `start`."""
    made = [flow_at(start + at) if flow else loss_at(start + at) for at, flow in enumerate(flows)]
    batch = batch_of(*made)
    return Merged([batch.data], np.zeros(len(made), np.int64), batch.bounds[:-1], batch.bounds[1:], batch.flows)


def through(limit: First | Last, parts: list[list[bool]]) -> list[tuple[int, bool]]:
    """(number, whether it is a flow) of what a limit gives of the parts."""
    given_: list[bytes] = []
    start = 0
    for part in parts:
        given_ += limit.take(merged(part, start))
        start += len(part)
    return [(one.time.ToNanoseconds(), one.HasField("flow")) for one in parsed(cut(b"".join([*given_, *limit.rest()])))]


def numbered(parts: list[list[bool]]) -> list[tuple[int, bool]]:
    return list(enumerate(flow for part in parts for flow in part))


@pytest.mark.slow
@given(kinds, st.integers(1, 10))
def test_the_first_are_a_beginning_that_ends_with_the_last_flow_of_the_number(
    parts: list[list[bool]], number: int
) -> None:
    given_ = through(First(number), parts)
    everything = numbered(parts)
    assert given_ == everything[: len(given_)]
    count = sum(flow for _, flow in given_)
    assert count == min(number, sum(flow for _, flow in everything))
    assert len(given_) == len(everything) or (count == number and given_[-1][1])


@pytest.mark.slow
@given(kinds, st.integers(1, 10))
def test_the_last_are_the_last_flows_and_all_losses_in_order(parts: list[list[bool]], number: int) -> None:
    everything = numbered(parts)
    flows = [at for at, flow in everything if flow]
    kept = set(flows[-number:])
    assert through(Last(number), parts) == [(at, flow) for at, flow in everything if not flow or at in kept]


def test_what_does_not_fit_is_given_although_it_may_be_too_much() -> None:
    one = Last(50, held_max=100)
    assert [at for at, _ in through(one, [[True] * 30, [True] * 30, [True] * 30])] == list(range(90))


@pytest.mark.parametrize(
    ("peers", "window"), [(0, 1 << 20), (1, 1 << 20), (8, 1 << 20), (16, 512 << 10), (32, 256 << 10), (900, 256 << 10)]
)
def test_few_peers_may_send_more_each_and_all_together_no_more_than_many(peers: int, window: int) -> None:
    assert (256 << 10) + room_for(peers) == window


def test_errors_of_the_same_words_wait_for_each_other_and_others_end_the_wait() -> None:
    errors = Errors(Notices("relay"))
    assert errors.deadline_ns is None
    assert errors.add("b", "x", 5, 100) == []
    assert errors.add("a", "x", 6, 100) == []
    (told,) = parsed(errors.add("c", "y", 7, 100))
    assert (told.node_name, told.time.ToNanoseconds()) == ("relay", 100)
    event = told.node_status
    assert (event.state_change, list(event.node_names), event.message) == (relay_pb2.NODE_ERROR, ["a", "b"], "x")
    assert errors.deadline_ns == 7 + WINDOW_NS
    assert errors.due(6 + WINDOW_NS, 100) == []
    assert len(errors.due(7 + WINDOW_NS, 100)) == 1
    assert errors.flush(100) == []


def test_many_names_are_several_notices() -> None:
    names = [f"n{number:05}" for number in range(2 * NAMES_MAX + 1)]
    told = parsed(Notices("relay").state(relay_pb2.NODE_CONNECTED, names, 1))
    assert [name for one in told for name in one.node_status.node_names] == names
    assert len(told) == 3


def test_pauses_double_up_to_the_most_and_begin_anew_after_a_long_connection() -> None:
    backoff = Backoff(4.0)
    assert [backoff.after(0, 0.0) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert backoff.after(4.0, 0.0) == 0.5
    assert backoff.after(0, 0.999) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("name", "cluster", "expected"),
    [
        ("node", "default", "node.default.hubble-grpc.cilium.io"),
        ("node.a.b", "my.mesh", "node-a-b.my-mesh.hubble-grpc.cilium.io"),
        ("far/node", "default", "node.far.hubble-grpc.cilium.io"),
        ("", "default", ""),
    ],
)
def test_names_of_certificates_are_upstreams(name: str, cluster: str, expected: str) -> None:
    assert server_name(name, cluster) == expected


def change(
    kind: "peer_pb2.ChangeNotificationType", name: str, address: str = "", tls: str = ""
) -> peer_pb2.ChangeNotification:
    told = peer_pb2.ChangeNotification(type=kind, name=name, address=address)
    if tls:
        told.tls.server_name = tls
    return told


def test_the_directory_is_what_was_told_last() -> None:
    directory = Directory()
    assert directory.apply(change(peer_pb2.PEER_ADDED, "a", "1:1", "name"))
    assert not directory.apply(change(peer_pb2.PEER_ADDED, "a", "1:1", "name"))
    assert directory.apply(change(peer_pb2.PEER_UPDATED, "a", "1:2", "name"))
    assert directory.apply(change(peer_pb2.PEER_ADDED, "b", "2:1"))
    assert directory.peers == {
        "a": Peer("a", "1:2", "name"),
        "b": Peer("b", "2:1", "b.default.hubble-grpc.cilium.io"),
    }
    assert directory.apply(change(peer_pb2.PEER_DELETED, "a"))
    assert not directory.apply(change(peer_pb2.PEER_DELETED, "a"))


def test_a_service_that_comes_back_shows_who_left_meanwhile() -> None:
    directory = Directory()
    for name in "ab":
        directory.apply(change(peer_pb2.PEER_ADDED, name, "x:1"))
    directory.begin()
    directory.apply(change(peer_pb2.PEER_ADDED, "b", "x:1"))
    assert directory.untold() == {"a"}
    assert directory.drop(frozenset({"a", "never"}))
    assert not directory.drop(frozenset({"a"}))
    assert directory.peers.keys() == {"b"}


def test_a_directory_takes_no_nonsense_and_is_bounded() -> None:
    directory = Directory()
    assert not directory.apply(change(peer_pb2.PEER_ADDED, ""))
    assert not directory.apply(change(peer_pb2.PEER_ADDED, "x" * 2000))
    assert not directory.apply(change(peer_pb2.UNKNOWN, "a"))
    for number in range(PEERS_MAX + 5):
        directory.apply(change(peer_pb2.PEER_ADDED, f"n{number}", "x:1"))
    assert len(directory.peers) == PEERS_MAX
    assert directory.refused == 3 + 5


def said(name: str, **status: int) -> Said:
    peer = Peer(name, f"{name}:4244", f"{name}.tls")
    if not status:
        return Said(peer, relay_pb2.NODE_UNAVAILABLE)
    return Said(peer, relay_pb2.NODE_CONNECTED, pb.ServerStatusResponse(version="v", **status))


def test_status_sums_flows_takes_the_oldest_uptime_and_names_ten_who_are_away() -> None:
    away = [said(f"away{number:02}") for number in range(12)]
    both = [said("a", num_flows=1, max_flows=2, seen_flows=3, uptime_ns=9), said("b", num_flows=10, uptime_ns=4)]
    status = server_status([*both, *away], "1.2.3")
    assert (status.num_flows, status.max_flows, status.seen_flows, status.uptime_ns) == (11, 2, 3, 9)
    assert (status.num_connected_nodes.value, status.num_unavailable_nodes.value) == (2, 12)
    assert list(status.unavailable_nodes) == [one.peer.name for one in away[:UNAVAILABLE_MAX]]
    assert status.version == "1.2.3"
    assert server_status([said("a", seen_flows=2**64 - 1), said("b", seen_flows=1)], "").seen_flows == 2**64 - 1


def test_nodes_are_listed_by_name_with_what_they_say() -> None:
    answer = nodes([said("b"), said("a", num_flows=1, max_flows=2, seen_flows=3, uptime_ns=4)], tls=True)
    first, second = answer.nodes
    assert (first.name, first.address, first.version, first.state) == ("a", "a:4244", "v", relay_pb2.NODE_CONNECTED)
    assert (first.num_flows, first.max_flows, first.seen_flows, first.uptime_ns) == (1, 2, 3, 4)
    assert (first.tls.enabled, first.tls.server_name) == (True, "a.tls")
    assert (second.name, second.state, second.version) == ("b", relay_pb2.NODE_UNAVAILABLE, "")


def test_namespaces_are_a_sorted_union() -> None:
    one, other = pb.GetNamespacesResponse(), pb.GetNamespacesResponse()
    one.namespaces.add(cluster="default", namespace="shop")
    other.namespaces.add(cluster="default", namespace="data")
    other.namespaces.add(cluster="default", namespace="shop")
    assert [each.namespace for each in namespaces([one, other]).namespaces] == ["data", "shop"]
