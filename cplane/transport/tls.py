"""TLS contexts from certificate files."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from cplane.errors import Rejected


class BadCertificate(Rejected):
    """A certificate, a key or an authority cannot be used."""

    code = "transport.bad_certificate"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"certificate {self.path!r}: {self.reason}"


def server_context(certificate: str, key: str, client_authority: str = "") -> ssl.SSLContext:
    """TLS 1.3 for a server; with `client_authority` clients must show a certificate that it signed.

    All are paths of PEM files. Raises BadCertificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    _load_own(context, certificate, key)
    if client_authority:
        _load_authority(context, client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


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
