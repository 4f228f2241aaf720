"""Words for numbers: drop reasons, ICMP types, TCP flags, source files, DNS answers. Clients print them as they are.

Imports nothing heavy: the command line uses it too.
"""

import re
from collections.abc import Mapping
from typing import Final

DROP_REASONS: Final[Mapping[int, str]] = {
    130: "Invalid source mac",
    131: "Invalid destination mac",
    132: "Invalid source ip",
    133: "Policy denied",
    134: "Invalid packet",
    135: "CT: Truncated or invalid header",
    136: "Fragmentation needed",
    137: "CT: Unknown L4 protocol",
    138: "CT: Can't create entry from packet",
    139: "Unsupported L3 protocol",
    140: "Missed tail call",
    141: "Error writing to packet",
    142: "Unknown L4 protocol",
    143: "Unknown ICMPv4 code",
    144: "Unknown ICMPv4 type",
    145: "Unknown ICMPv6 code",
    146: "Unknown ICMPv6 type",
    147: "Error retrieving tunnel key",
    148: "Error retrieving tunnel options",
    149: "Invalid Geneve option",
    150: "Unknown L3 target address",
    151: "Stale or unroutable IP",
    152: "No matching local container found",
    153: "Error while correcting L3 checksum",
    154: "Error while correcting L4 checksum",
    155: "CT: Map insertion failed",
    156: "Invalid IPv6 extension header",
    157: "IP fragmentation not supported",
    158: "Service backend not found",
    160: "No tunnel/encapsulation endpoint (datapath BUG!)",
    161: "NAT 46/64 not enabled",
    162: "Reached EDT rate-limiting drop horizon",
    163: "Unknown connection tracking state",
    164: "Local host is unreachable",
    165: "No configuration available to perform policy decision",
    166: "Unsupported L2 protocol",
    167: "No mapping for NAT masquerade",
    168: "Unsupported protocol for NAT masquerade",
    169: "FIB lookup failed",
    170: "Encapsulation traffic is prohibited",
    171: "Invalid identity",
    172: "Unknown sender",
    173: "NAT not needed",
    174: "Is a ClusterIP",
    175: "First logical datagram fragment not found",
    176: "Forbidden ICMPv6 message",
    177: "Denied by LB src range check",
    178: "Socket lookup failed",
    179: "Socket assign failed",
    180: "Proxy redirection not supported for protocol",
    181: "Policy denied by denylist",
    182: "VLAN traffic disallowed by VLAN filter",
    183: "Incorrect VNI from VTEP",
    184: "Failed to update or lookup TC buffer",
    185: "No SID was found for the IP address",
    186: "SRv6 state was removed during tail call",
    187: "L3 translation from IPv4 to IPv6 failed (NAT46)",
    188: "L3 translation from IPv6 to IPv4 failed (NAT64)",
    189: "Authentication required",
    190: "No conntrack map found",
    191: "No nat map found",
    192: "Invalid ClusterID",
    193: "Unsupported packet protocol for DSR encapsulation",
    194: "No egress gateway found",
    195: "Traffic is unencrypted",
    196: "TTL exceeded",
    197: "No node ID found",
    198: "Rate limited",
    199: "IGMP handled",
    200: "IGMP subscribed",
    201: "Multicast handled",
    202: "Host datapath not ready",
    203: "Endpoint policy program not available",
    204: "No Egress IP configured",
    205: "Punt to proxy",
}

# flags in the byte 13 of a TCP header (RFC 9293, 3.1), in the order in which summaries name them
TCP_FLAGS: Final = (
    ("SYN", 0x02),
    ("ACK", 0x10),
    ("RST", 0x04),
    ("FIN", 0x01),
    ("PSH", 0x08),
    ("URG", 0x20),
    ("ECE", 0x40),
    ("CWR", 0x80),
)

# source files as drops number them
FILES: Final[Mapping[int, str]] = {
    1: "bpf_host.c",
    2: "bpf_lxc.c",
    3: "bpf_overlay.c",
    4: "bpf_xdp.c",
    5: "bpf_sock.c",
    6: "bpf_network.c",
    7: "bpf_wireguard.c",
    101: "drop.h",
    102: "srv6.h",
    103: "icmp6.h",
    104: "nodeport.h",
    105: "lb.h",
    106: "mcast.h",
    107: "ipv4.h",
    108: "conntrack.h",
    109: "local_delivery.h",
    110: "trace.h",
    111: "encap.h",
    112: "host_firewall.h",
    113: "nodeport_egress.h",
    114: "ipv6.h",
    115: "classifiers.h",
    120: "proxy.h",  # which Cilium has no number for
}

