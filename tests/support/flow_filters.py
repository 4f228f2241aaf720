"""What a FlowFilter means, said once more: message by message, field by field, without any columns."""

import re
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import strategies as st

from cplane.hubble.endpoint import Service
from cplane.pb.flow import flow_pb2
from tests.support.flows import API, DB, WEB, World

FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")


def selected(flow: flow_pb2.Flow, whitelist: list[flow_pb2.FlowFilter], blacklist: list[flow_pb2.FlowFilter]) -> bool:
    return (not whitelist or any(fits(flow, one) for one in whitelist)) and not any(fits(flow, o) for o in blacklist)


def fits(flow: flow_pb2.Flow, wanted: flow_pb2.FlowFilter) -> bool:
    return all(_field(flow, field.name, value) for field, value in wanted.ListFields())


def _field(flow: flow_pb2.Flow, name: str, values: Any) -> bool:
    side, _, rest = name.partition("_")
    if side in ("source", "destination"):
        return any(_of_end(flow, side, rest, value) for value in values)
    if name == "experimental":
        return True
    return any(_of_flow(flow, name, value) for value in values)


def _of_end(flow: flow_pb2.Flow, side: str, name: str, value: Any) -> bool:  # noqa: C901  # one case for each field
    end = getattr(flow, side)
    address = getattr(flow.IP, side)
    match name:
        case "ip":
            return bool(address) and ip_address(address) in ip_network(value, strict=False)
        case "pod":
            namespace, slash, prefix = value.partition("/")
            if not slash:
                namespace, prefix = "default", value
            if not end.namespace and not end.pod_name:
                return False
            return namespace in ("", end.namespace) and end.pod_name.startswith(prefix)
        case "label":
            return all(_label(set(end.labels), part) for part in value.split(",") if part)
        case "identity":
            return end.identity == value
        case "port":
            kind = flow.l4.WhichOneof("protocol")
            return kind in ("TCP", "UDP", "SCTP") and str(getattr(getattr(flow.l4, kind), f"{side}_port")) == value
        case "workload":
            return any(value.name in ("", w.name) and value.kind in ("", w.kind) for w in end.workloads)
        case "cluster_name":
            return end.cluster_name == value
        case "service":
            service = getattr(flow, f"{side}_service")
            namespace, slash, prefix = value.partition("/")
            if not slash:
                namespace, prefix = "default", value
            return service.name != "" and namespace in ("", service.namespace) and service.name.startswith(prefix)
        case "fqdn":
            return any(_glob(value.lower(), known) for known in getattr(flow, f"{side}_names"))
        case "ip_xlated":
            return False
    raise AssertionError(name)


def _label(labels: set[str], part: str) -> bool:
    """`key=value`, `key!=value`, `key>1`, `key<1`, `key`, `!key`; a key with a source or of any."""
    part = part.strip()
    if part.startswith("!"):
        return not _label(labels, part[1:])
    key, operator, value = re.fullmatch(r"([^=!<>]+)(?:(!=|=|<|>)(.*))?", part).groups()  # type: ignore[union-attr]
    pairs = [text.partition("=")[::2] for text in labels]
    held = [v for k, v in pairs if k == key or (":" not in key and k.partition(":")[2] == key)]
    if operator is None:
        return bool(held)
    if operator in "<>":
        more = [int(one) > int(value) for one in held if one.isdecimal() and int(one) != int(value)]
        return (operator == ">") in more
    return (value in held) == (operator == "=")


def _of_flow(flow: flow_pb2.Flow, name: str, value: Any) -> bool:  # noqa: C901  # one case for each field
    kind = flow.l4.WhichOneof("protocol") or ""
    match name:
        case "verdict" | "traffic_direction" | "uuid":
            return bool(getattr(flow, name) == value)
        case "drop_reason_desc":
            return flow.verdict == flow_pb2.DROPPED and flow.drop_reason_desc == value
        case "ip_version":
            return flow.IP.ipVersion == value
        case "protocol":
            if value.lower() == flow.l7.WhichOneof("record"):
                return True
            return kind.lower() == value.lower() or (value.lower() == "icmp" and kind.startswith("ICMP"))
        case "reply":
            if not flow.HasField("is_reply"):
                return value is False and flow.verdict == flow_pb2.DROPPED
            return flow.is_reply.value == value
        case "event_type":
            type_fits = value.type in (0, flow.event_type.type)
            return type_fits and (not value.match_sub_type or value.sub_type == flow.event_type.sub_type)
        case "tcp_flags":
            present = kind == "TCP" and flow.l4.TCP.HasField("flags")
            return present and all(not getattr(value, f) or getattr(flow.l4.TCP.flags, f) for f in FLAGS)
        case "node_name":
            cluster, slash, node = value.partition("/")
            if not slash:
                cluster, node = "", value
            own = flow.node_name.partition("/")[::2]
            return all(not p or _glob(p, text) for p, text in zip((cluster, node), own, strict=True))
        case "interface":
            named = value.index in (0, flow.interface.index) and value.name in ("", flow.interface.name)
            return named and flow.HasField("interface")
        case "encrypted":
            return flow.IP.encrypted == value
        case "node_labels":
            return all(_label(set(flow.node_labels), part) for part in value.split(",") if part)
        case "ip_trace_id":
            return flow.HasField("ip_trace_id") and flow.ip_trace_id.trace_id == value
        case "trace_id":
            return flow.trace_context.parent.trace_id == value
        case "dns_query":
            return flow.l7.HasField("dns") and re.search(value, flow.l7.dns.query) is not None
    return flow.l7.HasField("http") and _of_http(flow.l7.http, name, value)


