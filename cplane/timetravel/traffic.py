"""What users write to ask about traffic: its two ends, its port, and what is asked over the connection."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, NamedTuple

from cplane.domain import fqdn
from cplane.domain.policy.document import did_you_mean
from cplane.domain.policy.explanation import Traffic
from cplane.domain.policy.http import HttpRequest
from cplane.domain.policy.redirect import Request
from cplane.domain.ports import PORT_MAX, PORT_PROTOCOLS, Protocol
from cplane.domain.verdict import Direction
from cplane.errors import Rejected
from cplane.timetravel.asked import text_of

NODE: Final = "node"
_IDENTITY: Final = "identity:"
_ICMP_PROTOCOLS: Final = {Protocol.ICMP: 8, Protocol.ICMPV6: 128}  # and the type of an echo request
_PROTOCOLS: Final = {one.name: one for one in (*PORT_PROTOCOLS, *_ICMP_PROTOCOLS)} | {"ICMPV4": Protocol.ICMP}
_PORT: Final = re.compile(r"([^/:]+)/([A-Za-z0-9]+)|([A-Za-z0-9]+)(?::(\d{1,3}))?")
_PORT_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_ICMP_TYPE_MAX: Final = 255
_IDENTITY_DIGITS_MAX: Final = 10
_ENDS: Final = "write namespace/pod, an address, node, or identity:NUMBER"


class BadQuestion(Rejected):
    """A question about traffic cannot be read."""

    code = "history.bad_question"


class PodName(NamedTuple):
    """A pod of this node."""

    namespace: str
    pod: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


class Address(NamedTuple):
    """Whatever has the address, or is behind it: the ipcache of the moment says who that is."""

    text: str

    def __str__(self) -> str:
        return self.text


class NodeName(NamedTuple):
    """The node of the log; with a name, it must be that one."""

    name: str

    def __str__(self) -> str:
        return f"{NODE}/{self.name}" if self.name else NODE


class IdentityNumber(NamedTuple):
    """Anybody who has the identity; no policy of theirs is known."""

    number: int

    def __str__(self) -> str:
        return f"{_IDENTITY}{self.number}"


Named = PodName | Address | NodeName | IdentityNumber
"""An end of traffic, as a user names it."""


@dataclass(frozen=True, slots=True)
class Question:
    """May `source` talk to `destination`? `port` is a number, the name of one, or the type of an ICMP message.

    `request` is what is asked over the connection; None: packets alone.
    """

    source: Named
    destination: Named
    protocol: Protocol
    port: int | str
    request: Request | None = None

    @property
    def ends(self) -> tuple[Named, Named]:
        """Both, the source first."""
        return self.source, self.destination

    @property
    def traffic(self) -> str:
        """`80/TCP`, `ICMP type 8`."""
        if isinstance(self.port, str):
            return f"{self.port}/{self.protocol.name}"
        return str(Traffic(Direction.INGRESS, self.protocol, self.port))

    @property
    def asked(self) -> str:
        """`GET /path`, `produce topic`, or the name that is asked for; empty where nothing is."""
        return text_of(self.request) if self.request is not None else ""

    def __str__(self) -> str:
        asked = f" {self.asked}" if self.asked else ""
        return f"{self.source} to {self.destination} {self.traffic}{asked}"


def question_of(
    *, source: str, destination: str, port: str, http: str = "", headers: Iterable[str] = (), dns: str = ""
) -> Question:
    """The question that these texts are. Raises BadQuestion, which names the part."""
    protocol, number = port_of(port)
    if http and dns:
        raise BadQuestion("http and dns in one question: ask for each of them")
    if not http and any(True for _ in headers):
        raise BadQuestion("header: headers belong to an HTTP request: write http too, as in 'GET /path'")
    request: Request | None = _http(http, headers) if http else None
    if dns:
        request = fqdn.canonical(dns)
    return Question(named("from", source), named("to", destination), protocol, number, request)


def named(part: str, text: str) -> Named:
    """The end that the text names. Raises BadQuestion."""
    wanted = text.strip()
    if wanted == NODE:
        return NodeName("")
    if wanted.startswith(_IDENTITY):
        digits = wanted.removeprefix(_IDENTITY)
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _IDENTITY_DIGITS_MAX):
            raise BadQuestion(f"{part}: {text!r} is no identity: write {_IDENTITY}NUMBER")
        return IdentityNumber(int(digits))
    if wanted.startswith("svc:"):
        raise BadQuestion(f"{part}: a service is named by its address here: write that, or one of its pods")
    try:
        return Address(str(ip_address(wanted)))
    except ValueError:
        namespace, slash, name = wanted.partition("/")
    if not (slash and namespace and name) or "/" in name:
        raise BadQuestion(f"{part}: {text!r} is no end of traffic: {_ENDS}")
    return NodeName(name) if namespace == NODE else PodName(namespace, name)


def port_of(text: str) -> tuple[Protocol, int | str]:
    """Protocol, and port, its name, or type of message. Raises BadQuestion."""
    found = _PORT.fullmatch(text.strip())
    if found is None:
        raise BadQuestion(f"port: {text!r} is none: write 80/TCP, a name as http/TCP, or ICMP:8")
    port, of, alone, number = found.groups()
    word = (of or alone).upper()
    if alone is not None and alone.isdigit():
        raise BadQuestion(f"port: {text!r} has no protocol: write {alone}/TCP, or {alone}/UDP")
    protocol = _PROTOCOLS.get(word)
    if protocol is None:
        raise BadQuestion(
            f"port: unknown protocol {word!r}{did_you_mean(word, _PROTOCOLS)}; known are {', '.join(_PROTOCOLS)}"
        )
    if protocol in _ICMP_PROTOCOLS:
        return protocol, _message_type(text, protocol, port, number)
    if port is None:
        raise BadQuestion(f"port: {text!r} has no port: write 80/{protocol.name}")
    return protocol, _number_or_name(port)


def _message_type(text: str, protocol: Protocol, port: str | None, number: str | None) -> int:
    if port is not None:
        raise BadQuestion(f"port: {text!r}: {protocol.name} has no ports: write {protocol.name}:TYPE")
    found = _ICMP_PROTOCOLS[protocol] if number is None else int(number)
    if found > _ICMP_TYPE_MAX:
        raise BadQuestion(f"port: {found} is no type of {protocol.name}: types are 0 to {_ICMP_TYPE_MAX}")
    return found


def _number_or_name(port: str) -> int | str:
    if port.isascii() and port.isdigit():
        if len(port) > len(str(PORT_MAX)) or not 0 < int(port) <= PORT_MAX:
            raise BadQuestion(f"port: {port} is not 1 to {PORT_MAX}")
        return int(port)
    if not _PORT_NAME.fullmatch(port):
        raise BadQuestion(f"port: {port!r} is neither a number nor the name of a port")
    return port.lower()


def _http(text: str, headers: Iterable[str]) -> HttpRequest:
    method, _, path = text.strip().partition(" ")
    path = path.strip()
    if not (method.isalpha() and path):
        raise BadQuestion(f"http: {text!r} is no request: write a method and a path, as in 'GET /path'")
    host = ""
    if not path.startswith("/"):
        host, _, rest = path.removeprefix("http://").removeprefix("https://").partition("/")
        path = f"/{rest}"
    found: dict[str, str] = {}
    for one in headers:
        name, colon, value = one.partition(":")
        if not colon or not name.strip():
            raise BadQuestion(f"header: {one!r} is none: write NAME:VALUE")
        key = name.strip().lower()
        found[key] = f"{found[key]},{value.strip()}" if key in found else value.strip()  # as the proxy joins them
    return HttpRequest(method.upper(), path, found.get("host", host), found)
