"""Samples of Cilium's perf ring to rows of the flow ring: a header, and as much of the packet as was captured."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import numpy as np
import numpy.typing as npt

from cplane.hubble.debugring import DebugRing
from cplane.hubble.detail import Detail, Igmp, Tunnel, Vrrp
from cplane.hubble.parser.debug import DebugParser
from cplane.hubble.parser.getters import Getters
from cplane.hubble.parser.headers import DEBUG, SOCKET, TRACE, Headers, header_sizes
from cplane.hubble.parser.packets import IGMP, VRRP, Bools, Bytes, Ints, Samples, inner, read
from cplane.hubble.parser.sockets import split_cookie
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.ring import Array, Reply
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from datapath.notify.records import DTYPE, RecordFlags, RecordType

SAMPLE_MAX: Final = 512  # bytes that are looked at: headers, and those of two packets with options
# flags of drops and traces
_IS_V6, _IS_BARE, _IS_VXLAN, _IS_GENEVE = 1, 2, 4, 8
# ... and of verdicts
_WAY, _INGRESS, _JUDGED_V6, _MATCH, _AUDITED, _JUDGED_BARE = 0x03, 1, 0x04, 0x38, 0x40, 0x80
_ENCRYPTED: Final = 0x80  # of a trace's reason
_REPLY, _REASON_UNKNOWN = 2, 5
# flow.TraceReason of each number
_REASONS: Final = np.array([1, 2, 3, 4, 5, 0, 6, 7, 8, 0], np.uint8)
_CAPTURE_DELIVERY: Final = 4  # the first point that there is
_CAPTURE_PROXY: Final = (8, 9)
_TO_PROXY: Final = 1
_SOCKET_PROTOCOLS: Final = np.array([0, 6, 17], np.uint8)
_POINTS_BACK: Final = (3, 4)  # flow.SocketTranslationPoint of packets that come back
_POINT_VERDICTS: Final = np.array([0, *(flow_pb2.TRACED, flow_pb2.TRANSLATED) * 2])
_U64: Final = (1 << 64) - 1


class SampleParser:
    """Fills a store with what Cilium's own programs emit, and a ring with what they say to those who debug them."""

    def __init__(self, store: FlowStore, getters: Getters, debug_events: DebugRing) -> None:
        self._store, self._getters = store, getters
        self._debug = DebugParser(debug_events, getters)
        self._parser = Parser(store, getters)
        self.malformed = 0  # samples of no known type or version, or shorter than their header
        self.skipped = 0  # translations for sockets of no known pod, about which there is nothing to say

    def ingest(self, samples: Sequence[bytes], times_ns: npt.NDArray[np.uint64]) -> int:
        """The samples, of which `times_ns` are UTC, are flows and events; how many. Nobody is woken for the flows."""
        read_as = Samples(list(samples), SAMPLE_MAX)
        sizes = header_sizes(read_as)
        good, kind = sizes > 0, read_as.number(np.zeros_like(sizes), 1)
        self.malformed += int(np.count_nonzero(~good))
        said = good & (kind == RecordType.DEBUG)
        if said.any():
            headers = b"".join(samples[row][: DEBUG.itemsize] for row in np.flatnonzero(said).tolist())
            self._debug.take_samples(np.frombuffer(headers, DEBUG), times_ns[said])
        rows = np.flatnonzero(good & ~said)
        if not len(rows):
            return int(np.count_nonzero(said))
        batch = _Batch(Samples([samples[row] for row in rows.tolist()], SAMPLE_MAX), sizes[rows], times_ns[rows])
        known = batch.place_sockets(self._getters)
        self.skipped += int(np.count_nonzero(~known))
        batch.resolve(self._getters)
        records, own = batch.records(), batch.columns()
        self._parser.collect()
        own["detail"] = self._details(batch)
        taken = self._parser.take(records[known], {name: column[known] for name, column in own.items()}, 0)
        return taken + int(np.count_nonzero(said))

    def _details(self, batch: "_Batch") -> npt.NDArray[np.uint32]:
        numbers = np.zeros(len(batch.kind), np.uint32)
        for row in np.flatnonzero(batch.is_special()).tolist():
            numbers[row] = self._store.details.number(batch.detail(row))
        return numbers