# IANA's registries; codes have names for the errors only
_ICMP4_TYPES: Final = {
    0: "EchoReply",
    3: "DestinationUnreachable",
    4: "SourceQuench",
    5: "Redirect",
    8: "EchoRequest",
    9: "RouterAdvertisement",
    10: "RouterSolicitation",
    11: "TimeExceeded",
    12: "ParameterProblem",
    13: "TimestampRequest",
    14: "TimestampReply",
    15: "InfoRequest",
    16: "InfoReply",
    17: "AddressMaskRequest",
    18: "AddressMaskReply",
}
_ICMP4_CODES: Final = {
    (3, 0): "Net",
    (3, 1): "Host",
    (3, 2): "Protocol",
    (3, 3): "Port",
    (3, 4): "FragmentationNeeded",
    (3, 5): "SourceRoutingFailed",
    (3, 6): "NetUnknown",
    (3, 7): "HostUnknown",
    (3, 8): "SourceIsolated",
    (3, 9): "NetAdminProhibited",
    (3, 10): "HostAdminProhibited",
    (3, 11): "NetTOS",
    (3, 12): "HostTOS",
    (3, 13): "CommAdminProhibited",
    (3, 14): "HostPrecedence",
    (3, 15): "PrecedenceCutoff",
    (5, 0): "Net",
    (5, 1): "Host",
    (5, 2): "TOS+Net",
    (5, 3): "TOS+Host",
    (11, 0): "TTLExceeded",
    (11, 1): "FragmentReassemblyTimeExceeded",
    (12, 0): "PointerIndicatesError",
    (12, 1): "MissingOption",
    (12, 2): "BadLength",
}
_ICMP6_TYPES: Final = {
    1: "DestinationUnreachable",
    2: "PacketTooBig",
    3: "TimeExceeded",
    4: "ParameterProblem",
    128: "EchoRequest",
    129: "EchoReply",
    130: "MLDv1MulticastListenerQueryMessage",
    131: "MLDv1MulticastListenerReportMessage",
    132: "MLDv1MulticastListenerDoneMessage",
    133: "RouterSolicitation",
    134: "RouterAdvertisement",
    135: "NeighborSolicitation",
    136: "NeighborAdvertisement",
    137: "Redirect",
    143: "MLDv2MulticastListenerReportMessageV2",
}
_ICMP6_CODES: Final = {
    (1, 0): "NoRouteToDst",
    (1, 1): "AdminProhibited",
    (1, 2): "BeyondScopeOfSrc",
    (1, 3): "AddressUnreachable",
    (1, 4): "PortUnreachable",
    (1, 5): "SrcAddressFailedPolicy",
    (1, 6): "RejectRouteToDst",
    (3, 0): "HopLimitExceeded",
    (3, 1): "FragmentReassemblyTimeExceeded",
    (4, 0): "ErroneousHeader",
    (4, 1): "UnrecognizedNextHeader",
    (4, 2): "UnrecognizedIPv6Option",
}


_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
NAME_PATTERN: Final = re.compile(r"[-.0-9A-Za-z_*]+")
"""What stands for DNS names or names of nodes: `*` is any characters of a name."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY: Final = re.compile(r"(?:.*@)?(?:\[[^]]*\]|[^[:]*)(?::[0-9]*)?")

# RFC 1035, 4.1.1, and IANA's registry, in upstream's words
_DNS_RCODES: Final = {
    0: "No Error",
    1: "Format Error",
    2: "Server Failure",
    3: "Non-Existent Domain",
    4: "Not Implemented",
    5: "Query Refused",
    6: "Name Exists when it should not",
    7: "RR Set Exists when it should not",
    8: "RR Set that should exist does not",
    9: "Server Not Authoritative for zone",
    10: "Name not contained in zone",
    16: "Bad OPT Version",
    17: "Key not recognized",
    18: "Signature out of time window",
    19: "Bad TKEY Mode",
    20: "Duplicate key name",
    21: "Algorithm not supported",
    22: "Bad Truncation",
    23: "Bad/missing Server Cookie",
}


def dns_rcode(number: int) -> str:
    """What upstream calls a response code; the number of one that has no name."""
    return _DNS_RCODES.get(number, str(number))


def url_path(url: str) -> str | None:
    """The path of what a request asked for, with what is escaped in it decoded; None: nobody asks like that.

    It begins with a scheme or with `/` (RFC 9112, 3.2). Where it begins with two of these no host is between them, and
    it has no fragment: a reader of links would take `/admin` out of `//x/admin` or `/x#/admin`, which is not what was
    asked for.
    """
    from urllib.parse import unquote

    if url == "*":
        return url
    if _CONTROL.search(url):
        return None
    scheme = _SCHEME.match(url)
    path = url[scheme.end() if scheme else 0 :].partition("?")[0]
    if not path.startswith("/"):
        return "" if scheme else None
    if scheme and path.startswith("//"):
        authority, slash, rest = path[2:].partition("/")
        if not _AUTHORITY.fullmatch(authority):
            return None
        path = slash + rest
    return None if _BAD_ESCAPE.search(path) else unquote(path)


def drop_reason(number: int) -> str:
    """What Cilium calls a drop reason."""
    return DROP_REASONS.get(number, str(number))


def file_name(number: int) -> str:
    """The source file that a drop names."""
    return FILES.get(number, f"unknown({number})")


def tcp_summary(flags: int) -> str:
    """`TCP Flags: SYN, ACK`, from the byte of a TCP header."""
    return "TCP Flags: " + ", ".join(name for name, bit in TCP_FLAGS if flags & bit)


def icmp_summary(family: int, kind: int, code: int) -> str:
    """`ICMPv4 EchoRequest`, `ICMPv6 DestinationUnreachable(PortUnreachable)`."""
    types, codes = (_ICMP4_TYPES, _ICMP4_CODES) if family == 4 else (_ICMP6_TYPES, _ICMP6_CODES)
    name = types.get(kind)
    if name is None:
        return f"ICMPv{family} {kind}({code})"
    detail = codes.get((kind, code))
    if detail is None and code:
        detail = f"Code: {code}"
    return f"ICMPv{family} {name}({detail})" if detail else f"ICMPv{family} {name}"
