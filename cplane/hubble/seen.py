"""What columns of flows say of policy, folded for whoever previews a change."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.domain.identity import LOCAL_MIN, Reserved
from cplane.domain.policy.explanation import Outcome
from cplane.domain.verdict import POLICY_DROPS, Direction
from cplane.hubble.archive.segment import Chapter
from cplane.hubble.flow import ICMP4, ICMP6, PORTS
from cplane.hubble.ring import Loss, Reply, Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.timetravel.seen import Kind, Sight, stands_for_addresses

_CHUNK: Final = 1 << 17  # rows that are folded at a time
_PARTS_MAX: Final = 8  # of what was folded, before it is folded again
_DIRECTIONS: Final = {flow_pb2.INGRESS: Direction.INGRESS, flow_pb2.EGRESS: Direction.EGRESS}
_VERDICTS: Final = {
    flow_pb2.FORWARDED: Outcome.ALLOWED,
    flow_pb2.REDIRECTED: Outcome.ALLOWED,
    flow_pb2.AUDIT: Outcome.AUDIT,
    flow_pb2.DROPPED: Outcome.DENIED,
}
_OF_POLICY: Final = tuple(int(one) & 0xFF for one in sorted(POLICY_DROPS))  # a byte in a column
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


class _Look(NamedTuple):
    """What some rows have: the time of the oldest, how many are within the times, the first and the last of those."""

    oldest_ns: int
    flows: int
    first_ns: int
    last_ns: int
    part: _Folded | None


class Folding:
    """Folds columns of flows, of one store after another, into a sight. It may run in a thread, while flows come in."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._parts: list[_Folded] = []

    def ring(self, store: FlowStore, position: int) -> list[tuple[int, int]]:
        """The flows in the ring from the position on are in it, with what is lost there.

        Those of the positions (from, to) that it gives are not: they were overwritten meanwhile.
        """
        ring, end = store.ring, store.ring.written
        gone: list[tuple[int, int]] = []
        self._count(ring.all_losses(position))
        while position < end:
            if position < ring.oldest:
                gone.append((position, ring.oldest))
                position = ring.oldest
                continue
            stop = min(end, ring.contiguous(position), position + _CHUNK)
            found = self._looked_at(store, ring.racing_span(position, stop))
            if position >= ring.oldest:
                self._take(found)
            else:
                gone.append((position, stop))
            position = stop
        return gone

    def chapter(self, chapter: Chapter, start: int, stop: int) -> None:
        """The flows of a segment of the archive from one position to another are in it, with what is lost there."""
        for position in range(start, stop, _CHUNK):
            self._take(self._looked_at(chapter.store, chapter.span(position, min(stop, position + _CHUNK))))
        self._count(chapter.all_losses(start, stop))

    def end(self) -> None:
        """The sight has all of it."""
        if self._parts:
            _count_kinds(_merged(self._parts), self._sight)

    def _count(self, losses: Iterable[Loss]) -> None:
        since, until = self._sight.since_ns, self._sight.until_ns
        self._sight.loses(sum(one.count for one in losses if since <= one.last_ns and one.first_ns <= until))

    def _looked_at(self, store: FlowStore, span: Span) -> _Look:
        """What is within the two times; everything is read that is wanted of the rows."""
        times = span["time_ns"]
        within = (times >= self._sight.since_ns) & (times <= self._sight.until_ns)
        count = int(within.sum())
        if not count:
            return _Look(int(times[0]), 0, 0, 0, None)
        chosen = times[within]
        return _Look(int(times[0]), count, int(chosen[0]), int(chosen[-1]), _folded(store, span, within))

    def _take(self, look: _Look) -> None:
        self._sight.keeps(look.oldest_ns)
        if look.flows:
            self._sight.looked(look.flows, look.first_ns, look.last_ns)
        if look.part is not None:
            self._parts.append(look.part)
            if len(self._parts) == _PARTS_MAX:
                self._parts = [_merged(self._parts)]


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
    by_policy = np.isin(reason, _OF_POLICY)
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


def _count_kinds(folded: _Folded, sight: Sight) -> None:
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
        sight.counts.add(way, kind, times, first, last)
