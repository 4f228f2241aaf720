"""What a proxy saw, as the part of an encoded `flow.Flow` that is its own: request, summary and trace.

It is put together here, as the library takes several times as long: as texts whose characters are bytes, because to put
texts together is what Python does fastest. What is observed comes from anybody, so each text, and all of them together,
have a largest length.
"""

import re
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Final

from google.protobuf.descriptor import Descriptor

from cplane.domain.access import Access, Dns, Http, Kafka, Phase
from cplane.hubble.protowire import tag, varint
from cplane.hubble.texts import dns_rcode
from cplane.pb.flow import flow_pb2

TEXT_MAX: Final = 8192  # characters of one text; the rest is cut off
HEADERS_MAX: Final = 128  # of one message, the first by name
HEADERS_BYTES_MAX: Final = 32_768  # of all of them, encoded
RECORDS: Final[Mapping[type[Http | Dns | Kafka], str]] = {Http: "http", Dns: "dns", Kafka: "kafka"}
"""The field of flow.Layer7 in which each is."""

_KNOWN_MAX: Final = 16_384
_SHORT_MAX: Final = 256  # characters of a header that is remembered
_SETS_MAX: Final = 4096
_SET_MAX: Final = 1024  # bytes of headers, encoded, that are remembered together
_LIST_MAX: Final = 256  # addresses, names and types of a DNS answer
_BYTES: Final = "latin-1"  # the encoding in which each character is a byte
_SIZES: Final = tuple(varint(size).decode(_BYTES) for size in range(4 * TEXT_MAX + 1))  # for most lengths
_MS: Final = 1_000_000
_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1
_I32: Final = 1 << 31
_TRACE: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")  # of `traceparent`
_NO_TRACE: Final = "0" * 32
_PARENT: Final = "traceparent"
_SOURCE: Final = "proxy"  # of all that is known of DNS
_REQUEST, _RESPONSE = Phase.REQUEST, Phase.RESPONSE  # looking them up costs
_BY_NAME: Final = itemgetter(0)


def _tags(message: Descriptor | object, *names: str, wire_type: int = 2) -> tuple[str, ...]:
    fields = message.fields_by_name  # type: ignore[union-attr]  # the C twin of that class
    return tuple(tag(fields[name].number, wire_type).decode(_BYTES) for name in names)


_FLOW_L7, _FLOW_TRACE, _FLOW_SUMMARY = _tags(flow_pb2.Flow.DESCRIPTOR, "l7", "trace_context", "Summary")
_TYPE, _LATENCY = _tags(flow_pb2.Layer7.DESCRIPTOR, "type", "latency_ns", wire_type=0)
_L7_DNS, _L7_HTTP, _L7_KAFKA = _tags(flow_pb2.Layer7.DESCRIPTOR, "dns", "http", "kafka")
(_CODE,) = _tags(flow_pb2.HTTP.DESCRIPTOR, "code", wire_type=0)
_METHOD, _URL, _PROTOCOL, _HEADER = _tags(flow_pb2.HTTP.DESCRIPTOR, "method", "url", "protocol", "headers")
_HEADER_KEY, _HEADER_VALUE = _tags(flow_pb2.HTTPHeader.DESCRIPTOR, "key", "value")
_TTL, _RCODE = _tags(flow_pb2.DNS.DESCRIPTOR, "ttl", "rcode", wire_type=0)
_QUERY, _IPS, _CNAMES, _OBSERVED, _QTYPES, _RRTYPES = _tags(
    flow_pb2.DNS.DESCRIPTOR, "query", "ips", "cnames", "observation_source", "qtypes", "rrtypes"
)
_ERROR, _VERSION, _CORRELATION = _tags(
    flow_pb2.Kafka.DESCRIPTOR, "error_code", "api_version", "correlation_id", wire_type=0
)
_API_KEY, _TOPIC = _tags(flow_pb2.Kafka.DESCRIPTOR, "api_key", "topic")
(_CONTEXT_PARENT,) = _tags(flow_pb2.TraceContext.DESCRIPTOR, "parent")
(_PARENT_ID,) = _tags(flow_pb2.TraceParent.DESCRIPTOR, "trace_id")
_TYPES: Final = tuple(_TYPE + varint(phase).decode(_BYTES) if phase else "" for phase in Phase)


