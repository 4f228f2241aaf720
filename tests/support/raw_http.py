"""HTTP/1.1 by hand: a connection on which any bytes can be sent, and answers read one after another."""

import socket
from typing import NamedTuple

from tests.support.netns import Namespace


class Answer(NamedTuple):
    """`headers` by lower-case name; of several the last."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection from a namespace; `answer` is None when the other side has closed it."""

    def __init__(self, where: Namespace, host: str, port: int = 80, timeout_s: float = 10.0) -> None:
        self.socket = where.run(lambda: socket.create_connection((host, port), timeout=timeout_s))
        self._held = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, method: str, path: str, headers: tuple[tuple[str, str], ...] = (("Host", "a"),)) -> Answer | None:
        """The answer to a request without a body."""
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.send("\r\n".join(lines).encode())
        return self.answer(head=method == "HEAD")

    def answer(self, *, head: bool = False) -> Answer | None:
        while b"\r\n\r\n" not in self._held:
            if not self._more():
                return None
        top, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        status = int(first.split(" ")[1])
        if status == 100:
            return self.answer(head=head)
        size = 0 if head else int(headers.get("content-length", "0"))
        while len(self._held) < size:
            if not self._more():
                return None
        body, self._held = self._held[:size], self._held[size:]
        return Answer(status, headers, body)

    def closed(self) -> bool:
        """Whether the other side closes it, and says nothing more."""
        try:
            return not self._held and self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self._held += data
        return bool(data)

    def close(self) -> None:
        self.socket.close()
