"""What programs that are compiled for it tell of each step, under Cilium's numbers."""

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from cplane.pb.flow import flow_pb2
from datapath.kernel import syscall
from datapath.kernel.datapath import KernelDatapath, remove
from datapath.kernel.pin import Pins
from datapath.maps.state import StateSlot
from datapath.notify.records import RecordType
from tests.support.kernel import (
    DROP,
    EGRESS,
    HOST4,
    HOST6,
    INGRESS,
    PASS,
    REDIRECT,
    SIZES,
    WORLD,
    WORLD4,
    WORLD6,
    A,
    B,
    Node,
    node,
)
from tests.support.packets import ACK, SYN, TCP, UDP, frame, tcp, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
Step = tuple[str, int, int, int, int]  # type, source, arg1, arg2, arg3


@pytest.fixture(scope="module")
def talkative(cache: Path) -> Iterator[Node]:
    with node("dbg", cache, debug=1) as made:
        yield made


@pytest.fixture
def net(talkative: Node) -> Node:
    talkative.reset()
    return talkative


def said(net: Node) -> list[Step]:
    """The debug records since the last call, whatever else there is."""
    found = [r for r in net.records() if r["type"] == RecordType.DEBUG]
    assert all(r["cpu"] < (os.cpu_count() or 1) and r["position"] == 42 and r["time_ns"] for r in found)
    assert len({int(r["hash"]) for r in found}) <= 1, "they are about one packet"
    return [(name(r), int(r["source"]), int(r["arg1"]), int(r["arg2"]), int(r["arg3"])) for r in found]


def name(record: np.void) -> str:
    return flow_pb2.DebugEventType.Name(int(record["subtype"])).removeprefix("DBG_")


def number(address: str) -> int:
    """An address as records show it: its last four bytes, as they lie in the packet."""
    return int.from_bytes(ip_address(address).packed[-4:], "little")


def network(port: int) -> int:
    """A port as it lies in the packet."""
    return int.from_bytes(port.to_bytes(2, "big"), "little")


def lookup(own: int, v6: bool, source: str, destination: str, ports: tuple[int, int], *, inward: bool) -> list[Step]:
    family = 6 if v6 else 4
    return [
        (f"CT_LOOKUP{family}_1", own, number(source), number(destination), ports[1] << 16 | ports[0]),
        (f"CT_LOOKUP{family}_2", own, TCP << 8 | inward, int(inward), 0),
    ]


@FAMILIES
def test_a_connection_between_pods_is_told_step_by_step(net: Node, *, v6: bool) -> None:
    net.allow_all()
    source, destination = (A.ipv6, B.ipv6) if v6 else (A.ipv4, B.ipv4)
    family = 6 if v6 else 4
    assert net.out(frame(source, destination, TCP, tcp(1000, 80, SYN))).action == REDIRECT
    of_policy = network(80) << 16 | TCP
    assert said(net) == [
        *lookup(A.lxc_id, v6, source, destination, (1000, 80), inward=False),
        ("CT_VERDICT", A.lxc_id, 0, 0, 0),
        ("L4_CREATE", A.lxc_id, B.identity, A.identity, of_policy),
        (f"CT_CREATED{family}", A.lxc_id, 0, A.identity, 0),
        ("LOCAL_DELIVERY", A.lxc_id, B.lxc_id, A.identity, 0),
        *lookup(B.lxc_id, v6, source, destination, (1000, 80), inward=True),
        ("CT_VERDICT", B.lxc_id, 0, 0, 0),
        ("L4_CREATE", B.lxc_id, A.identity, B.identity, of_policy),
        (f"CT_CREATED{family}", B.lxc_id, 0, A.identity, 0),
    ]
    (lifetime,) = {entry.lifetime for entry in net.connections().values()}
    assert net.out(frame(source, destination, TCP, tcp(1000, 80, ACK))).action == REDIRECT
    told = said(net)
    assert [one[0] for one in told] == [
        *(f"CT_LOOKUP{family}_1", f"CT_LOOKUP{family}_2", "CT_MATCH", "CT_VERDICT", "LOCAL_DELIVERY"),
        *(f"CT_LOOKUP{family}_1", f"CT_LOOKUP{family}_2", "CT_MATCH", "CT_VERDICT"),
    ]
    assert told[2:4] == [("CT_MATCH", A.lxc_id, lifetime, 0, 0), ("CT_VERDICT", A.lxc_id, 1, 0, 0)]


@FAMILIES
def test_a_refusal_is_told(net: Node, *, v6: bool) -> None:
    own, peer = (A.ipv6, WORLD6) if v6 else (A.ipv4, WORLD4)
    assert net.into(frame(peer, own, TCP, tcp(1000, 80)), came_in=5).action == DROP
    assert said(net) == [
        *lookup(A.lxc_id, v6, peer, own, (1000, 80), inward=True),
        ("CT_VERDICT", A.lxc_id, 0, 0, 0),
        (f"IP_ID_MAP_SUCCEED{6 if v6 else 4}", A.lxc_id, number(peer), WORLD, 0),
        ("POLICY_DENIED", A.lxc_id, WORLD, A.identity, 0),
    ]


