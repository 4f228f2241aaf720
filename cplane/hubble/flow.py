"""A row of the ring as a `flow.Flow`, field by field: the slow and plain way, which everything faster must equal.

A row has two parts. The key is what many flows of the same kind share; `Varying` differs from packet to packet.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.domain.verdict import Verdict
from cplane.hubble.attribution import Attribution
from cplane.hubble.detail import ACCESS, NO_DETAIL, Detail
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.origin import TYPE_URL
from cplane.hubble.parser.ends import address_text
from cplane.hubble.ring import COLUMNS, Reply, Span
from cplane.hubble.store import FlowStore
from cplane.hubble.texts import TCP_FLAGS, file_name, icmp_summary, tcp_summary
from cplane.pb.cplane.flow.v1 import extension_pb2
from cplane.pb.flow import flow_pb2
from datapath.notify.records import RecordType

VARYING: Final = ("time_ns", "origin", "sport", "dport", "cookie")
_NOT_SHOWN: Final = ("src_identity", "dst_identity")  # they stand in the ends
KEY: Final = np.dtype([(n, kind) for n, kind in COLUMNS.items() if n not in (*VARYING, *_NOT_SHOWN)])
ICMP4: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMP6: Final = 58
SCTP: Final = 132
PORTS: Final = (TCP, UDP, SCTP)
_NAMES: Final = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}
_ALLOWED: Final = frozenset({Verdict.FORWARDED, Verdict.REDIRECTED})
_FLOW_TYPES: Final = {int(RecordType.SOCKET): flow_pb2.SOCK, ACCESS: flow_pb2.L7}
_TO_ENDPOINT: Final = 0  # a trace sub-type, whose point has another number


class Key(NamedTuple):
    """One element of `KEY` as Python numbers."""

    src_hi: int
    src_lo: int
    dst_hi: int
    dst_lo: int
    src_meta: int
    dst_meta: int
    link: int
    attribution: int
    detail: int
    proxy_port: int
    line: int
    macs: bytes
    type: int
    subtype: int
    verdict: int
    reason: int
    direction: int
    reply: int
    ip_version: int
    match_type: int
    trace_reason: int
    protocol: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    file: int


assert Key._fields == KEY.names


class Varying(NamedTuple):
    """What differs between flows of one key."""

    time_ns: int
    origin: int
    sport: int
    dport: int
    uuid: str
    cookie: int = 0


def gather(span: Span, rows: "npt.NDArray[np.intp] | slice") -> npt.NDArray[np.void]:
    """The keys of the rows (relative to the span), as an array of `KEY`."""
    first = span[KEY.names[0]][rows]  # type: ignore[index]  # a structured type has names
    keys = np.empty(len(first), KEY)
    for name in KEY.names or ():
        keys[name] = span[name][rows]
    return keys


def key_of(data: bytes) -> Key:
    """A key from its bytes; zeros at the end may be missing."""
    values: tuple[Any, ...] = np.frombuffer(data.ljust(KEY.itemsize, b"\0"), KEY)[0].item()  # Any: numpy's scalars
    return Key(*values)


class FlowBuilder:
    """Makes messages of one store's rows."""

    def __init__(self, store: FlowStore) -> None:
        self._store = store

    def flow(self, span: Span, row: int) -> flow_pb2.Flow:
        """The complete flow of one row, relative to the span."""
        one = slice(row, row + 1)
        key = key_of(gather(span, one).tobytes())
        time_ns, origin, sport, dport, cookie = (int(span[name][row]) for name in VARYING)
        uuid = self._store.ids.text(span.start + row)
        return self.complete(key, Varying(time_ns, origin, sport, dport, uuid, cookie))

    def complete(self, key: Key, varying: Varying) -> flow_pb2.Flow:
        """The flow of a key with what varies."""
        flow = self.shared(key)
        flow.time.FromNanoseconds(varying.time_ns)
        flow.uuid = varying.uuid
        if key.protocol in PORTS and key.ip_version:
            l4 = getattr(flow.l4, flow.l4.WhichOneof("protocol") or "")
            l4.source_port, l4.destination_port = varying.sport, varying.dport
        if key.type == ACCESS:
            flow.MergeFromString(self._store.payload(key.detail, varying.cookie))
        if key.type == RecordType.SOCKET:
            flow.socket_cookie = self._store.details[key.detail].socket_base | varying.cookie
        flow.extensions.type_url = TYPE_URL
        flow.extensions.value = extension_pb2.Origin(position=varying.origin).SerializeToString()
        return flow

    def shared(self, key: Key) -> flow_pb2.Flow:
        """What all flows of a key have in common: no time, no uuid, no ports, no socket, no request, no extension."""
        flow = flow_pb2.Flow(
            verdict=key.verdict,  # type: ignore[arg-type]  # enumerations are open: any number goes
            Type=_FLOW_TYPES.get(key.type, flow_pb2.L3_L4),
            node_name=self._store.node_name,
            node_labels=self._store.node_labels,
            event_type=flow_pb2.CiliumEventType(type=key.type, sub_type=key.subtype),
            traffic_direction=key.direction,  # type: ignore[arg-type]
            policy_match_type=key.match_type,
            trace_reason=key.trace_reason,  # type: ignore[arg-type]
            drop_reason=key.reason,
            drop_reason_desc=key.reason,  # type: ignore[arg-type]
            proxy_port=key.proxy_port,
        )
        self._network(flow, key)
        self._place(flow, key)
        _attribute(flow, key, self._store.attributions[key.attribution])
        detail = self._store.details[key.detail]
        _transport(flow, key, detail)
        if detail is not NO_DETAIL:
            _tell(flow, detail)
        if key.reply != Reply.UNKNOWN:
            flow.is_reply.value = key.reply == Reply.YES
            flow.reply = flow.is_reply.value
        return flow

    def _network(self, flow: flow_pb2.Flow, key: Key) -> None:
        if any(key.macs):
            flow.ethernet.source, flow.ethernet.destination = key.macs[:6].hex(":"), key.macs[6:].hex(":")
        if key.ip_version:
            flow.IP.source = address_text(key.ip_version, key.src_hi, key.src_lo)
            flow.IP.destination = address_text(key.ip_version, key.dst_hi, key.dst_lo)
            flow.IP.ipVersion = key.ip_version  # type: ignore[assignment]
        source, destination = self._store.endpoints[key.src_meta], self._store.endpoints[key.dst_meta]
        _end(flow.source, source)
        _end(flow.destination, destination)
        flow.source_names.extend(source.names)
        flow.destination_names.extend(destination.names)
        for service, message in ((source.service, "source_service"), (destination.service, "destination_service")):
            if service is not None:
                getattr(flow, message).name, getattr(flow, message).namespace = service

    def _place(self, flow: flow_pb2.Flow, key: Key) -> None:
        link = self._store.links[key.link]
        if link.index:
            flow.interface.index, flow.interface.name = link.index, link.name
        if key.type == RecordType.TRACE:
            flow.trace_observation_point = (
                flow_pb2.TO_ENDPOINT if key.subtype == _TO_ENDPOINT else key.subtype  # type: ignore[assignment]
            )
        if key.type == RecordType.CAPTURE:
            flow.debug_capture_point = key.subtype  # type: ignore[assignment]
        if key.type == RecordType.SOCKET:
            flow.sock_xlate_point = key.subtype  # type: ignore[assignment]
        if key.type == RecordType.DROP and key.file:
            flow.file.name, flow.file.line = file_name(key.file), key.line


