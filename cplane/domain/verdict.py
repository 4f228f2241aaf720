"""Verdicts, directions, drop reasons and trace points; the numbers are Cilium's, in C they stand in bpf/lib."""

from enum import IntEnum
from typing import Final


class Verdict(IntEnum):
    """What became of a packet, as Hubble's `flow.Verdict` numbers it."""

    UNKNOWN = 0
    FORWARDED = 1
    DROPPED = 2
    ERROR = 3
    AUDIT = 4
    REDIRECTED = 5
    TRACED = 6
    TRANSLATED = 7


class Direction(IntEnum):
    """Seen from the endpoint whose policy decides; the byte in a policy key."""

    INGRESS = 0
    EGRESS = 1


class MatchType(IntEnum):
    """Which kind of policy entry decided, as `policy-verdict` events number it."""

    NONE = 0
    L3_ONLY = 1
    L3_L4 = 2
    L4_ONLY = 3
    ALL = 4
    L3_PROTO = 5
    PROTO_ONLY = 6


class DropReason(IntEnum):
    """Why the datapath dropped a packet; those that it can raise so far."""

    INVALID_SOURCE_IP = 132
    POLICY_DENIED = 133
    INVALID_PACKET = 134
    CT_INVALID_HEADER = 135
    CT_UNKNOWN_L4 = 137
    UNSUPPORTED_L3 = 139
    MISSED_TAIL_CALL = 140
    WRITE_ERROR = 141
    UNKNOWN_L4 = 142
    UNROUTABLE = 151
    CSUM_L4 = 154
    CT_MAP_INSERTION_FAILED = 155
    INVALID_IPV6_EXTENSION = 156
    FRAGMENT_NOT_SUPPORTED = 157
    NO_BACKEND = 158
    UNSUPPORTED_L2 = 166
    NAT_NO_MAPPING = 167
    NAT_UNSUPPORTED_PROTOCOL = 168
    FIB_LOOKUP_FAILED = 169
    INVALID_IDENTITY = 171
    UNKNOWN_SENDER = 172
    SOURCE_RANGE = 177
    SOCKET_LOOKUP_FAILED = 178
    SOCKET_ASSIGN_FAILED = 179
    PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL = 180
    POLICY_DENY = 181
    AUTH_REQUIRED = 189
    TTL_EXCEEDED = 196
    ENDPOINT_NOT_READY = 203


POLICY_DROPS: Final = frozenset({DropReason.POLICY_DENIED, DropReason.POLICY_DENY, DropReason.AUTH_REQUIRED})
"""Drops that are policy's; others say nothing of it."""
