"""What the flows in the ring say of policy, folded for whoever previews a change."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.domain.identity import LOCAL_MIN, Reserved
from cplane.domain.policy.explanation import Outcome
from cplane.domain.verdict import Direction, DropReason
from cplane.hubble.flow import ICMP4, ICMP6, PORTS
from cplane.hubble.ring import Reply, Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.timetravel.seen import Count, Counts, Kind, Seen, Window, stands_for_addresses

_CHUNK: Final = 1 << 17  # rows that are folded at a time
_PARTS_MAX: Final = 8  # of what was folded, before it is folded again
_DIRECTIONS: Final = {flow_pb2.INGRESS: Direction.INGRESS, flow_pb2.EGRESS: Direction.EGRESS}
_VERDICTS: Final = {
    flow_pb2.FORWARDED: Outcome.ALLOWED,
    flow_pb2.REDIRECTED: Outcome.ALLOWED,
    flow_pb2.AUDIT: Outcome.AUDIT,
    flow_pb2.DROPPED: Outcome.DENIED,
}
_OF_POLICY: Final = (DropReason.POLICY_DENIED, DropReason.POLICY_DENY, DropReason.AUTH_REQUIRED)
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, and its bits are mixed
_KEY: Final = np.dtype(
    [
        ("hi", "u8"),
        ("lo", "u8"),
        ("end", "u4"),  # the endpoint that obeyed the policy
        ("own", "u4"),  # its identity
        ("peer", "u4"),  # that of the other side
        ("port", "u2"),
        ("ip_version", "u1"),
        ("protocol", "u1"),
        ("direction", "u1"),
        ("verdict", "u1"),
        ("type", "u1"),
        ("free", "V5"),  # so that it is a row of whole numbers
    ]
)


class _Folded(NamedTuple):
    """Rows of which none is like another, how many there were of each, and when the first and the last."""

    keys: npt.NDArray[np.void]
    times: npt.NDArray[np.int64]
    first: npt.NDArray[np.uint64]
    last: npt.NDArray[np.uint64]


def seen(store: FlowStore, since_ns: int, until_ns: int) -> Seen:
    """What was seen between the two times (UTC, nanoseconds); it may run in a thread, while flows come in."""
    ring = store.ring
    parts: list[_Folded] = []
    flows = kept = first = last = lost = 0
    position, end = ring.oldest, ring.written
    while position < end:
        if position < ring.oldest:  # rows were overwritten before they could be read
            lost, position = lost + ring.oldest - position, ring.oldest
            continue
        stop = min(end, ring.contiguous(position), position + _CHUNK)
        span = ring.span(position, stop)
        times = span["time_ns"]
        within = (times >= since_ns) & (times <= until_ns)
        oldest, count = int(times[0]), int(within.sum())
        part = _folded(store, span, within) if count else None
        edges = (int(times[within][0]), int(times[within][-1])) if count else (0, 0)
        if position >= ring.oldest:  # otherwise rows of it were overwritten meanwhile
            kept = kept or oldest
            if count:
                flows, first, last = flows + count, first or edges[0], edges[1]
            if part is not None:
                parts.append(part)
                if len(parts) == _PARTS_MAX:
                    parts = [_merged(parts)]
        else:
            lost += stop - position
        position = stop
    lost += sum(loss.count for loss in ring.all_losses() if since_ns <= loss.last_ns and loss.first_ns <= until_ns)
    window = Window(asked_ns=since_ns, kept_ns=kept, first_ns=first, last_ns=last, flows=flows, lost=lost)
    return Seen(window, _kinds(_merged(parts)) if parts else {})


def _folded(store: FlowStore, span: Span, within: npt.NDArray[np.bool_]) -> _Folded | None:
    rows = np.flatnonzero(within & _says_something(span))
    if not len(rows):
        return None
    keys, times = _keys(store, span, rows), span["time_ns"][rows]
    return _merged([_Folded(keys, np.ones(len(rows), np.int64), times, times)])


def _merged(parts: list[_Folded]) -> _Folded:
    """All of them together."""
    one, *others = parts
    keys, times, first, last = (map(np.concatenate, zip(*parts, strict=True))) if others else one
    order, starts = _groups(keys)
    return _Folded(
        keys[order[starts]],
        np.add.reduceat(times[order], starts),
        np.minimum.reduceat(first[order], starts),
        np.maximum.reduceat(last[order], starts),
    )


def _groups(keys: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The rows in an order in which equal keys stand together, and where each kind begins."""
    words = np.ascontiguousarray(keys.view(np.uint64).reshape(len(keys), -1).T)
    mixed = np.zeros(len(keys), np.uint64)
    for word in words:  # numbers are sorted ten times as fast as texts
        mixed = (mixed ^ word) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed)
    differs, in_order = _steps(words[:, order]), mixed[order]
    if (differs != (in_order[1:] != in_order[:-1])).any():  # two kinds have one number
        order = np.lexsort(words)
        differs = _steps(words[:, order])
    return order, np.append(0, np.flatnonzero(differs) + 1)


