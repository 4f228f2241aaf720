"""What datapaths say to those who debug them: rows, words, and how long they are remembered."""

from collections.abc import Sequence

import anyio
import numpy as np
import pytest

from cplane.hubble.debugring import NO_CPU, ROW, DebugRing
from cplane.hubble.debugtext import Said, debug_message
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.eventring import EventReading, Wanted
from cplane.hubble.parser.getters import EndpointInfo
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from datapath.notify.records import RecordType
from tests.support.flows import PODS, SEED, START_NS, WEB, World, records

SAID = {"type": RecordType.DEBUG, "subtype": 8, "source": 11, "hash": 0xABCD, "arg1": 60, "cpu": 3}


def rows(*times: int) -> np.ndarray:
    made = np.zeros(len(times), ROW)
    made["time_ns"], made["type"], made["arg1"] = times, flow_pb2.DBG_TO_HOST, times
    return made


def arguments(ring: DebugRing) -> list[int]:
    return [ring.told(position).arg1.value for position in range(ring.oldest, ring.written)]


def test_debug_records_are_events_and_no_flows() -> None:
    store, ring, world = FlowStore(cluster="c", node="n", seed=SEED, capacity=64), DebugRing(8), World()
    world.pods[11] = EndpointInfo(11, "shop", "web-7f9", "default", identity=WEB)
    parser = Parser(store, world, ring)
    assert parser.ingest(records(SAID, {}, {**SAID, "arg1": 61}, {"type": 99}), START_NS) == 1
    assert (store.ring.written, ring.written, parser.malformed) == (1, 2, 1)
    told = ring.told(0)
    assert (told.type, told.cpu.value, told.hash.value, told.arg1.value) == (flow_pb2.DBG_CT_MATCH, 3, 0xABCD, 60)
    assert all(told.HasField(name) for name in ("hash", "arg1", "arg2", "arg3", "cpu", "source"))
    assert told.message == "CT entry found lifetime=60, revnat=0"
    assert (told.source.ID, told.source.identity, told.source.namespace) == (11, WEB, "shop")
    assert (told.source.pod_name, told.source.cluster_name) == ("web-7f9", "default")
    assert "k8s:app=web" in told.source.labels
    assert ring.time_ns(1) == START_NS + 2_000_000


def test_without_a_ring_they_are_passed_over_and_are_no_malformed_records() -> None:
    store = FlowStore(cluster="c", node="n", seed=SEED, capacity=64)
    parser = Parser(store, World())
    assert parser.ingest(records(SAID, {}), START_NS) == 1
    assert parser.malformed == 0


def test_an_endpoint_that_is_gone_is_told_as_it_was_and_one_that_nobody_knew_by_its_number() -> None:
    store, ring, world = FlowStore(cluster="c", node="n", seed=SEED, capacity=64), DebugRing(8), World()
    parser = Parser(store, world, ring)
    parser.ingest(records(SAID), START_NS)
    del world.pods[11]
    world.changed()
    parser.ingest(records(SAID, {**SAID, "source": 99}, {**SAID, "source": 0}), START_NS)
    assert [ring.told(n).source.pod_name for n in (0, 1)] == [PODS[11].pod_name] * 2
    assert (ring.told(2).source.ID, ring.told(2).source.pod_name) == (99, "")
    assert not ring.told(3).HasField("source")


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([[1, 2]], [1, 2]),
        ([[1, 2, 3], [4, 5, 6]], [3, 4, 5, 6]),
        ([[1, 2, 3, 4], [5]], [2, 3, 4, 5]),
        ([[1, 2, 3, 4, 5, 6, 7]], [4, 5, 6, 7]),
        ([[1], [2, 3, 4, 5, 6, 7, 8]], [5, 6, 7, 8]),
        ([[]], []),
    ],
)
def test_the_ring_has_the_last_ones(batches: Sequence[Sequence[int]], expected: list[int]) -> None:
    ring = DebugRing(4)
    for batch in batches:
        ring.add(rows(*batch), {})
    assert arguments(ring) == expected
    assert ring.written == sum(map(len, batches))


@pytest.mark.anyio
async def test_readers_go_on_after_what_is_gone_and_followers_wake() -> None:
    ring = DebugRing(4)
    ring.add(rows(1, 2, 3), {})
    reading = EventReading(ring, Wanted(number=1, follow=True))
    first = await reading.next()
    ring.add(rows(4, 5, 6, 7, 8), {})
    second = await reading.next()
    assert first is not None
    assert second is not None
    assert (first.time_ns, second.time_ns, second.message.arg1.value) == (3, 5, 5)
    follower = EventReading(ring, Wanted(follow=True))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follower.next)
            await anyio.wait_all_tasks_blocked()
            ring.add(rows(9), {7: EndpointMeta(7)})


