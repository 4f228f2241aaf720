"""Flows folded into a graph, whatever their order, and drawn whatever the names in them."""

import json
import random
import re
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from cplane.hubble import graph as graphs
from cplane.hubble.cli.drawing import draw
from cplane.hubble.graph import OTHERS, Graph, Node, Port, destination_of, graph_json, source_of
from cplane.pb.flow import flow_pb2

WEB = {
    "cluster_name": "c",
    "namespace": "shop",
    "pod_name": "web-1",
    "workloads": [{"kind": "Deployment", "name": "web"}],
}
API = {"cluster_name": "c", "namespace": "shop", "pod_name": "api-1"}


def flow(source: dict[str, Any] = WEB, destination: dict[str, Any] = API, **changes: Any) -> flow_pb2.Flow:
    fields = {
        "source": source,
        "destination": destination,
        "verdict": "FORWARDED",
        "l4": {"TCP": {"source_port": 4000, "destination_port": 80}},
        "is_reply": False,
    }
    return ParseDict({**fields, **changes}, flow_pb2.Flow())


def folded(*flows: flow_pb2.Flow) -> Graph:
    graph = Graph()
    for one in flows:
        graph.add(one)
    return graph


def test_both_directions_of_a_connection_are_one_edge_from_client_to_server():
    answer = flow(API, WEB, is_reply=True, l4={"TCP": {"source_port": 80, "destination_port": 4000}})
    ((client, server, edge),) = folded(flow(), answer, flow(verdict="DROPPED")).edges()
    assert (client, server) == (Node("c", "shop", "Deployment", "web"), Node("c", "shop", "Pod", "api-1"))
    assert edge.ports == {Port("TCP", 80): 3}
    assert (edge.flows, edge.dropped, edge.verdicts) == (3, 1, {"FORWARDED": 2, "DROPPED": 1})


@pytest.mark.parametrize(
    ("fields", "node"),
    [
        ({"source": WEB}, Node("c", "shop", "Deployment", "web")),
        ({"source": API}, Node("c", "shop", "Pod", "api-1")),
        ({"source": {}, "source_service": {"namespace": "shop", "name": "api"}}, Node("", "shop", "Service", "api")),
        ({"source": {"identity": 2}, "source_names": ["b.org", "a.org"]}, Node("", "", "DNS", "a.org")),
        ({"source": {"identity": 2}}, Node("", "", "reserved", "world")),
        ({"source": {"identity": 4242, "cluster_name": "c"}}, Node("c", "", "identity", "4242")),
        ({"source": {}, "IP": {"source": "192.0.2.1"}}, Node("", "", "address", "192.0.2.1")),
        ({"source": {}, "ethernet": {"source": "02:00:00:00:00:01"}}, Node("", "", "address", "02:00:00:00:00:01")),
        ({"source": {}}, Node("", "", "address", "unknown")),
    ],
)
def test_an_end_is_what_outlives_it_most(fields: dict[str, Any], node: Node):
    assert source_of(flow(**fields)) == node
    swapped = {name.replace("source", "destination"): value for name, value in fields.items()}
    for layer in {"IP", "ethernet"} & fields.keys():
        swapped[layer] = {"destination": fields[layer]["source"]}
    assert destination_of(flow(**swapped)) == node


def test_what_has_no_ports_is_its_protocol_and_what_has_no_layer_is_only_counted():
    graph = folded(flow(l4={"ICMPv4": {"type": 8}}), flow(l4={}))
    ((_, _, edge),) = graph.edges()
    assert (edge.flows, edge.ports, str(Port("ICMPv4", 0)), str(Port("TCP", 80))) == (
        2,
        {Port("ICMPv4", 0): 1},
        "ICMPv4",
        "TCP/80",
    )


def test_the_order_of_flows_makes_no_difference():
    flows = [
        flow({"identity": source}, {"identity": target}, l4={"UDP": {"destination_port": port}}, verdict=verdict)
        for source in (1, 2, 7)
        for target in (1, 2, 9)
        for port in (53, 80)
        for verdict in ("FORWARDED", "DROPPED")
    ]
    drawn = [draw(folded(*flows), output) for output in ("dot", "json", "mermaid")]
    for seed in range(5):
        random.Random(seed).shuffle(flows)
        assert [draw(folded(*flows), output) for output in ("dot", "json", "mermaid")] == drawn


def test_what_has_no_room_of_its_own_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graphs, "NODES_MAX", 4)
    monkeypatch.setattr(graphs, "EDGES_MAX", 3)
    monkeypatch.setattr(graphs, "PORTS_MAX", 2)
    flows = [flow({"identity": 1000 + n}, {"identity": 2000 + n}) for n in range(50)]
    ports = [flow({"identity": 1000}, {"identity": 2000}, l4={"TCP": {"destination_port": n}}) for n in range(1, 50)]
    graph = folded(*flows, *ports)
    assert graph.flows == sum(edge.flows for _, _, edge in graph.edges()) == 99
    assert len(graph.edges()) <= 4
    assert OTHERS in graph.nodes()
    assert all(len(edge.ports) <= 2 for _, _, edge in graph.edges())


def test_losses_are_told():
    graph = folded(flow())
    graph.add_lost(flow_pb2.LostEvent(num_events_lost=3))
    graph.add_lost(flow_pb2.LostEvent(num_events_lost=4))
    assert graph_json(graph)["lost"] == 7
    assert "7 events were lost" in draw(graph, "dot") and "%% 7 events were lost" in draw(graph, "mermaid")


def test_an_empty_graph_is_one_too():
    assert draw(Graph(), "mermaid") == "flowchart LR\n"
    assert json.loads(draw(Graph(), "json")) == {"flows": 0, "lost": 0, "nodes": [], "edges": []}
    assert draw(Graph(), "dot").endswith('fontname="sans-serif"];\n}\n')


DOT_LINE = re.compile(r'  n\d+( -> n\d+)? \[label="(?:[^"\\]|\\\\|\\"|\\n)*"(, color=red)?(, style=dashed)?\];')
MERMAID_LINE = re.compile(r'  n\d+(\["[^"<>|`\[\]{}]*<br/>[^"<>|`\[\]{}]*"\]| (-->|-\.->)\|"[^"|`]*"\| n\d+)')


@given(st.text(min_size=1), st.text())
def test_no_name_breaks_out_of_its_string(name: str, namespace: str):
    if any("\ud800" <= c <= "\udfff" for c in name + namespace):
        return  # no message can hold it
    graph = folded(flow({"pod_name": name, "namespace": namespace}, {}, destination_names=[name]))
    dot, mermaid = draw(graph, "dot").split("\n"), draw(graph, "mermaid").split("\n")
    assert all(DOT_LINE.fullmatch(line) for line in dot[3:-2]), dot
    assert all(MERMAID_LINE.fullmatch(line) for line in mermaid[1:-1]), mermaid
    assert len(dot) - 5 == len(mermaid) - 2
    assert "".join(dot + mermaid).isprintable()
    nodes = json.loads(draw(graph, "json"))["nodes"]
    assert {one["name"] for one in nodes} == {name}