def _steps(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Where a column is another one than that before it."""
    found: npt.NDArray[np.bool_] = (words[:, 1:] != words[:, :-1]).any(axis=0)
    return found


def _says_something(span: Span) -> npt.NDArray[np.bool_]:
    """Rows of packets that policy judged: those that began a connection, or were dropped by it."""
    verdict, reason = span["verdict"], span["reason"]
    dropped = verdict == flow_pb2.DROPPED
    ported = np.isin(span["protocol"], list(PORTS))
    by_policy = np.isin(reason, [int(one) & 0xFF for one in _OF_POLICY])
    found: npt.NDArray[np.bool_] = (
        np.isin(span["direction"], list(_DIRECTIONS))
        & np.isin(verdict, list(_VERDICTS))
        & (span["reply"] != Reply.YES)
        & (span["ip_version"] != flow_pb2.IP_NOT_USED)
        & (~dropped | by_policy)
        & (np.isin(span["protocol"], (ICMP4, ICMP6)) | (ported & (span["dport"] != 0)))
    )
    return found


def _keys(store: FlowStore, span: Span, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.void]:
    keys = np.zeros(len(rows), _KEY)
    outward = span["direction"][rows] == flow_pb2.EGRESS

    def side(name: str, *, own: bool) -> npt.NDArray[Any]:  # Any: columns have types of their own
        return np.where(outward == own, span[f"src_{name}"][rows], span[f"dst_{name}"][rows])

    numbers, which = np.unique(side("meta", own=True), return_inverse=True)
    ends = [store.endpoints[number] for number in numbers.tolist()]  # now: a number may stand for another one later
    keys["end"] = np.array([one.endpoint_id for one in ends], np.uint32)[which]
    keys["own"] = np.array([one.identity for one in ends], np.uint32)[which]
    peer = keys["peer"] = side("identity", own=False)
    by_address = (peer >= LOCAL_MIN) | np.isin(peer, [Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6])
    keys["hi"] = np.where(by_address, side("hi", own=False), 0)
    keys["lo"] = np.where(by_address, side("lo", own=False), 0)
    protocol = keys["protocol"] = span["protocol"][rows]
    messages = (protocol == ICMP4) | (protocol == ICMP6)
    keys["port"] = np.where(messages, span["icmp_type"][rows], span["dport"][rows])
    for name in ("ip_version", "direction", "verdict", "type"):
        keys[name] = span[name][rows]
    return keys


def _kinds(folded: _Folded) -> dict[Kind, Count]:
    counts = Counts()
    columns = (folded.keys[name].tolist() for name in _KEY.names or () if name != "free")
    for hi, lo, end, own, peer, port, version, protocol, direction, verdict, way, times, first, last in zip(
        *columns, folded.times.tolist(), folded.first.tolist(), folded.last.tolist(), strict=True
    ):
        if not end or not peer:
            continue
        address = ""
        if stands_for_addresses(peer):
            whole = hi << 64 | lo
            address = str(IPv4Address(whole >> 96) if version == flow_pb2.IPv4 else IPv6Address(whole))
        kind = Kind(_DIRECTIONS[direction], end, own, peer, address, protocol, port, _VERDICTS[verdict])
        counts.add(way, kind, times, first, last)
    return counts.kinds()