class Encoder:
    """Encodes what proxies saw, and remembers headers, alone and together: most are those of others before."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._sets: dict[tuple[tuple[str, str], ...], tuple[str, bool]] = {}

    def encoded(self, access: Access) -> bytes:
        """The part of the flow, as Hubble fills it: what only answers have is left out of requests."""
        _, phase, _, _, _, _, _, payload, _, _, latency_ns = access  # which costs less than two names
        latency_ns = max(latency_ns, 0)
        answered, trace = phase is _RESPONSE, ""
        if isinstance(payload, Http):
            record, summary, trace = self._http(payload, latency_ns, answered=answered)
        elif isinstance(payload, Dns):
            record, summary = _dns(payload, answered=answered)
        else:
            record, summary = _kafka(payload, answered=answered)
        layer = f"{_TYPES[phase]}{_number(_LATENCY, latency_ns)}{record}" if latency_ns else _TYPES[phase] + record
        told = _field(_FLOW_SUMMARY, summary) if answered or phase is _REQUEST else ""
        return f"{_FLOW_L7}{_sized(layer)}{trace}{told}".encode(_BYTES)

    def _http(self, http: Http, latency_ns: int, *, answered: bool) -> tuple[str, str, str]:
        """Record, summary and trace."""
        method, url, protocol, code, headers = http
        if not (method and url and protocol and (line := method + url + protocol).isascii() and len(line) <= TEXT_MAX):
            method, url, protocol = _text(method), _text(url), _text(protocol)
            named = f"{_field(_METHOD, method)}{_field(_URL, url)}{_field(_PROTOCOL, protocol)}"
        else:  # the same in one step, as most are like this
            before, path, after = _SIZES[len(method)], _SIZES[len(url)], _SIZES[len(protocol)]
            named = f"{_METHOD}{before}{method}{_URL}{path}{url}{_PROTOCOL}{after}{protocol}"
        trace = ""
        if headers:
            told, traced = self._headers(headers)
            named += told
            trace = _trace_of(headers) if traced else ""
        if not answered:
            return f"{_L7_HTTP}{_sized(named)}", f"{protocol} {method} {url}", trace
        code &= _U32
        summary = f"{protocol} {code} {latency_ns // _MS}ms ({method} {url})"
        return f"{_L7_HTTP}{_sized(_number(_CODE, code) + named)}", summary, trace

    def _headers(self, headers: tuple[tuple[str, str], ...]) -> tuple[str, bool]:
        """By name, those of one name as they came; and whether one may be of a trace."""
        told = self._sets.get(headers)
        if told is None:
            known, learn = self._known, self._learn
            found = [known.get(one) or learn(one) for one in sorted(headers, key=_BY_NAME)[:HEADERS_MAX]]
            whole = "".join(found)
            traced = len(headers) > HEADERS_MAX or _PARENT in whole.lower()
            while len(whole) > HEADERS_BYTES_MAX:
                found.pop()
                whole = "".join(found)
            told = whole, traced
            if len(headers) <= HEADERS_MAX and len(whole) <= _SET_MAX:
                if len(self._sets) >= _SETS_MAX:
                    self._sets.clear()
                self._sets[headers] = told
        return told

    def _learn(self, header: tuple[str, str]) -> str:
        key, value = header
        found = f"{_HEADER}{_sized(_field(_HEADER_KEY, _text(key)) + _field(_HEADER_VALUE, _text(value)))}"
        if len(key) + len(value) <= _SHORT_MAX:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[header] = found
        return found


def _dns(dns: Dns, *, answered: bool) -> tuple[str, str]:
    query, qtypes = _text(dns.query), _texts(dns.qtypes)
    asked = ",".join(qtypes)
    content = f"{_field(_QUERY, query)}{_field(_OBSERVED, _SOURCE)}{_fields(_QTYPES, qtypes)}"
    if not answered:
        return f"{_L7_DNS}{_sized(content)}", f"DNS Query {query} {asked}"
    ips, cnames = _texts(dns.ips), _texts(dns.cnames)
    ttl, rcode = dns.ttl & _U32, dns.rcode & _U32
    content += f"{_fields(_IPS, ips)}{_number(_TTL, ttl)}{_fields(_CNAMES, cnames)}"
    content += f"{_number(_RCODE, rcode)}{_fields(_RRTYPES, _texts(dns.rrtypes))}"
    if rcode:
        answer = f"RCode: {dns_rcode(rcode)}"
    else:
        parts = [f'"{",".join(ips)}"'] if ips else []
        parts += [f'CNAMEs: "{",".join(cnames)}"'] if cnames else []
        answer = " ".join(parts)
    return f"{_L7_DNS}{_sized(content)}", f"DNS Answer {answer} TTL: {ttl} (Proxy {query} {asked})"


def _kafka(kafka: Kafka, *, answered: bool) -> tuple[str, str]:
    key, topic, number = _text(kafka.api_key), _text(kafka.topic), _signed(kafka.correlation_id)
    code = _signed(kafka.error_code) if answered else 0
    content = f"{_number(_ERROR, code)}{_number(_VERSION, _signed(kafka.api_version))}{_field(_API_KEY, key)}"
    content += f"{_number(_CORRELATION, number)}{_field(_TOPIC, topic)}"
    what, result = ("response", f" return code {code}") if answered else ("request", "")
    summary = f"Kafka {what} {key} correlation id {number} topic '{topic}'{result}"
    return f"{_L7_KAFKA}{_sized(content)}", summary


def _number(before: str, value: int) -> str:
    """Nothing where it is 0; a negative one is as wide as all 64 bits."""
    return before + varint(value & _U64).decode(_BYTES) if value else ""


def _sized(content: str) -> str:
    size = len(content)
    return f"{_SIZES[size] if size < len(_SIZES) else varint(size).decode(_BYTES)}{content}"


def _field(before: str, text: str) -> str:
    """Nothing where it is empty."""
    return before + _sized(text) if text else ""


def _fields(before: str, texts: Iterable[str]) -> str:
    return "".join([before + _sized(text) for text in texts])


def _text(text: str) -> str:
    """The bytes of the text, as characters.

    What UTF-8 cannot tell, half a surrogate that stands for a byte that is no text, is a question mark.
    """
    if len(text) > TEXT_MAX:
        text = text[:TEXT_MAX]
    return text if text.isascii() else text.encode(errors="replace").decode(_BYTES)


def _texts(texts: Iterable[str]) -> list[str]:
    return [_text(text) for text in texts][:_LIST_MAX]


def _signed(number: int) -> int:
    """Of 32 bits."""
    return (number + _I32 & _U32) - _I32


def _trace_of(headers: Iterable[tuple[str, str]]) -> str:
    """The id of the trace that a request belongs to (W3C Trace Context, 3.2); nothing where it belongs to none."""
    for key, value in headers:
        if len(key) == len(_PARENT) and key.lower() == _PARENT:
            found = _TRACE.fullmatch(value)
            if found is None or found[1] == _NO_TRACE:
                return ""
            return f"{_FLOW_TRACE}{_sized(_CONTEXT_PARENT + _sized(_field(_PARENT_ID, found[1])))}"
    return ""
