"""Envoy's access log as records of access: judged by the name of the route, and without what is private.

A request is told when it comes, with the verdict; its answer when it has been sent. One that is refused is answered by
the proxy, and that answer was FORWARDED, as Hubble tells it.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from google.protobuf import wrappers_pb2

from cplane.domain.access import Access, Address, Http, Phase
from cplane.domain.redaction import REDACTED, without_password
from cplane.domain.verdict import Direction, Verdict
from cplane.xds.listeners import TAG, TAG_SERVER
from cplane.xds.names import read_name

_TCP: Final = 6
_START: Final = accesslog_pb2.DownstreamStart
_METHODS: Final = {number: name for name, number in base_pb2.RequestMethod.items()}
_Entry = accesslog_pb2.HTTPAccessLogEntry
_PROTOCOLS: Final = {
    _Entry.PROTOCOL_UNSPECIFIED: "HTTP",
    _Entry.HTTP10: "HTTP/1.0",
    _Entry.HTTP11: "HTTP/1.1",
    _Entry.HTTP2: "HTTP/2",
    _Entry.HTTP3: "HTTP/3",
}
_SECOND_NS: Final = 1_000_000_000
_REQUEST, _RESPONSE = Phase.REQUEST, Phase.RESPONSE  # looking them up costs
_FORWARDED, _DROPPED = Verdict.FORWARDED, Verdict.DROPPED
_KNOWN_MAX: Final = 16_384
_KNOWN_BYTES: Final = 256  # of what is looked up; longer ones are read each time
_SETS_MAX: Final = 4096
_SET_BYTES: Final = 1024
_http_of, _access_of = Http._make, Access._make  # half of what their constructors cost

_NO_HEADER: Final = ("", "")
_SECRETS: Final = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-auth-token"}
)
"""Headers whose values are not told, whatever else settings of Hubble leave out."""

METHOD_HEADER: Final = ":method"
"""Also asked for: methods that have no number are told by it."""


def direction_of(log_name: str) -> Direction:
    """Of the policy by which connections come to the listener."""
    return Direction.INGRESS if log_name == Direction.INGRESS.name.lower() else Direction.EGRESS


class Reader:
    """Reads messages (`cplane.xds.records`) of the log, and remembers headers: most are those of others before.

    So are most of all the headers of a record together, where clients do not number their requests.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, str]] = {}
        self._sets: dict[tuple[bytes, ...], tuple[tuple[str, str], ...]] = {}

    def accesses(self, message: Any, direction: Direction) -> list[Access]:  # noqa: ANN401  # has no type
        """The records of a message, in their order. `direction`: what the log's name, in the first message, says."""
        if message.HasField("http_logs"):
            return [self._http(one, direction) for one in message.http_logs.log_entry[:]]
        return [_tcp(one.common_properties, direction) for one in message.tcp_logs.log_entry[:]]

    def _http(self, entry: Any, direction: Direction) -> Access:  # noqa: ANN401  # has no type
        common, request = entry.common_properties, entry.request
        told = read_name(common.route_name)
        client, server = _address(common.downstream_direct_remote_address), _address(common.downstream_local_address)
        start = common.start_time
        time_ns = start.seconds * _SECOND_NS + start.nanos
        number = request.request_method
        method = _METHODS[number] if number else _pairs(request.request_headers).get(METHOD_HEADER, "")
        url = f"{request.scheme or 'http'}://{request.authority}{request.path}"
        if "@" in url:
            url = without_password(url)
        protocol = _PROTOCOLS.get(entry.protocol_version, "HTTP")
        if common.access_log_type == _START:
            verdict = _FORWARDED if told.allowed else _DROPPED
            payload = _http_of((method, url, protocol, 0, self._headers(request.request_headers)))
            return _access_of(
                (time_ns, _REQUEST, direction, verdict, _TCP, client, server, payload, told.port, told.rules, 0)
            )
        response, took = entry.response, common.duration
        latency_ns = took.seconds * _SECOND_NS + took.nanos
        headers = self._headers(response.response_headers)
        payload = _http_of((method, url, protocol, _code(response.response_code), headers))
        at_ns, port, rules = time_ns + latency_ns, told.port, told.rules
        return _access_of(
            (at_ns, _RESPONSE, direction, _FORWARDED, _TCP, server, client, payload, port, rules, latency_ns)
        )

    def _headers(self, entries: Sequence[bytes]) -> tuple[tuple[str, str], ...]:
        together = (*entries[:],)  # one by one they are told more slowly
        found = self._sets.get(together)
        if found is None:
            known, learn = self._known, self._learn
            pairs = [known.get(one) or learn(one) for one in together]
            found = tuple([one for one in pairs if one is not _NO_HEADER])
            if sum(map(len, together)) <= _SET_BYTES:
                if len(self._sets) >= _SETS_MAX:
                    self._sets.clear()
                self._sets[together] = found
        return found

    def _learn(self, entry: bytes) -> tuple[str, str]:
        """A header as it is told."""
        pair = _pair(entry)
        name, value = pair
        told = _NO_HEADER
        if name != METHOD_HEADER:
            told = _canonical(name), REDACTED if name in _SECRETS else value
        if len(entry) <= _KNOWN_BYTES:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[entry] = told
        return told


def _canonical(name: str) -> str:
    """As Hubble writes it, and compares it with filters: `X-Request-Id` (Go's net/http). Envoy has it in lower case."""
    return "-".join([one.capitalize() for one in name.split("-")]) if name.isascii() else name


def _tcp(common: Any, direction: Direction) -> Access:  # noqa: ANN401  # has no type
    """A connection that was let through or refused as such, by the server name that it asked for."""
    tags = _pairs(common.custom_tags)
    told = read_name(tags.get(TAG, ""))
    refused = not told.allowed or common.connection_termination_details.startswith("rbac_access_denied")
    name = common.tls_properties.tls_sni_hostname or tags.get(TAG_SERVER, "").strip("-")
    took = common.duration
    return Access(
        common.start_time.seconds * _SECOND_NS + common.start_time.nanos,
        Phase.REQUEST,
        direction,
        Verdict.DROPPED if refused else Verdict.FORWARDED,
        _TCP,
        _address(common.downstream_direct_remote_address),
        _address(common.downstream_local_address),
        Http("", f"tls://{name}" if name else "tcp://", "TLS" if name else "TCP"),
        told.port,
        () if refused else told.rules,
        took.seconds * _SECOND_NS + took.nanos,
    )


@lru_cache(maxsize=_KNOWN_MAX)
def _address(data: bytes) -> Address:
    found = address_pb2.Address.FromString(data).socket_address
    return Address(found.address, found.port_value)


@lru_cache(maxsize=_KNOWN_MAX)
def _code(data: bytes) -> int:
    return int(wrappers_pb2.UInt32Value.FromString(data).value)


def _pairs(entries: Iterable[bytes]) -> dict[str, str]:
    return dict(map(_pair, entries))


def _pair(entry: bytes) -> tuple[str, str]:
    """An entry of a map of strings: the fields 1 and 2, each of them with its length before it."""
    texts = {0x0A: "", 0x12: ""}
    at = 0
    while at < len(entry):
        tag, size, shift = entry[at], 0, 0
        while True:
            at += 1
            size |= (entry[at] & 0x7F) << shift
            shift += 7
            if entry[at] < 0x80:  # the last byte of a number
                break
        at += 1
        texts[tag] = entry[at : at + size].decode(errors="replace")
        at += size
    return texts[0x0A], texts[0x12]
