"""Who is at the other end of a unix socket."""

import struct
from functools import lru_cache
from pwd import getpwuid
from socket import SO_PEERCRED, SOL_SOCKET
from typing import Final, Protocol

_UCRED: Final = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class HasOptions(Protocol):
    """A socket, whichever event loop wraps it."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """An option's bytes."""
        ...


def actor_behind(end: HasOptions) -> str:
    """`uid:1000(alice)`, as the kernel vouches for it."""
    _, uid, _ = _UCRED.unpack(end.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED.size))
    return _user(uid)


@lru_cache(maxsize=256)
def _user(uid: int) -> str:
    try:
        return f"uid:{uid}({getpwuid(uid).pw_name})"
    except KeyError:
        return f"uid:{uid}"
