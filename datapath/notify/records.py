"""The one record that programs emit, 128 bytes: for a drop, a verdict, a trace point, a socket, or to debug them."""

from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

from datapath.maps.cstruct import Field, Layout

_ALL: Final = (
    Field("time_ns", "u64"),  # bpf_ktime_get_boot_ns
    Field("position", "u64"),  # StateSlot.POSITION when the packet was judged
    Field("type", "u8"),  # RecordType
    Field("subtype", "u8"),  # drop reason, TracePoint, SocketPoint, or flow.DebugEventType
    Field("flags", "u8"),  # RecordFlags
    Field("match_type", "u8"),  # of a verdict
    Field("trace_reason", "u8"),  # TraceReason
    Field("protocol", "u8"),
    Field("tcp_flags", "u8"),  # byte 13 of the TCP header
    Field("file", "u8"),  # of a drop: which source file, as Cilium numbers them
    Field("saddr", "bytes", 16),  # an IPv4 address in the first four
    Field("daddr", "bytes", 16),
    Field("sport", "u16", big_endian=True),
    Field("dport", "u16", big_endian=True),
    Field("src_identity", "u32"),
    Field("dst_identity", "u32"),
    Field("src_lxc", "u16"),  # endpoint ids, 0 where not known
    Field("dst_lxc", "u16"),
    Field("ifindex", "u32"),
    Field("verdict", "s32"),  # < 0: minus the drop reason; 0: allowed; > 0: proxy port
    Field("cookie", "u32"),  # of the policy entry that decided
    Field("length", "u32"),  # of the packet, bytes
    Field("smac", "bytes", 6),
    Field("dmac", "bytes", 6),
    Field("line", "u16"),  # of a drop
    Field("icmp_type", "u8"),
    Field("icmp_code", "u8"),
)
RECORD: Final = Layout(
    "record",
    (
        *_ALL,
        Field("hash", "u32"),  # of the packet; from here on of debug records only, zeroes in others
        Field("arg1", "u32"),  # what it says depends on the sub-type, see cplane.hubble.parser.debug
        Field("arg2", "u32"),
        Field("arg3", "u32"),
        Field("cpu", "u16"),
        Field("source", "u16"),  # the endpoint whose program speaks
        Field("pad", "u32"),
    ),
)
SOCKET_RECORD: Final = Layout(
    "record",
    (
        *_ALL,  # the source is a frontend, the destination the backend that the socket was sent to
        Field("socket_cookie", "u64"),
        Field("cgroup_id", "u64"),
        Field("netns_cookie", "u64"),
    ),
)
"""How records of type SOCKET end."""


def _dtype(layout: Layout) -> np.dtype[np.void]:
    return np.dtype(
        [
            (f.name, f"V{f.count}")
            if f.kind == "bytes"
            else (
                f.name,
                (">" if f.big_endian else "<")
                + {"u8": "u1", "s8": "i1", "u16": "u2", "u32": "u4", "s32": "i4", "u64": "u8"}[f.kind],
            )
            for f in layout.fields
        ]
    )


DTYPE: Final = _dtype(RECORD)
SOCKET_DTYPE: Final = _dtype(SOCKET_RECORD)


class RecordType(IntEnum):
    """Cilium's monitor message types."""

    DROP = 1
    DEBUG = 2
    CAPTURE = 3
    TRACE = 4
    POLICY_VERDICT = 5
    SOCKET = 7


EMITTED: Final = frozenset({RecordType.DROP, RecordType.TRACE, RecordType.POLICY_VERDICT, RecordType.SOCKET})
"""What our programs write of packets and sockets, beside DEBUG; CAPTURE is Cilium's, as samples of its perf ring."""


class RecordFlags(IntFlag):
    """Facts of one bit about the packet."""

    IPV6 = 1
    EGRESS = 2  # judged on the way out of an endpoint, else on the way in
    REPLY = 4  # conntrack says it is a reply
    REPLY_KNOWN = 8  # conntrack was asked
    AUDITED = 16


class TracePoint(IntEnum):
    """Where a trace record was taken (`sub_type` of a trace event)."""

    TO_ENDPOINT = 0
    TO_PROXY = 1
    TO_HOST = 2
    TO_STACK = 3
    TO_OVERLAY = 4
    FROM_ENDPOINT = 5
    FROM_PROXY = 6
    FROM_HOST = 7
    FROM_STACK = 8
    FROM_OVERLAY = 9
    FROM_NETWORK = 10
    TO_NETWORK = 11
    FROM_CRYPTO = 12
    TO_CRYPTO = 13


class SocketPoint(IntEnum):
    """Before or after a socket's call was translated: its own (forward), or what it is told (reverse)."""

    PRE_FWD = 1
    POST_FWD = 2
    PRE_REV = 3
    POST_REV = 4


class TraceReason(IntEnum):
    """What conntrack said of the packet."""

    NEW = 0
    ESTABLISHED = 1
    REPLY = 2
    RELATED = 3
    REOPENED = 4
    UNKNOWN = 5