class _Batch:
    """Samples with sound headers as columns."""

    def __init__(self, samples: Samples, sizes: Ints, times_ns: npt.NDArray[np.uint64]) -> None:
        self.samples, self.times_ns = samples, times_ns
        self.headers = headers = Headers(samples, sizes)
        self.kind, self.subtype = headers.kind, headers.subtype
        self.is_drop, self.is_trace, self.is_judged, self.is_capture, self.is_socket = (
            self.kind == kind
            for kind in (
                RecordType.DROP,
                RecordType.TRACE,
                RecordType.POLICY_VERDICT,
                RecordType.CAPTURE,
                RecordType.SOCKET,
            )
        )
        self.flags = self.headers.gather("flags", self.is_drop | self.is_trace)
        self.judged_flags = self.headers.gather("flags", self.is_judged)
        bare = (self.flags & _IS_BARE != 0) | (self.judged_flags & _JUDGED_BARE != 0)
        v6 = (self.flags & _IS_V6 != 0) | (self.judged_flags & _JUDGED_V6 != 0)
        at = np.where(self.is_socket, samples.lengths, sizes)  # which hold no packet, and may be padded
        self.outer = read(samples, at, bare=bare, bare_is_v6=v6)
        found, self.wrapped, self.vni = inner(
            samples, self.outer, self.flags & _IS_VXLAN != 0, self.flags & _IS_GENEVE != 0
        )
        self.packets = self.outer.replaced_by(found, self.wrapped)
        self._take_original()
        reason = self.headers.gather("reason", self.is_trace)
        self.encrypted, self.reason = reason & _ENCRYPTED != 0, reason & ~_ENCRYPTED
        self.verdict = self.headers.gather("verdict", self.is_judged)
        self.source = self.headers.gather("source", ~self.is_socket)
        self.src_lxc = self.dst_lxc = np.zeros(len(samples), np.int64)
        self.src_identity, self.dst_identity = self._identities()

    def _take_original(self) -> None:
        """The source address that a packet had before it was translated is the flow's."""
        rows = np.flatnonzero(self.is_trace)
        original = np.zeros((len(self.kind), 16), np.uint8)
        original[rows] = self.headers.of(TRACE, rows)["original"]
        original[self.packets.ip_version == 1, 4:] = 0
        self.xlated = (self.packets.ip_version != 0) & original.any(axis=1)
        self.xlated &= (original != self.packets.source).any(axis=1)
        self.packet_source = self.packets.source
        self.packets.source = np.where(self.xlated[:, None], original, self.packets.source)

    def _identities(self) -> tuple[Ints, Ints]:
        of_packet = self.is_drop | self.is_trace
        remote = self.headers.gather("remote", self.is_judged)
        inward = self.judged_flags & _WAY == _INGRESS
        source = self.headers.gather("src_label", of_packet) + np.where(inward, remote, 0)
        return source, self.headers.gather("dst_label", of_packet) + np.where(inward, 0, remote)

    def place_sockets(self, getters: Getters) -> Bools:
        """Translations have the addresses of their pod and of the other end; where all samples have theirs."""
        known = np.ones(len(self.kind), np.bool_)
        packets = self.packets
        for row in np.flatnonzero(self.is_socket).tolist():
            header = self.headers.of(SOCKET, np.array([row]))[0]
            size = 16 if header["flags"] & 1 else 4
            own = next((one for one in getters.addresses_of_cgroup(int(header["cgroup"])) if len(one) == size), None)
            if own is None:
                known[row] = False
                continue
            pod = np.frombuffer(own.ljust(16, b"\0"), np.uint8)
            other = np.where(np.arange(16) < size, header["address"], 0)
            back = int(header["subtype"]) in _POINTS_BACK
            packets.source[row], packets.destination[row] = (other, pod) if back else (pod, other)
            packets.ip_version[row] = 2 if size == 16 else 1
            packets.protocol[row] = _SOCKET_PROTOCOLS[header["l4"] if header["l4"] < len(_SOCKET_PROTOCOLS) else 0]
            packets.layer4[row] = packets.protocol[row] != 0
            ports = (int(header["dport"]), 0) if back else (0, int(header["dport"]))
            packets.sport[row], packets.dport[row] = ports
        return known

    def resolve(self, getters: Getters) -> None:
        """The local endpoints at both ends, and identities that no header says."""
        self.src_lxc, self.src_identity = self._of_addresses(getters, self.packets.source, self.src_identity)
        self.dst_lxc, self.dst_identity = self._of_addresses(getters, self.packets.destination, self.dst_identity)

    def _of_addresses(self, getters: Getters, addresses: Bytes, identities: Ints) -> tuple[Ints, Ints]:
        keyed = np.concatenate((self.packets.ip_version[:, None].astype(np.uint8), addresses), axis=1)
        places: list[bytes] = keyed.view("S17")[:, 0].tolist()
        found = {place: _local(getters, place.ljust(17, b"\0")) for place in set(places)}
        lxc, identity = np.array([found[place] for place in places], np.int64).T
        return lxc, np.where(identities == 0, identity, identities)

    def records(self) -> npt.NDArray[np.void]:
        """Our own records of the same, as far as those say it."""
        packets = self.packets
        out = np.zeros(len(self.kind), DTYPE)
        plain = {
            "type": self.kind,
            "subtype": self.subtype,
            "match_type": (self.judged_flags & _MATCH) >> 3,
            "flags": np.where(packets.ip_version == 2, int(RecordFlags.IPV6), 0),
            "protocol": np.where(packets.layer4, packets.protocol, 0),
            "file": self.headers.gather("file", self.is_drop),
            "line": self.headers.gather("line", self.is_drop),
            "src_identity": self.src_identity,
            "dst_identity": self.dst_identity,
            "src_lxc": self.src_lxc,
            "dst_lxc": self.dst_lxc,
            "ifindex": self.headers.gather("ifindex", self.is_drop | self.is_trace) + self._captured_on(),
            "verdict": self.verdict,
            "cookie": self.headers.gather("cookie", self.is_judged),
        }
        for name in ("sport", "dport", "tcp_flags", "icmp_type", "icmp_code"):
            plain[name] = getattr(packets, name)
        for name, column in plain.items():
            out[name] = column
        for name, octets in (
            ("saddr", packets.source),
            ("daddr", packets.destination),
            ("smac", packets.smac),
            ("dmac", packets.dmac),
        ):
            out[name] = np.ascontiguousarray(octets).view(f"V{octets.shape[1]}")[:, 0]
        return out

    def _captured_on(self) -> Ints:
        """The device that a capture names; at proxies it names a port instead."""
        of_device = (self.subtype >= _CAPTURE_DELIVERY) & ~np.isin(self.subtype, _CAPTURE_PROXY)
        return np.where(self.is_capture & of_device, self.headers.gather("arg1", self.is_capture), 0)

    def columns(self) -> dict[str, Array]:
        """What our own records say in another way, or not at all."""
        denied, redirected = self.is_judged & (self.verdict < 0), self.is_judged & (self.verdict > 0)
        audited = self.is_judged & (self.verdict == 0) & (self.judged_flags & _AUDITED != 0)
        point = np.minimum(self.subtype, len(_POINT_VERDICTS) - 1)
        swapped = self.headers.gather("arg1", self.is_capture).astype(np.uint32).byteswap().astype(np.int64)
        at_proxy = self.is_capture & np.isin(self.subtype, _CAPTURE_PROXY)
        to_proxy = self.is_trace & (self.subtype == _TO_PROXY)
        port = np.where(at_proxy, swapped, np.where(to_proxy, self.headers.gather("dst_id", self.is_trace), 0))
        return {
            "time_ns": self.times_ns,
            "ip_version": self.packets.ip_version.astype(np.uint8),
            "verdict": np.select(
                [self.is_drop | denied, redirected, audited, self.is_trace | self.is_judged, self.is_socket],
                [
                    flow_pb2.DROPPED,
                    flow_pb2.REDIRECTED,
                    flow_pb2.AUDIT,
                    flow_pb2.FORWARDED,
                    np.where(self.subtype < len(_POINT_VERDICTS), _POINT_VERDICTS[point], 0),
                ],
                flow_pb2.VERDICT_UNKNOWN,
            ).astype(np.uint8),
            "reason": np.where(self.is_drop, self.subtype, np.where(denied, np.clip(-self.verdict, 0, 255), 0)),
            "direction": self._directions(),
            "reply": self._replies(),
            "trace_reason": np.where(self.is_trace, _REASONS[np.minimum(self.reason, len(_REASONS) - 1)], 0),
            "proxy_port": np.clip(port, 0, 0xFFFF),
            "cookie": self._cookies(),
        }

    def _cookies(self) -> Array:
        of_sockets = split_cookie(self.headers.gather("cookie", self.is_socket).astype(np.uint64))[1]
        return self.headers.gather("cookie", self.is_judged).astype(np.uint32) | of_sockets

    def _directions(self) -> Array:
        """Of the connection; a reply that leaves an endpoint belongs to one that came in."""
        leaves = self.source == self.src_lxc
        known = self.is_trace & (self.reason != _REASON_UNKNOWN) & (self.source != 0)
        outward = np.where(self.is_trace, leaves ^ (self.reason == _REPLY), leaves)
        outward = np.where(self.is_judged, self.judged_flags & _WAY != _INGRESS, outward)
        said = known | self.is_judged | (self.is_drop & (self.source != 0))
        return np.where(said, np.where(outward, flow_pb2.EGRESS, flow_pb2.INGRESS), 0)

    def _replies(self) -> Array:
        traced = self.is_trace & (self.reason != _REASON_UNKNOWN)
        let_through = self.is_judged & (self.verdict >= 0)
        return np.where(traced, self.reason == _REPLY, np.where(let_through, Reply.NO, Reply.UNKNOWN))

    def is_special(self) -> Bools:
        """Where there is a detail."""
        layer4, protocol = self.packets.layer4, self.packets.protocol
        unported = layer4 & np.isin(protocol, (VRRP, IGMP))
        self.trace_id = self.headers.gather("trace_id", self.is_drop | self.is_trace)
        self.auth = self.headers.gather("auth", self.is_judged)
        found = self.wrapped | self.xlated | self.encrypted | self.packets.nonce_sum | unported | self.is_socket
        return np.asarray(found | (self.trace_id != 0) | (self.auth != 0))

    def detail(self, row: int) -> Detail:
        """That of one sample."""
        packets, protocol = self.packets, int(self.packets.protocol[row])
        start = int(packets.payload[row])
        described = packets.layer4[row] and not self.is_socket[row]
        octets = self.samples.matrix[row, start : start + 8].tolist() if described else []
        socket = self.headers.of(SOCKET, np.array([row]))[0] if self.is_socket[row] else None
        return Detail(
            tunnel=self._tunnel(row) if self.wrapped[row] else None,
            vrrp=Vrrp(octets[0] & 15, octets[1], octets[2]) if octets and protocol == VRRP else None,
            igmp=Igmp(octets[0], str(IPv4Address(bytes(octets[4:8])))) if octets and protocol == IGMP else None,
            source_xlated=_text(int(packets.ip_version[row]), self.packet_source[row]) if self.xlated[row] else "",
            encrypted=bool(self.encrypted[row]) and bool(packets.ip_version[row]),
            nonce_sum=bool(packets.nonce_sum[row]),
            auth_type=int(self.auth[row]),
            trace_id=int(self.trace_id[row]) & _U64,
            socket_base=int(split_cookie(socket["cookie"])[0]) if socket is not None else 0,
            cgroup_id=int(socket["cgroup"]) if socket is not None else 0,
        )

    def _tunnel(self, row: int) -> Tunnel:
        outer, version = self.outer, int(self.outer.ip_version[row])
        geneve = bool(self.flags[row] & _IS_GENEVE)
        return Tunnel(
            protocol=flow_pb2.Tunnel.GENEVE if geneve else flow_pb2.Tunnel.VXLAN,
            vni=int(self.vni[row]),
            ip_version=version,
            source=_text(version, outer.source[row]),
            destination=_text(version, outer.destination[row]),
            sport=int(outer.sport[row]),
            dport=int(outer.dport[row]),
        )


def _local(getters: Getters, place: bytes) -> tuple[int, int]:
    """Endpoint and identity behind an address, which follows its flow.IPVersion; 0 where they are not known."""
    if not place[0]:
        return 0, 0
    family, size = (4, 4) if place[0] == 1 else (6, 16)
    info = getters.endpoint_by_address(family, place[1 : 1 + size])
    return (info.endpoint_id, info.identity) if info is not None else (0, 0)


def _text(ip_version: int, octets: Bytes) -> str:
    data = octets.tobytes()
    return str(IPv4Address(data[:4]) if ip_version == 1 else IPv6Address(data))
