"""What `hubble graph` does: fold what an observer or a file has, and draw it once."""

from dataclasses import replace
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError

from cplane.hubble.cli.drawing import draw
from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.observing import feed, fold, wanted_request
from cplane.hubble.cli.output import write_out
from cplane.hubble.cli.request import filters_yaml
from cplane.hubble.cli.settings import Settings
from cplane.hubble.cli.wanted import Wanted
from cplane.hubble.graph import Graph

# what a graph is made of; nothing else is asked for
FIELDS: Final = (
    *("time", "verdict", "ethernet", "IP", "l4", "is_reply"),
    *("source.identity", "source.namespace", "source.pod_name", "source.workloads", "source.cluster_name"),
    *("destination.identity", "destination.namespace", "destination.pod_name", "destination.workloads"),
    *("destination.cluster_name", "source_names", "destination_names", "source_service", "destination_service"),
)


def draw_graph(settings: Settings, wanted: Wanted) -> None:
    """The graph of the flows was drawn, when they had ended or at an interrupt. Raises Failed."""
    graph = Graph()
    if not (wanted.last or wanted.first or wanted.since or wanted.until or wanted.follow):
        wanted = replace(wanted, everything=True)
    request = wanted_request(settings, wanted, FIELDS)
    if wanted.raw_only:
        write_out(filters_yaml(request))
        return
    try:
        feed(settings, wanted, request, partial(fold, graph))
    except DecodeError as error:
        raise Failed(f"the server sent what is no flow: {error}") from None
    write_out(draw(graph, wanted.output))
