"""Records of layers 3 and 4 to rows of the flow ring."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from cplane.domain.verdict import Verdict
from cplane.hubble.debugring import DebugRing
from cplane.hubble.endpoint import NO_LINK, Link
from cplane.hubble.parser.attribution import AttributionResolver
from cplane.hubble.parser.debug import DebugParser
from cplane.hubble.parser.ends import Around, EndResolver, Ends
from cplane.hubble.parser.getters import Getters
from cplane.hubble.parser.sockets import SocketResolver
from cplane.hubble.ring import Array, Reply
from cplane.hubble.store import FlowStore
from datapath.notify.records import DTYPE, EMITTED, RecordFlags, RecordType

_INGRESS, _EGRESS = 1, 2  # flow.TrafficDirection
# flow.TraceReason of each number that the kernel writes; one more is for all that are unknown
_TRACE_REASONS: Final = np.array([1, 2, 3, 4, 5, 0], np.uint8)
# verdicts at each SocketPoint, and at those that there are not
_POINT_VERDICTS: Final = np.array([0, *(Verdict.TRACED, Verdict.TRANSLATED) * 2, 0], np.uint8)
_TYPES: Final = np.zeros(256, np.bool_)
_TYPES[list(EMITTED)] = True
_COPIED: Final = ("protocol", "icmp_type", "icmp_code", "file", "line", "cookie", "sport", "dport")


class Parser:
    """Turns batches of kernel records into rows, and remembers who the ends were.

    What the programs say to those who debug them goes to `debug_events`, or to nobody.
    """

    def __init__(self, store: FlowStore, getters: Getters, debug_events: DebugRing | None = None) -> None:
        self._store, self._getters = store, getters
        self._debug = DebugParser(debug_events, getters) if debug_events is not None else None
        self._ends = EndResolver(store, getters)
        self._attributions = AttributionResolver(store, getters)
        self._sockets = SocketResolver(store, getters)
        self._links: dict[int, int] = {}
        self._revision: int | None = None
        self._generation = store.generation
        self.malformed = 0  # records of no known type, which are left out

    @property
    def skipped(self) -> int:
        """Records of sockets about which there is nothing to say."""
        return self._sockets.skipped

    def ingest(self, records: npt.NDArray[np.void], offset_ns: int) -> int:
        """The records (of `datapath.notify.records.DTYPE`) are flows of the store, those of sockets two each; how many.

        `offset_ns` is UTC minus the kernel's boot clock. Nobody is woken.
        """
        assert records.dtype == DTYPE, records.dtype
        known = _TYPES[records["type"]]
        if not known.all():
            said = records["type"] == RecordType.DEBUG
            if self._debug is not None and said.any():
                self._debug.take(records[said], offset_ns)
            self.malformed += int(len(records) - np.count_nonzero(known | said))
            records = records[known]
        self.collect()
        return self.take(*self._sockets.resolve(records), offset_ns)

    def take(self, records: npt.NDArray[np.void], own: Mapping[str, Array], offset_ns: int) -> int:
        """As `ingest`, of records of any type whose columns `own` are known otherwise than from the record.

        Frees nothing, so that numbers in `own` keep their meaning: see `collect`.
        """
        if not len(records):
            return 0
        batch = {**_columns(records, offset_ns), **own}
        ends, seen = self._ends.numbers(*_both_ends(records, batch))
        batch["src_meta"], batch["dst_meta"] = ends[: len(records)], ends[len(records) :]
        batch["link"] = self._link_numbers(records["ifindex"])
        batch["attribution"] = self._attributions.numbers(records)
        self._store.append(batch)
        self._store.namespaces.saw(seen, int(batch["time_ns"][-1]))
        return len(records)

    def collect(self) -> None:
        """Numbers that no row has are free. Who numbers things for `own` columns does this before."""
        self._store.collect()
        if self._generation != self._store.generation:  # another parser of the store may have done it, too
            self._generation = self._store.generation
            self._ends.forget()
            self._attributions.forget()
            self._links.clear()

    def _link_numbers(self, indices: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        revision = self._getters.revision
        if revision != self._revision or len(self._links) > 1 << 16:
            self._links.clear()
            self._revision = revision
        distinct, inverse = np.unique(indices, return_inverse=True)
        numbers = np.fromiter((self._link(index) for index in distinct.tolist()), np.uint32, len(distinct))
        return numbers[inverse]

    def _link(self, index: int) -> int:
        number = self._links.get(index)
        if number is None:
            link = Link(index, self._getters.interface_name(index)) if index else NO_LINK
            number = self._links[index] = self._store.links.number(link)
        return number


def _columns(records: npt.NDArray[np.void], offset_ns: int) -> dict[str, Array]:
    """Every column but the numbers of ends, devices and attributions."""
    kind, flags = records["type"], records["flags"]
    drop, trace, socket = kind == RecordType.DROP, kind == RecordType.TRACE, kind == RecordType.SOCKET
    judged = kind == RecordType.POLICY_VERDICT
    verdict = records["verdict"]
    replied, audited = (flags & RecordFlags.REPLY) != 0, (flags & RecordFlags.AUDITED) != 0
    columns: dict[str, Array] = {name: records[name] for name in _COPIED}
    addresses = {side: _halves(records[f"{side}addr"]) for side in "sd"}
    columns |= {
        "time_ns": np.maximum(records["time_ns"].astype(np.int64) + offset_ns, 0).astype(np.uint64),
        "origin": records["position"],
        "src_hi": addresses["s"][0],
        "src_lo": addresses["s"][1],
        "dst_hi": addresses["d"][0],
        "dst_lo": addresses["d"][1],
        "src_identity": records["src_identity"],
        "dst_identity": records["dst_identity"],
        "proxy_port": np.where(judged, np.clip(verdict, 0, 0xFFFF), 0).astype(np.uint16),
        "macs": _macs(records),
        "type": kind,
        "subtype": np.where(judged, 0, records["subtype"]),
        "verdict": np.where(socket, _of_points(records["subtype"]), _verdicts(drop, trace, verdict, audited)),
        "reason": np.where(drop, records["subtype"], np.where(judged & ~audited, np.clip(-verdict, 0, 255), 0)),
        # of the connection: a reply that comes in belongs to a connection that goes out
        "direction": np.where(
            socket, 0, np.where(((flags & RecordFlags.EGRESS) != 0) ^ (trace & replied), _EGRESS, _INGRESS)
        ),
        "reply": _replies(flags, replied, trace | (judged & (audited | (verdict >= 0)))),
        "match_type": np.where(judged, records["match_type"], 0),
        "trace_reason": np.where(trace, _TRACE_REASONS[np.minimum(records["trace_reason"], 5)], 0),
        "tcp_flags": np.where(socket, 0, records["tcp_flags"]),  # a call has no packet, whatever the record holds
        "detail": np.zeros(len(records), np.uint32),
    }
    columns["ip_version"] = _ip_versions(flags, columns)
    return columns


def _halves(addresses: Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """16-byte addresses as two numbers each."""
    words = np.ascontiguousarray(addresses).view(">u8").reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


def _macs(records: npt.NDArray[np.void]) -> Array:
    both = np.empty((len(records), 12), np.uint8)
    for name, at in (("smac", 0), ("dmac", 6)):
        both[:, at : at + 6] = np.ascontiguousarray(records[name]).view(np.uint8).reshape(-1, 6)
    return both.view("V12").reshape(-1)


def _verdicts(drop: Array, trace: Array, verdict: Array, audited: Array) -> Array:
    of_policy = np.select(
        [audited, verdict < 0, verdict > 0],
        [Verdict.AUDIT, Verdict.DROPPED, Verdict.REDIRECTED],
        Verdict.FORWARDED,
    )
    return np.where(drop, Verdict.DROPPED, np.where(trace, Verdict.FORWARDED, of_policy))


def _of_points(points: Array) -> Array:
    """Of sockets: what was looked at before it was translated, or is what came of it."""
    return _POINT_VERDICTS[np.minimum(points, len(_POINT_VERDICTS) - 1)]


def _replies(flags: Array, replied: Array, let_through: Array) -> Array:
    """A refused packet belongs to no connection, so whether it is a reply is unknown."""
    known = let_through & ((flags & RecordFlags.REPLY_KNOWN) != 0)
    return np.where(known, replied.astype(np.uint8), Reply.UNKNOWN)


def _ip_versions(flags: Array, columns: dict[str, Array]) -> Array:
    """flow.IPVersion; a packet without any address was neither (the record has no bit for that)."""
    addressed = (columns["src_hi"] | columns["src_lo"] | columns["dst_hi"] | columns["dst_lo"]) != 0
    return np.where((flags & RecordFlags.IPV6) != 0, 2, addressed.astype(np.uint8)).astype(np.uint8)


def _both_ends(records: npt.NDArray[np.void], batch: dict[str, Array]) -> tuple[Ends, Around]:
    """Sources, then destinations."""
    around = Around(
        other=np.concatenate((records["dst_lxc"], records["src_lxc"])),
        protocol=np.concatenate((batch["protocol"], batch["protocol"])),
        port=np.concatenate((records["sport"], records["dport"])),
    )
    ends = Ends(
        lxc=np.concatenate((records["src_lxc"], records["dst_lxc"])),
        identity=np.concatenate((records["src_identity"], records["dst_identity"])),
        ip_version=np.concatenate((batch["ip_version"], batch["ip_version"])),
        hi=np.concatenate((batch["src_hi"], batch["dst_hi"])),
        lo=np.concatenate((batch["src_lo"], batch["dst_lo"])),
    )
    return ends, around
