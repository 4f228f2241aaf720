"""Requests that were recorded, as rules are asked about them: so that equal ones are counted together."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from cplane.domain.fqdn import canonical
from cplane.domain.policy.http import HttpRequest
from cplane.domain.policy.kafka import API_KEYS, KafkaRequest
from cplane.domain.policy.redirect import Request

_HOSTS: Final = (":authority", "host")
_SCHEMES: Final = ("http", "https", "ws", "wss", "grpc")
# Headers that differ from request to request, and that hardly any rule is about.
_EACH_ITS_OWN: Final = frozenset(
    {
        *("age", "content-length", "date", "etag", "if-modified-since", "if-none-match", "last-modified"),
        *("traceparent", "tracestate", "x-request-id", "x-correlation-id", "x-envoy-upstream-service-time"),
        *("x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-amzn-trace-id", "x-cloud-trace-context"),
    }
)


class AskedHttp(NamedTuple):
    """A request by HTTP; `path` with its query, `headers` by lower-case name."""

    method: str
    path: str
    host: str
    headers: tuple[tuple[str, str], ...]


Asked = AskedHttp | KafkaRequest | str
"""What was asked for; a string is a DNS name."""


def http_asked(method: str, url: str, headers: Iterable[tuple[str, str]], *, whole: bool = True) -> AskedHttp:
    """A request as it was recorded. Without `whole` it lacks headers that are hardly ever the same twice."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        if whole or key not in _EACH_ITS_OWN:
            found[key] = f"{found[key]},{value}" if key in found else value  # as proxies join them
    scheme, colon, rest = url.partition("://")
    host = next((found[one] for one in _HOSTS if one in found), "")
    path = url
    if colon and scheme.lower() in _SCHEMES:
        end = min((rest.find(one) for one in "/?#" if one in rest), default=len(rest))
        host, path = rest[:end].rpartition("@")[2] or host, rest[end:]
    path = path.partition("#")[0]
    return AskedHttp(method, path if path.startswith("/") else f"/{path}", host, tuple(sorted(found.items())))


def dns_asked(query: str) -> str:
    """A question for a name."""
    return canonical(query)


def kafka_asked(api_key: str, api_version: int, topic: str) -> KafkaRequest | None:
    """A request as far as it is recorded: nobody records the client's id. None: it is of no known kind."""
    number = API_KEYS.get(api_key.lower())
    if number is None:
        return None
    return KafkaRequest(number, api_version, topics=(topic,) if topic else ())


def request_of(asked: Asked) -> Request:
    """As rules are asked."""
    if isinstance(asked, AskedHttp):
        return HttpRequest(asked.method, asked.path, asked.host, dict(asked.headers))
    return asked


def text_of(request: Request | Asked) -> str:
    """`GET host/path`, `produce topic`, or the name that is asked for."""
    if isinstance(request, HttpRequest | AskedHttp):
        return f"{request.method} {request.host}{request.path}"
    if isinstance(request, str):
        return request
    name = next((name for name, number in API_KEYS.items() if number == request.api_key), str(request.api_key))
    return " ".join((name, *request.topics))
