"""The observer's services, for whoever mounts them on sockets (`cplane.transport.grpc.serve`)."""

from typing import TYPE_CHECKING

from cplane.hubble.archive.folder import Archive
from cplane.hubble.calls import Clock
from cplane.hubble.debugring import DebugRing
from cplane.hubble.eventring import EventRing, Events
from cplane.hubble.observer import Observer
from cplane.hubble.peer import Peer, Peers, PeerService, peer_name
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2

if TYPE_CHECKING:
    from grpclib._typing import IServable


def services(
    store: FlowStore,
    clock: Clock,
    *,
    version: str,
    agent_events: Events[flow_pb2.AgentEvent] | None = None,
    debug_events: Events[flow_pb2.DebugEvent] | None = None,
    peers: Peers | None = None,
    archive: Archive | None = None,
) -> "list[IServable]":
    """What answers for the flows of `store`. `version` is told to clients, who compare it with their own.

    Flows that are older than the store's are in the `archive`, if anywhere.
    Without rings nothing but flows ever happens, and without `peers` there is this node alone, which nobody can reach
    from elsewhere.
    """
    cluster, _, node = store.node_name.partition("/")
    name = peer_name(cluster, node)
    known = peers if peers is not None else Peers([Peer(name)])
    observer = Observer(
        store,
        clock,
        version=version,
        agent_events=agent_events if agent_events is not None else EventRing(),
        debug_events=debug_events if debug_events is not None else DebugRing(1),
        reached=lambda: known.now.get(name),
        archive=archive,
    )
    return [observer, PeerService(known)]
