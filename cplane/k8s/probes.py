"""Probes: the questions that are asked of a scene, as lines of JSON."""

from collections.abc import Mapping
from typing import Final

import msgspec

from cplane.domain.policy.document import did_you_mean
from cplane.domain.policy.http import HttpRequest
from cplane.domain.policy.kafka import API_KEYS, KafkaRequest
from cplane.domain.policy.redirect import Request
from cplane.domain.ports import PORT_MAX, PORT_PROTOCOLS, Protocol
from cplane.errors import Rejected

ICMP_PROTOCOLS: Final = {Protocol.ICMP: 8, Protocol.ICMPV6: 128}  # and the type of an echo request
ICMP_TYPE_MAX: Final = 255
PROTOCOLS: Final = {one.name: one for one in (*PORT_PROTOCOLS, *ICMP_PROTOCOLS)} | {"ICMPV4": Protocol.ICMP}
_ROLES: Final = {"produce": "produce", "consume": "fetch"}  # what a client of the role does above all


class BadProbe(Rejected):
    """A probe cannot be answered as it is written."""

    code = "probe.bad"


class HttpProbe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP request; what is not given is that of `GET /` without headers."""

    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: dict[str, str] = {}


class KafkaProbe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Kafka request; `apiKey` is its name or number, `role` what a client of that role does above all."""

    apiKey: str | int | None = None  # noqa: N815  # as rules write it
    role: str = ""
    apiVersion: int = 0  # noqa: N815
    clientID: str = ""  # noqa: N815
    topic: str = ""
    topics: tuple[str, ...] = ()


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """May `from_` talk to `to`? Each is `namespace/pod`, `node/NAME` or an address; `to` also `svc:namespace/name`."""

    from_: str
    to: str
    protocol: str = "TCP"
    port: int | str | None = None
    icmp_type: int | None = None
    http: HttpProbe | None = None
    kafka: KafkaProbe | None = None
    dns: str | None = None

    @property
    def number(self) -> Protocol:
        """Its protocol. Raises BadProbe."""
        found = PROTOCOLS.get(self.protocol.upper())
        if found is None:
            advice = did_you_mean(self.protocol, PROTOCOLS)
            raise BadProbe(f"protocol: unknown protocol {self.protocol!r}{advice}; write one of {', '.join(PROTOCOLS)}")
        return found

    @property
    def wanted_port(self) -> int | str | None:
        """The port, its name, or the type of an ICMP message; None where no port is given. Raises BadProbe."""
        protocol = self.number
        if protocol in ICMP_PROTOCOLS:
            if self.port is not None:
                raise BadProbe(f"port: {protocol.name} has no ports; write icmp_type")
            found = ICMP_PROTOCOLS[protocol] if self.icmp_type is None else self.icmp_type
            if not 0 <= found <= ICMP_TYPE_MAX:
                raise BadProbe(f"icmp_type: {found} is not 0..{ICMP_TYPE_MAX}")
            return found
        if self.icmp_type is not None:
            raise BadProbe(f"icmp_type: {protocol.name} has none; write protocol ICMP or ICMPv6")
        if isinstance(self.port, int) and not 0 < self.port <= PORT_MAX:
            raise BadProbe(f"port: {self.port} is not 1..{PORT_MAX}")
        if isinstance(self.port, str):
            plain = self.port.isascii() and self.port.isdecimal()
            number = int(self.port) if plain and len(self.port) <= len(str(PORT_MAX)) else 0
            return number if 0 < number <= PORT_MAX else self.port.lower()
        return self.port

    @property
    def request(self) -> Request | None:
        """What is asked over the connection, if anything. Raises BadProbe."""
        if self.http is None and self.kafka is None and self.dns is None:
            return None
        given = [name for name in ("http", "kafka", "dns") if getattr(self, name) is not None]
        if len(given) > 1:
            raise BadProbe(f"{' and '.join(given)} in one probe: write a probe for each of them")
        if self.http is not None:
            headers = {name.lower(): value for name, value in self.http.headers.items()}
            return HttpRequest(self.http.method, self.http.path, self.http.host, headers)
        return _kafka(self.kafka) if self.kafka is not None else self.dns


def _kafka(probe: KafkaProbe) -> KafkaRequest:
    name = probe.apiKey if probe.apiKey is not None else _ROLES.get(probe.role.lower())
    number = API_KEYS.get(name.lower()) if isinstance(name, str) else name
    if number is None:
        known = "write apiKey (a name or number), or role: produce or consume"
        raise BadProbe(f"kafka: {'unknown API key ' + repr(name) if name else 'no API key'}; {known}")
    topics = probe.topics or ((probe.topic,) if probe.topic else ())
    return KafkaRequest(number, probe.apiVersion, probe.clientID, topics)


_DECODER: Final = msgspec.json.Decoder(Probe)


def parse_probe(line: bytes) -> Probe:
    """The probe that a line of JSON is. Raises BadProbe."""
    try:
        return _DECODER.decode(line)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadProbe(f"not a probe: {error}") from None


def probe_of(value: Mapping[str, object]) -> Probe:
    """The probe that an object with the same fields is. Raises BadProbe."""
    try:
        return msgspec.convert(value, Probe)
    except msgspec.ValidationError as error:
        raise BadProbe(str(error)) from None
