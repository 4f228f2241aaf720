"""Sockets for datagrams, beside those of `sockets`: clients' come with the server's address, and answers go with it."""

import ctypes
import resource
import socket
import struct
from contextlib import suppress
from typing import Final

from cplane.domain.access import Address
from cplane.proxy.sockets import ABSENT, FAMILIES, LOOPBACK, be_transparent
from datapath.maps import marks

UDP_HEADER: Final = struct.Struct(">4H")

_IP_RECVORIGDSTADDR, _IPV6_RECVORIGDSTADDR = 20, 74
_IP_PKTINFO: Final = 8
_IPV6_CHECKSUM: Final = 7
_SO_ATTACH_FILTER: Final = 26
_RECEIVE_BYTES: Final = 4 << 20
_IN4, _IN6 = struct.Struct("=H2s4s"), struct.Struct("=H2sI16s")


def listen_udp(family: int, port: int) -> socket.socket | None:
    """The socket that clients' packets are given to; None where the family does not exist. Raises OSError."""
    made = _open(family, socket.SOCK_DGRAM)
    if made is None:
        return None
    try:
        be_transparent(made)
        if family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVORIGDSTADDR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        return _bound(made, family, port)
    except BaseException:
        made.close()
        raise


def asked_at(ancillary: list[tuple[int, int, bytes]]) -> Address | None:
    """The original destination of a packet."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_RECVORIGDSTADDR:
            _, port, address = _IN4.unpack_from(data)
            return Address(socket.inet_ntop(socket.AF_INET, address), int.from_bytes(port))
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_RECVORIGDSTADDR:
            _, port, _, address = _IN6.unpack_from(data)
            return Address(socket.inet_ntop(socket.AF_INET6, address), int.from_bytes(port))
    return None


class Answering:
    """Sends datagrams that come from a server. A socket bound to the server's address would get the next question."""

    def __init__(self, direction: int) -> None:
        self._sockets: dict[int, socket.socket] = {}
        for family in FAMILIES:
            made = _open(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
            if made is None:
                continue
            _hear_nothing(made)
            be_transparent(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, marks.from_proxy(direction))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _RECEIVE_BYTES)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, 6)  # where it is in a UDP header
            self._sockets[family] = made

    def send(self, data: bytes, server: Address, client: Address) -> None:
        """Raises OSError; one that would have to wait is lost, as on a full link."""
        head = UDP_HEADER.pack(server.port, client.port, UDP_HEADER.size + len(data), 0)
        if ":" in client.ip:
            source = struct.pack("=16sI", socket.inet_pton(socket.AF_INET6, server.ip), 0)
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
            self._sockets[socket.AF_INET6].sendmsg((head, data), ancillary, 0, (client.ip, 0))
        else:
            source = struct.pack("=I4s4s", 0, socket.inet_aton(server.ip), bytes(4))
            ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, source)]
            self._sockets[socket.AF_INET].sendmsg((head, data), ancillary, 0, (client.ip, 0))

    def close(self) -> None:
        """Nothing can be sent any more."""
        for one in self._sockets.values():
            one.close()


def _open(family: int, kind: int, protocol: int = 0) -> socket.socket | None:
    try:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise


def _bound(made: socket.socket, family: int, port: int) -> socket.socket | None:
    try:
        made.bind((LOOPBACK[socket.AddressFamily(family)], port))
    except OSError as error:
        if family == socket.AF_INET6 and error.errno in ABSENT:  # switched off: nobody can come by it
            made.close()
            return None
        raise
    return made


def _hear_nothing(made: socket.socket) -> None:
    """A raw socket gets a copy of every datagram of the node, unless a filter takes none."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # ret 0
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HL", 1, ctypes.addressof(program)))
    with suppress(BlockingIOError):
        while made.recv(1):  # what came before the filter did
            pass


def raise_descriptors() -> None:
    """As many files may be open as are allowed: each port has four sockets, each question that is asked one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
