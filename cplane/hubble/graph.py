"""Flows folded into who talks to whom: workloads and services as nodes, what they said to each other as edges.

Pure, and bounded: whoever sends flows with ever new names gets one node for all that have no room of their own.
The result depends on the flows alone and, as long as there is room, not on their order.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity
from cplane.pb.flow import flow_pb2

NODES_MAX: Final = 4096
EDGES_MAX: Final = 16_384
PORTS_MAX: Final = 64  # of an edge; flows to more are counted, but not by port
_PORTED: Final = frozenset({"TCP", "UDP", "SCTP"})

Json: TypeAlias = "str | int | list[Json] | dict[str, Json]"


class Node(NamedTuple):
    """One end of flows. `kind`: Pod, Service, DNS, reserved, identity, address, others, or that of a workload."""

    cluster: str
    namespace: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


OTHERS: Final = Node("", "", "others", "others")
UNKNOWN: Final = Node("", "", "address", "unknown")


class Port(NamedTuple):
    """Where the server listened; `number` is 0 for what has no ports."""

    protocol: str
    number: int

    def __str__(self) -> str:
        return f"{self.protocol}/{self.number}" if self.number else self.protocol


@dataclass
class Edge:
    """What went from a client to a server, and back: numbers of flows."""

    flows: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    ports: Counter[Port] = field(default_factory=Counter)

    @property
    def dropped(self) -> int:
        """Flows that did not get through."""
        return self.verdicts["DROPPED"] + self.verdicts["ERROR"]


class Graph:
    """Edges between nodes, as the flows so far have them."""

    def __init__(self) -> None:
        self._nodes: set[Node] = set()
        self._edges: dict[tuple[Node, Node], Edge] = {}
        self.flows = 0
        self.lost = 0

    def add(self, flow: flow_pb2.Flow) -> None:
        """One more flow is in the graph."""
        self.flows += 1
        client, server = self._room_for(source_of(flow)), self._room_for(destination_of(flow))
        if flow.is_reply.value:
            client, server = server, client
        pair = (client, server)
        if pair not in self._edges and len(self._edges) >= EDGES_MAX:
            pair = (OTHERS, OTHERS)
        edge = self._edges.setdefault(pair, Edge())
        edge.flows += 1
        edge.verdicts[verdict_of(flow)] += 1
        port = port_of(flow)
        if port is not None and (port in edge.ports or len(edge.ports) < PORTS_MAX):
            edge.ports[port] += 1

    def add_lost(self, lost: flow_pb2.LostEvent) -> None:
        """So many flows are not in the graph."""
        self.lost += lost.num_events_lost

    def nodes(self) -> list[Node]:
        """Whoever has an edge, in order."""
        return sorted({node for pair in self._edges for node in pair})

    def edges(self) -> list[tuple[Node, Node, Edge]]:
        """Client, server and what went between them, in order."""
        return [
            (client, server, edge) for (client, server), edge in sorted(self._edges.items(), key=lambda one: one[0])
        ]

    def _room_for(self, node: Node) -> Node:
        if node not in self._nodes:
            if len(self._nodes) >= NODES_MAX:
                return OTHERS
            self._nodes.add(node)
        return node


def graph_json(graph: Graph) -> dict[str, Json]:
    """The graph for programs. Edges name nodes by their place in `nodes`; ports and verdicts have their flows."""
    nodes = graph.nodes()
    places = {node: place for place, node in enumerate(nodes)}
    return {
        "flows": graph.flows,
        "lost": graph.lost,
        "nodes": [{"id": places[node], **node._asdict()} for node in nodes],
        "edges": [
            {
                "source": places[client],
                "destination": places[server],
                "flows": edge.flows,
                "verdicts": dict(sorted(edge.verdicts.items())),
                "ports": [
                    {"protocol": port.protocol, "port": port.number, "flows": count}
                    for port, count in sorted(edge.ports.items())
                ],
            }
            for client, server, edge in graph.edges()
        ],
    }


def source_of(flow: flow_pb2.Flow) -> Node:
    """Who sent it."""
    return _node(flow.source, flow.source_service, flow.source_names, flow.IP.source or flow.ethernet.source)


def destination_of(flow: flow_pb2.Flow) -> Node:
    """Who was to get it."""
    address = flow.IP.destination or flow.ethernet.destination
    return _node(flow.destination, flow.destination_service, flow.destination_names, address)


def _node(end: flow_pb2.Endpoint, service: flow_pb2.Service, names: Iterable[str], address: str) -> Node:
    """What outlives the single pod stands before it, and what has a name before what has none."""
    if end.workloads:
        workload = min(end.workloads, key=lambda one: (one.kind, one.name))
        return Node(end.cluster_name, end.namespace, workload.kind or "Workload", workload.name)
    if end.pod_name:
        return Node(end.cluster_name, end.namespace, "Pod", end.pod_name)
    if service.name:
        return Node(end.cluster_name, service.namespace, "Service", service.name)
    name = min(names, default="")
    if name:
        return Node("", "", "DNS", name)
    reserved = RESERVED_BY_NUMBER.get(NumericIdentity(end.identity))
    if reserved is not None:
        return Node("", "", "reserved", reserved.label_key)
    if end.identity:
        return Node(end.cluster_name, end.namespace, "identity", str(end.identity))
    return Node("", "", "address", address) if address else UNKNOWN


def verdict_of(flow: flow_pb2.Flow) -> str:
    """The name of a verdict, or the number of one that has none here."""
    return _VERDICTS.get(flow.verdict) or str(flow.verdict)


_VERDICTS: Final = {number: name for name, number in flow_pb2.Verdict.items()}


def port_of(flow: flow_pb2.Flow) -> Port | None:
    """The server's; None for what is no packet of a known protocol."""
    protocol = flow.l4.WhichOneof("protocol")
    if protocol is None:
        return None
    if protocol not in _PORTED:
        return Port(protocol, 0)
    layer = getattr(flow.l4, protocol)
    return Port(protocol, layer.source_port if flow.is_reply.value else layer.destination_port)
