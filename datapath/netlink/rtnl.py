"""A routing socket: requests in one send, an answer for each; messages in pyroute2's form."""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from datapath.netlink.errors import KernelRefused

Message = Any  # pyroute2 has no types: a dict of fields with `attrs`, a list of (name, value)

NEW_LINK: Final = 16  # RTM_* of linux/rtnetlink.h
DELETE_LINK: Final = 17
GET_LINK: Final = 18
NEW_ADDRESS: Final = 20
GET_ADDRESS: Final = 22
NEW_ROUTE: Final = 24
DELETE_ROUTE: Final = 25
GET_ROUTE: Final = 26
NEW_NEIGHBOUR: Final = 28
GET_NEIGHBOUR: Final = 30
NEW_RULE: Final = 32
DELETE_RULE: Final = 33
GET_RULE: Final = 34

SET: Final = 0
CREATE: Final = 0x600  # NLM_F_CREATE | NLM_F_EXCL
PUT: Final = 0x500  # NLM_F_CREATE | NLM_F_REPLACE

_REQUEST: Final = 0x1
_ACK: Final = 0x4
_DUMP: Final = 0x300
_ERROR: Final = 2  # NLMSG_ERROR, NLMSG_DONE
_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")
_ERRNO: Final = struct.Struct("=i")
_RECEIVE_BYTES: Final = 1 << 18
_TIMEOUT_S: Final = 10.0  # the kernel answers before send(2) returns; more means that something is very wrong


@dataclass(frozen=True, slots=True)
class Request:
    """One change. `what` says it in words, for the error."""

    what: str
    kind: int
    flags: int
    message: Message


class Rtnl:
    """A socket in the network namespace of the thread that opens it; to be used by one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def attempt(self, requests: Sequence[Request]) -> list[int]:
        """The errno that each request got, 0 where it was done. All are tried, in order, whatever the others get."""
        if not requests:
            return []
        first = self._sequence + 1
        self._socket.send(b"".join(self._encode(one.message, one.kind, one.flags | _ACK) for one in requests))
        answers: dict[int, int] = {}
        while len(answers) < len(requests):
            for kind, sequence, body in self._receive():
                if kind == _ERROR and sequence >= first:
                    answers[sequence] = -_ERRNO.unpack_from(body)[0]
        return [answers[first + index] for index in range(len(requests))]

    def do(self, *requests: Request) -> None:
        """Every request is done. Raises KernelRefused for the first that was not; the rest were tried too."""
        for request, number in zip(requests, self.attempt(requests), strict=True):
            if number:
                raise KernelRefused(request.what, number)

    def dump(self, kind: int, message: Message) -> list[Message]:
        """Every object that the kernel lists for the message, decoded as messages of its class."""
        self._socket.send(self._encode(message, kind, _DUMP))
        return list(self._collect(type(message)))

    def get(self, kind: int, message: Message) -> Message:
        """The one object that the message names. Raises KernelRefused when there is none."""
        self._socket.send(self._encode(message, kind, 0))
        return next(self._collect(type(message)))

    def _collect(self, form: type[Message]) -> Iterator[Message]:
        while True:
            for kind, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise KernelRefused("list what there is", -_ERRNO.unpack_from(body)[0])
                found = form(_HEADER.pack(len(body) + _HEADER.size, kind, 0, sequence, 0) + body)
                found.decode()
                yield found

    def _encode(self, message: Message, kind: int, flags: int) -> bytes:
        self._sequence += 1
        header = message["header"]
        header["type"], header["flags"] = kind, flags | _REQUEST
        header["sequence_number"], header["pid"] = self._sequence, 0
        message.encode()
        return bytes(message.data)

    def _receive(self) -> Iterable[tuple[int, int, bytes]]:
        """Type, sequence number and body of each message in one datagram."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            raise KernelRefused("wait for the kernel's answer", errno.ETIMEDOUT) from error
        offset = 0
        while offset < len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, sequence, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def index_of(name: str) -> int:
    """The number of the interface in this thread's namespace; 0: there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def name_of(index: int) -> str:
    """The name of the interface in this thread's namespace; empty: there is none."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def write_sysctl(name: str, value: str) -> bool:
    """The setting, a path under /proc/sys/net, has the value in this thread's namespace; False: it does not exist."""
    try:
        descriptor = os.open(f"/proc/sys/net/{name}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise KernelRefused(f"set net/{name} to {value}", error.errno or errno.EIO) from error
    try:
        if os.read(descriptor, 64).decode().strip() != value:
            os.pwrite(descriptor, value.encode(), 0)
    except OSError as error:
        raise KernelRefused(f"set net/{name} to {value}", error.errno or errno.EIO) from error
    finally:
        os.close(descriptor)
    return True
