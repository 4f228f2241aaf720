"""A flow as somebody recorded it, as far as a question about its verdict needs: JSON as `hubble observe -o jsonpb` has.

Of a reply it is the connection that is asked about, which the rules judged; replies follow it whatever the rules say.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from cplane.domain.ports import Protocol
from cplane.timetravel.asked import Asked, dns_asked, http_asked, kafka_asked, request_of
from cplane.timetravel.traffic import Address, BadQuestion, IdentityNumber, PodName, Question

LINE_BYTES_MAX: Final = 1 << 20
_NS: Final = 1_000_000_000
_POSITION: Final = re.compile(r"cplane:position=([0-9]{1,18})")  # as cplane.hubble.origin writes it
_PORTS: Final = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_MESSAGES: Final = {"ICMPv4": Protocol.ICMP, "ICMPv6": Protocol.ICMPV6}


class _Ip(msgspec.Struct, frozen=True):
    source: str = ""
    destination: str = ""


class FlowEnd(msgspec.Struct, frozen=True):
    """One side, as the flow has it."""

    ID: int = 0
    identity: int = 0
    namespace: str = ""
    pod_name: str = ""


class _EventType(msgspec.Struct, frozen=True):
    type: int = 0


class _Header(msgspec.Struct, frozen=True):
    key: str = ""
    value: str = ""


class _Http(msgspec.Struct, frozen=True):
    method: str = ""
    url: str = ""
    headers: tuple[_Header, ...] = ()


class _Dns(msgspec.Struct, frozen=True):
    query: str = ""


class _Kafka(msgspec.Struct, frozen=True):
    api_key: str = ""
    api_version: int = 0
    topic: str = ""


class _Layer7(msgspec.Struct, frozen=True):
    """The request, or the one that was answered. At most one of the three is there."""

    http: _Http | None = None
    dns: _Dns | None = None
    kafka: _Kafka | None = None

    def asked(self, *, whole: bool) -> Asked | None:
        if self.http is not None and self.http.method:
            headers = ((one.key, one.value) for one in self.http.headers)
            return http_asked(self.http.method, self.http.url, headers, whole=whole)
        if self.dns is not None and self.dns.query:
            return dns_asked(self.dns.query)
        return kafka_asked(self.kafka.api_key, self.kafka.api_version, self.kafka.topic) if self.kafka else None


class _Origin(msgspec.Struct, frozen=True):
    """Ours, as a message (protojson writes 64 bits as text) or as a text in `value`; or something else of others."""

    position: Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$")] = 0
    value: Any = None  # Any: of others


class RecordedFlow(msgspec.Struct, frozen=True):
    """The fields of a flow that matter; others are left aside."""

    uuid: str = ""
    time: str = ""
    verdict: str = ""
    drop_reason_desc: str | int = ""  # a reason that nobody knows the name of is a number
    traffic_direction: str = ""
    IP: _Ip = _Ip()
    l4: dict[str, dict[str, Any]] = {}  # Any: each protocol has fields of its own
    source: FlowEnd = FlowEnd()
    destination: FlowEnd = FlowEnd()
    is_reply: bool | None = None
    event_type: _EventType = _EventType()
    l7: _Layer7 | None = None
    extensions: _Origin | None = None

    @property
    def position(self) -> int:
        """The log position that its node had in force; 0: it does not say."""
        if self.extensions is None:
            return 0
        told = _POSITION.fullmatch(self.extensions.value) if isinstance(self.extensions.value, str) else None
        return int(told[1] if told is not None else self.extensions.position)

    @property
    def is_request(self) -> bool:
        """Whether it was a proxy that saw it: a request, or the answer to one."""
        return self.l7 is not None

    def asked(self, *, whole: bool = True) -> Asked | None:
        """The request, with all of its headers if `whole`; None: there is none, or it is not known any more."""
        return None if self.l7 is None else self.l7.asked(whole=whole)

    @property
    def ends(self) -> tuple[tuple[FlowEnd, str], tuple[FlowEnd, str]]:
        """Who began the connection and with whom, with their addresses."""
        both = (self.source, self.IP.source), (self.destination, self.IP.destination)
        return (both[1], both[0]) if self.is_reply else both

    def recorded_at_ns(self) -> int:
        """When the packet was seen; UTC. Raises BadQuestion."""
        try:
            at = datetime.fromisoformat(self.time)
        except ValueError:
            raise BadQuestion(f"flow: its time {self.time!r} is none") from None
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        since = at - datetime.fromtimestamp(0, tz=UTC)
        return (since.days * 86_400 + since.seconds) * _NS + since.microseconds * 1000

    def question(self) -> Question:
        """What the rules were asked about it, by names. Raises BadQuestion."""
        protocol, port = self.traffic()
        source, destination = (named(end, address) for end, address in self.ends)
        asked = self.asked()
        return Question(source, destination, protocol, port, None if asked is None else request_of(asked))

    def traffic(self) -> tuple[Protocol, int]:
        """Protocol, and port or type of message. Raises BadQuestion."""
        for name, fields in self.l4.items():
            port = fields.get("source_port" if self.is_reply else "destination_port", 0)
            if name in _PORTS and isinstance(port, int) and port:
                return _PORTS[name], port
            kind = fields.get("type", 0)
            if name in _MESSAGES and isinstance(kind, int):
                return _MESSAGES[name], _request(_MESSAGES[name], kind) if self.is_reply else kind
        known = ", ".join((*_PORTS, *_MESSAGES))
        raise BadQuestion(f"flow: it is none of {known}: no rule is about its port")


class _Line(msgspec.Struct, frozen=True):
    flow: RecordedFlow | None = None


_WRAPPED: Final = msgspec.json.Decoder(_Line)
_BARE: Final = msgspec.json.Decoder(RecordedFlow)


def named(end: FlowEnd, address: str) -> PodName | Address | IdentityNumber:
    """How to ask for an end of a flow: as the pod that it is, by its address, or else by the identity that it had."""
    if end.ID and end.pod_name:
        return PodName(end.namespace, end.pod_name)
    return Address(address) if address else IdentityNumber(end.identity)


def read_flow(line: bytes) -> RecordedFlow | None:
    """The flow on a line; None: it is another message. Raises BadQuestion."""
    if len(line) > LINE_BYTES_MAX:
        raise BadQuestion(f"flow: a line is longer than {LINE_BYTES_MAX} bytes")
    try:
        found = _WRAPPED.decode(line).flow
        if found is None:
            found = _BARE.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadQuestion(f"flow: a line is no flow as hubble observe -o jsonpb prints it: {error}") from None
    return found if found.IP.source or found.uuid else None


def pick_flow(lines: Iterable[bytes], uuid: str) -> RecordedFlow:
    """The flow with the uuid, or without one the only flow there is. Raises BadQuestion."""
    found: RecordedFlow | None = None
    for line in lines:
        if not line.strip() or (uuid and uuid.lower().encode() not in line.lower()):
            continue
        flow = read_flow(line)
        if flow is None or (uuid and flow.uuid.lower() != uuid.lower()):
            continue
        if uuid:
            return flow
        if found is not None:
            raise BadQuestion("flow: there is more than one flow: name the uuid of the one that is meant")
        found = flow
    if found is None:
        raise BadQuestion(f"flow: there is no flow {uuid}" if uuid else "flow: there is no flow in it")
    return found


def _request(protocol: Protocol, reply: int) -> int:
    """The type that a reply answers; of others, itself."""
    answers = {Protocol.ICMP: {0: 8}, Protocol.ICMPV6: {129: 128}}
    return answers.get(protocol, {}).get(reply, reply)
