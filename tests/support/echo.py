"""Servers in namespaces that say who they are and whom they see, over TCP and UDP."""

import select
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from tests.support.netns import Namespace

_BACKLOG: Final = 1024


class Echo:
    """Answers each message with `name address port length`: its own name, and whom it hears. Has its own thread."""

    def __init__(self, name: str, netns: Namespace, addresses: Sequence[str], port: int) -> None:
        self.name = name
        self._ends, self._stop = socket.socketpair()
        self._listening: list[socket.socket] = []
        self._heard: list[socket.socket] = []
        self._talking: dict[int, socket.socket] = {}
        try:
            netns.run(lambda: [self._open(address, port) for address in addresses])
        except BaseException:
            self._close_all()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"echo-{name}")
        self._thread.start()

    def _open(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listening.append(socket.create_server((address, port), family=family, backlog=_BACKLOG))
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.bind((address, port))
        self._heard.append(datagrams)

    def _serve(self) -> None:
        poll = select.poll()
        known = {one.fileno(): one for one in (self._ends, *self._listening, *self._heard)}
        for number in known:
            poll.register(number, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                one = known.get(number)
                if one is self._ends:
                    return
                if one is None:
                    self._talk(poll, number)
                elif one in self._heard:
                    data, peer = one.recvfrom(65_536)
                    one.sendto(self._said(peer, data), peer)
                else:
                    made, _ = one.accept()
                    self._talking[made.fileno()] = made
                    poll.register(made, select.POLLIN)

    def _talk(self, poll: select.poll, number: int) -> None:
        one = self._talking[number]
        data = b""
        with suppress(OSError):
            data = one.recv(65_536)
        if data:
            with suppress(OSError):
                one.sendall(self._said(one.getpeername(), data))
            return
        poll.unregister(number)
        self._talking.pop(number).close()

    def _said(self, peer: tuple[str, int], data: bytes) -> bytes:
        return f"{self.name} {peer[0]} {peer[1]} {len(data)}\n".encode()

    def close(self) -> None:
        """The thread has ended, its sockets are closed."""
        self._stop.send(b"x")
        self._thread.join()
        self._close_all()

    def _close_all(self) -> None:
        for one in (self._ends, self._stop, *self._listening, *self._heard, *self._talking.values()):
            one.close()


@contextmanager
def echo(name: str, netns: Namespace, addresses: Sequence[str], port: int) -> Iterator[Echo]:
    """A server, ended afterwards."""
    made = Echo(name, netns, addresses, port)
    try:
        yield made
    finally:
        made.close()


class Said(tuple[str, str, int]):
    """(name of the server, address that it saw, port that it saw)."""

    __slots__ = ()

    @classmethod
    def of(cls, data: bytes) -> "Said":
        """What a server has answered; it answers each piece that it hears."""
        name, address, port, _ = data.decode().splitlines()[0].split()
        return cls((name, address, int(port)))


def asked(netns: Namespace, address: str, port: int, kind: int, *, timeout_s: float = 3.0, size: int = 5) -> Said:
    """Whom a client in the namespace has reached by one message. Raises OSError."""

    def ask() -> Said:
        with opened(address, port, kind, timeout_s) as one:
            return said(one, size)

    return netns.run(ask)


def opened(address: str, port: int, kind: int, timeout_s: float = 3.0) -> socket.socket:
    """A socket of the calling thread's namespace that is connected. Raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.settimeout(timeout_s)
    try:
        made.connect((address, port))
    except BaseException:
        made.close()
        raise
    return made


def said(one: socket.socket, size: int = 5) -> Said:
    """Who answers a message on the socket. Raises OSError."""
    one.sendall(b"x" * size)
    data = one.recv(65_536)
    if not data:
        raise ConnectionResetError("nobody answers any more")
    return Said.of(data)
