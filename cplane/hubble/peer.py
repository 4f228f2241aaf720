"""Who else has flows: the peer service, wire-compatible with Hubble's."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from cplane.hubble.signal import Signal
from cplane.pb.peer import peer_pb2 as pb

if TYPE_CHECKING:
    from grpclib.server import Stream

_DEFAULT_CLUSTER: Final = "default"
_DOMAIN: Final = "hubble-grpc.cilium.io"  # below it certificates have their names


class Peer(NamedTuple):
    """A node with an observer.

    `address` is `host:port`, empty where nobody can reach it; `tls_name` is the name of its certificate, empty where
    it speaks plaintext.
    """

    name: str
    address: str = ""
    tls_name: str = ""


def peer_name(cluster: str, node: str) -> str:
    """What a node is called among peers: without its cluster when that is the default one."""
    return node if cluster in {"", _DEFAULT_CLUSTER} else f"{cluster}/{node}"


def tls_name(cluster: str, node: str) -> str:
    """The name that a node's certificate is for; a dot within a name would make it several."""
    labels = [part.replace(".", "-") for part in (node, cluster or _DEFAULT_CLUSTER)]
    return f"{'.'.join(labels)}.{_DOMAIN}"


class Peers:
    """The nodes that there are now, by name."""

    def __init__(self, peers: Iterable[Peer] = ()) -> None:
        self.now: Mapping[str, Peer] = {one.name: one for one in peers}
        self.changed = Signal()

    def set(self, peers: Iterable[Peer]) -> None:
        """These are the nodes from now on; who listens is told the difference."""
        after = {one.name: one for one in peers}
        if after != self.now:
            self.now = after
            self.changed.notify()


class PeerService:
    """Answers from `peers`.

    It keeps of each client what the client knows, and no queue: a slow one is told the newest state of a node, not
    every state that it had in between.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib serves."""
        return {
            "/peer.Peer/Notify": Handler(self.notify, Cardinality.UNARY_STREAM, pb.NotifyRequest, pb.ChangeNotification)
        }

    async def notify(self, stream: "Stream[pb.NotifyRequest, pb.ChangeNotification]") -> None:
        """Every node as added, then what changes, for as long as the client stays."""
        if await stream.recv_message() is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request has no message")
        await stream.send_initial_metadata()
        known: Mapping[str, Peer] = {}
        while True:
            now = self._peers.now
            for change in changes(known, now):
                await stream.send_message(change)
            known = now
            if self._peers.now is now:
                await self._peers.changed.wait()


def changes(before: Mapping[str, Peer], after: Mapping[str, Peer]) -> list[pb.ChangeNotification]:
    """What a client must be told that knows `before`: who went, then who came or changed."""
    gone = [_told(one, pb.PEER_DELETED) for name, one in before.items() if name not in after]
    new = [
        _told(one, pb.PEER_UPDATED if name in before else pb.PEER_ADDED)
        for name, one in after.items()
        if before.get(name) != one
    ]
    return gone + new


def _told(peer: Peer, kind: pb.ChangeNotificationType) -> pb.ChangeNotification:
    told = pb.ChangeNotification(name=peer.name, address=peer.address, type=kind)
    if peer.tls_name:
        told.tls.server_name = peer.tls_name
    return told
