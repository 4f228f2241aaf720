"""What debug records say, in the words of the original's monitor (`pkg/monitor/datapath_debug.go`).

Numbers of the network (addresses, some ports) are as they lie in a packet, read by a little-endian machine; others are
plain. IPv6 addresses show their end only, as more does not fit.
"""

import os
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from cplane.hubble.texts import drop_reason

_STATES: Final = ("New", "Established", "Reply", "Related")  # of connections; larger numbers are drop reasons
_ERRNO_MAX: Final = 4095
_DIRECTIONS: Final = {0: "egress", 1: "ingress"}
_TUPLE_FLAGS: Final = {1: "OUT", 2: "RELATED"}  # the original's monitor calls them so


class Said(NamedTuple):
    """One record: its type is a flow.DebugEventType. `link` names a device by its index."""

    type: int
    arg1: int
    arg2: int
    arg3: int
    link: Callable[[int], str]


def debug_message(said: Said) -> str:
    """The words for a record, also for one of a type that nobody knows."""
    words = _WORDS.get(said.type)
    if words is None:
        return f"Unknown message type={said.type} arg1={said.arg1} arg2={said.arg2}"
    return words(said)


def _port(number: int) -> int:
    return (number & 0xFF) << 8 | number >> 8 & 0xFF


def _v4(number: int) -> str:
    return ".".join(map(str, number.to_bytes(4, "little")))


def _v6(number: int) -> str:
    value = int.from_bytes(number.to_bytes(4, "little"), "big")
    return f"{value >> 16:x}:{value & 0xFFFF:x}"


def _number(value: int) -> str:
    return f"{value} ({value:#x})"


def _tuple(said: Said) -> str:
    flags = ", ".join(name for bit, name in _TUPLE_FLAGS.items() if said.arg2 & bit)
    return f"sport={said.arg1 >> 16} dport={said.arg1 & 0xFFFF} nexthdr={said.arg2 >> 8} flags={flags}"


def _ends4(said: Said) -> str:
    return f"src={_v4(said.arg1)}:{said.arg3 & 0xFFFF} dst={_v4(said.arg2)}:{said.arg3 >> 16}"


def _ends6(said: Said) -> str:
    return f"src=[::{_v6(said.arg1)}]:{said.arg3 & 0xFFFF} dst=[::{_v6(said.arg2)}]:{said.arg3 >> 16}"


def _next_header(said: Said) -> str:
    return f"Conntrack lookup 2/2: nexthdr={said.arg1 >> 8} flags={said.arg1 & 0xFF}"


def _created(said: Said) -> str:
    return f"proxy-port={said.arg1 >> 16} revnat={_port(said.arg1)} src-identity={said.arg2}"


def _state(said: Said) -> str:
    known = said.arg1 < len(_STATES)
    return f"CT verdict: {_STATES[said.arg1] if known else drop_reason(said.arg1 & 0xFF)}, revnat={_port(said.arg2)}"


def _proxied(said: Said) -> str:
    return f"sport={_port(said.arg1 >> 16)} dport={_port(said.arg1)} saddr={_v4(said.arg2)} nexthdr={said.arg3}"


def _assigned(said: Said) -> str:
    failed = os.strerror(said.arg1).lower() if said.arg1 <= _ERRNO_MAX else f"errno {said.arg1}"
    return f"Socket assign: {failed if said.arg1 else 'Success'}"


def _slot(said: Said) -> str:
    return f"slot={said.arg1}, dport={_port(said.arg2)}"


def _hash(said: Said) -> str:
    return f"hash={_number(said.arg1)}, selected_service={said.arg2}"


