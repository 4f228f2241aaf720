"""Sockets of a network namespace by sock_diag(7): those that are connected, and the end of some of them.

Layouts: linux/inet_diag.h. Numbers are in the machine's order, ports and addresses in the network's.
"""

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from datapath.errors import Unavailable
from datapath.netlink import netns
from datapath.netlink.errors import KernelRefused

_SOCK_DIAG: Final = 4  # a netlink protocol
_BY_FAMILY: Final = 20
_DESTROY: Final = 21
_REQUEST: Final = 0x1
_ACK: Final = 0x4
_DUMP: Final = 0x300
_ERROR: Final = 2
_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")
_ERRNO: Final = struct.Struct("=i")
_ASKED: Final = struct.Struct("=BBBxI")  # family, protocol, extensions; states as bits
_ID: Final = struct.Struct("=2s2s16s16sIII")  # ports and addresses of both sides, device, halves of the cookie
_FOUND: Final = struct.Struct("=BBBB")  # family, state, timer, retransmits; the id follows
_ESTABLISHED: Final = 1 << 1  # also of a datagram socket that is connected
_MAPPED: Final = bytes(10) + b"\xff\xff"
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT})
_RECEIVE_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 10.0


class NotSupported(Unavailable):
    """This kernel does not end other processes' sockets."""

    code = "netlink.sockets_not_supported"

    def __init__(self, errno: int) -> None:
        self.errno = errno

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno, str(self.errno))
        return f"sockets of others cannot be ended ({name}): it needs CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY"


class Remote(NamedTuple):
    """What a socket is connected to; `address` has 4 or 16 bytes."""

    address: bytes
    port: int


class Connected(NamedTuple):
    """A socket, by its cookie, and what it is connected to. What has another remote by now is another one."""

    cookie: int
    remote: Remote


class _Found(NamedTuple):
    """A connected socket of a family; `id` is the kernel's, as it wants it back."""

    family: int
    id: bytes
    socket: Connected


def end_datagrams(path: str, wanted: Collection[Connected]) -> int:
    """None of these UDP sockets is left in the namespace at `path`; how many there were.

    An empty path is the caller's own namespace. Such a socket is not connected any more (EDESTADDRREQ), and who waits
    for something gets ECONNABORTED. Raises NoNamespace, NotSupported, KernelRefused.
    """
    if not wanted:
        return 0
    if not path:
        return _end(wanted)
    with netns.opened(path) as namespace:
        return netns.run_in(namespace, lambda: _end(wanted))


def _end(wanted: Collection[Connected]) -> int:
    among = frozenset(wanted)
    try:
        with _opened() as diag:
            found = [
                one
                for family in (socket.AF_INET, socket.AF_INET6)
                for one in _connected(diag, family)
                if one.socket in among
            ]
            return sum(_destroy(diag, one) for one in found)
    except OSError as error:
        raise KernelRefused("end UDP sockets", error.errno or errno.ETIMEDOUT) from error


def _opened() -> socket.socket:
    try:
        diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise NotSupported(error.errno) from error
        raise  # there are too many open files, say: another time there are not
    diag.settimeout(_TIMEOUT_S)
    diag.bind((0, 0))
    return diag


def _connected(diag: socket.socket, family: int) -> list[_Found]:
    """All connected UDP sockets of a family."""
    asked = _ASKED.pack(family, socket.IPPROTO_UDP, 0, _ESTABLISHED) + bytes(_ID.size)
    _send(diag, _BY_FAMILY, _REQUEST | _DUMP, asked)
    found: list[_Found] = []
    while True:
        for kind, body in _messages(diag.recv(_RECEIVE_BYTES)):
            if kind == _ERROR:
                _refuse("list UDP sockets", -_ERRNO.unpack_from(body)[0])
            if kind == _DONE:
                return found
            if kind == _BY_FAMILY:
                found.append(_parsed(body))


def _parsed(body: bytes) -> _Found:
    family = body[0]
    text = body[_FOUND.size : _FOUND.size + _ID.size]
    _, port, _, address, _, low, high = _ID.unpack(text)
    if family == socket.AF_INET:
        address = address[:4]
    elif address.startswith(_MAPPED):
        address = address[12:]
    return _Found(family, text, Connected(high << 32 | low, Remote(address, int.from_bytes(port, "big"))))


def _destroy(diag: socket.socket, one: _Found) -> bool:
    """Whether it was there; the cookie in its id keeps this from hitting another one."""
    asked = _ASKED.pack(one.family, socket.IPPROTO_UDP, 0, _ESTABLISHED) + one.id
    _send(diag, _DESTROY, _REQUEST | _ACK, asked)
    for kind, body in _messages(diag.recv(_RECEIVE_BYTES)):
        number = -_ERRNO.unpack_from(body)[0] if kind == _ERROR else 0
        if number in {errno.ENOENT, errno.ESTALE}:  # somebody closed it meanwhile
            return False
        if number:
            _refuse("end a UDP socket", number)
    return True


def _send(diag: socket.socket, kind: int, flags: int, body: bytes) -> None:
    diag.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _refuse(what: str, number: int) -> None:
    if number in _UNSUPPORTED:
        raise NotSupported(number)
    raise KernelRefused(what, number)
