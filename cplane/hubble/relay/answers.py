"""What many nodes say, as one answer. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cplane.hubble.relay.directory import Peer
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2

UNAVAILABLE_MAX: Final = 10  # names in a status
_NAMESPACES_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class Said:
    """A peer, and what it said of itself. None: it is not connected, or its answer is an error, which `state` says."""

    peer: Peer
    state: relay_pb2.NodeState
    status: pb.ServerStatusResponse | None = None


def server_status(said: Sequence[Said], version: str) -> pb.ServerStatusResponse:
    """All nodes together: flows and rates are summed, the uptime is that of the oldest."""
    answers = [one.status for one in said if one.status is not None]
    away = sorted(one.peer.name for one in said if one.status is None)
    status = pb.ServerStatusResponse(
        num_flows=_sum(one.num_flows for one in answers),
        max_flows=_sum(one.max_flows for one in answers),
        seen_flows=_sum(one.seen_flows for one in answers),
        uptime_ns=max((one.uptime_ns for one in answers), default=0),
        flows_rate=sum(one.flows_rate for one in answers),
        version=version,
    )
    status.num_connected_nodes.value = len(answers)
    status.num_unavailable_nodes.value = len(away)
    status.unavailable_nodes.extend(away[:UNAVAILABLE_MAX])
    return status


def nodes(said: Iterable[Said], *, tls: bool) -> pb.GetNodesResponse:
    """Every node by name. `tls`: they are spoken to in TLS."""
    answer = pb.GetNodesResponse()
    for one in sorted(said, key=lambda one: one.peer.name):
        node = answer.nodes.add(name=one.peer.name, address=one.peer.address, state=one.state)
        node.tls.enabled = tls
        node.tls.server_name = one.peer.server_name if tls else ""
        if one.status is not None:
            node.version = one.status.version
            node.uptime_ns = one.status.uptime_ns
            node.num_flows = one.status.num_flows
            node.max_flows = one.status.max_flows
            node.seen_flows = one.status.seen_flows
    return answer


def namespaces(answers: Iterable[pb.GetNamespacesResponse]) -> pb.GetNamespacesResponse:
    """Those that any node has seen, by cluster and name; beyond 65,536 the last ones are left out."""
    found = {(one.cluster, one.namespace) for answer in answers for one in answer.namespaces}
    union = pb.GetNamespacesResponse()
    for cluster, namespace in sorted(found)[:_NAMESPACES_MAX]:
        union.namespaces.add(cluster=cluster, namespace=namespace)
    return union


def _sum(counts: Iterable[int]) -> int:
    """The sum, as far as the message can hold it: a node that lies must not break the answer."""
    return min(sum(counts), (1 << 64) - 1)
