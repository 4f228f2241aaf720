"""HTTP between pods: a server that says what it was asked, curl, and open connections."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.netns import Namespace
from tests.support.pods import Pod
from tests.support.site import Site

_ORIGIN: Final = Path(__file__).with_name("http_origin.py")


def started(netns: Namespace, port: int) -> subprocess.Popen[str]:
    """The server `http_origin.py`, which serves in the namespace; whoever calls ends it."""
    command = ["nsenter", f"--net={netns.path}", "--", sys.executable, str(_ORIGIN), str(port)]
    made = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n", "it does not serve"
    return made


@contextmanager
def origin(netns: Namespace, port: int) -> Iterator[None]:
    """The same, as long as this lasts."""
    with started(netns, port) as made:
        try:
            yield
        finally:
            made.kill()


class Web:
    """The pod `client` of a site with curl, and the pod `server`, made here, which says what it was asked."""

    def __init__(self, made: Site) -> None:
        made.pods.add("server", serve=False)
        self.site, self.client, self.server = made, made["client"], made["server"]
        self.server.server = started(self.server.netns, 80)

    def status(self, path: str, *arguments: str, **where: Any) -> str:  # Any: as `curl` takes them
        """The status code of an answer; 000: there is none."""
        return self.curl(path, "-o", "/dev/null", "-w", "%{http_code}", *arguments, **where)

    def curl(
        self,
        path: str,
        *arguments: str,
        family: int = 4,
        client: Pod | None = None,
        server: Pod | None = None,
        port: int = 80,
    ) -> str:
        """What curl prints, in the client's place."""
        address = (server or self.server).address(family)
        host = f"[{address}]" if family == 6 else address
        command = ["curl", "-s", "-g", "--path-as-is", "-m", "5", *arguments, f"http://{host}:{port}{path}"]
        enter = ["nsenter", f"--net={(client or self.client).netns.path}", "--"]
        return subprocess.run([*enter, *command], capture_output=True, check=False).stdout.decode()

    def talk(self, family: int) -> "Talk":
        """An open connection of the client to the server."""
        return Talk(self.client.netns.run(lambda: socket.create_connection((self.server.address(family), 80), 5)))


class Talk:
    """Requests over one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __call__(self, path: str) -> str:
        """The status of the answer. Raises OSError."""
        self._connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return self._connection.recv(65536).decode("latin-1").split(" ")[1]

    def close(self) -> None:
        """It is over."""
        self._connection.close()
