"""Sockets of transparent proxies: they have addresses of others, and need CAP_NET_ADMIN.

Connections come in at 127.0.0.1 and ::1, with the address of the server that was meant as their own; what goes on to
the server has the client's.
"""

import errno
import socket
from typing import Final

from datapath.maps import marks

LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
LOOPBACKS: Final = frozenset(LOOPBACK.values())
FAMILIES: Final = tuple(LOOPBACK)
ABSENT: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What is said where a family does not exist."""

_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_IP_BIND_ADDRESS_NO_PORT: Final = 24


def listen_tcp(family: socket.AddressFamily, port: int, backlog: int) -> socket.socket | None:
    """Where clients' connections come in; None on a machine without IPv6. Raises OSError."""
    made: socket.socket | None = None
    try:
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        be_transparent(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, marks.of_listener(port))
        made.bind((LOOPBACK[family], port))
        made.listen(backlog)
    except BaseException as error:
        if made is not None:
            made.close()
        if isinstance(error, OSError) and family == socket.AF_INET6 and error.errno in ABSENT:
            return None
        raise
    return made


def to_server(kind: int, client: str, direction: int) -> socket.socket:
    """A socket that has the client's address, and a port by chance; to be connected. Raises OSError."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        be_transparent(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, marks.from_proxy(direction))
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.bind((client, 0))
    except BaseException:
        made.close()
        raise
    return made


def be_transparent(made: socket.socket) -> None:
    """The socket may have any address."""
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
