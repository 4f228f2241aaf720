"""Instructions → a verified program: descriptors take the place of map numbers."""

import struct
from collections.abc import Mapping
from typing import Final

from datapath.kernel import syscall
from datapath.kernel.programs import PROGRAMS, Program
from datapath.kernel.syscall import AttachPoint, ProgramKind

MAP_SENTINEL: Final = 0x43500000  # of bpf/lib/maps.h; above any descriptor that a process can have
_SLOTS: Final = 256
_LD_IMM64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1
_INSTRUCTION: Final = 8


class UnknownMap(AssertionError):
    """A program names a map that the catalogue has not: a bug in one of them."""


def patched(instructions: bytes, fds: Mapping[int, int]) -> bytes:
    """The instructions with each map slot of `fds` (slot → descriptor) replaced by its descriptor.

    An instruction that loads a map is `ld_imm64 reg, 1, sentinel + slot`; nothing else is touched.
    """
    code = bytearray(instructions)
    at = 0
    while at < len(code):
        opcode, registers, _, value = struct.unpack_from("<BBhi", code, at)
        if opcode != _LD_IMM64:
            at += _INSTRUCTION
            continue
        if registers >> 4 == _PSEUDO_MAP_FD:
            slot = value - MAP_SENTINEL
            if slot not in fds:
                raise UnknownMap(f"instruction {at // _INSTRUCTION} loads map slot {slot}; there are {sorted(fds)}")
            struct.pack_into("<i", code, at + 4, fds[slot])
        at += 2 * _INSTRUCTION
    return bytes(code)


def load(name: str, instructions: bytes, fds: Mapping[int, int]) -> int:
    """A descriptor of the program over these maps; one that the catalogue has not is one of a device.

    Raises ProgramRefused with the verifier's log.
    """
    known: Program | None = PROGRAMS.get(name)
    kind, point = (known.kind, known.point) if known else (ProgramKind.SCHED_CLS, AttachPoint.TCX_INGRESS)
    return syscall.prog_load(kind, point, patched(instructions, fds), name)
