"""Who the peers are: a fold of what the peer service tells. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cplane.pb.peer import peer_pb2

PEERS_MAX: Final = 16_384
_TEXT_MAX: Final = 1024  # characters of a name or an address
_DOMAIN: Final = "hubble-grpc.cilium.io"
DEFAULT_CLUSTER: Final = "default"


@dataclass(frozen=True, slots=True)
class Peer:
    """A node. `server_name` is what its certificate is for; an empty address means that it cannot be reached."""

    name: str
    address: str
    server_name: str


def server_name(name: str, cluster: str = DEFAULT_CLUSTER) -> str:
    """What the certificate of a node is for; `name` is `cluster/node` or, in `cluster`, `node`. Empty: of no node.

    Source: Cilium pkg/hubble/peer, TLSServerName. Dots would be labels of their own, which no wildcard covers.
    """
    left, slash, right = name.partition("/")
    node, cluster = (right, left) if slash else (left, cluster)
    return f"{node.replace('.', '-')}.{cluster.replace('.', '-')}.{_DOMAIN}" if node else ""


class Directory:
    """The peers, by name. A peer service that comes back tells all of them again, and not which have gone."""

    def __init__(self, cluster: str = DEFAULT_CLUSTER) -> None:
        self._cluster = cluster
        self._peers: dict[str, Peer] = {}
        self._told: set[str] = set()
        self.refused = 0  # notifications that made no sense, or had no room

    @property
    def peers(self) -> Mapping[str, Peer]:
        """All of them, by name."""
        return self._peers

    def begin(self) -> None:
        """The peer service begins to tell all of its peers."""
        self._told = set()

    def apply(self, change: peer_pb2.ChangeNotification) -> bool:
        """Take in what the peer service told; whether something is different now."""
        name = change.name
        if not name or max(len(name), len(change.address), len(change.tls.server_name)) > _TEXT_MAX:
            self.refused += 1
            return False
        match change.type:
            case peer_pb2.PEER_ADDED | peer_pb2.PEER_UPDATED:
                if name not in self._peers and len(self._peers) >= PEERS_MAX:
                    self.refused += 1
                    return False
                told = Peer(name, change.address, change.tls.server_name or server_name(name, self._cluster))
                self._told.add(name)
                changed = self._peers.get(name) != told
                self._peers[name] = told
                return changed
            case peer_pb2.PEER_DELETED:
                self._told.discard(name)
                return self._peers.pop(name, None) is not None
        self.refused += 1
        return False

    def untold(self) -> frozenset[str]:
        """Peers that the peer service has not named since it began."""
        return frozenset(self._peers.keys() - self._told)

    def drop(self, names: frozenset[str]) -> bool:
        """These are peers no longer; whether something is different now."""
        gone = names & self._peers.keys()
        for name in gone:
            del self._peers[name]
        return bool(gone)
