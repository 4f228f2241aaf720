"""Services: addresses that stand for many backends, as users describe them."""

import re
from base64 import b64decode
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple, TypeVar
from typing import Protocol as Shape

from cplane.domain.ports import PORT_MAX, Protocol

FRONTENDS_MAX: Final = 65_535  # sixteen bits in every map
BACKENDS_MAX: Final = 65_535  # of one frontend: slots have sixteen bits
AFFINITY_MAX_S: Final = 0xFFFFFF
WEIGHT_MAX: Final = 255
PATH_MAX: Final = 1024  # characters of a path that backends are asked for
_SHOWN: Final = 64  # ... and of a wrong one, in an error; of a wrong name, too
NAME_MAX: Final = 300  # characters of a name or namespace: those of Kubernetes, and what is made of them
_NAME: Final = re.compile(rf"[!-.0-~]{{1,{NAME_MAX}}}")  # what can be seen of ASCII, but no slash
MAGLEV_SIZES: Final = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)
MAGLEV_SIZE: Final = 16_381
MAGLEV_SEED: Final = "JLfvgnHc2kaSUFaI"
SEED_BYTES: Final = 12
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")  # the shortest text of an address
ANY_ADDRESS: Final = ("0.0.0.0", "::")  # noqa: S104  # nobody binds to them: they stand for any address of the node
PROTOCOLS: Final = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


class FrontendKind(StrEnum):
    """How a frontend came about."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    EXTERNAL_IPS = "ExternalIPs"
    LOAD_BALANCER = "LoadBalancer"
    HOST_PORT = "HostPort"
    LOCAL_REDIRECT = "LocalRedirect"


class Algorithm(StrEnum):
    """How a backend is chosen for connections from outside; DEFAULT is the node's."""

    DEFAULT = ""
    RANDOM = "random"
    MAGLEV = "maglev"


class Forwarding(StrEnum):
    """How connections from outside reach backends of other nodes; DEFAULT is the node's.

    With DSR backends see the client, and answer it past the node that it has asked; HYBRID is that for TCP only.
    """

    DEFAULT = ""
    SNAT = "snat"
    DSR = "dsr"
    HYBRID = "hybrid"


class BackendState(StrEnum):
    """Whether a backend takes new connections: only where it is active.

    If none of a service is, those that are terminating do.
    """

    ACTIVE = "active"
    TERMINATING = "terminating"
    QUARANTINED = "quarantined"
    MAINTENANCE = "maintenance"


TRANSITIONS: Final = {
    BackendState.ACTIVE: frozenset({BackendState.TERMINATING, BackendState.QUARANTINED, BackendState.MAINTENANCE}),
    BackendState.QUARANTINED: frozenset({BackendState.ACTIVE, BackendState.TERMINATING}),
    BackendState.MAINTENANCE: frozenset({BackendState.ACTIVE}),
    BackendState.TERMINATING: frozenset[BackendState](),
}
"""State → states that may follow it."""


class ServiceName(NamedTuple):
    """What a service is called."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Frontend(NamedTuple):
    """Where clients go. `address` 0.0.0.0 or `::` is any address of the node; `port_name` is that of its backends."""

    address: str
    port: int
    protocol: Protocol
    kind: FrontendKind = FrontendKind.CLUSTER_IP
    port_name: str = ""

    def __str__(self) -> str:
        return shown(self.address, self.port, self.protocol)

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.address)


class Backend(NamedTuple):
    """Where connections end. `zones` are those whose clients it is meant for; none: all."""

    address: str
    port: int
    protocol: Protocol
    port_name: str = ""
    state: BackendState = BackendState.ACTIVE
    weight: int = 1
    node: str = ""
    zones: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shown(self.address, self.port, self.protocol)

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.address)


class Backends(NamedTuple):
    """All backends that one source (an EndpointSlice, say) knows of a service."""

    service: ServiceName
    source: str
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service without its backends.

    Who comes from outside reaches only this node's backends with `external_local`, who is in the cluster with
    `internal_local`. `source_ranges` are the only prefixes that load balancer addresses answer to, or with
    `ranges_deny` those to which they do not. With `topology` backends are used by zone, with `drop` packets to a
    service without backends are dropped in silence. `health_check_port` says whether this node has backends.
    With `skip_backends` a pod that is a backend is not redirected to this node's, but reaches what was meant.
    Backends of TCP that are tried are asked for `health_path` by HTTP; without one it is enough that they accept.
    """

    name: ServiceName
    frontends: tuple[Frontend, ...]
    labels: tuple[str, ...] = ()
    selector: tuple[str, ...] = ()
    affinity_s: int = 0
    external_local: bool = False
    internal_local: bool = False
    source_ranges: tuple[str, ...] = ()
    ranges_deny: bool = False
    algorithm: Algorithm = Algorithm.DEFAULT
    forwarding: Forwarding = Forwarding.DEFAULT
    health_check_port: int = 0
    topology: bool = False
    drop: bool = False
    skip_backends: bool = False
    health_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """How services are served where they do not say themselves; see events.service.ServiceOptionsChanged."""

    algorithm: Algorithm = Algorithm.RANDOM
    forwarding: Forwarding = Forwarding.SNAT
    maglev_size: int = MAGLEV_SIZE
    maglev_seed: str = MAGLEV_SEED
    external_cluster_ip: bool = False
    zone: str = ""

    def problem(self) -> str:
        """What is wrong with them; empty where nothing is."""
        if self.algorithm is Algorithm.DEFAULT or self.forwarding is Forwarding.DEFAULT:
            return "the node's own algorithm and forwarding cannot be left to the node"
        if self.maglev_size not in MAGLEV_SIZES:
            return f"Maglev tables have {', '.join(map(str, MAGLEV_SIZES))} entries, not {self.maglev_size}"
        try:
            seed = b64decode(self.maglev_seed, validate=True)
        except ValueError:
            seed = b""
        return "" if len(seed) == SEED_BYTES else f"the Maglev seed {self.maglev_seed!r} is not base64 of 12 bytes"


