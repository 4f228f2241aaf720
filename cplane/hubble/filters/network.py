"""Filters about packets: addresses, ports, protocols, flags, devices, direction."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

import numpy as np

from cplane.hubble.detail import ACCESS, Detail
from cplane.hubble.filters.predicate import (
    DESTINATION,
    SOURCE,
    BadFilter,
    Mask,
    Predicate,
    Side,
    all_of,
    any_of,
    by_detail,
    by_link,
    member,
)
from cplane.hubble.flow import ICMP4, ICMP6, PORTS, SCTP, TCP, UDP
from cplane.hubble.ring import Reply, Span
from cplane.hubble.store import FlowStore
from cplane.hubble.texts import TCP_FLAGS
from cplane.pb.flow import flow_pb2
from datapath.notify.records import RecordType

_PROTOCOLS: Final[Mapping[str, tuple[int, ...]]] = {
    "icmp": (ICMP4, ICMP6),
    "icmpv4": (ICMP4,),
    "icmpv6": (ICMP6,),
    "tcp": (TCP,),
    "udp": (UDP,),
    "sctp": (SCTP,),
    "vrrp": (),  # packets of it are described where a record holds the packet
    "igmp": (),
    "dns": (),  # these are of requests
    "http": (),
    "kafka": (),
}
_RECORDS: Final = frozenset({"dns", "http", "kafka"})
_PORT_MAX: Final = 65_535
_ALL: Final = (1 << 64) - 1
_OF_PACKETS: Final = np.ones(256, np.bool_)  # types of flows; others are about connections, which have no flags
_OF_PACKETS[[ACCESS, RecordType.SOCKET]] = False


def _networks(field: str, texts: Sequence[str]) -> list[IPv4Network | IPv6Network]:
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text, strict=False) if "/" in text else ip_network(ip_address(text)))
        except ValueError:
            raise BadFilter(field, f"{text!r} is neither an IP address nor a CIDR") from None
    return networks


def _within(column: str, network: IPv4Network | IPv6Network) -> Predicate:
    """Addresses are two halves; an IPv4 one fills the upper half of the first."""
    shift = 96 if network.version == 4 else 0
    mask, base = int(network.netmask) << shift, int(network.network_address) << shift
    mask_hi, base_hi = np.uint64(mask >> 64), np.uint64(base >> 64)
    mask_lo, base_lo = np.uint64(mask & _ALL), np.uint64(base & _ALL)
    version = flow_pb2.IPv4 if network.version == 4 else flow_pb2.IPv6

    def evaluate(span: Span) -> Mask:
        found: Mask = (span["ip_version"] == version) & ((span[f"{column}_hi"] & mask_hi) == base_hi)
        if mask_lo:
            found &= (span[f"{column}_lo"] & mask_lo) == base_lo
        return found

    return evaluate


def _ip(side: Side, wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    field = f"{side.field}_ip"
    return any_of([_within(side.column, network) for network in _networks(field, getattr(wanted, field))])


def _ip_xlated(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    networks = _networks("source_ip_xlated", wanted.source_ip_xlated)

    def test(detail: Detail) -> bool:
        return bool(detail.source_xlated) and any(ip_address(detail.source_xlated) in one for one in networks)

    return by_detail(store, test)


def _has_layer4(protocols: Sequence[int]) -> Predicate:
    """Flows that have one of these layers; what is no IP packet has none."""
    of_protocol = member("protocol", protocols)
    return lambda span: of_protocol(span) & (span["ip_version"] != flow_pb2.IP_NOT_USED)


def _port(side: Side, wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    field = f"{side.field}_port"
    ports = []
    for text in getattr(wanted, field):
        if not (text.isascii() and text.isdecimal() and int(text) <= _PORT_MAX):
            raise BadFilter(field, f"{text!r} is not a port (0 to {_PORT_MAX})")
        ports.append(int(text))
    return all_of((member(f"{side.column[0]}port", ports), _has_layer4(PORTS)))


def _protocol(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    numbers: list[int] = []
    described = []
    for text in wanted.protocol:
        if text.lower() not in _PROTOCOLS:
            raise BadFilter("protocol", f"{text!r} is none of {', '.join(_PROTOCOLS)}")
        numbers.extend(_PROTOCOLS[text.lower()])
        if text.lower() == "vrrp":
            described.append(by_detail(store, lambda detail: detail.vrrp is not None))
        elif text.lower() == "igmp":
            described.append(by_detail(store, lambda detail: detail.igmp is not None))
        elif text.lower() in _RECORDS:
            described.append(by_detail(store, partial(_has_record, text.lower())))
    return any_of((_has_layer4(numbers), *described))


def _has_record(record: str, detail: Detail) -> bool:
    return detail.request is not None and detail.request.record == record


def _tcp_flags(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    with_nonce = [flags for flags in wanted.tcp_flags if flags.NS]
    found = [_has_bits([flags for flags in wanted.tcp_flags if not flags.NS])]
    if with_nonce:  # it is not in the byte of the others
        found.append(all_of((_has_bits(with_nonce), by_detail(store, lambda detail: detail.nonce_sum))))
    return all_of((any_of(found), _has_layer4((TCP,)), lambda span: _OF_PACKETS[span["type"]]))


def _has_bits(wanted: Sequence[flow_pb2.TCPFlags]) -> Predicate:
    """Flows that have all flags of one of these, NS aside."""
    table = np.zeros(256, np.bool_)
    values = np.arange(256)
    for flags in wanted:
        bits = sum(bit for name, bit in TCP_FLAGS if getattr(flags, name))
        table |= (values & bits) == bits
    return lambda span: table[span["tcp_flags"]]


def _reply(wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    """Where it is unknown: a dropped packet counts as no reply, any other matches nothing."""
    known = member("reply", (int(reply) for reply in wanted.reply))
    if False not in wanted.reply:
        return known
    unknown, dropped = member("reply", (Reply.UNKNOWN,)), member("verdict", (flow_pb2.DROPPED,))
    return any_of((known, all_of((unknown, dropped))))


def _interface(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    pairs = [(one.index, one.name) for one in wanted.interface]
    return by_link(
        store,
        lambda link: any(
            link.index and index in {0, link.index} and (not name or name == link.name) for index, name in pairs
        ),
    )


def _encrypted(wanted: flow_pb2.FlowFilter, store: FlowStore) -> Predicate:
    return by_detail(store, lambda detail: detail.encrypted in wanted.encrypted)


def _byte(field: str, column: str, wanted: flow_pb2.FlowFilter, _store: FlowStore) -> Predicate:
    return member(column, getattr(wanted, field))


FIELDS: Final[Mapping[str, Callable[[flow_pb2.FlowFilter, FlowStore], Predicate]]] = {
    "source_ip": partial(_ip, SOURCE),
    "destination_ip": partial(_ip, DESTINATION),
    "source_ip_xlated": _ip_xlated,
    "source_port": partial(_port, SOURCE),
    "destination_port": partial(_port, DESTINATION),
    "protocol": _protocol,
    "tcp_flags": _tcp_flags,
    "reply": _reply,
    "interface": _interface,
    "encrypted": _encrypted,
    "traffic_direction": partial(_byte, "traffic_direction", "direction"),
    "ip_version": partial(_byte, "ip_version", "ip_version"),
}
