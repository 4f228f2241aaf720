"""One writer for each log: an exclusive lock on a file beside it, released by the kernel when the process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cplane.eventlog.errors import LogLocked, StorageFailed

_PID_BYTES: Final = 32


@contextmanager
def held(path: str) -> Iterator[None]:
    """The lock beside the file is ours meanwhile and holds our pid. Raises LogLocked, StorageFailed.

    It is beside the file itself, whatever links lead there, and stays behind: removing it could take away the lock of
    whoever opened it in between.
    """
    name = f"{os.path.realpath(path)}.lock"
    try:
        handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageFailed(path, f"cannot open {name}: {error.strerror}") from error
    try:
        _take(handle, name, path)
        yield
    finally:
        os.close(handle)


def _take(handle: int, name: str, path: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(handle, _PID_BYTES, 0).decode(errors="replace").strip()
        raise LogLocked(path, pid) from error
    except OSError as error:
        raise StorageFailed(path, f"cannot lock {name}: {error.strerror}") from error
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise StorageFailed(path, f"cannot write {name}: {error.strerror}") from error