_WORDS: Final[Mapping[int, Callable[[Said], str]]] = {
    1: lambda s: f"No message, arg1={_number(s.arg1)} arg2={_number(s.arg2)}",
    2: lambda s: f"Attempting local delivery for container id {s.arg1} from seclabel {s.arg2}",
    3: lambda s: f"Encapsulating to node {_number(s.arg1)} from seclabel {s.arg2}",
    4: lambda s: f"Local container found ifindex {s.link(s.arg1)} seclabel {_port(s.arg2)}",
    5: lambda s: f"Policy evaluation would deny packet from {s.arg1} to {s.arg2}",
    6: lambda s: f"CT lookup: {_tuple(s)}",
    7: lambda s: f"CT reverse lookup: {_tuple(s)}",
    8: lambda s: f"CT entry found lifetime={s.arg1}, revnat={_port(s.arg2)}",
    9: lambda s: f"CT created 1/2: {_tuple(s)} revnat={_port(s.arg3)}",
    10: lambda s: f"CT created 2/2: {_v4(s.arg1)} revnat={_port(s.arg2)}",
    11: lambda s: f"Handling ICMPv6 type={s.arg1}",
    12: lambda s: f"ICMPv6 echo request for router offset={s.arg1}",
    13: lambda s: f"ICMPv6 neighbour soliciation for address {s.arg1:x}:{s.arg2:x}",  # spelt so there
    14: lambda _: "Sending ICMPv6 time exceeded",
    15: _state,
    16: lambda s: f"Tunnel decap: id={s.arg1} flowlabel={s.arg2:x}",
    17: lambda s: f"Mapping port from={s.arg1} to={s.arg2}",
    18: lambda s: f"BPF function {s.arg1} returned error {s.arg2}",
    19: lambda s: f"Going to host, policy-skip={s.arg1}",
    20: lambda s: f"Going to the stack, policy-skip={s.arg1}",
    21: lambda s: f"Packet {_hash(s)}",
    22: lambda s: f"Frontend service lookup, addr.p4={s.arg1:x} key.dport={_port(s.arg2)}",
    23: lambda s: f"Frontend service lookup failed, addr.p2={s.arg1:x} addr.p3={s.arg2:x}",
    24: lambda s: f"Service backend slot lookup: {_slot(s)}",
    25: lambda s: f"Service backend slot lookup result: target.p4={s.arg1:x} port={_port(s.arg2)}",
    26: lambda s: f"Service backend slot lookup failed: {_slot(s)}",
    27: lambda s: f"Backend service lookup failed: backend_id={s.arg1}",
    28: lambda s: f"Reverse NAT lookup, index={_port(s.arg1)}",
    29: lambda s: f"Performing reverse NAT, address.p4={s.arg1:x} port={_port(s.arg2)}",
    30: lambda s: f"Frontend service lookup, addr={_v4(s.arg1)} key.dport={_port(s.arg2)}",
    31: lambda _: "Frontend service lookup failed",
    32: lambda s: f"Service backend slot lookup: {_slot(s)}",
    33: lambda s: f"Service backend slot lookup result: target={_v4(s.arg1)} port={_port(s.arg2)}",
    34: lambda s: f"Service backend slot lookup failed: {_slot(s)}",
    35: lambda s: f"Backend service lookup failed: backend_id={s.arg1}",
    36: lambda s: f"Reverse NAT lookup, index={_port(s.arg1)}",
    37: lambda s: f"Performing reverse NAT, address={_v4(s.arg1)} port={_port(s.arg2)}",
    38: lambda s: f"Loopback SNAT from={_v4(s.arg1)} to={_v4(s.arg2)}",
    39: lambda s: f"Loopback reverse SNAT from={_v4(s.arg1)} to={_v4(s.arg2)}",
    40: lambda s: f"CT lookup address: {_v4(s.arg1)}",
    41: lambda s: f"RR backend slot selection {_hash(s)}",
    42: lambda s: f"Reverse proxy lookup {_proxied(s)}",
    43: lambda s: f"Reverse proxy entry found, orig-daddr={_v4(s.arg1)} orig-dport={s.arg2}",
    44: lambda s: f"Reverse proxy updated {_proxied(s)}",
    45: lambda s: f"Resolved L4 policy to: {_port(s.arg1)} / {_DIRECTIONS.get(s.arg2, '')}",
    46: lambda s: f"Destination is inside cluster prefix, source identity: {s.arg1}",
    47: lambda s: f"Attempting encapsulation, lookup key: {_v4(s.arg1)}, identity: {s.arg2}",
    48: lambda s: f"Conntrack lookup 1/2: {_ends4(s)}",
    49: _next_header,
    50: lambda s: f"Conntrack create: {_created(s)} lb={_v4(s.arg3)}",
    51: lambda s: f"Conntrack lookup 1/2: {_ends6(s)}",
    52: _next_header,
    53: lambda s: f"Conntrack create: {_created(s)}",
    54: lambda s: f"Skipping proxy, tc_index is set={s.arg1:x}",
    55: lambda s: (
        f"Matched L4 policy; creating conntrack src={s.arg1} dst={s.arg2} dport={_port(s.arg3 >> 16)} "
        f"proto={s.arg3 & 0xFF}"
    ),
    56: lambda s: f"Failed to map addr={_v4(s.arg1)} to identity",
    57: lambda s: f"Failed to map addr.p4=[::{_v6(s.arg1)}] to identity",
    58: lambda s: f"Successfully mapped addr={_v4(s.arg1)} to identity={s.arg2}",
    59: lambda s: f"Successfully mapped addr.p4=[::{_v6(s.arg1)}] to identity={s.arg2}",
    60: lambda s: f"Stale CT entry found stale_ct.rev_nat_id={s.arg2}, svc.rev_nat_id={s.arg1}",
    61: lambda s: f"Inheriting identity={s.arg1} from stack",
    62: lambda s: f"Socket lookup: {_ends4(s)}",
    63: lambda s: f"Socket lookup: {_ends6(s)}",
    64: _assigned,
    65: lambda s: f"L7 LB from {_v4(s.arg1)} to {_v4(s.arg2)}: proxy port {s.arg3}",
}
