"""What is no flow: agent events, debug events, nodes and peers, in every format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from click.testing import CliRunner
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from cplane.hubble.cli.happenings import agent_types
from cplane.hubble.cli.main import cli
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.peer import peer_pb2
from tests.support.answering import Answering
from tests.support.serving import served

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
TIME = "2024-07-24T10:02:11.123Z"
AT = "Jul 24 10:02:11.123"


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


def agent(**event: Any) -> Message:
    shown = {"agent_event": event, "node_name": "default/k8s1", "time": TIME}
    return ParseDict(shown, pb.GetAgentEventsResponse())


def debug(**event: Any) -> Message:
    return ParseDict({"debug_event": event, "node_name": "default/k8s1", "time": TIME}, pb.GetDebugEventsResponse())


async def shown(path: Path, method: str, answers: Sequence[Message], *words: str) -> tuple[str, Answering]:
    """What the command writes when the method gives the answers."""
    service = Answering({method: answers})
    async with served(service, path=path / "hubble.sock") as address:
        command = [*words, "--server", address]
        done = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(cli, command, prog_name="hubble"))
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return done.stdout, service


AGENT = "/observer.Observer/GetAgentEvents"
DEBUG = "/observer.Observer/GetDebugEvents"
ADDRESSES = [{"ip": "10.0.0.1", "port": 8080}, {"ip": "fd00::1", "port": 8080}]
EVENTS = [
    (
        agent(type="AGENT_STARTED", agent_start={"time": "2024-07-24T10:02:10Z"}),
        "AGENT_STARTED (start time: Jul 24 10:02:10.000)",
    ),
    (
        agent(type="POLICY_UPDATED", policy_update={"labels": ["k8s:a=b", "c"], "revision": "7", "rule_count": "2"}),
        "POLICY_UPDATED (labels: [k8s:a=b,c], revision: 7, count: 2)",
    ),
    (
        agent(type="POLICY_DELETED", policy_update={"revision": "8"}),
        "POLICY_DELETED (labels: [], revision: 8, count: 0)",
    ),
    (
        agent(type="ENDPOINT_REGENERATE_SUCCESS", endpoint_regenerate={"id": "11", "labels": ["k8s:app=web"]}),
        "ENDPOINT_REGENERATE_SUCCESS (id: 11, labels: [k8s:app=web])",
    ),
    (
        agent(type="ENDPOINT_REGENERATE_FAILURE", endpoint_regenerate={"id": "11", "error": "no\nroom"}),
        "ENDPOINT_REGENERATE_FAILURE (id: 11, labels: [], error: no\\nroom)",
    ),
    (
        agent(type="ENDPOINT_CREATED", endpoint_update={"id": "11", "namespace": "shop", "pod_name": "web-7f9"}),
        "ENDPOINT_CREATED (id: 11, namespace: shop, pod name: web-7f9)",
    ),
    (agent(type="ENDPOINT_DELETED", endpoint_update={"id": "11"}), "ENDPOINT_DELETED (id: 11)"),
    (
        agent(
            type="IPCACHE_UPSERTED",
            ipcache_update={
                "cidr": "10.0.0.1/32",
                "identity": 9,
                "old_identity": 8,
                "host_ip": "192.0.2.1",
                "old_host_ip": "192.0.2.2",
            },
        ),
        (
            "IPCACHE_UPSERTED (cidr: 10.0.0.1/32, identity: 9, old identity: 8, host ip: 192.0.2.1, "
            "old host ip: 192.0.2.2, encrypt key: 0)"
        ),
    ),
    (
        agent(type="IPCACHE_DELETED", ipcache_update={"cidr": "fd00::/64", "identity": 2, "encrypt_key": 3}),
        "IPCACHE_DELETED (cidr: fd00::/64, identity: 2, encrypt key: 3)",
    ),
    (
        agent(
            type="SERVICE_UPSERTED",
            service_upsert={
                "id": 5,
                "frontend_address": {"ip": "172.20.0.1", "port": 80},
                "backend_addresses": ADDRESSES,
                "type": "ClusterIP",
                "ext_traffic_policy": "Local",
                "namespace": "shop",
                "name": "api",
            },
        ),
        (
            "SERVICE_UPSERTED (id: 5, frontend: 172.20.0.1:80, backends: [10.0.0.1:8080,[fd00::1]:8080], "
            "type: ClusterIP, external traffic policy: Local, namespace: shop, name: api)"
        ),
    ),
    (agent(type="SERVICE_DELETED", service_delete={"id": 5}), "SERVICE_DELETED (id: 5)"),
    (
        agent(type="SERVICE_UPSERTED", service_upsert={"id": 6, "traffic_policy": "Cluster", "name": "bare"}),
        "SERVICE_UPSERTED (id: 6, traffic policy: Cluster, name: bare)",
    ),
    (
        agent(unknown={"type": "x", "notification": "y"}),
        "AGENT_EVENT_UNKNOWN (type: x, notification: y)",
    ),
    (agent(type=77), "77 (UNKNOWN)"),
]


async def test_agent_events_are_lines(tmp_path: Path):
    out, service = await shown(tmp_path, AGENT, [one for one, _ in EVENTS], "observe", "agent-events")
    assert out.splitlines() == [f"{AT}: {line}" for _, line in EVENTS]
    assert service.asked == [pb.GetAgentEventsRequest(number=20)]


async def test_agent_events_have_the_other_formats_too(tmp_path: Path):
    one, other = EVENTS[6][0], EVENTS[10][0]

    async def written(*words: str) -> str:
        return (await shown(tmp_path, AGENT, [one, other], "observe", "agent-events", *words))[0]

    assert await written("-o", "dict", "--print-node-name") == (
        f"  TIMESTAMP: {AT}\n       NODE: default/k8s1\n       TYPE: ENDPOINT_DELETED\n    DETAILS: id: 11\n"
        "------------\n"
        f"  TIMESTAMP: {AT}\n       NODE: default/k8s1\n       TYPE: SERVICE_DELETED\n    DETAILS: id: 5\n"
    )
    assert await written("-o", "table") == (
        "TIMESTAMP             TYPE               DETAILS\n"
        f"{AT}   ENDPOINT_DELETED   id: 11\n"
        f"{AT}   SERVICE_DELETED    id: 5\n"
    )
    assert [json.loads(line) for line in (await written("-o", "json")).splitlines()] == [
        {
            "agent_event": {"type": kind, name: {"id": number}},
            "node_name": "default/k8s1",
            "time": TIME,
        }
        for kind, name, number in (
            ("ENDPOINT_DELETED", "endpoint_update", "11"),
            ("SERVICE_DELETED", "service_delete", 5),
        )
    ]
    assert await written("--print-node-name", "--time-format", "RFC3339", "-t", "agent:endpoint-deleted") == (
        "2024-07-24T10:02:11Z [default/k8s1]: ENDPOINT_DELETED (id: 11)\n"
    )


async def test_selectors_stand_on_either_side_of_the_word(tmp_path: Path):
    for words in (
        ("observe", "--first", "3", "agent-events", "--since", "2024-07-24"),
        ("observe", "agent-events", "--first", "3", "--since", "2024-07-24"),
        ("observe", "--first=3", "--since", "2024-07-24", "agent-events"),
    ):
        _, service = await shown(tmp_path, AGENT, [], *words)
        (asked,) = service.asked
        assert (asked.number, asked.first, asked.since.seconds) == (3, True, 1_721_779_200)
    everything, following = pb.GetAgentEventsRequest(number=2**64 - 1), pb.GetAgentEventsRequest(follow=True)
    for word, asked in (("--all", everything), ("-f", following)):
        _, service = await shown(tmp_path, AGENT, [], "observe", word, "agent-events")
        assert service.asked == [asked]


def test_types_of_agent_events_have_names():
    assert agent_types(()) is agent_types(("agent",)) is agent_types(("agent:agent-started", "agent")) is None
    assert agent_types(("agent:unspecified", "policy-updated")) == {0, 3}
    with pytest.raises(ValueError, match="unknown type of agent event 'agent:x', expected one of unspecified, mes"):
        agent_types(("agent:x",))


POD = {"ID": 11, "namespace": "shop", "pod_name": "web-7f9"}
DEBUGS = [
    (
        debug(type="DBG_CT_LOOKUP", source=POD, hash=48879, cpu=3, message="CT lookup\x1b"),
        "shop/web-7f9 (ID: 11) DBG_CT_LOOKUP MARK: 0xbeef CPU: 03 (CT lookup^[)",
    ),
    (
        debug(type="DBG_GENERIC", source={"ID": 1, "labels": ["reserved:host"]}, hash=0, cpu=12, message="x"),
        "reserved:host (ID: 1) DBG_GENERIC MARK: 0x0 CPU: 12 (x)",
    ),
    (debug(source={"ID": 5, "labels": ["k8s:a=b"]}, message="x"), "ID: 5 DBG_EVENT_UNKNOWN MARK: N/A CPU: N/A (x)"),
    (debug(type=99), "N/A 99 MARK: N/A CPU: N/A ()"),
]


async def test_debug_events_are_lines_and_have_the_other_formats_too(tmp_path: Path):
    answers = [one for one, _ in DEBUGS]
    out, service = await shown(tmp_path, DEBUG, answers, "observe", "debug-events", "--last", "9")
    assert out.splitlines() == [f"{AT}: {line}" for _, line in DEBUGS]
    assert service.asked == [pb.GetDebugEventsRequest(number=9)]
    block, _ = await shown(tmp_path, DEBUG, answers[:1], "observe", "debug-events", "-o", "dict")
    assert block == (
        f"  TIMESTAMP: {AT}\n       TYPE: DBG_CT_LOOKUP\n       FROM: shop/web-7f9 (ID: 11)\n       MARK: 0xbeef\n"
        "        CPU: 03\n    MESSAGE: CT lookup^[\n"
    )
    table, _ = await shown(tmp_path, DEBUG, answers[:1], "observe", "debug-events", "-o", "tab", "--print-node-name")
    assert table == (
        "TIMESTAMP             NODE           FROM                    TYPE            CPU/MARK    MESSAGE\n"
        f"{AT}   default/k8s1   shop/web-7f9 (ID: 11)   DBG_CT_LOOKUP   03 0xbeef   CT lookup^[\n"
    )
    line, _ = await shown(tmp_path, DEBUG, answers[2:3], "observe", "debug-events", "-o", "jsonpb")
    assert json.loads(line)["debug_event"] == {"source": {"ID": 5, "labels": ["k8s:a=b"]}, "message": "x"}


NODES = ParseDict(
    {
        "nodes": [
            {
                "name": "default/k8s1",
                "version": "1.19.4",
                "address": "192.0.2.1:4244",
                "state": "NODE_CONNECTED",
                "tls": {"enabled": True, "server_name": "k8s1.default.hubble-grpc.cilium.io"},
                "uptime_ns": "3605499999999",
                "num_flows": "4095",
                "max_flows": "4095",
                "seen_flows": "36050",
            },
            {"name": "default/k8s\x1b2", "state": "NODE_UNAVAILABLE", "num_flows": "7", "max_flows": "4095"},
            {"name": "default/k8s3", "state": "NODE_GONE"},
            {"name": "default/k8s4", "state": "NODE_ERROR"},
            {"name": "default/k8s5"},
        ]
    },
    pb.GetNodesResponse(),
)


async def test_nodes_are_listed_in_every_format(tmp_path: Path):
    method = "/observer.Observer/GetNodes"
    table, _ = await shown(tmp_path, method, [NODES], "list", "nodes")
    assert table.splitlines() == [
        "NAME             STATUS        AGE      FLOWS/S   CURRENT/MAX-FLOWS",
        "default/k8s1     Connected     1h0m5s   10.00     4095/4095 (100.00%)",
        "default/k8s^[2   Unavailable   N/A      N/A       7/4095 (  0.17%)",
        "default/k8s3     Gone          N/A      N/A       N/A",
        "default/k8s4     Error         N/A      N/A       N/A",
        "default/k8s5     Unknown       N/A      N/A       N/A",
    ]
    wide, _ = await shown(tmp_path, method, [NODES], "list", "node", "-o", "wide")
    assert [line[line.index("FLOWS") + 7 :] for line in wide.splitlines()[:1]] == [
        "   CURRENT/MAX-FLOWS     VERSION   ADDRESS          TLS"
    ]
    assert wide.splitlines()[1].endswith("4095/4095 (100.00%)   1.19.4    192.0.2.1:4244   Enabled")
    assert wide.splitlines()[2].endswith("7/4095 (  0.17%)      N/A       N/A              Disabled")
    listed, _ = await shown(tmp_path, method, [NODES], "list", "nodes", "-o", "json")
    assert json.loads(listed)[4] == {"name": "default/k8s5"}
    line, _ = await shown(tmp_path, method, [NODES], "list", "nodes", "-o", "jsonpb")
    assert json.loads(line)["nodes"] == json.loads(listed)


async def test_peers_are_watched(tmp_path: Path):
    tls = peer_pb2.TLS(server_name="k8s1.default.hubble-grpc.cilium.io")
    changes = [
        peer_pb2.ChangeNotification(name="default/k8s1", address="192.0.2.1:4244", type=1, tls=tls),
        peer_pb2.ChangeNotification(name="k8s\x1b2", address="192.0.2.2:4244", type=3),
        peer_pb2.ChangeNotification(name="k8s2", address="192.0.2.2:4244", type=2),
    ]
    for word in ("peers", "peer"):
        out, _ = await shown(tmp_path, "/peer.Peer/Notify", changes, "watch", word)
        assert out.splitlines() == [
            "PEER_ADDED   192.0.2.1:4244 default/k8s1 (TLS.ServerName: k8s1.default.hubble-grpc.cilium.io)",
            "PEER_UPDATED 192.0.2.2:4244 k8s^[2",
            "PEER_DELETED 192.0.2.2:4244 k8s2",
        ]
