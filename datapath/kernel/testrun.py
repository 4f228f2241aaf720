"""BPF_PROG_TEST_RUN: a packet in; a verdict, and the packet as the program left it, out."""

import ctypes
import struct
from typing import Final, NamedTuple

from datapath.kernel.syscall import Command, TestRunAttributes, bpf

_CONTEXT_BYTES: Final = 192  # sizeof(struct __sk_buff)
_MARK_AT: Final = 8
_INGRESS_IFINDEX_AT: Final = 36
_IFINDEX_AT: Final = 40
_LOOPBACK: Final = 1
_OUT_BYTES: Final = 1 << 16


class Outcome(NamedTuple):
    """`action` is the program's return code (0 pass, 2 drop, 7 redirect); `duration_ns` the mean over all repeats."""

    action: int
    packet: bytes
    duration_ns: int


def run(
    program_fd: int,
    packet: bytes,
    *,
    ifindex: int = _LOOPBACK,
    ingress_ifindex: int = 0,
    mark: int = 0,
    repeat: int = 1,
) -> Outcome:
    """What the program does with an Ethernet frame on the device `ifindex` of the calling thread's namespace.

    `ingress_ifindex` is the device by which the packet came into the node, 0 for one that was made here; `mark` what
    its socket marks it with. Nothing is sent: a redirection only shows as the action. Raises KernelRefused for a frame
    below 14 bytes.
    """
    context = bytearray(_CONTEXT_BYTES)
    struct.pack_into("<I", context, _MARK_AT, mark)
    struct.pack_into("<I", context, _INGRESS_IFINDEX_AT, ingress_ifindex)
    struct.pack_into("<I", context, _IFINDEX_AT, ifindex)
    return _run(program_fd, packet, bytes(context), repeat)


def run_xdp(program_fd: int, packet: bytes, *, ifindex: int = _LOOPBACK, repeat: int = 1) -> Outcome:
    """The same of an XDP program; its actions are 1 drop, 2 pass, 3 back by the device, 4 redirect.

    With `repeat` each run gets the packet as the one before has left it.
    """
    return _run(program_fd, packet, struct.pack("<6I", 0, len(packet), 0, ifindex, 0, 0), repeat)


def _run(program_fd: int, packet: bytes, context_in: bytes, repeat: int) -> Outcome:
    data = ctypes.create_string_buffer(packet, max(len(packet), 1))
    out = ctypes.create_string_buffer(_OUT_BYTES)
    context = ctypes.create_string_buffer(context_in, len(context_in))
    attributes = TestRunAttributes(
        program_fd, 0, len(packet), _OUT_BYTES, ctypes.addressof(data), ctypes.addressof(out), repeat
    )
    attributes.ctx_size_in, attributes.ctx_in = len(context_in), ctypes.addressof(context)
    bpf(Command.PROG_TEST_RUN, attributes, f"program descriptor {program_fd}")
    return Outcome(attributes.retval, out.raw[: attributes.data_size_out], attributes.duration)