def _attribute(flow: flow_pb2.Flow, key: Key, found: Attribution) -> None:
    """Who decided, in the field that says which way and what."""
    way = "egress" if key.direction == flow_pb2.EGRESS else "ingress"
    named = getattr(flow, f"{way}_{'allowed' if key.verdict in _ALLOWED else 'denied'}_by")
    for one in found.policies:
        named.add(name=one.name, namespace=one.namespace, labels=one.labels, revision=one.revision, kind=one.kind)
    flow.policy_log.extend(found.log)


def _end(message: flow_pb2.Endpoint, meta: EndpointMeta) -> None:
    message.ID = meta.endpoint_id
    message.identity = meta.identity
    message.cluster_name = meta.cluster
    message.namespace = meta.namespace
    message.pod_name = meta.pod_name
    message.labels.extend(meta.labels)
    for workload in meta.workloads:
        message.workloads.add(name=workload.name, kind=workload.kind)
    message.SetInParent()


def _tell(flow: flow_pb2.Flow, detail: Detail) -> None:
    flow.cgroup_id = detail.cgroup_id
    flow.auth_type = detail.auth_type  # type: ignore[assignment]
    if flow.HasField("IP"):
        flow.IP.encrypted, flow.IP.source_xlated = detail.encrypted, detail.source_xlated
    if detail.trace_id:
        flow.ip_trace_id.trace_id = detail.trace_id
    tunnel = detail.tunnel
    if tunnel is not None:
        flow.tunnel.protocol, flow.tunnel.vni = tunnel.protocol, tunnel.vni  # type: ignore[assignment]
        flow.tunnel.IP.source, flow.tunnel.IP.destination = tunnel.source, tunnel.destination
        flow.tunnel.IP.ipVersion = tunnel.ip_version  # type: ignore[assignment]
        flow.tunnel.l4.UDP.source_port, flow.tunnel.l4.UDP.destination_port = tunnel.sport, tunnel.dport