class Placed(Shape):
    """A frontend or a backend, whoever describes it."""

    @property
    def address(self) -> str:
        """In its canonical text."""
        ...

    @property
    def protocol(self) -> str:
        """`TCP`, `UDP` or `SCTP`."""
        ...

    @property
    def port_name(self) -> str:
        """What its service calls the port; empty where it has one only."""
        ...


_BY_READINESS: Final = ("active", "terminating", "quarantined", "maintenance")


class Numbered(Placed, Shape):
    """A backend that has its number."""

    @property
    def id(self) -> int:
        """Its number, wherever it is named."""
        ...

    @property
    def state(self) -> str:
        """A BackendState."""
        ...


B = TypeVar("B", bound=Numbered)


def readiest(sources: Iterable[Iterable[B]]) -> dict[tuple[int, str], B]:
    """The backends of a service by number and port name: of what its sources say of one, the readiest counts.

    Several may name it: a new pod may have the address of one that is not forgotten everywhere.
    """
    found: dict[tuple[int, str], B] = {}
    for records in sources:
        for one in records:
            other = found.setdefault((one.id, one.port_name), one)
            if other is not one and _BY_READINESS.index(one.state) < _BY_READINESS.index(other.state):
                found[one.id, one.port_name] = one
    return found


def leads_to(front: Placed, back: Placed) -> bool:
    """Whether the backend is one of the frontend's, if both are of one service."""
    same = front.protocol == back.protocol and front.port_name == back.port_name
    return same and (":" in front.address) == (":" in back.address)


def family_of(address: str) -> int:
    """4 or 6, of an address in its canonical text."""
    return 6 if ":" in address else 4


def is_ipv4(text: str) -> bool:
    """Whether it is an IPv4 address in its canonical text."""
    return _IPV4.fullmatch(text) is not None


def canonical_address(text: str) -> str:
    """The one text of an address. Raises ValueError for what is none, and for one with a zone."""
    if is_ipv4(text):
        return text
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which no service can have")
    address = ip_address(text)
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)


def shown(address: str, port: int, protocol: Protocol | str) -> str:
    """`10.0.0.1:80/TCP`, `[fd00::1]:80/TCP`."""
    name = protocol if isinstance(protocol, str) else protocol.name
    return f"[{address}]:{port}/{name}" if family_of(address) == 6 else f"{address}:{port}/{name}"


def parse_shown(text: str) -> tuple[str, int, Protocol]:
    """The inverse of `shown`; the protocol may be left out and is TCP then. Raises ValueError with what is wrong."""
    rest, slash, name = text.rpartition("/")
    if not slash:
        rest, name = text, "TCP"
    protocol = {one.name: one for one in PROTOCOLS}.get(name.upper())
    if protocol is None:
        raise ValueError(f"{text!r}: the protocol {name!r} is none of TCP, UDP, SCTP")
    address, colon, port = rest.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [fd00::1]:80/TCP")
    if not colon or not (port.isascii() and port.isdecimal()) or not 0 < int(port) <= 65_535:
        raise ValueError(f"{text!r} is not ADDRESS:PORT/PROTOCOL with a port from 1 to 65535")
    try:
        return canonical_address(address), int(port), protocol
    except ValueError:
        raise ValueError(f"{text!r}: {address!r} is not an IP address") from None


