"""Metrics of packets: one class each, which says what series a kind of flow counts in."""

from collections.abc import Iterator
from typing import Final

from cplane.config.metrics import WantedMetric
from cplane.domain.identity import Reserved
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.flow import ICMP4, ICMP6, PORTS, SCTP, TCP, UDP
from cplane.hubble.metrics.contexts import DIRECTIONS, ContextLabels, Ends
from cplane.hubble.metrics.kind import SERVER_PORT, Kind
from cplane.hubble.ring import Reply
from cplane.hubble.texts import icmp_summary
from cplane.pb.flow import flow_pb2
from cplane.telemetry.metrics import Counters, Histograms, Labels

L7: Final = 129  # Cilium's monitor message types
UNKNOWN_L7: Final = "Unknown L7"
_DROP, _CAPTURE, _TRACE, _VERDICT = 1, 3, 4, 5
_TYPES: Final = {_DROP: "Drop", _CAPTURE: "Capture", _TRACE: "Trace", _VERDICT: "PolicyVerdict", L7: "L7"}
_TRACE_POINTS: Final = (
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
)
_MATCHES: Final = ("none", "l3-only", "l3-l4", "l4-only", "all", "l3-proto", "proto-only")
_PROTOCOLS: Final = {TCP: "TCP", UDP: "UDP", ICMP4: "ICMPv4", ICMP6: "ICMPv6", SCTP: "SCTP"}
_VERDICTS: Final = {int(number): name for name, number in flow_pb2.Verdict.items()}
_REASONS: Final = {int(number): name for name, number in flow_pb2.DropReason.items()}
_FAMILIES: Final = {int(flow_pb2.IPv4): "IPv4", int(flow_pb2.IPv6): "IPv6"}
_PASSED: Final = frozenset({flow_pb2.FORWARDED, flow_pb2.REDIRECTED})
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_WORLD: Final = "reserved:world"  # and `reserved:world-ipv4`, `reserved:world-ipv6`

Hit = tuple[Counters, Labels]  # a series to count in, without the labels of contexts


class Metric:
    """A metric of one kind or another. `columns` decide what it counts; `families` are what it counts in."""

    columns: frozenset[str] = frozenset()

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        self.options = wanted.options
        self.contexts = ContextLabels(wanted.contexts)
        self._limit = limit
        self.families: tuple[Counters | Histograms, ...] = ()

    def counter(self, name: str, told: str, *labels: str) -> Counters:
        """A counter of this metric, with the labels of its contexts before its own."""
        made = Counters(f"hubble_{name}", told, (*self.contexts.names, *labels), limit=self._limit)
        self.families = (*self.families, made)
        return made

    def histogram(self, name: str, told: str, *labels: str) -> Histograms:
        """A histogram of this metric, with the labels of its contexts before its own."""
        made = Histograms(f"hubble_{name}", told, (*self.contexts.names, *labels), limit=self._limit)
        self.families = (*self.families, made)
        return made


