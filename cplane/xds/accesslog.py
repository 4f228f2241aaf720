"""Envoy's access log as records of access: decoded, judged by the name of the route, and without what is private.

A request is told when it comes, with the verdict; its answer when it has been sent. One that is refused is answered by
the proxy, and that answer was FORWARDED, as Hubble tells it.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from cplane.domain.access import Access, Address, Http, Phase
from cplane.domain.verdict import Direction, Verdict
from cplane.xds.listeners import TAG, TAG_SERVER
from cplane.xds.names import read_name
from cplane.xds.redaction import Redaction

_TCP: Final = 6
_START: Final = accesslog_pb2.DownstreamStart
_UNNAMED: Final = base_pb2.METHOD_UNSPECIFIED
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
_ERRORS_FROM: Final = 500
_ADDRESSES_MAX: Final = 16_384

METHOD_HEADER: Final = ":method"
"""Also asked for: methods that have no number are told by it."""


def accesses(message: als_pb2.StreamAccessLogsMessage, direction: Direction, redaction: Redaction) -> list[Access]:
    """The records of a message, in their order. `direction`: what the log's name, which the first one has, says."""
    if message.HasField("http_logs"):
        return [_http(one, direction, redaction) for one in message.http_logs.log_entry]
    return list(_tcp(message.tcp_logs.log_entry, direction))


def direction_of(log_name: str) -> Direction:
    """Of the policy by which connections come to the listener."""
    return Direction.INGRESS if log_name == Direction.INGRESS.name.lower() else Direction.EGRESS


def _http(entry: Any, direction: Direction, redaction: Redaction) -> Access:  # noqa: ANN401  # no types for messages
    common, request = entry.common_properties, entry.request
    told = read_name(common.route_name)
    client, server = common.downstream_direct_remote_address.socket_address, common.downstream_local_address
    source = _address(client.address, client.port_value)
    destination = _address(server.socket_address.address, server.socket_address.port_value)
    start = common.start_time
    time_ns = start.seconds * _SECOND_NS + start.nanos
    headers = request.request_headers
    method = _METHODS[request.request_method] if request.request_method else headers.get(METHOD_HEADER, "")
    url = redaction.url(f"{request.scheme or 'http'}://{request.authority}{request.path}")
    protocol = _PROTOCOLS.get(entry.protocol_version, "HTTP")
    if common.access_log_type == _START:
        sent = redaction.headers([one for one in headers.items() if one[0] != METHOD_HEADER])
        verdict = Verdict.FORWARDED if told.allowed else Verdict.DROPPED
        payload = Http(method, url, protocol, 0, sent)
        return Access(
            time_ns, Phase.REQUEST, direction, verdict, _TCP, source, destination, payload, told.port, told.rules
        )
    response, took = entry.response, common.duration
    latency_ns = took.seconds * _SECOND_NS + took.nanos
    code = response.response_code.value
    payload = Http(method, url, protocol, code, redaction.headers(response.response_headers.items()))
    return Access(
        time_ns + latency_ns,
        Phase.RESPONSE,
        direction,
        Verdict.FORWARDED,
        _TCP,
        destination,
        source,
        payload,
        told.port,
        told.rules,
        latency_ns,
    )


def _tcp(entries: Any, direction: Direction) -> Iterator[Access]:  # noqa: ANN401  # no types for messages
    """Connections that are let through or refused as such, by the server name that they asked for."""
    for entry in entries:
        common = entry.common_properties
        told = read_name(common.custom_tags.get(TAG, ""))
        client, server = common.downstream_direct_remote_address, common.downstream_local_address
        refused = not told.allowed or common.connection_termination_details.startswith("rbac_access_denied")
        name = common.tls_properties.tls_sni_hostname or common.custom_tags.get(TAG_SERVER, "").strip("-")
        took = common.duration
        yield Access(
            common.start_time.seconds * _SECOND_NS + common.start_time.nanos,
            Phase.REQUEST,
            direction,
            Verdict.DROPPED if refused else Verdict.FORWARDED,
            _TCP,
            _address(client.socket_address.address, client.socket_address.port_value),
            _address(server.socket_address.address, server.socket_address.port_value),
            Http("", f"tls://{name}" if name else "tcp://", "TLS" if name else "TCP"),
            told.port,
            () if refused else told.rules,
            took.seconds * _SECOND_NS + took.nanos,
        )


@lru_cache(maxsize=_ADDRESSES_MAX)
def _address(ip: str, port: int) -> Address:
    return Address(ip, port)
