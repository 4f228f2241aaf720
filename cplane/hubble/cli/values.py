"""What stands behind filter flags, as the values of FlowFilter fields. Each of them raises ValueError."""

import json
from collections.abc import Callable, Mapping
from typing import Final

from cplane.domain.identity import Reserved
from cplane.hubble.cli.flags import EVENT_TYPES, IDENTITIES, TRACE, TRACE_POINTS
from cplane.pb.flow import flow_pb2

_IP_VERSIONS: Final = {
    "none": flow_pb2.IP_NOT_USED,
    **dict.fromkeys(("4", "v4", "ipv4", "ip4"), flow_pb2.IPv4),
    **dict.fromkeys(("6", "v6", "ipv6", "ip6"), flow_pb2.IPv6),
}
_UINT32: Final = (1 << 32) - 1
_UINT64: Final = (1 << 64) - 1
_INT32: Final = (1 << 31) - 1


def _number(text: str, largest: int, *, any_base: bool = False) -> int:
    """A number without a sign, as Go reads them. Raises ValueError."""
    if not text.isascii() or not text[:1].isdigit() or "_" in text:
        raise ValueError("invalid syntax")
    try:
        number = int(text, 0 if any_base else 10)
    except ValueError:
        raise ValueError("invalid syntax") from None
    if number > largest:
        raise ValueError("value out of range")
    return number


def _ip_version(text: str) -> int:
    if text.lower() not in _IP_VERSIONS:
        raise ValueError(f"invalid --ip-version value: {text}")
    return _IP_VERSIONS[text.lower()]


def _same(text: str) -> str:
    return text


def _identity(text: str) -> int:
    if text in IDENTITIES:
        return next(one.value for one in Reserved if one.label_key == text)
    try:
        return _number(text, _UINT32, any_base=True)
    except ValueError:
        names = " ".join(IDENTITIES)
        raise ValueError(f"invalid security identity, expected one of [{names}] or a numeric value") from None


def _workload(text: str) -> flow_pb2.Workload:
    kind, slash, name = text.partition("/")
    return flow_pb2.Workload(kind=kind, name=name) if slash else flow_pb2.Workload(name=text)


def _verdict(text: str) -> int:
    if text not in flow_pb2.Verdict.keys():  # noqa: SIM118  # an enumeration of protobuf is no mapping
        raise ValueError(f"invalid --verdict value: {text}")
    return flow_pb2.Verdict.Value(text)


def _drop_reason(text: str) -> int:
    if not text:
        raise ValueError("empty --drop-reason-desc value")
    if text not in flow_pb2.DropReason.keys():  # noqa: SIM118  # as above
        raise ValueError(f"invalid --drop-reason-desc value: {text}")
    return flow_pb2.DropReason.Value(text)


def _event_type(text: str) -> flow_pb2.EventTypeFilter:
    kind, colon, detail = text.partition(":")
    try:
        number = EVENT_TYPES.get(kind)
        wanted = flow_pb2.EventTypeFilter(type=_number(kind, _INT32) if number is None else number)
    except ValueError as error:
        words = "not a known type name and unable to parse as numeric value"
        raise ValueError(f"unable to parse type '{kind}', {words}: {error}") from None
    if not colon:
        return wanted
    wanted.match_sub_type = True
    if wanted.type == TRACE and detail in TRACE_POINTS:
        wanted.sub_type = TRACE_POINTS.index(detail)
        return wanted
    try:
        wanted.sub_type = _number(detail, _INT32)
    except ValueError as error:
        words = "not a known sub-type name and unable to parse as numeric value"
        raise ValueError(f"unable to parse event sub-type '{detail}', {words}: {error}") from None
    return wanted


def _tcp_flags(text: str) -> flow_pb2.TCPFlags:
    flags = flow_pb2.TCPFlags()
    for one in text.split(","):
        if one.upper() not in flow_pb2.TCPFlags.DESCRIPTOR.fields_by_name:
            raise ValueError(f"unknown tcp flag: {one}")
        setattr(flags, one.upper(), True)
    return flags


def _direction(text: str) -> int:
    if text.lower() not in {"ingress", "egress"}:
        raise ValueError(f"{text.lower()}: invalid traffic direction, expected ingress or egress")
    return flow_pb2.TrafficDirection.Value(text.upper())


def _header(text: str) -> flow_pb2.HTTPHeader:
    key, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"invalid http-header value {json.dumps(text)}, expected name:value")
    return flow_pb2.HTTPHeader(key=key, value=value)


def _ip_trace_id(text: str) -> int:
    try:
        number = _number(text, _UINT64)
    except ValueError as error:
        raise ValueError(f"invalid --ip-trace-id value: {error}") from None
    if not number:
        raise ValueError("invalid --ip-trace-id value; must be greater than 0")
    return number


# flag of either end → the field behind `source_` and `destination_`, and what its values become
ENDS: Final[Mapping[str, tuple[str, Callable[[str], object]]]] = {
    **{name: (name, _same) for name in ("pod", "ip", "label", "service", "port", "fqdn")},
    "cluster": ("cluster_name", _same),
    "identity": ("identity", _identity),
    "workload": ("workload", _workload),
}
# flag of the whole flow → field, and what its values become
WHOLE: Final[Mapping[str, tuple[str, Callable[[str], object]]]] = {
    **{name: (name, _same) for name in ("uuid", "protocol")},
    **{
        name: (name.replace("-", "_"), _same)
        for name in ("node-name", "http-method", "http-path", "http-url", "trace-id")
    },
    "node-label": ("node_labels", _same),
    "snat-ip": ("source_ip_xlated", _same),
    "http-status": ("http_status_code", _same),
    "http-header": ("http_header", _header),
    "verdict": ("verdict", _verdict),
    "drop-reason-desc": ("drop_reason_desc", _drop_reason),
    "type": ("event_type", _event_type),
    "tcp-flags": ("tcp_flags", _tcp_flags),
    "traffic-direction": ("traffic_direction", _direction),
    "ip-version": ("ip_version", _ip_version),
    "ipv4": ("ip_version", lambda _: flow_pb2.IPv4),
    "ipv6": ("ip_version", lambda _: flow_pb2.IPv6),
    "ip-trace-id": ("ip_trace_id", _ip_trace_id),
    "interface": ("interface", lambda text: flow_pb2.NetworkInterface(name=text)),
    "encrypted": ("encrypted", lambda _: True),
    "unencrypted": ("encrypted", lambda _: False),
}
