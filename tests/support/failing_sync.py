"""A process whose log cannot be synced any more, and which is killed then.

    python -m tests.support.failing_sync PATH COUNT

It appends COUNT events and says `acknowledged <head>`; from then on the kernel answers the writer's fsync and fdatasync
with EIO. It appends once more, says `refused <error>`, and ends by SIGKILL.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys

import anyio

from cplane.eventlog.errors import StorageFailed
from cplane.eventlog.store import SqliteLog
from tests.support.clock import TickingClock
from tests.support.log import fill

_SYNCS = {"x86_64": (74, 75), "aarch64": (82, 83)}[platform.machine()]
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def fail_syncs() -> None:
    """Every fsync and fdatasync of this thread fails from now on, for as long as it lives."""
    first, second = _SYNCS
    instructions = [
        (_LOAD, 0, 0, 0),
        (_EQUAL, 1, 0, first),
        (_EQUAL, 0, 1, second),
        (_RETURN, 0, 0, _ERRNO | errno.EIO),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = _Program(len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, ctypes.byref(program))):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


async def main(path: str, count: int) -> None:
    """The whole of it."""
    async with SqliteLog.open(path, TickingClock()) as log:
        await fill(log, count, batch=1)
        print("acknowledged", log.head, flush=True)
        failing = False

        def before_each_statement(_text: str) -> None:
            nonlocal failing
            if not failing:
                failing = True
                fail_syncs()

        log._writer._connection.set_trace_callback(before_each_statement)
        try:
            await fill(log, 1)
        except StorageFailed as error:
            print("refused", error, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