def _of_http(http: flow_pb2.HTTP, name: str, value: Any) -> bool:
    match name:
        case "http_status_code":
            code = str(http.code or "")
            return code == value or (value.endswith("+") and code.startswith(value[:-1]) and code != "")
        case "http_method":
            return http.method != "" and http.method.lower() == value.lower()
        case "http_url":
            return http.url != "" and re.search(value, http.url) is not None
        case "http_header":
            return value in http.headers
        case "http_path":
            # scheme and host, then what begins with a slash, or nothing; or such a path alone; or what has no path
            found = re.fullmatch(r"(?:[a-z]+://[^/?[]*((?:/[^?]*)?)|(/[^?]*)|[a-z]+:(?!/)())(?:\?.*)?", http.url)
            if found is None or re.search(r"[\t\x7f]", http.url):
                return False
            return re.search(value, next(one for one in found.groups() if one is not None)) is not None
    raise AssertionError(name)


def _glob(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[-.0-9a-z]*"), text) is not None


def _some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2)


_ENDS = {
    "ip": _some(["10.244.0.11", "10.244.0.0/24", "0.0.0.0/0", "fd00::11", "fd00::/64", "::/0", "192.0.2.0/28"]),
    "pod": _some(["shop/web", "shop/", "/", "/web-7f9", "web-7f9", "data/db-0", "shop/none"]),
    "label": _some(
        [
            "app=web",
            "k8s:app=api",
            "app!=web",
            "!tier",
            "tier",
            "app,tier=back",
            "any",
            "reserved:world",
            "raw>0",
            "raw<1",
            "app<9",
        ]
    ),
    "identity": _some([0, 1, 2, WEB, API, DB, 4242]),
    "port": _some(["80", "0", "65535", "43512", "53"]),
    "workload": _some([flow_pb2.Workload(), flow_pb2.Workload(kind="Deployment"), flow_pb2.Workload(name="db")]),
    "cluster_name": _some(["default", "other"]),
    "service": _some(["shop/web", "web", "shop/", "/w", "/", "default/"]),
    "fqdn": _some(["*.example.org", "a_b.org", "*", "API.example.org", "x*", "*_b.org"]),
}
_FLOWS = {
    "verdict": _some([1, 2, 4, 5]),
    "traffic_direction": _some([0, 1, 2]),
    "drop_reason_desc": _some([0, 132, 133, 181]),
    "ip_version": _some([0, 1, 2]),
    "protocol": _some(["tcp", "UDP", "icmp", "ICMPv6", "sctp", "http", "DNS", "kafka", "vrrp"]),
    "reply": st.lists(st.booleans(), min_size=1, max_size=2),
    "event_type": _some(
        [
            flow_pb2.EventTypeFilter(type=1),
            flow_pb2.EventTypeFilter(type=4, match_sub_type=True, sub_type=0),
            flow_pb2.EventTypeFilter(type=1, match_sub_type=True, sub_type=133),
            flow_pb2.EventTypeFilter(type=5),
            flow_pb2.EventTypeFilter(type=0, match_sub_type=True, sub_type=3),
            flow_pb2.EventTypeFilter(type=129),
        ]
    ),
    "tcp_flags": _some(
        [
            flow_pb2.TCPFlags(SYN=True),
            flow_pb2.TCPFlags(SYN=True, NS=True),
            flow_pb2.TCPFlags(ACK=True, PSH=True),
            flow_pb2.TCPFlags(),
        ]
    ),
    "node_name": _some(["node1", "default/node1", "other/", "default/", "n*", "*/*", "x*"]),
    "node_labels": _some(["!a", "a=b"]),
    "interface": _some(
        [flow_pb2.NetworkInterface(index=7), flow_pb2.NetworkInterface(name="lxc8"), flow_pb2.NetworkInterface()]
    ),
    "encrypted": st.lists(st.booleans(), min_size=1, max_size=2),
    "ip_trace_id": _some([0, 5]),
    "dns_query": _some(["example", "^x", "", "none"]),
    "trace_id": _some(["abc", "ab" * 16, ""]),
    "http_method": _some(["GET", "DELETE", "put"]),
    "http_status_code": _some(["200", "4+", "50+", "403"]),
    "http_url": _some(["api", "^/bare$", "q=1", ""]),
    "http_path": _some(["^/public/", "^/bare$", "^/admin$", "^$", "^//", "#", "only", ".*"]),
    "http_header": _some(
        [flow_pb2.HTTPHeader(key="X-Token", value="GET"), flow_pb2.HTTPHeader(key="Accept", value="post")]
    ),
}


def named_world() -> World:
    """A world in which some addresses have names, and are those of services."""
    world = World()
    world.names["192.0.2.7"] = {11: ("api.example.org", "a_b.org"), 12: ("x.y.example.org",)}
    world.names["2001:db8::7"] = {11: ("x.org",)}
    world.services["192.0.2.7"] = {(6, 80): Service("web", "shop"), (17, 53): Service("web", "default")}
    world.services["10.244.0.13"] = {(6, 443): Service("wide", "data")}
    return world


@st.composite
def flow_filters(draw: st.DrawFn) -> flow_pb2.FlowFilter:
    """Filters with up to three fields that may select something."""
    choices = {
        **{f"{side}_{name}": values for side in ("source", "destination") for name, values in _ENDS.items()},
        **_FLOWS,
    }
    names = draw(st.lists(st.sampled_from(sorted(choices)), max_size=3, unique=True))
    if any(name.startswith("http_") for name in names) and "event_type" in names:
        names.remove("event_type")
    return flow_pb2.FlowFilter(**{name: draw(choices[name]) for name in names})
