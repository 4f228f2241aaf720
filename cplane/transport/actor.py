"""Who is at the other end of a call."""

import socket
import struct
from functools import lru_cache
from pwd import getpwuid
from typing import Protocol

from grpclib.protocol import Peer

_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class HasPeer(Protocol):
    """A call as grpclib hands it to a handler."""

    @property
    def peer(self) -> Peer:
        """The connection's other end."""
        ...


def actor_of(stream: HasPeer) -> str:
    """Who asks: `uid:1000(alice)`, `cert:<common name>`, or `tcp:<ip>`.

    The first on a unix socket, the second over TLS with a client certificate, the third otherwise.
    The kernel vouches for the first, the certificate authority for the second, nobody for the third.
    """
    transport = stream.peer._transport  # noqa: SLF001  # grpclib shows the address and the certificate only
    end = transport.get_extra_info("socket")
    if end is not None and end.family == socket.AF_UNIX:
        _, uid, _ = _UCRED.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return _user(uid)
    name = _common_name(stream.peer.cert())
    if name:
        return f"cert:{name}"
    address = stream.peer.addr()
    return f"tcp:{address[0]}" if address else "tcp:unknown"


@lru_cache(maxsize=256)
def _user(uid: int) -> str:
    try:
        return f"uid:{uid}({getpwuid(uid).pw_name})"
    except KeyError:
        return f"uid:{uid}"


def _common_name(certificate: object) -> str:
    """The common name in what `SSLSocket.getpeercert` gives; empty: there is none."""
    if not isinstance(certificate, dict):
        return ""
    for relative_name in certificate.get("subject", ()):
        for key, value in relative_name:
            if key == "commonName":
                return str(value)
    return ""
