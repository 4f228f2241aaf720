"""A routing socket: requests in one send, an answer for each; messages in pyroute2's form."""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
_INTERRUPTED: Final = 0x10  # NLM_F_DUMP_INTR, in an answer
_ERROR: Final = 2  # NLMSG_ERROR, NLMSG_DONE
_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")
_ERRNO: Final = struct.Struct("=i")
_RECEIVE_BYTES: Final = 1 << 18
_TIMEOUT_S: Final = 10.0  # the kernel answers before send(2) returns; more means that something is very wrong
_DUMPS: Final = 10  # of one list, where something changes each time
_SIOCGIFNAME: Final = 0x8910  # linux/sockios.h
_SIOCGIFINDEX: Final = 0x8933
_NAME_BYTES: Final = 15  # IFNAMSIZ, without the zero at its end
_IFREQ: Final = struct.Struct("=16si20x")  # linux/if.h
_ABSENT: Final = frozenset({errno.ENODEV, errno.ENXIO})


@dataclass(frozen=True, slots=True)
class Request:
    """One change. `what` says it in words, for the error."""

    what: str
    kind: int
    flags: int
    message: Message


class Rtnl:
    """A socket in the network namespace of the thread that opens it; to be used by one thread at a time.

    To open it, and all that it is asked, raises KernelRefused.
    """

    def __init__(self) -> None:
        with _asking("open a routing socket"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.bind((0, 0))
        self._sequence = 0
        self._torn = False  # something changed while what was listed last was listed

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
        self._send(b"".join(self._encode(one.message, one.kind, one.flags | _ACK) for one in requests))
        answers: dict[int, int] = {}
        while len(answers) < len(requests):
            for kind, _, sequence, body in self._receive():
                if kind == _ERROR and sequence >= first:
                    answers[sequence] = -_ERRNO.unpack_from(body)[0]
        return [answers[first + index] for index in range(len(requests))]

    def do(self, *requests: Request) -> None:
        """Every request is done. Raises KernelRefused for the first that was not; the rest were tried too."""
        for request, number in zip(requests, self.attempt(requests), strict=True):
            if number:
                raise KernelRefused(request.what, number)

    def dump(self, kind: int, message: Message) -> list[Message]:
        """Every object that the kernel lists for the message, decoded as messages of its class.

        Where something changed meanwhile, some may be missing or there twice: it is asked again.
        """
        for _ in range(_DUMPS):
            self._send(self._encode(message, kind, _DUMP))
            self._torn = False
            found = list(self._collect(type(message)))
            if not self._torn:
                return found
        raise KernelRefused("list what there is", errno.EINTR)

    def get(self, kind: int, message: Message) -> Message:
        """The one object that the message names. Raises KernelRefused when there is none."""
        self._send(self._encode(message, kind, 0))
        return next(self._collect(type(message)))

    def _collect(self, form: type[Message]) -> Iterator[Message]:
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                self._torn |= bool(flags & _INTERRUPTED)
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

    def _send(self, data: bytes) -> None:
        with _asking("ask the kernel"):
            self._socket.send(data)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Type, flags, sequence number and body of each message in one datagram."""
        with _asking("wait for the kernel's answer"):
            data = self._socket.recv(_RECEIVE_BYTES)
        offset = 0
        while offset < len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def index_of(name: str) -> int:
    """The number of the interface in this thread's namespace; 0: there is none. Raises KernelRefused: nobody knows.

    [`socket.if_nametoindex` says the same of an interface that does not exist and of a process that may open no file.]
    """
    encoded = name.encode()
    if not encoded or len(encoded) > _NAME_BYTES:
        return 0
    found = _interface(f"find link {name}", _SIOCGIFINDEX, encoded, 0)
    return 0 if found is None else found[1]


def name_of(index: int) -> str:
    """The name of the interface in this thread's namespace; empty: there is none. Raises KernelRefused as well."""
    found = _interface(f"find link number {index}", _SIOCGIFNAME, b"", index)
    return "" if found is None else found[0].rstrip(b"\0").decode(errors="surrogateescape")


def _interface(what: str, request: int, name: bytes, index: int) -> tuple[bytes, int] | None:
    """Name and number, of which one is given."""
    with _asking(what), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, request, _IFREQ.pack(name, index))
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
    return _IFREQ.unpack(answer)


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


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """What the kernel, or a process that has too many files, makes of it is a KernelRefused."""
    try:
        yield
    except TimeoutError as error:
        raise KernelRefused(what, errno.ETIMEDOUT) from error
    except OSError as error:
        raise KernelRefused(what, error.errno or errno.EIO) from error