def _transport(flow: flow_pb2.Flow, key: Key, detail: Detail) -> None:
    if not key.ip_version:
        return
    match key.protocol:
        case 6 | 17 | 132 if key.type == ACCESS:  # the payload has the summary
            getattr(flow.l4, _NAMES[key.protocol]).SetInParent()
        case 6 if key.type == RecordType.SOCKET:
            flow.l4.TCP.SetInParent()
            flow.Summary = "TCP"
        case 6:
            flow.l4.TCP.flags.SetInParent()
            for name, bit in TCP_FLAGS:
                if key.tcp_flags & bit:
                    setattr(flow.l4.TCP.flags, name, True)
            flow.Summary = tcp_summary(key.tcp_flags)
            if detail.nonce_sum:
                flow.l4.TCP.flags.NS = True
                flow.Summary += ", NS" if key.tcp_flags else "NS"
        case 17:
            flow.l4.UDP.SetInParent()
            flow.Summary = "UDP"
        case 132:
            flow.l4.SCTP.SetInParent()
            flow.Summary = "SCTP"
        case _:
            _unported(flow, key, detail)


def _unported(flow: flow_pb2.Flow, key: Key, detail: Detail) -> None:
    match key.protocol:
        case 1:
            flow.l4.ICMPv4.type, flow.l4.ICMPv4.code = key.icmp_type, key.icmp_code
            flow.l4.ICMPv4.SetInParent()
            flow.Summary = icmp_summary(4, key.icmp_type, key.icmp_code)
        case 58:
            flow.l4.ICMPv6.type, flow.l4.ICMPv6.code = key.icmp_type, key.icmp_code
            flow.l4.ICMPv6.SetInParent()
            flow.Summary = icmp_summary(6, key.icmp_type, key.icmp_code)
        case 112 if detail.vrrp is not None:
            vrrp = flow.l4.VRRP
            vrrp.type, vrrp.vrid, vrrp.priority = detail.vrrp
            flow.Summary = "VRRP"
        case 2 if detail.igmp is not None:
            flow.l4.IGMP.type, flow.l4.IGMP.group_address = detail.igmp
            flow.Summary = "IGMP"
