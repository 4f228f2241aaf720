"""What the driver of a device does for XDP programs, by the generic netlink family `netdev` (linux/netdev.h)."""

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

from datapath.netlink.errors import KernelRefused

_GENERIC: Final = 16  # a netlink protocol, and in it the number of who knows all families
_FAMILIES: Final = 16
_GET_FAMILY: Final = 3
_FAMILY_ID: Final = 1
_FAMILY_NAME: Final = 2
_GET_DEVICE: Final = 1
_IFINDEX: Final = 1
_XDP_FEATURES: Final = 3
_TAKES_FRAMES: Final = 1 << 2  # NETDEV_XDP_ACT_NDO_XMIT
_REQUEST: Final = 0x1
_ERROR: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
_COMMAND: Final = struct.Struct("=BBxx")  # command, version
_ATTRIBUTE: Final = struct.Struct("=HH")  # length with this header, type
_ERRNO: Final = struct.Struct("=i")
_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_RECEIVE_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 10.0
_WHAT: Final = "say what a device does for XDP programs"


def takes_frames(ifindex: int) -> bool:
    """Whether the device, of the calling thread's namespace, sends what XDP programs redirect to it.

    Some drivers never do, others only while they run a program themselves. One end of a veth pair does while the other
    runs one or has GRO on; else what programs send by it is lost, also what came by it. Raises KernelRefused.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _GENERIC) as kernel:
            kernel.settimeout(_TIMEOUT_S)
            kernel.bind((0, 0))
            family = _ask(kernel, _FAMILIES, _GET_FAMILY, (_FAMILY_NAME, b"netdev\0"), _FAMILY_ID)
            asked = (_IFINDEX, struct.pack("=I", ifindex))
            features = _ask(kernel, int.from_bytes(family, sys.byteorder), _GET_DEVICE, asked, _XDP_FEATURES)
    except OSError as error:  # a time that is over has no number
        raise KernelRefused(_WHAT, error.errno or errno.ETIMEDOUT) from error
    return bool(int.from_bytes(features, sys.byteorder) & _TAKES_FRAMES)


def _ask(kernel: socket.socket, family: int, command: int, asked: tuple[int, bytes], wanted: int) -> bytes:
    """The attribute of the answer."""
    kind, value = asked
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
    body = _COMMAND.pack(command, 1) + attribute.ljust((len(attribute) + 3) & ~3, b"\0")
    kernel.send(_HEADER.pack(_HEADER.size + len(body), family, _REQUEST, 1, 0) + body)
    data = kernel.recv(_RECEIVE_BYTES)
    length, answered, *_ = _HEADER.unpack_from(data)
    if answered == _ERROR:
        raise KernelRefused(_WHAT, -_ERRNO.unpack_from(data, _HEADER.size)[0])
    found = dict(_attributes(data[_HEADER.size + _COMMAND.size : length]))
    if wanted not in found:
        raise KernelRefused(_WHAT, errno.ENODATA)
    return found[wanted]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
