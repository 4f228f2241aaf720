"""TLS contexts from certificate files."""

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cplane.errors import Rejected


class BadCertificate(Rejected):
    """A certificate, a key or an authority cannot be used."""

    code = "transport.bad_certificate"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"certificate {self.path!r}: {self.reason}"


HTTP2: Final = "h2"
HTTP1: Final = "http/1.1"


def server_context(
    certificate: str, key: str, client_authority: str = "", *more: str, protocol: str = HTTP2
) -> ssl.SSLContext:
    """TLS 1.3 for a server; with authorities clients must show a certificate that one of them signed.

    All are paths of PEM files. `protocol` is what clients are told that it speaks. Raises BadCertificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([protocol])
    _load_own(context, certificate, key)
    for path in filter(None, (client_authority, *more)):
        _load_authority(context, path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Version(NamedTuple):
    """What tells one content of a file from another without reading it. Kubelet swaps links: another inode."""

    inode: int
    size: int
    changed_ns: int


class ReloadingContext(ssl.SSLContext):
    """A server's context that follows its files: each new connection meets what they hold then.

    Files that cannot be used (one of them is written and the others are not yet) leave what was there before in
    force; they are tried again at the next connection, and `failed` is told once for each such state. A connection
    keeps what it began with. [`load_cert_chain` again on the same context: an authority that was taken away would
    be trusted for ever.]
    """

    _files: tuple[str, ...]
    _protocol: str
    _seen: tuple[_Version | None, ...]
    _current: ssl.SSLContext
    _failed: Callable[[BadCertificate], None]
    _told: tuple[_Version | None, ...]

    @classmethod
    def of(
        cls,
        certificate: str,
        key: str,
        *client_authorities: str,
        protocol: str = HTTP2,
        failed: Callable[[BadCertificate], None],
    ) -> "ReloadingContext":
        """The arguments are those of `server_context`. Raises BadCertificate when the files cannot be used now."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made._files, made._protocol, made._failed = (certificate, key, *client_authorities), protocol, failed
        made._seen = made._told = _versions(made._files)
        made._current = server_context(*made._files, protocol=protocol)
        return made

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002  # the standard library's signature
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """What asyncio asks for at the start of every connection."""
        self._refresh()
        return self._current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _refresh(self) -> None:
        now = _versions(self._files)
        if now == self._seen:
            return
        try:
            self._current = server_context(*self._files, protocol=self._protocol)
        except BadCertificate as error:
            if now != self._told:
                self._told = now
                self._failed(error)
            return
        self._seen = self._told = now


def _versions(paths: Sequence[str]) -> tuple[_Version | None, ...]:
    return tuple(_version(path) for path in paths if path)


def _version(path: str) -> _Version | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return _Version(found.st_ino, found.st_size, found.st_mtime_ns)


def client_context(
    authority: str = "",
    certificate: str = "",
    key: str = "",
    *,
    authorities: Sequence[str] = (),
    insecure: bool = False,
) -> ssl.SSLContext:
    """TLS for a client. Raises BadCertificate.

    `authority` and `authorities` are all that is trusted; without any the system's ones are. `insecure`: every
    certificate is, of any name.
    """
    trusted = [authority, *authorities] if authority else [*authorities]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if trusted else ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    for path in trusted:
        _load_authority(context, path)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        _load_own(context, certificate, key)
    return context


def _load_own(context: ssl.SSLContext, certificate: str, key: str) -> None:
    for path in (certificate, key):
        _readable(path)
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise BadCertificate(certificate, f"it does not fit the key {key!r}: {error}") from error


def _load_authority(context: ssl.SSLContext, path: str) -> None:
    _readable(path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise BadCertificate(path, f"no certificate authority can be read from it: {error}") from error


def _readable(path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise BadCertificate(path, error.strerror or str(error)) from error
