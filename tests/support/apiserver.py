"""An API server of Kubernetes, as far as secrets: lists and watches with a field selector, over TLS, for a token.

It runs in threads, so it serves whatever event loop, and namespace of the network, its listener is in.
"""

import base64
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

TOKEN = "token-of-a-test"
_TICK_S = 0.02


@dataclass(frozen=True)
class _Change:
    version: int
    kind: str
    secret: dict[str, object]


@dataclass
class Rules:
    """How it behaves. `answer`: bytes that every request is answered with."""

    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    answer: bytes | None = None


class ApiServer:
    """Watches hear of what `put` and `remove` change; `requests` are the targets that it was asked for."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext) -> None:
        self.rules = Rules()
        self.requests: list[str] = []
        self._listener, self._tls = listener, tls
        self._held: dict[tuple[str, str], dict[str, object]] = {}
        self._changes: list[_Change] = []
        self._version, self._forgotten = 100, 0
        self._lock = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._start(self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def put(self, namespace: str, name: str, items: Mapping[str, bytes]) -> None:
        with self._lock:
            self._version += 1
            known = (namespace, name) in self._held
            data = {key: base64.b64encode(value).decode() for key, value in items.items()}
            meta = {"namespace": namespace, "name": name, "resourceVersion": str(self._version)}
            self._held[namespace, name] = {"kind": "Secret", "apiVersion": "v1", "metadata": meta, "data": data}
            self._tell("MODIFIED" if known else "ADDED", self._held[namespace, name])

    def remove(self, namespace: str, name: str) -> None:
        with self._lock:
            self._version += 1
            self._tell("DELETED", self._held.pop((namespace, name)))

    def tell(self, kind: str, thing: dict[str, object]) -> None:
        """Every watch hears it, whatever it is about."""
        with self._lock:
            self._version += 1
            self._tell(kind, thing)

    def forget(self) -> None:
        """Changes so far can be watched no more, and watches that go on from them fail."""
        with self._lock:
            self._forgotten = self._version
            self._changes.clear()

    def cut(self) -> None:
        """Every connection is lost."""
        with self._lock:
            for one in self._connections:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def watches(self) -> int:
        """How often it was asked for a watch."""
        return sum("watch=true" in one for one in self.requests)

    def close(self) -> None:
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for one in self._threads:
            one.join()

    def _tell(self, kind: str, secret: dict[str, object]) -> None:
        self._changes.append(_Change(self._version, kind, secret))
        self._lock.notify_all()

    def _start(self, target, *arguments) -> None:
        made = threading.Thread(target=target, args=arguments)
        self._threads.append(made)
        made.start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(plain)
            self._start(self._serve, plain)

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError, ValueError), plain:
            plain.settimeout(10)
            try:
                with self._tls.wrap_socket(plain.dup(), server_side=True) as made:
                    self._answer(made)
            finally:
                with self._lock:
                    self._connections.discard(plain)

    def _answer(self, made: ssl.SSLSocket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = made.recv(65536)
            if not piece:
                return
            head += piece
        first, *lines = head.decode().split("\r\n")
        headers = {key.lower(): value for key, _, value in (one.partition(": ") for one in lines)}
        target = first.split()[1]
        self.requests.append(target)
        if self.rules.answer is not None:
            made.sendall(self.rules.answer)
            return
        namespace, name, query = _asked(target)
        if headers.get("authorization", "").removeprefix("Bearer ") not in self.rules.tokens:
            made.sendall(response(401, b"{}"))
        elif (namespace, name) in self.rules.forbidden:
            made.sendall(response(403, b"{}"))
        elif not name:
            made.sendall(response(404, b"{}"))
        elif "watch" in query:
            self._watch(made, namespace, name, int(query["resourceVersion"]))
        else:
            with self._lock:
                found = [self._held[namespace, name]] if (namespace, name) in self._held else []
                meta = {"resourceVersion": str(self._version)}
            made.sendall(response(200, json.dumps({"kind": "SecretList", "metadata": meta, "items": found}).encode()))

    def _watch(self, made: ssl.SSLSocket, namespace: str, name: str, since: int) -> None:
        made.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            with self._lock:
                while not self._closing and self._version <= since and self._forgotten <= since:
                    self._lock.wait(_TICK_S * 10)
                    if made.fileno() < 0:
                        return
                if self._closing:
                    return
                told = [one for one in self._changes if one.version > since and self._about(one, namespace, name)]
                gone, since = self._forgotten > since, self._version
            if gone:
                status = {"kind": "Status", "code": 410, "reason": "Expired"}
                made.sendall(_chunk(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n") + b"0\r\n\r\n")
                return
            for one in told:
                made.sendall(_chunk(json.dumps({"type": one.kind, "object": one.secret}).encode() + b"\n"))

    @staticmethod
    def _about(one: _Change, namespace: str, name: str) -> bool:
        meta = one.secret.get("metadata")
        if one.kind not in {"ADDED", "MODIFIED", "DELETED"} or not isinstance(meta, dict):
            return True
        return (meta["namespace"], meta["name"]) == (namespace, name)


def response(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)


def kubeconfig(folder: Path, port: int, *, token: str = TOKEN, ca: str = "ca.crt") -> Path:
    """A file whose current context is that port of this machine; the authority is a file beside it."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "here", "user": "agent"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": ca}}],
        "users": [{"name": "agent", "user": {"token": token}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


@contextmanager
def api_server(certificate: Path, key: Path, listener: socket.socket | None = None) -> Iterator[ApiServer]:
    """One that is gone afterwards."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    made = ApiServer(listener or socket.create_server(("127.0.0.1", 0)), tls)
    try:
        yield made
    finally:
        made.close()


def _asked(target: str) -> tuple[str, str, dict[str, str]]:
    parts = urlsplit(target)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    match parts.path.split("/"):
        case ["", "api", "v1", "namespaces", namespace, "secrets"]:
            return namespace, query.get("fieldSelector", "").removeprefix("metadata.name="), query
        case _:
            return "", "", query


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
