"""Network namespaces for tests: made with a prefix of their own, removed whatever happens."""

import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PREFIX = "cpt"
PATIENCE_S = 5.0
"""In which an answer comes that must come, also where a neighbour has to be asked twice."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count()


class Namespace:
    """A network namespace under /run/netns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, run in a thread that is in the namespace and ends afterwards.

        Threads that the work starts are in the namespace too, so a whole event loop can be run like this.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                with open(self.path, "rb") as file:
                    if _libc.setns(file.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"setns {self.path}")
                results.append(work())
            except BaseException as error:  # noqa: BLE001  # raised again below
                errors.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def interfaces(self) -> set[str]:
        """Names of the interfaces there, lo left out."""
        return self.run(lambda: {name for _, name in socket.if_nameindex()}) - {"lo"}

    def ip(self, *arguments: str) -> str:
        """What iproute2 says, run there."""
        command = ["ip", "-n", self.name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def namespaces(number: int) -> Iterator[list[Namespace]]:
    """So many empty namespaces, lo down; gone afterwards, and with them every link in them."""
    with ExitStack() as stack:
        yield [stack.enter_context(namespace()) for _ in range(number)]


@contextmanager
def namespace(name: str = "") -> Iterator[Namespace]:
    """One empty namespace."""
    name = name or f"{PREFIX}{os.getpid():x}-{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Namespace(name)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def without_dad() -> None:
    """No address is tried out before it is used, which would take a second; to be called inside a namespace."""
    for devices in ("default", "all"):
        Path(f"/proc/sys/net/ipv6/conf/{devices}/accept_dad").write_text("0")


def ping(address: str, timeout_s: float = 1.0) -> bool:
    """Whether an ICMP echo to the address is answered; to be called inside a namespace, which it lets ping."""
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    six = ":" in address
    family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
    request, reply = (128, 129) if six else (8, 0)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
        try:
            sock.sendto(struct.pack("!BBHHH", request, 0, 0, 0, 1) + b"cplane", (address, 0))
        except OSError:
            return False
        if not select.select([sock], [], [], timeout_s)[0]:
            return False
        try:
            return sock.recv(256)[0] == reply
        except OSError:
            return False  # unreachable
