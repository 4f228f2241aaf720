"""What the agent and our own proxies say to each other: frames over a unix stream socket at which the agent listens.

A frame is 4 bytes of length, big-endian, and as many bytes of MessagePack: one of the messages below.

    proxy → agent   Hello first; Ack, Failed, Seen, Learned
    agent → proxy   every row, Version; then changed rows (PutKafka, PutDns, Remove), Version; Written, Forget

What is put and removed before a Version is in force at once, and together, when the proxy answers with its Ack.
On a new connection the rows before the first Version are complete: a port that is not among them is gone.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct, msgpack

from cplane.domain.access import Access, Address, Dns, Kafka, Phase
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.kafka import KafkaRule
from cplane.domain.policy.redirection import Redirection, RedirectRule
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction, Verdict
from cplane.errors import Rejected

FRAME_MAX: Final = 16 << 20
"""Bytes of a message."""
PROTOCOL: Final = 1
"""What Hello carries; another version is not talked to."""
KINDS: Final = ("kafka", "dns")

_HEAD: Final = 4


class BrokenFrames(Rejected):
    """What came is no frame or no message of this channel: the connection is of no more use."""

    code = "proxy.broken_frames"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"the other side of the channel breaks its rules: {self.reason}"


class FrameTooLong(Rejected):
    """A message does not fit in a frame."""

    code = "proxy.frame_too_long"

    def __init__(self, length: int) -> None:
        self.length = length

    def __str__(self) -> str:
        return f"{self.length} bytes are more than the {FRAME_MAX} of a message"


class KafkaTerm(NamedTuple):
    """Requests that may pass by one term of a policy; `rules` None: all of them, empty: none."""

    ref: PolicyRef | None
    path: str
    rules: tuple[KafkaRule, ...] | None


class DnsTerm(NamedTuple):
    """Names that may be asked for by one term of a policy; `rules` None: all of them, empty: none."""

    ref: PolicyRef | None
    path: str
    rules: tuple[DnsRule, ...] | None


class PutKafka(Struct, frozen=True, array_like=True, tag="kafka"):
    """The proxy port `port` serves these rules, and no others."""

    port: int
    direction: Direction
    rules: tuple[KafkaTerm, ...]


class PutDns(Struct, frozen=True, array_like=True, tag="dns"):
    """The proxy port `port` serves these rules, and no others."""

    port: int
    direction: Direction
    rules: tuple[DnsTerm, ...]


class Remove(Struct, frozen=True, array_like=True, tag="remove"):
    """The proxy port is served no more; its connections are closed."""

    port: int


class Version(Struct, frozen=True, array_like=True, tag="version"):
    """All that was said before is one change: answer Ack(version) when it is in force."""

    version: int


class Written(Struct, frozen=True, array_like=True, tag="written"):
    """The datapath knows what Learned(id) told: the answer may be released."""

    id: int


class Forget(Struct, frozen=True, array_like=True, tag="forget"):
    """What was Learned of this endpoint counts no more, or it is another endpoint: only new answers are told."""

    endpoint_ip: str


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """Who connects."""

    kind: str
    pid: int
    version: int = PROTOCOL


class Ack(Struct, frozen=True, array_like=True, tag="ack"):
    """Version(version) is in force, but for the ports that Failed names."""

    version: int


class Failed(Struct, frozen=True, array_like=True, tag="failed"):
    """The proxy cannot serve a port, and why; an empty error: it can now."""

    port: int
    error: str


class Seen(Struct, frozen=True, array_like=True, tag="seen"):
    """Requests and answers, oldest first: `encode_records`; `lost` is how many more there were no room for."""

    records: msgspec.Raw
    lost: int


class Learned(Struct, frozen=True, array_like=True, tag="learned"):
    """A DNS answer that waits for Written(id): `server` told `endpoint_ip`; `ttl` in seconds, the least there is."""

    id: int
    endpoint_ip: str
    name: str
    ips: tuple[str, ...]
    ttl: int
    time_ns: int
    server: str = ""


Put = PutKafka | PutDns
ToProxy = PutKafka | PutDns | Remove | Version | Written | Forget
ToAgent = Hello | Ack | Failed | Seen | Learned

_OfKafka = tuple[
    int, Phase, Direction, Verdict, int, Address, Address, Kafka, int, tuple[PolicyRef, ...], int
]  # the fields of Access, with the one payload that this kind of proxy has
_OfDns = tuple[int, Phase, Direction, Verdict, int, Address, Address, Dns, int, tuple[PolicyRef, ...], int]

_ENCODER: Final = msgpack.Encoder()
_TO_PROXY: Final[msgpack.Decoder[ToProxy]] = msgpack.Decoder(ToProxy)
_TO_AGENT: Final[msgpack.Decoder[ToAgent]] = msgpack.Decoder(ToAgent)
_KAFKA: Final[msgpack.Decoder[list[_OfKafka]]] = msgpack.Decoder(list[_OfKafka])
_DNS: Final[msgpack.Decoder[list[_OfDns]]] = msgpack.Decoder(list[_OfDns])


def frame(message: ToProxy | ToAgent) -> bytes:
    """The message as it is sent. Raises FrameTooLong."""
    body = _ENCODER.encode(message)
    if len(body) > FRAME_MAX:
        raise FrameTooLong(len(body))
    return len(body).to_bytes(_HEAD) + body


def to_proxy(body: bytes) -> ToProxy:
    """What the agent says. Raises BrokenFrames."""
    try:
        return _TO_PROXY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenFrames(str(error)) from error


def to_agent(body: bytes) -> ToAgent:
    """What a proxy says. Raises BrokenFrames."""
    try:
        return _TO_AGENT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenFrames(str(error)) from error


def encode_records(records: list[Access]) -> msgspec.Raw:
    """The records of a Seen."""
    return msgspec.Raw(_ENCODER.encode(records))


def decode_records(kind: str, records: msgspec.Raw) -> list[Access]:
    """The records of a Seen that a proxy of this kind sent. Raises BrokenFrames."""
    try:
        found = _DNS.decode(records) if kind == "dns" else _KAFKA.decode(records)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenFrames(str(error)) from error
    return [Access(*one) for one in found]


class Frames:
    """Bytes as they come, cut into messages; at most one that is not whole is held."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now. Raises BrokenFrames at a length that nobody may send."""
        held = self._held
        held += data
        start = 0
        try:
            while len(held) - start >= _HEAD:
                length = int.from_bytes(held[start : start + _HEAD])
                if length > FRAME_MAX:
                    raise BrokenFrames(f"a message of {length} bytes")
                end = start + _HEAD + length
                if len(held) < end:
                    break
                body = bytes(held[start + _HEAD : end])
                start = end
                yield body
        finally:
            del held[:start]


def row(kind: str, port: int, redirection: Redirection) -> Put:
    """What a proxy of the kind is told of a redirection. Rules of other protocols allow it nothing."""
    if kind == "dns":
        names = tuple(DnsTerm(one.ref, one.path, _dns_rules(one)) for one in redirection.rules)
        return PutDns(port, redirection.direction, names)
    terms = tuple(KafkaTerm(one.ref, one.path, _kafka_rules(one)) for one in redirection.rules)
    return PutKafka(port, redirection.direction, terms)


def _kafka_rules(term: RedirectRule) -> tuple[KafkaRule, ...] | None:
    if term.redirect is None:
        return None
    rules = term.redirect.rules.rules if term.redirect.rules is not None else ()
    return tuple(one for one in rules if isinstance(one, KafkaRule))


def _dns_rules(term: RedirectRule) -> tuple[DnsRule, ...] | None:
    if term.redirect is None:
        return None
    rules = term.redirect.rules.rules if term.redirect.rules is not None else ()
    return tuple(one for one in rules if isinstance(one, DnsRule))
