"""Where a server listens and how a client writes that down."""

import ssl
from dataclasses import dataclass

from cplane.errors import Rejected

UNIX_PATH_MAX = 107  # bytes of sockaddr_un.sun_path without its final zero


class BadAddress(Rejected):
    """An address cannot be read or used."""

    code = "transport.bad_address"

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason

    def __str__(self) -> str:
        return f"address {self.text!r}: {self.reason}"


@dataclass(frozen=True)
class UnixAddress:
    """A unix socket; `mode` is its permissions: by default owner and group may ask."""

    path: str
    mode: int = 0o660

    def __post_init__(self) -> None:
        if not self.path or len(self.path.encode()) > UNIX_PATH_MAX:
            raise BadAddress(self.path, f"a unix socket's path has 1 to {UNIX_PATH_MAX} bytes: choose a shorter one")

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True)
class TcpAddress:
    """A TCP port, with TLS where a context is given. Port 0 is a free one, an empty host every address."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return host_port(self.host, self.port)


def host_port(host: str, port: int) -> str:
    """`host:port`, or `[v6]:port`; what `split_host_port` takes apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str, tls: ssl.SSLContext | None = None) -> UnixAddress | TcpAddress:
    """The address that `unix:///path`, `/path`, `host:port`, `[v6]:port` or `tls://host:port` names.

    `tls` applies to TCP; `tls://` without it means the system's certificate authorities. Raises BadAddress.
    """
    for prefix in ("unix://", "unix:"):
        if text.startswith(prefix):
            return UnixAddress(text.removeprefix(prefix))
    if text.startswith("/"):
        return UnixAddress(text)
    rest = text.removeprefix("tcp://")
    if rest.startswith("tls://"):
        rest = rest.removeprefix("tls://")
        if tls is None:
            tls = ssl.create_default_context()
            tls.set_alpn_protocols(["h2"])
    host, port = split_host_port(rest)
    if not host:
        raise BadAddress(text, "the host is missing; write unix:///path, host:port or tls://host:port")
    return TcpAddress(host, port, tls)


def split_host_port(text: str) -> tuple[str, int]:
    """Host (without brackets, empty for `:4244`) and port. Raises BadAddress."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise BadAddress(text, "write host:port, and an IPv6 host in brackets")
    if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise BadAddress(text, f"{port!r} is not a port (0..65535)")
    return (host[1:-1] if bracketed else host), int(port)
