"""Which certificates a listener shows and asks for, as Cilium's flags say it: a switch and three kinds of files."""

from collections.abc import Iterator
from typing import Final, NamedTuple

HELP: Final = {
    "enable_tls": "serve {what} over TLS",
    "tls_cert_file": "PEM file with the certificate of {what}, read again when it changes",
    "tls_key_file": "PEM file with its key, likewise",
    "tls_client_ca_files": "PEM files with authorities one of which must have signed a client's certificate; none: any "
    "client may read",
}


class TlsFiles(NamedTuple):
    """The files of a listener that has TLS."""

    certificate: str
    key: str
    client_authorities: tuple[str, ...] = ()


def tls_help(key: str, what: str) -> dict[str, str]:
    """The metadata of a field."""
    return {"help": HELP[key].format(what=what)}


def tls_faults(prefix: str, listens: str, address: str, *, on: bool, files: TlsFiles) -> Iterator[tuple[str, str]]:
    """Keys and what is wrong with them; they begin with `prefix`. `listens` is the key of `address`."""
    if not on:
        if any(files):
            yield f"{prefix}_enable_tls", "certificates are given, but it is off: it would be plaintext"
        return
    if not address:
        yield f"{prefix}_enable_tls", f"nothing is served: give {listens} too"
    for key, given in (("tls_cert_file", files.certificate), ("tls_key_file", files.key)):
        if not given:
            yield f"{prefix}_{key}", "it is missing, and TLS is on"