class PacketMetric(Metric):
    """A metric that counts packets."""

    def hits(self, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """What a flow of the kind is counted in, once each."""
        raise NotImplementedError


class Drop(PacketMetric):
    """`drop`."""

    columns = frozenset({"reason", "protocol", "ip_version"})

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._drops = self.counter("drop_total", "Number of drops.", "reason", "protocol")

    def hits(self, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """Everything that was dropped, also what a proxy refused.

        What a policy refuses is told by its verdict and by its drop, and counts for both, as it does upstream: whose
        handler (`pkg/hubble/metrics/drop`) takes every flow with the verdict DROPPED, whatever its type.
        """
        if kind.verdict == flow_pb2.DROPPED and kind.type != L7:
            yield self._drops, (reason_name(kind.reason), protocol_name(kind))

    def seventh(self, protocol: str, reason: int) -> Hit:
        """The series of what a proxy refused."""
        return self._drops, (reason_name(reason), protocol or UNKNOWN_L7)


class Flow(PacketMetric):
    """`flow`."""

    columns = frozenset({"subtype", "protocol", "ip_version"})

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._flows = self.counter(
            "flows_processed_total", "Number of flows that were processed.", "protocol", "type", "subtype", "verdict"
        )

    def hits(self, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """Everything; a sub-type have traces, what is of layer 7, and types that have no name."""
        if kind.type == L7:  # whose sub-type is its protocol, which only the whole flow says
            return
        known, subtype = _TYPES.get(kind.type), ""
        if known is None:
            subtype = str(kind.type)
        elif kind.type == _TRACE and kind.subtype < len(_TRACE_POINTS):
            subtype = _TRACE_POINTS[kind.subtype]
        yield self._flows, (protocol_name(kind), known or "Unknown", subtype, verdict_name(kind.verdict))

    def seventh(self, protocol: str, verdict: int) -> Hit:
        """The series of a flow of layer 7."""
        return self._flows, (protocol or UNKNOWN_L7, _TYPES[L7], protocol, verdict_name(verdict))


class FlowsToWorld(PacketMetric):
    """`flows-to-world`."""

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        ports = ("port",) if "port" in self.options else ()
        columns = {"reason", "reply", "protocol", "ip_version", "dst_meta"}
        columns |= {SERVER_PORT} if ports else set()
        columns |= {"tcp_flags"} if "syn-only" in self.options else set()
        self.columns = frozenset(columns)
        self._flows = self.counter(
            "flows_to_world_total", "Number of flows to outside of the cluster.", "protocol", "verdict", *ports
        )

    def hits(self, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """What goes out; answers to what came in do not count. Of layer 7 only the whole flow says the protocol."""
        if kind.type != L7:
            yield from self.seventh(protocol_name(kind), kind, ends)

    def seventh(self, protocol: str, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """The same, under the name of a protocol."""
        if protocol_number(kind) not in _PROTOCOLS or not is_world(ends.destination.meta):
            return
        if kind.verdict != flow_pb2.DROPPED and kind.reply == Reply.YES:
            return
        policy = kind.reason == flow_pb2.POLICY_DENIED
        if kind.verdict == flow_pb2.DROPPED and not policy and "any-drop" not in self.options:
            return
        opening = kind.protocol == TCP and kind.tcp_flags & _SYN and kind.reply != Reply.YES
        if "syn-only" in self.options and not opening:
            return
        labels = (protocol, verdict_name(kind.verdict))
        if "port" in self.options:
            labels = (*labels, str(kind.dport) if kind.protocol in PORTS else "")  # type: ignore[assignment]
        yield self._flows, labels


class Icmp(PacketMetric):
    """`icmp`."""

    columns = frozenset({"protocol", "icmp_type", "icmp_code", "ip_version"})

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._messages = self.counter("icmp_total", "Number of ICMP messages.", "family", "type")

    def hits(self, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """All messages; upstream shows those of ICMPv6 with the family IPv4."""
        family = {ICMP4: 4, ICMP6: 6}.get(protocol_number(kind))
        if family is not None:
            _, _, name = icmp_summary(family, kind.icmp_type, kind.icmp_code).partition(" ")
            yield self._messages, (f"IPv{family}", name)


class PortDistribution(PacketMetric):
    """`port-distribution`."""

    columns = frozenset({"protocol", "reply", "ip_version", SERVER_PORT})

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._packets = self.counter(
            "port_distribution_total", "Number of packets by destination port.", "protocol", "port"
        )

    def hits(self, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """What passed to a port that is known to be a server's; messages have the port 0."""
        protocol = protocol_number(kind)
        if kind.verdict in _PASSED and kind.reply == Reply.NO and protocol in _PROTOCOLS:
            yield self._packets, (_PROTOCOLS[protocol], str(kind.dport if protocol in PORTS else 0))


class Tcp(PacketMetric):
    """`tcp`."""

    columns = frozenset({"protocol", "tcp_flags", "ip_version"})

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._flags = self.counter("tcp_flags_total", "Number of TCP flags that were seen.", "flag", "family")

    def hits(self, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """The flags that begin and end connections, in packets that passed."""
        if protocol_number(kind) != TCP or kind.verdict not in _PASSED:
            return
        family = _FAMILIES.get(kind.ip_version, "")
        if kind.tcp_flags & _FIN:
            yield self._flags, ("FIN", family)
        if kind.tcp_flags & _SYN:
            yield self._flags, ("SYN-ACK" if kind.tcp_flags & _ACK else "SYN", family)
        if kind.tcp_flags & _RST:
            yield self._flags, ("RST", family)


class Policy(PacketMetric):
    """`policy`."""

    columns = frozenset({"match_type", "direction", "src_meta"})

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._verdicts = self.counter(
            "policy_verdicts_total", "Number of verdicts of policies.", "direction", "match", "action"
        )

    def hits(self, kind: Kind, ends: Ends) -> Iterator[Hit]:
        """Verdicts that the datapath reports, but of what the host sends, which may reach its own pods."""
        if kind.type == _VERDICT and not is_host(ends.source.meta):
            match = _MATCHES[kind.match_type] if kind.match_type < len(_MATCHES) else "unknown"
            yield self.seventh(match, kind.direction, kind.verdict)

    def seventh(self, match: str, direction: int, verdict: int) -> Hit:
        """The series of a verdict, which for one of layer 7 is of its protocol."""
        return self._verdicts, (direction_name(direction), match, verdict_name(verdict).lower())


PACKET_METRICS: Final = {
    "drop": Drop,
    "flow": Flow,
    "flows-to-world": FlowsToWorld,
    "icmp": Icmp,
    "policy": Policy,
    "port-distribution": PortDistribution,
    "tcp": Tcp,
}


def protocol_number(kind: Kind) -> int:
    """IP's number of what is above it; 0 for what is no IP packet."""
    return kind.protocol if kind.ip_version else 0


def protocol_name(kind: Kind) -> str:
    """As upstream's metrics call it."""
    if kind.type == L7:
        return UNKNOWN_L7
    if kind.type not in _TYPES:
        return "Unknown flow"
    return _PROTOCOLS.get(protocol_number(kind), "Unknown L4")


def verdict_name(number: int) -> str:
    """`FORWARDED`."""
    return _VERDICTS.get(number, str(number))


def reason_name(number: int) -> str:
    """`POLICY_DENIED`."""
    return _REASONS.get(number, str(number))


def direction_name(number: int) -> str:
    """`ingress`."""
    return DIRECTIONS.get(number, "unknown")


def is_host(meta: EndpointMeta) -> bool:
    """Whether it is the node itself."""
    return meta.identity == Reserved.HOST


def is_world(meta: EndpointMeta) -> bool:
    """Whether it is outside of the cluster."""
    return any(label.startswith(_WORLD) for label in meta.labels)
