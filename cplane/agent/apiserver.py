"""Where the API server of Kubernetes is, and what is shown to it: read again for each connection, as files rotate."""

import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cplane.errors import CplaneError, Unavailable
from cplane.k8s.kubeconfig import Access, Content, read_kubeconfig
from cplane.transport.http_client import HttpServer
from cplane.transport.tls import HTTP1

IN_CLUSTER: Final = "in-cluster"
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PORT_MAX: Final = 65_535
_FILE_MAX: Final = 1 << 20  # bytes
_TOKEN: Final = re.compile(r"[!-~]+")  # RFC 6750 has fewer characters; these cannot end a header


class NoApiServer(Unavailable):
    """It is not said, or cannot be read, where the API server is; the text has nothing of a credential."""

    code = "agent.no_api_server"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ApiServer(NamedTuple):
    """An API server and the headers of requests to it."""

    server: HttpServer
    headers: Mapping[str, str]


Locate = Callable[[], ApiServer]
"""Reads files, so it is for a thread. Raises NoApiServer."""


def locate(setting: str) -> Locate:
    """The API server that `in-cluster`, or the path of a kubeconfig, says."""
    return in_cluster if setting == IN_CLUSTER else lambda: of_kubeconfig(Path(setting))


def in_cluster(environment: Mapping[str, str] = os.environ, account: Path = SERVICE_ACCOUNT) -> ApiServer:
    """As the kubelet tells a pod. Raises NoApiServer."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) <= _PORT_MAX:
        raise NoApiServer("this is no pod of Kubernetes: KUBERNETES_SERVICE_HOST and _PORT are not there")
    files = (Content(path=str(account / name)) for name in ("ca.crt", "token"))
    authority, token = files
    return _server(Access(host, int(port), ca=authority, token=token), account)


def of_kubeconfig(path: Path) -> ApiServer:
    """As the current context of the file says. Raises NoApiServer."""
    try:
        return _server(read_kubeconfig(_read(path)), path.parent)
    except CplaneError as error:
        raise NoApiServer(f"kubeconfig {path}: {error}") from error


def _server(access: Access, folder: Path) -> ApiServer:
    context = ssl.create_default_context() if not access.ca else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([HTTP1])
    try:
        if access.ca:
            context.load_verify_locations(cadata=_content(access.ca, folder).decode("ascii", "replace"))
        if access.certificate:
            pair = (_content(access.certificate, folder), _content(access.key, folder))
            with _in_memory(pair[0]) as certificate, _in_memory(pair[1]) as key:
                context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # TLS's own are of the former, and a file in memory may be one too many
        raise NoApiServer(f"the certificates for {access.host} cannot be used: {error}") from error
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    headers = {"accept": "application/json"}
    if access.token:
        token = _content(access.token, folder).decode("ascii", "replace").strip()
        if not _TOKEN.fullmatch(token):
            raise NoApiServer(f"the token for {access.host} is none")
        headers["authorization"] = f"Bearer {token}"
    return ApiServer(HttpServer(access.host, access.port, context, access.name, access.path), headers)


def _no_password() -> str:
    raise ValueError("the key has a password")


def _content(content: Content, folder: Path) -> bytes:
    return content.data or _read(folder / content.path)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise NoApiServer(f"{path}: {error.strerror or error}") from error
    if len(data) > _FILE_MAX:
        raise NoApiServer(f"{path}: more than {_FILE_MAX} bytes")
    return data


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path that has the data and is on no disk: OpenSSL takes a client's key from files only."""
    descriptor = os.memfd_create("cplane-tls")
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
