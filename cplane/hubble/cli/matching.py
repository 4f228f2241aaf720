"""FlowFilters upon flows that no server holds: what `--input-file` has is chosen here, by a server's rules.

The rules are those of `cplane.hubble.filters`, which knows columns only: fields of a filter must all hold, of the
values of a field one; a whitelist filter must match, where there are any, and none of the blacklist.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any, Final

from cplane.hubble.cli.failure import Failed
from cplane.hubble.texts import NAME_PATTERN, url_path
from cplane.pb.flow import flow_pb2

Test = Callable[[flow_pb2.Flow], bool]
_Compile = Callable[[Any, flow_pb2.FlowFilter], Test]  # Any: what the field holds

_PORTED: Final = ("TCP", "UDP", "SCTP")
_L7: Final = 129  # the type of events that are requests
_STATUS: Final = re.compile(r"[1-5][0-9]{2}|[1-5][0-9]?\+")
_CLUSTER: Final = "default"
_NAMESPACE: Final = "default"
_PROTOCOLS: Final = ("icmp", "icmpv4", "icmpv6", "tcp", "udp", "sctp", "vrrp", "igmp", "dns", "http", "kafka")
_PORT_MAX: Final = 65_535


def chosen(whitelist: Sequence[flow_pb2.FlowFilter], blacklist: Sequence[flow_pb2.FlowFilter]) -> Test:
    """Whether a flow is to be shown. Raises Failed for a filter that no server would take."""
    wanted, unwanted = [_compile(one) for one in whitelist], [_compile(one) for one in blacklist]

    def test(flow: flow_pb2.Flow) -> bool:
        return (not wanted or any(one(flow) for one in wanted)) and not any(one(flow) for one in unwanted)

    return test


def _compile(wanted: flow_pb2.FlowFilter) -> Test:
    tests = [FIELDS[field.name](value, wanted) for field, value in wanted.ListFields()]
    return lambda flow: all(test(flow) for test in tests)


def _wrong(field: str, reason: str) -> Failed:
    return Failed(f"filter {field}: {reason}")


def _any(values: Iterable[Any], fits: Callable[[flow_pb2.Flow, Any], bool]) -> Test:  # Any: as above
    kept = tuple(values)
    return lambda flow: any(fits(flow, value) for value in kept)


# what both ends have


def _ip(side: str, values: Sequence[str], _wanted: flow_pb2.FlowFilter, field: str = "ip") -> Test:
    try:
        networks = [ip_network(text, strict=False) if "/" in text else ip_network(ip_address(text)) for text in values]
    except ValueError as error:
        raise _wrong(f"{side}_{field}", str(error)) from None
    attribute = "source_xlated" if field == "ip_xlated" else side

    def test(flow: flow_pb2.Flow) -> bool:
        try:
            address = ip_address(getattr(flow.IP, attribute))
        except ValueError:
            return False
        return any(address in network for network in networks)

    return test


def _namespaced(what: str, side: str, values: Sequence[str], _wanted: flow_pb2.FlowFilter) -> Test:
    """Pods or services: `namespace/prefix`, either of them empty for any."""
    pairs = []
    for text in values:
        if not text:
            raise _wrong(f"{side}_{what}", "it is empty; write namespace/prefix, namespace/ or prefix")
        namespace, slash, prefix = text.partition("/")
        pairs.append((namespace, prefix) if slash else (_NAMESPACE, text))

    def test(flow: flow_pb2.Flow) -> bool:
        if what == "pod":
            end = getattr(flow, side)
            namespace, name = end.namespace, end.pod_name
        else:
            service = getattr(flow, f"{side}_service")
            namespace, name = service.namespace, service.name
        if not namespace and not name:
            return False
        return any(wanted in {"", namespace} and name.startswith(prefix) for wanted, prefix in pairs)

    return test


def _label(side: str, values: Sequence[str], _wanted: flow_pb2.FlowFilter) -> Test:
    from cplane.hubble.filters.predicate import BadFilter
    from cplane.hubble.filters.workload import label_set, parse_selector

    field = "node_labels" if side == "node" else f"{side}_label"
    try:
        selectors = [parse_selector(field, text) for text in values]
    except BadFilter as error:
        raise Failed(str(error)) from None

    def test(flow: flow_pb2.Flow) -> bool:
        labels = flow.node_labels if side == "node" else getattr(flow, side).labels
        held = label_set(tuple(labels))
        return any(selector.matches(held) for selector in selectors)

    return test


def _identity(side: str, values: Sequence[int], _wanted: flow_pb2.FlowFilter) -> Test:
    numbers = frozenset(values)
    return lambda flow: getattr(flow, side).identity in numbers


def _port(side: str, values: Sequence[str], _wanted: flow_pb2.FlowFilter) -> Test:
    for text in values:
        if not (text.isascii() and text.isdecimal() and int(text) <= _PORT_MAX):
            raise _wrong(f"{side}_port", f"{text!r} is not a port (0 to {_PORT_MAX})")
    ports = frozenset(map(int, values))

    def test(flow: flow_pb2.Flow) -> bool:
        protocol = flow.l4.WhichOneof("protocol")
        return protocol in _PORTED and getattr(getattr(flow.l4, protocol), f"{side}_port") in ports

    return test


def _workload(side: str, values: Sequence[flow_pb2.Workload], _wanted: flow_pb2.FlowFilter) -> Test:
    pairs = [(one.name, one.kind) for one in values]
    return lambda flow: any(
        name in {"", has.name} and kind in {"", has.kind}
        for has in getattr(flow, side).workloads
        for name, kind in pairs
    )


def _cluster(side: str, values: Sequence[str], _wanted: flow_pb2.FlowFilter) -> Test:
    if "" in values:
        raise _wrong(f"{side}_cluster_name", "it is empty")
    names = frozenset(values)
    return lambda flow: getattr(flow, side).cluster_name in names


def _fqdn(side: str, values: Sequence[str], _wanted: flow_pb2.FlowFilter) -> Test:
    patterns = [_name_pattern(f"{side}_fqdn", text) for text in values]
    attribute = f"{side}_names"
    return lambda flow: any(p.fullmatch(_name(text)) for p in patterns for text in getattr(flow, attribute))


def _name_pattern(field: str, pattern: str) -> "re.Pattern[str]":  # as RE2's are used, which has no types
    """Of DNS and node names: `*` stands for any characters of a name, dots included."""
    import re2

    if not NAME_PATTERN.fullmatch(pattern.strip()):
        raise _wrong(field, f"{pattern!r} is not a name pattern of letters, digits, '-', '.' and '*'")
    pieces = (re2.escape(part) for part in re.split(r"\*+", _name(pattern)))
    return re2.compile("[-.0-9a-z]*".join(pieces))  # type: ignore[no-any-return]


def _name(text: str) -> str:
    return text.strip().rstrip(".").lower()


# what the whole flow has


def _member(attribute: str, values: Sequence[int | str], _wanted: flow_pb2.FlowFilter) -> Test:
    kept = frozenset(values)
    return lambda flow: getattr(flow, attribute) in kept


def _drop_reason(values: Sequence[int], _wanted: flow_pb2.FlowFilter) -> Test:
    return lambda flow: flow.verdict == flow_pb2.DROPPED and flow.drop_reason_desc in values


def _event_type(values: Sequence[flow_pb2.EventTypeFilter], _wanted: flow_pb2.FlowFilter) -> Test:
    def fits(flow: flow_pb2.Flow, one: flow_pb2.EventTypeFilter) -> bool:
        kind = flow.event_type
        if not flow.HasField("event_type"):
            return False
        return one.type in {0, kind.type} and (not one.match_sub_type or one.sub_type == kind.sub_type)

    return _any(values, fits)


def _protocol(values: Sequence[str], _wanted: flow_pb2.FlowFilter) -> Test:
    names = [text.lower() for text in values]
    for name in names:
        if name not in _PROTOCOLS:
            raise _wrong("protocol", f"{name!r} is none of {', '.join(_PROTOCOLS)}")

    def test(flow: flow_pb2.Flow) -> bool:
        layer = (flow.l4.WhichOneof("protocol") or "").lower()
        return any(
            name in {layer, flow.l7.WhichOneof("record")} or (name, layer[:4]) == ("icmp", "icmp") for name in names
        )

    return test


def _tcp_flags(values: Sequence[flow_pb2.TCPFlags], _wanted: flow_pb2.FlowFilter) -> Test:
    names = [[field.name for field, _ in one.ListFields()] for one in values]
    return lambda flow: (
        flow.l4.TCP.HasField("flags")
        and any(all(getattr(flow.l4.TCP.flags, name) for name in wanted) for wanted in names)
    )


def _reply(values: Sequence[bool], _wanted: flow_pb2.FlowFilter) -> Test:
    def test(flow: flow_pb2.Flow) -> bool:
        if flow.HasField("is_reply"):
            return flow.is_reply.value in values
        return flow.verdict == flow_pb2.DROPPED and False in values

    return test


def _node_name(values: Sequence[str], _wanted: flow_pb2.FlowFilter) -> Test:
    pairs = []
    for text in values:
        if not text or text.count("/") > 1:
            raise _wrong("node_name", f"{text!r} is not cluster/node, node or cluster/")
        cluster, slash, node = text.partition("/")
        pairs.append([part and _name_pattern("node_name", part) for part in ((cluster, node) if slash else ("", text))])

    def test(flow: flow_pb2.Flow) -> bool:
        if not flow.node_name:
            return False
        cluster, slash, node = flow.node_name.lower().partition("/")
        own = (cluster, node) if slash else (_CLUSTER, cluster)
        return any(all(not p or p.fullmatch(o) for p, o in zip(pair, own, strict=True)) for pair in pairs)

    return test


def _interface(values: Sequence[flow_pb2.NetworkInterface], _wanted: flow_pb2.FlowFilter) -> Test:
    return _any(
        values,
        lambda flow, one: (
            flow.HasField("interface")
            and one.index in {0, flow.interface.index}
            and one.name in {"", flow.interface.name}
        ),
    )


def _expressions(field: str, texts: Sequence[str]) -> list[Any]:  # Any: re2 has no types
    import re2

    try:
        return [re2.compile(text) for text in texts]
    except re2.error as error:
        raise _wrong(field, f"it is not a regular expression: {error}") from None


def _dns_query(values: Sequence[str], _wanted: flow_pb2.FlowFilter) -> Test:
    patterns = _expressions("dns_query", values)
    return lambda flow: flow.l7.HasField("dns") and any(p.search(flow.l7.dns.query) for p in patterns)


def _http(field: str, values: Sequence[Any], wanted: flow_pb2.FlowFilter) -> Test:  # Any: texts or headers
    """Of HTTP messages; asked together with event types, those must include requests."""
    types = {one.type for one in wanted.event_type}
    if types and _L7 not in types:
        raise _wrong(field, "it needs the event type l7, or no event types at all")
    fits = _http_test(field, values)
    return lambda flow: flow.l7.HasField("http") and fits(flow.l7.http)


def _http_test(field: str, values: Sequence[Any]) -> Callable[[flow_pb2.HTTP], bool]:  # Any: as above
    match field:
        case "http_status_code":
            for text in values:
                if not _STATUS.fullmatch(text):
                    raise _wrong(field, f"{text!r} is not a status code such as 404, 40+ or 4+")
            exact = frozenset(values)
            prefixes = tuple(text.removesuffix("+") for text in values if text.endswith("+"))
            return lambda http: bool(http.code) and (str(http.code) in exact or str(http.code).startswith(prefixes))
        case "http_method":
            methods = frozenset(text.casefold() for text in values if text)
            return lambda http: http.method.casefold() in methods
        case "http_header":
            pairs = [(one.key, one.value) for one in values]
            return lambda http: any((one.key, one.value) in pairs for one in http.headers)
    patterns = _expressions(field, values)
    if field == "http_url":
        return lambda http: bool(http.url) and any(p.search(http.url) for p in patterns)

    def test(http: flow_pb2.HTTP) -> bool:
        path = url_path(http.url)
        return path is not None and any(p.search(path) for p in patterns)

    return test


def _experimental(value: flow_pb2.FlowFilter.Experimental, _wanted: flow_pb2.FlowFilter) -> Test:
    """CEL expressions; an error of evaluation makes one false, as on servers."""
    from cplane.hubble.filters.cel import Expression
    from cplane.hubble.filters.predicate import BadFilter

    try:
        expressions = [Expression(text) for text in value.cel_expression]
    except BadFilter as error:
        raise Failed(str(error)) from None

    def true(one: Expression, flow: flow_pb2.Flow) -> bool:
        try:
            return one.program.execute(one.names(flow)) is True
        except (TypeError, RuntimeError, ValueError, LookupError, ArithmeticError):  # what the library raises
            return False

    return lambda flow: not expressions or any(true(one, flow) for one in expressions)


FIELDS: Final[Mapping[str, _Compile]] = {
    **{
        f"{side}_{name}": partial(function, side)
        for side in ("source", "destination")
        for name, function in (
            ("ip", _ip),
            ("pod", partial(_namespaced, "pod")),
            ("service", partial(_namespaced, "service")),
            ("label", _label),
            ("identity", _identity),
            ("port", _port),
            ("workload", _workload),
            ("cluster_name", _cluster),
            ("fqdn", _fqdn),
        )
    },
    **{name: partial(_member, name) for name in ("verdict", "traffic_direction", "uuid")},
    **{
        name: partial(_http, name)
        for name in ("http_status_code", "http_method", "http_path", "http_url", "http_header")
    },
    "source_ip_xlated": lambda values, wanted: _ip("source", values, wanted, "ip_xlated"),
    "node_labels": partial(_label, "node"),
    "drop_reason_desc": _drop_reason,
    "event_type": _event_type,
    "protocol": _protocol,
    "tcp_flags": _tcp_flags,
    "reply": _reply,
    "node_name": _node_name,
    "interface": _interface,
    "dns_query": _dns_query,
    "experimental": _experimental,
    "ip_version": lambda values, _: lambda flow: flow.IP.ipVersion in values,
    "encrypted": lambda values, _: lambda flow: flow.IP.encrypted in values,
    "trace_id": lambda values, _: lambda flow: flow.trace_context.parent.trace_id in values,
    "ip_trace_id": lambda values, _: lambda flow: flow.HasField("ip_trace_id") and flow.ip_trace_id.trace_id in values,
}