def wrong_services(services: tuple[Service, ...]) -> Iterator[tuple[str, str, str]]:
    """What is not possible of these services, looked at by themselves: (whose, where, what is wrong)."""
    names: set[ServiceName] = set()
    for service in services:
        whose = str(service.name)
        if service.name in names:
            yield whose, "name", "it stands in this call more than once: keep one of them"
        names.add(service.name)
        yield from _wrong_name(service.name)
        if not 0 <= service.affinity_s <= AFFINITY_MAX_S:
            yield whose, "session affinity", f"{service.affinity_s} s is not between 0 and {AFFINITY_MAX_S}"
        if not 0 <= service.health_check_port <= PORT_MAX:
            yield whose, "health check port", f"{service.health_check_port} is not a port"
        if wrong := wrong_path(service.health_path):
            yield whose, "health path", wrong
        for text in service.source_ranges:
            if not _is_prefix(text):
                yield whose, "source ranges", f"{text!r} is not a prefix like 10.0.0.0/8"
        seen: set[tuple[str, int, Protocol, bool]] = set()
        for one in service.frontends:
            key = (one.address, one.port, one.protocol, one.kind is FrontendKind.LOCAL_REDIRECT)
            wrong = _wrong_place(one.address, one.port, one.protocol)
            if not wrong and key in seen:
                wrong = "it stands there more than once: keep one of them"
            seen.add(key)
            if wrong:
                yield whose, f"frontend {one.address}:{one.port}", wrong


def _wrong_name(name: ServiceName) -> Iterator[tuple[str, str, str]]:
    for where, text in (("namespace", name.namespace), ("name", name.name)):
        if not _NAME.fullmatch(text):
            what = (
                f"{text[:_SHOWN]!r} is no {where}: 1 to {NAME_MAX} characters that can be seen, of ASCII, and no slash"
            )
            yield str(name), where, what


def wrong_path(path: str) -> str:
    """What is wrong with a path that backends are asked for; empty where nothing is, or there is none."""
    if not path:
        return ""
    if not path.startswith("/") or not all("!" <= one <= "~" and one != "#" for one in path):
        return f"{path[:_SHOWN]!r} is not a path of a URL such as /healthz, with all else than ASCII in %XX"
    return f"{len(path)} characters are more than {PATH_MAX}" if len(path) > PATH_MAX else ""


def wrong_backends(
    given: tuple[Backends, ...], described: Container[ServiceName] = ()
) -> Iterator[tuple[str, str, str]]:
    """The same of backends; the names of services that are `described` beside them were looked at."""
    sources: set[tuple[ServiceName, str]] = set()
    for many in given:
        whose = str(many.service)
        if (many.service, many.source) in sources:
            yield whose, f"backends of {many.source!r}", "they stand in this call more than once: keep one of them"
        sources.add((many.service, many.source))
        if many.service not in described:
            yield from _wrong_name(many.service)
        if len(many.backends) > BACKENDS_MAX:
            yield whose, f"backends of {many.source!r}", f"{len(many.backends)} are more than {BACKENDS_MAX}"
        seen: set[tuple[str, int, Protocol, str]] = set()
        for one in many.backends:
            key = (one.address, one.port, one.protocol, one.port_name)
            wrong = _wrong_place(one.address, one.port, one.protocol)
            if not wrong and not 0 <= one.weight <= WEIGHT_MAX:
                wrong = f"the weight {one.weight} is not between 0 and {WEIGHT_MAX}"
            if not wrong and key in seen:
                wrong = "it stands there more than once: keep one of them"
            seen.add(key)
            if wrong:
                yield whose, f"backend {one.address}:{one.port}", wrong


def _wrong_place(address: str, port: int, protocol: Protocol) -> str:
    if not address:
        return "it has no address"
    if not _is_address(address):
        return f"{address!r} is not an IP address in its shortest form"
    if not 0 < port <= PORT_MAX:
        return f"the port {port} is not between 1 and {PORT_MAX}"
    if protocol not in PROTOCOLS:
        return f"the protocol {protocol.name} is none of TCP, UDP, SCTP"
    return ""


def _is_address(text: str) -> bool:
    try:
        return canonical_address(text) == text
    except ValueError:
        return False


def _is_prefix(text: str) -> bool:
    try:
        return str(ip_network(text)) == text
    except ValueError:
        return False
