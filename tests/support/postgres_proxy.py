"""A socket between a client and PostgreSQL that can lose the answer to a statement, as a broken network does."""

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

_NAME = ".s.PGSQL.5432"


class Proxy:
    """Listens in `folder` for a server that listens in `server`. `with` it, and it is gone afterwards."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder, self._server = folder, str(server / _NAME)
        self._path = folder / _NAME
        self._losing = False
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._close()
        for thread in self._threads:
            thread.join()

    def lose_the_next_answer(self) -> None:
        """What is asked next reaches the server, which answers; nobody hears it, and nobody is let in any more."""
        self._losing = True

    def come_back(self) -> None:
        """Whoever comes is let in."""
        self._losing = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._start(self._accept, self._listener)

    def _start(self, run, *arguments) -> None:
        thread = threading.Thread(target=run, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._path.unlink()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = listener.accept()
                self._start(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._server)
            while not self._ended:
                ready, _, _ = select.select([client, server], [], [], 0.05)
                for one in ready:
                    data = one.recv(1 << 16)
                    if one is server and self._losing:
                        self._close()
                        return
                    if not data:
                        return
                    (server if one is client else client).sendall(data)
