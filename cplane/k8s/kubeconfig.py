"""Kubeconfig files: where the API server of the current context is, and what is shown to it.

Source: Kubernetes `client-go/tools/clientcmd/api/v1`. Certificates and tokens stand in the file or in others beside
it. Programs and plugins that make credentials are not run, and passwords, which servers take no more, are refused.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from cplane.config.problems import BadText
from cplane.config.text import read
from cplane.errors import Rejected

_HTTPS_PORT: Final = 443
_REFUSED: Final = ("exec", "auth-provider", "username", "password", "as", "as-uid", "as-groups", "as-user-extra")


class BadKubeconfig(Rejected):
    """A kubeconfig cannot be used; the text never has a part of a credential."""

    code = "k8s.bad_kubeconfig"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Content:
    """What is in the file itself, or the path of the file that has it, relative to the kubeconfig; or neither."""

    data: bytes = field(default=b"", repr=False)
    path: str = ""

    def __bool__(self) -> bool:
        return bool(self.data or self.path)


@dataclass(frozen=True, slots=True)
class Access:
    """A server and what it wants to see. Without a `ca` the system's authorities are trusted."""

    host: str
    port: int
    path: str = ""
    name: str = ""
    insecure: bool = False
    ca: Content = Content()
    certificate: Content = Content()
    key: Content = Content()
    token: Content = Content()


def read_kubeconfig(data: bytes) -> Access:
    """What the current context says. Raises BadKubeconfig."""
    try:
        documents = read(data)
    except BadText as error:
        raise BadKubeconfig(f"it cannot be read: {error}") from None
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise BadKubeconfig("it is not one mapping")
    config: Mapping[str, object] = documents[0].value
    current = _text(config, "current-context")
    if not current:
        raise BadKubeconfig("current-context is missing")
    context = _named(config, "contexts", "context", current)
    cluster = _named(config, "clusters", "cluster", _text(context, "cluster"))
    user = _named(config, "users", "user", _text(context, "user")) if _text(context, "user") else {}
    for name in (one for one in _REFUSED if user.get(one)):
        raise BadKubeconfig(f"users: {name} is not supported: give a token, a tokenFile or a client certificate")
    if cluster.get("proxy-url"):
        raise BadKubeconfig("clusters: proxy-url is not supported")
    return _access(cluster, user)


def _access(cluster: Mapping[str, object], user: Mapping[str, object]) -> Access:
    host, port, path = _server(_text(cluster, "server"))
    certificate, key = _content(user, "client-certificate"), _content(user, "client-key")
    if bool(certificate) != bool(key):
        raise BadKubeconfig("users: client-certificate and client-key belong together")
    file = _text(user, "tokenFile")  # which counts where both are there, as with kubectl
    return Access(
        host,
        port,
        path,
        _text(cluster, "tls-server-name"),
        cluster.get("insecure-skip-tls-verify") is True,
        _content(cluster, "certificate-authority"),
        certificate,
        key,
        Content(path=file) if file else Content(_text(user, "token").encode()),
    )


def _server(url: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadKubeconfig(f"clusters: server {url!r} is no URL") from None
    if parts.scheme != "https" or not host or parts.username is not None or parts.query or parts.fragment:
        raise BadKubeconfig(f"clusters: server {url!r} is not https://HOST[:PORT][/PATH]")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadKubeconfig(f"clusters: server {url!r} has characters that a URL has not")
    return host, port or _HTTPS_PORT, parts.path.rstrip("/")


def _named(config: Mapping[str, object], several: str, single: str, name: str) -> Mapping[str, object]:
    entries = config.get(several)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(found := entry.get(single), dict):
            return found
    raise BadKubeconfig(f"{several}: there is none of the name {name!r}")


def _content(held: Mapping[str, object], name: str) -> Content:
    encoded = _text(held, f"{name}-data")  # which counts where both are there, as with kubectl
    if not encoded:
        return Content(path=_text(held, name))
    try:
        return Content(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise BadKubeconfig(f"{name}-data is not base64") from None


def _text(held: Mapping[str, object], name: str) -> str:
    value = held.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadKubeconfig(f"{name} is not a text")
    return value
