"""Network namespaces: what a path leads to, and work that is done inside one."""

import ctypes
import errno
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from datapath.netlink.errors import KernelRefused, NoNamespace

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h: _IO(0xb7, 3)
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h
_OWN: Final = "/proc/thread-self/ns/net"
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EIO})

_libc = ctypes.CDLL(None, use_errno=True)  # os.setns exists from Python 3.12 on


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the network namespace at `path`.

    Raises NoNamespace when there is none, and KernelRefused where that is not known, as with too many open files:
    whoever takes an endpoint for gone must be sure.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for who writes
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise KernelRefused(f"open network namespace {path!r}", error.errno or 0) from error
        raise NoNamespace(path, error.strerror or str(error)) from error
    try:
        if not _is_namespace(descriptor):
            raise NoNamespace(path, "it is not a network namespace")
        yield descriptor
    finally:
        os.close(descriptor)


def is_own(descriptor: int) -> bool:
    """Whether it is the namespace that this thread is in. Raises KernelRefused."""
    try:
        own, other = os.stat(_OWN), os.fstat(descriptor)
    except OSError as error:
        raise KernelRefused("look at our own network namespace", error.errno or errno.EIO) from error
    return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)


def own_cookie() -> int:
    """The kernel's number of the namespace that this thread is in; no other gets it while the machine runs.

    Raises KernelRefused.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
            return int.from_bytes(inside.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
    except OSError as error:
        raise KernelRefused("ask for the number of a network namespace", error.errno or errno.EIO) from error


def run_in(descriptor: int, work: Callable[[], T]) -> T:
    """What `work` returns, run inside the namespace; what it raises is raised here.

    It runs in a thread of its own, which ends afterwards: there is nothing to restore and no pool that
    could get a thread back which is still somewhere else. A thread costs 60 µs.
    """
    inside = begin_in(descriptor, work)
    inside.join()
    return inside.result()


def begin_in(descriptor: int, work: Callable[[], T]) -> "Inside[T]":
    """The same, but it is only begun; whoever does so waits for its end before the descriptor is closed."""
    begun = Inside(descriptor, work)
    begun.start()
    return begun


class Inside(threading.Thread, Generic[T]):
    """Work inside a namespace; it has a `result` when it has ended."""

    def __init__(self, descriptor: int, work: Callable[[], T]) -> None:
        super().__init__(name="netns", daemon=True)
        self._descriptor, self._work = descriptor, work
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """In the thread."""
        try:
            if _libc.setns(self._descriptor, _CLONE_NEWNET) != 0:
                raise KernelRefused("enter the container's network namespace", ctypes.get_errno())
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001  # it is raised again in the thread that waits
            self._error = error

    def result(self) -> T:
        """What the work returned; what it raised is raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]


def _is_namespace(descriptor: int) -> bool:
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False
