"""What is no flow, in words: lost events, and news of nodes, which only relays have."""

import json
from collections.abc import Sequence
from typing import Final

from cplane.hubble.cli.terminal import escape
from cplane.hubble.cli.times import TimeText
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb
from cplane.pb.relay import relay_pb2

_NAMES_LENGTH: Final = 50  # characters of node names in a line; at least one name is shown


def stamp(time: TimeText, response: pb.GetFlowsResponse) -> str:
    """The time of a response; `N/A` where it has none."""
    return time(response.time.seconds, response.time.nanos) if response.HasField("time") else "N/A"


def lost_source(lost: flow_pb2.LostEvent) -> str:
    """Who lost them."""
    names = {value: name for name, value in flow_pb2.LostEventSource.items()}
    return names.get(lost.source, str(lost.source))


def lost_when(time: TimeText, lost: flow_pb2.LostEvent) -> str:
    """` (first: …, last: …)`, where it is known."""
    if not (lost.HasField("first") and lost.HasField("last")):
        return ""
    first, last = (time(one.seconds, one.nanos) for one in (lost.first, lost.last))
    return f" (first: {first}, last: {last})"


def is_news(event: relay_pb2.NodeStatusEvent) -> bool:
    """Whether a user must be told who did not ask for all that happens."""
    return event.state_change in {relay_pb2.NODE_ERROR, relay_pb2.NODE_UNAVAILABLE}


def node_line(time: TimeText, response: pb.GetFlowsResponse) -> str:
    """News of nodes on one line."""
    event = response.node_status
    nodes, count = node_names(event.node_names), len(event.node_names)
    told = {
        relay_pb2.NODE_CONNECTED: f"Receiving flows from {count} nodes: {nodes}",
        relay_pb2.NODE_UNAVAILABLE: f"{count} nodes are unavailable: {nodes}",
        relay_pb2.NODE_GONE: f"{count} nodes removed from cluster: {nodes}",
        relay_pb2.NODE_ERROR: f"Error {_quoted(event.message)} on {count} nodes: {nodes}",
    }
    what = told.get(event.state_change) or f"unknown node status event: {node_state(event)} {_quoted(event.message)}"
    return f"{stamp(time, response)} [{escape(response.node_name)}]: {what}"


def node_block(time: TimeText, response: pb.GetFlowsResponse) -> str:
    """News of nodes as keys and values."""
    event = response.node_status
    return (
        f"  TIMESTAMP: {stamp(time, response)}\n"
        f"      STATE: {node_state(event)}\n"
        f"      NODES: {node_names(event.node_names)}\n"
        f"    MESSAGE: {_quoted(event.message) if event.message else 'N/A'}"
    )


def node_state(event: relay_pb2.NodeStatusEvent) -> str:
    """What became of the nodes."""
    names = {value: name for name, value in relay_pb2.NodeState.items()}
    return names.get(event.state_change, str(event.state_change))


def node_names(names: Sequence[str]) -> str:
    """The names, the last ones counted only where they are many."""
    length = 0
    shown: list[str] = []
    for name in names:
        length += len(name) + 2
        if shown and length > _NAMES_LENGTH:
            break
        shown.append(escape(name))
    omitted = len(names) - len(shown)
    return ", ".join(shown) + (f" (and {omitted} more)" if omitted else "")


def _quoted(text: str) -> str:
    return escape(json.dumps(text, ensure_ascii=False))