def test_what_no_cpu_is_known_of_has_none() -> None:
    ring, one = DebugRing(4), rows(1)
    one["cpu"] = NO_CPU
    ring.add(one, {})
    assert not ring.told(0).HasField("cpu")


def v4(text: str) -> int:
    return int.from_bytes(bytes(map(int, text.split("."))), "little")


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("GENERIC", (1, 255, 0), "No message, arg1=1 (0x1) arg2=255 (0xff)"),
        ("LOCAL_DELIVERY", (12, 300, 0), "Attempting local delivery for container id 12 from seclabel 300"),
        ("LXC_FOUND", (7, 0x2C01, 0), "Local container found ifindex lxc7 seclabel 300"),
        ("POLICY_DENIED", (300, 301, 0), "Policy evaluation would deny packet from 300 to 301"),
        ("CT_LOOKUP", (80 << 16 | 9, 6 << 8 | 3, 0), "CT lookup: sport=80 dport=9 nexthdr=6 flags=OUT, RELATED"),
        ("CT_MATCH", (60, 0, 0), "CT entry found lifetime=60, revnat=0"),
        ("CT_VERDICT", (0, 0, 0), "CT verdict: New, revnat=0"),
        ("CT_VERDICT", (2, 0x0100, 0), "CT verdict: Reply, revnat=1"),
        ("CT_VERDICT", (137, 0, 0), "CT verdict: CT: Unknown L4 protocol, revnat=0"),
        ("ICMP6_HANDLE", (135, 0, 0), "Handling ICMPv6 type=135"),
        ("ERROR_RET", (2, 0xFFFFFFF9, 0), "BPF function 2 returned error 4294967289"),
        ("TO_HOST", (0, 0, 0), "Going to host, policy-skip=0"),
        ("TO_STACK", (0, 0, 0), "Going to the stack, policy-skip=0"),
        ("L4_POLICY", (0x5000, 1, 0), "Resolved L4 policy to: 80 / ingress"),
        (
            "CT_LOOKUP4_1",
            (v4("10.0.0.1"), v4("10.0.0.2"), 80 << 16 | 43512),
            "Conntrack lookup 1/2: src=10.0.0.1:43512 dst=10.0.0.2:80",
        ),
        ("CT_LOOKUP4_2", (6 << 8 | 1, 1, 0), "Conntrack lookup 2/2: nexthdr=6 flags=1"),
        (
            "CT_CREATED4",
            (0, 300, v4("10.0.0.3")),
            "Conntrack create: proxy-port=0 revnat=0 src-identity=300 lb=10.0.0.3",
        ),
        (
            "CT_LOOKUP6_1",
            (0x01000000, 0x0B00EEFF, 80 << 16 | 9),
            "Conntrack lookup 1/2: src=[::0:1]:9 dst=[::ffee:b]:80",
        ),
        ("CT_CREATED6", (0, 300, 0), "Conntrack create: proxy-port=0 revnat=0 src-identity=300"),
        (
            "L4_CREATE",
            (300, 301, 0x5000 << 16 | 6),
            "Matched L4 policy; creating conntrack src=300 dst=301 dport=80 proto=6",
        ),
        ("IP_ID_MAP_SUCCEED4", (v4("192.0.2.7"), 2, 0), "Successfully mapped addr=192.0.2.7 to identity=2"),
        ("IP_ID_MAP_FAILED6", (0x07000000, 0, 0), "Failed to map addr.p4=[::0:7] to identity"),
        ("SK_ASSIGN", (0, 0, 0), "Socket assign: Success"),
        ("SK_ASSIGN", (2, 0, 0), "Socket assign: no such file or directory"),
    ],
)
def test_the_words_are_those_of_the_original(kind: str, arguments: tuple[int, int, int], words: str) -> None:
    number = flow_pb2.DebugEventType.Value(f"DBG_{kind}")
    assert debug_message(Said(number, *arguments, link=World().interface_name)) == words


def test_every_type_has_words_whatever_its_arguments_are() -> None:
    for number in (*flow_pb2.DebugEventType.values(), 200, 255):
        for value in (0, 1, 0xFFFFFFFF):
            assert debug_message(Said(number, value, value, value, link=str))
    assert debug_message(Said(255, 1, 2, 3, link=str)) == "Unknown message type=255 arg1=1 arg2=2"
