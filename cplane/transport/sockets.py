"""Listening sockets; names of unix sockets are ours to replace when nobody listens, never when somebody does."""

import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import SocketListener, SocketStream

from cplane.errors import Conflict, Unavailable
from cplane.transport.address import TcpAddress, UnixAddress

_BACKLOG: Final = 128
_PROBE_TIMEOUT_S: Final = 1.0
ACCEPT_AGAIN_S: Final = 1.0


class AddressInUse(Conflict):
    """Somebody listens there."""

    code = "transport.address_in_use"

    def __init__(self, address: str, reason: str) -> None:
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"cannot listen on {self.address}: {self.reason}"


class CannotListen(Unavailable):
    """The operating system refuses the address."""

    code = "transport.cannot_listen"

    def __init__(self, address: str, error: OSError) -> None:
        self.address, self.error = address, error

    def __str__(self) -> str:
        return f"cannot listen on {self.address}: {self.error.strerror or self.error}"


def listen_unix(address: UnixAddress) -> socket.socket:
    """A listening socket with the address's permissions; a dead process's socket of that name is replaced.

    Raises AddressInUse when a process listens there or the name is not a socket's, CannotListen for the rest.
    """
    try:
        _clear(address)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(address.path)
            os.chmod(address.path, address.mode)  # before listen(2): until then nobody can connect
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotListen(str(address), error) from error
    return listener


def listen_tcp(address: TcpAddress) -> socket.socket:
    """A listening socket; without a host it takes IPv4 and IPv6. Raises CannotListen."""
    try:
        if not address.host and socket.has_dualstack_ipv6():
            return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
        family, _, _, _, where = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        raise CannotListen(str(address), error) from error


class Door:
    """Where connections of one listener come in. That one cannot be taken, as with too many open files, ends nothing.

    `failed` is told why, the first time of several in a row; those who wait stay in the listener's queue meanwhile.
    """

    def __init__(self, listener: SocketListener, failed: Callable[[str], None]) -> None:
        self._listener, self._failed = listener, failed
        self._failing = False

    async def accept(self) -> SocketStream:
        """The next connection."""
        while True:
            try:
                stream = await self._listener.accept()
            except (anyio.BrokenResourceError, OSError) as error:
                if not self._failing:
                    self._failing = True
                    self._failed(str(error.__cause__ or error))
                await anyio.sleep(ACCEPT_AGAIN_S)
            else:
                self._failing = False
                return stream


def remove_unix(listener: socket.socket, address: UnixAddress, inode: int) -> None:
    """The socket is closed, and its name is gone unless somebody else has taken it (another inode)."""
    listener.close()
    if inode_of(address) == inode:
        with suppress(OSError):  # whoever listens there next replaces it
            Path(address.path).unlink(missing_ok=True)


def inode_of(address: UnixAddress) -> int:
    """Inode number behind the name; 0: there is none."""
    try:
        return os.stat(address.path, follow_symlinks=False).st_ino
    except OSError:
        return 0


def _clear(address: UnixAddress) -> None:
    try:
        mode = os.stat(address.path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressInUse(str(address), "there is a file of that name that is no socket; move it away")
    if _alive(address.path):
        raise AddressInUse(str(address), "another process listens there; stop it, or choose another run directory")
    Path(address.path).unlink(missing_ok=True)


def _alive(path: str) -> bool:
    """Whether somebody listens there. Raises OSError where nobody can ask."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # its queue is full, or we may not ask: somebody is there
        return True