def test_both_planes_are_told_where_both_are_asked(net: Node) -> None:
    net.rule(A, EGRESS, audited=True)
    net.rule(A, EGRESS, plane=True, deny=True)
    assert net.out(frame(A.ipv4, WORLD4, TCP, tcp(1000, 80))).action == PASS
    assert [one[0] for one in said(net)][4:6] == ["L4_CREATE", "POLICY_DENIED"]


@pytest.mark.parametrize(
    ("to", "what"), [(WORLD4, "TO_STACK"), (WORLD6, "TO_STACK"), (HOST4, "TO_HOST"), (HOST6, "TO_HOST")]
)
def test_where_a_packet_goes_is_told(net: Node, to: str, what: str) -> None:
    net.allow_all()
    assert net.out(frame(A.ipv6 if ":" in to else A.ipv4, to, UDP, udp(9, 53))).action == PASS
    assert said(net)[-1] == (what, A.lxc_id, 0, 0, 0)


def test_an_address_that_no_prefix_has_is_told(net: Node) -> None:
    table = net.maps["cplane_ipcache"]
    table.delete_batch(list(table.dump()))
    net.rule(A, INGRESS)
    assert net.into(frame(WORLD4, A.ipv4, UDP, udp(53, 9)), came_in=5).action == PASS
    assert ("IP_ID_MAP_FAILED4", A.lxc_id, number(WORLD4), WORLD, 0) in said(net)


def test_a_reply_is_told_as_one(net: Node) -> None:
    net.rule(A, EGRESS)
    net.out(frame(A.ipv4, WORLD4, UDP, udp(9, 53)))
    said(net)
    assert net.into(frame(WORLD4, A.ipv4, UDP, udp(53, 9)), came_in=5).action == PASS
    assert said(net)[-1] == ("CT_VERDICT", A.lxc_id, 2, 0, 0)


def test_flows_keep_half_of_the_ring_and_what_finds_no_room_is_counted(net: Node) -> None:
    net.allow_all()
    lost = net.datapath.numbers[StateSlot.DEBUG_LOST]
    flows = net.datapath.lost
    packets = 0
    while net.datapath.numbers[StateSlot.DEBUG_LOST] == lost:
        net.out(frame(A.ipv4, B.ipv4, TCP, tcp(1000 + packets, 80, SYN)))
        packets += 1
    assert SIZES["cplane_events"] * 0.45 < net.datapath.ring.pending < SIZES["cplane_events"] * 0.6
    net.out(frame(A.ipv4, B.ipv4, TCP, tcp(5, 80, SYN)))
    records = net.records()
    assert [int(r["sport"]) for r in records if r["type"] == RecordType.TRACE] == [*range(1000, 1000 + packets), 5]
    assert net.datapath.debug_lost >= lost + 1
    assert net.datapath.lost == flows
    net.out(frame(A.ipv4, B.ipv4, TCP, tcp(6, 80, SYN)))
    assert said(net), "there is room again"


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(f"/sys/fs/bpf/cptdebug{os.getpid()}")
    remove(path)
    yield path
    remove(path)


def test_programs_are_exchanged_while_they_run_and_the_old_ones_go(root: Path, cache: Path) -> None:
    opened = KernelDatapath.open(root, cache=cache, sizes=SIZES)
    quiet = syscall.prog_info(opened.program("from_container")).id
    opened.reconfigure({})
    assert syscall.prog_info(opened.program("from_container")).id == quiet, "they are the same"
    opened.reconfigure({"debug": 1})
    talkative = syscall.prog_info(opened.program("from_container")).id
    assert talkative != quiet
    assert {digest for digest, _, _ in Pins(root).programs()} == {opened.digest}
    opened.close()
    again = KernelDatapath.open(root, cache=cache, sizes=SIZES, config={"debug": 1})
    assert syscall.prog_info(again.program("from_container")).id == talkative, "they are adopted"
    again.reconfigure({})
    assert syscall.prog_info(again.program("from_container")).id != talkative
    again.close()


def test_programs_that_are_not_compiled_for_it_say_nothing(cache: Path) -> None:
    with node("hush", cache) as net:
        net.reset()
        net.allow_all()
        net.out(frame(A.ipv4, B.ipv4, TCP, tcp(1000, 80, SYN)))
        records = net.records()
        assert records
        assert not [r for r in records if r["type"] == RecordType.DEBUG]
        assert {
            tuple(int(r[f]) for f in ("hash", "arg1", "arg2", "arg3", "cpu", "source", "pad")) for r in records
        } == {(0,) * 7}
