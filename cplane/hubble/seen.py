"""What columns of flows say of policy, folded for whoever previews a change."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.domain.identity import LOCAL_MIN, Reserved
from cplane.domain.policy.explanation import Outcome
from cplane.domain.verdict import POLICY_DROPS, Direction
from cplane.hubble.archive.segment import Chapter
from cplane.hubble.detail import ACCESS
from cplane.hubble.flow import ICMP4, ICMP6, PORTS
from cplane.hubble.parser.ends import address_text
from cplane.hubble.ring import Loss, Reply, Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.timetravel.asked import Asked, dns_asked, http_asked, kafka_asked
from cplane.timetravel.seen import Kind, Sight, stands_for_addresses

_CHUNK: Final = 1 << 17  # rows that are folded at a time
_PARTS_MAX: Final = 8  # of what was folded, before it is folded again
_DIRECTIONS: Final[Mapping[int, Direction]] = {flow_pb2.INGRESS: Direction.INGRESS, flow_pb2.EGRESS: Direction.EGRESS}
_VERDICTS: Final[Mapping[int, Outcome]] = {
    flow_pb2.FORWARDED: Outcome.ALLOWED,
    flow_pb2.REDIRECTED: Outcome.ALLOWED,
    flow_pb2.AUDIT: Outcome.AUDIT,
    flow_pb2.DROPPED: Outcome.DENIED,
}
_OF_POLICY: Final = tuple(int(one) & 0xFF for one in sorted(POLICY_DROPS))  # a byte in a column
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, and its bits are mixed
_OF_REQUEST: Final = (
    *("time_ns", "direction", "verdict", "protocol", "dport", "ip_version", "detail", "cookie"),
    *("src_meta", "dst_meta", "src_identity", "dst_identity", "src_hi", "src_lo", "dst_hi", "dst_lo"),
)
_8, _16, _32 = np.uint64(8), np.uint64(16), np.uint64(32)
# Rows of numbers that say what a kind is: half an address each, the endpoint that obeyed the policy with its identity,
# the identity of the other side with the port, and what is small.
_HI, _LO, _OWN, _PEER, _REST = range(5)


class _Folded(NamedTuple):
    """Kinds of flows, a column of `words` for each; how many there were of each, and when the first and the last."""

    words: npt.NDArray[np.uint64]
    times: npt.NDArray[np.int64]
    first: npt.NDArray[np.uint64]
    last: npt.NDArray[np.uint64]


class _Asked(NamedTuple):
    """A request, where it is known still, and when it was made."""

    kind: Kind | None
    at_ns: int


class _Look(NamedTuple):
    """What some rows have: the time of the oldest, how many are within the times, the first and the last of those."""

    oldest_ns: int
    flows: int
    first_ns: int
    last_ns: int
    part: _Folded | None
    requests: Sequence[_Asked] = ()


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
        requests = _requests(store, span, within)
        return _Look(int(times[0]), count, int(chosen[0]), int(chosen[-1]), _folded(store, span, within), requests)

    def _take(self, look: _Look) -> None:
        self._sight.keeps(look.oldest_ns)
        if look.flows:
            self._sight.looked(look.flows, look.first_ns, look.last_ns)
        for one in look.requests:
            self._sight.asks(one.kind, one.at_ns)
        if look.part is not None:
            self._parts.append(look.part)
            if len(self._parts) == _PARTS_MAX:
                self._parts = [_merged(self._parts)]


def _folded(store: FlowStore, span: Span, within: npt.NDArray[np.bool_]) -> _Folded | None:
    rows = np.flatnonzero(within & _says_something(span))
    if not len(rows):
        return None
    words, times = _words(store, span, rows), span["time_ns"][rows]
    return _grouped(_Folded(words, np.ones(len(rows), np.int64), times, times))


def _merged(parts: list[_Folded]) -> _Folded:
    """All of them together."""
    if len(parts) == 1:
        return parts[0]
    words, *others = zip(*parts, strict=True)
    times, first, last = map(np.concatenate, others)
    return _grouped(_Folded(np.concatenate(words, axis=1), times, first, last))


def _grouped(one: _Folded) -> _Folded:
    """The same with each kind once."""
    order, starts = _groups(one.words)
    return _Folded(
        one.words[:, order[starts]],
        np.add.reduceat(one.times[order], starts),
        np.minimum.reduceat(one.first[order], starts),
        np.maximum.reduceat(one.last[order], starts),
    )


def _groups(words: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The columns in an order in which equal ones stand together, and where each kind begins."""
    mixed = np.zeros(words.shape[1], np.uint64)
    for word in words:  # one number is sorted ten times as fast as five
        mixed = (mixed ^ word) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed)
    differs, in_order = _steps(words, order), mixed[order]
    if (differs != (in_order[1:] != in_order[:-1])).any():  # two kinds have one number
        order = np.lexsort(words)
        differs = _steps(words, order)
    return order, np.append(0, np.flatnonzero(differs) + 1)


def _steps(words: npt.NDArray[np.uint64], order: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Where a column, in that order, is another one than that before it."""
    found = np.zeros(len(order) - 1, np.bool_)
    for word in words:
        in_order = word[order]
        found |= in_order[1:] != in_order[:-1]
    return found


def _says_something(span: Span) -> npt.NDArray[np.bool_]:
    """Rows of packets that policy judged: those that began a connection, or were dropped by it."""
    verdict, reason = span["verdict"], span["reason"]
    dropped = verdict == flow_pb2.DROPPED
    ported = np.isin(span["protocol"], list(PORTS))
    by_policy = np.isin(reason, _OF_POLICY)
    found: npt.NDArray[np.bool_] = (
        np.isin(span["direction"], list(_DIRECTIONS))
        & (span["type"] != ACCESS)
        & np.isin(verdict, list(_VERDICTS))
        & (span["reply"] != Reply.YES)
        & (span["ip_version"] != flow_pb2.IP_NOT_USED)
        & (~dropped | by_policy)
        & (np.isin(span["protocol"], (ICMP4, ICMP6)) | (ported & (span["dport"] != 0)))
    )
    return found


def _requests(store: FlowStore, span: Span, within: npt.NDArray[np.bool_]) -> list[_Asked]:
    """What was asked for, row by row: each is different."""
    verdict, ported = span["verdict"], np.isin(span["protocol"], list(PORTS)) & (span["dport"] != 0)
    wanted = within & (span["type"] == ACCESS) & (span["reply"] != Reply.YES) & ported
    wanted &= np.isin(verdict, list(_VERDICTS)) & np.isin(span["direction"], list(_DIRECTIONS))
    return [one for row in np.flatnonzero(wanted).tolist() if (one := _request(store, span, row)) is not None]


def _request(store: FlowStore, span: Span, row: int) -> _Asked | None:
    """None: it is not known whose policy judged it, or by which identity."""
    number = {name: int(span[name][row]) for name in _OF_REQUEST}
    direction = _DIRECTIONS[number["direction"]]
    outward = direction is Direction.EGRESS
    own, other = ("src", "dst") if outward else ("dst", "src")
    end, peer = store.endpoints[number[f"{own}_meta"]], number[f"{other}_identity"]
    if not end.endpoint_id or not peer:
        return None
    asked = _asked(flow_pb2.Flow.FromString(store.payload(number["detail"], number["cookie"])).l7)
    if asked is None:
        return _Asked(None, number["time_ns"])
    address = ""
    if stands_for_addresses(peer):
        address = address_text(number["ip_version"], number[f"{other}_hi"], number[f"{other}_lo"])
    kind = Kind(
        direction,
        end.endpoint_id,
        end.identity,
        peer,
        address,
        number["protocol"],
        number["dport"],
        _VERDICTS[number["verdict"]],
        asked,
    )
    return _Asked(kind, number["time_ns"])


def _asked(layer: flow_pb2.Layer7) -> Asked | None:
    match layer.WhichOneof("record"):
        case "http" if layer.http.method:
            headers = ((one.key, one.value) for one in layer.http.headers)
            return http_asked(layer.http.method, layer.http.url, headers, whole=False)
        case "dns" if layer.dns.query:
            return dns_asked(layer.dns.query)
        case "kafka":
            return kafka_asked(layer.kafka.api_key, layer.kafka.api_version, layer.kafka.topic)
    return None


def _words(store: FlowStore, span: Span, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
    outward = span["direction"][rows] == flow_pb2.EGRESS

    def side(name: str, *, own: bool) -> npt.NDArray[Any]:  # Any: columns have types of their own
        return np.where(outward == own, span[f"src_{name}"][rows], span[f"dst_{name}"][rows])

    def wide(name: str) -> npt.NDArray[np.uint64]:
        return span[name][rows].astype(np.uint64)

    words = np.zeros((5, len(rows)), np.uint64)
    words[_OWN] = _ends(store, side("meta", own=True))
    peer, protocol = side("identity", own=False), span["protocol"][rows]
    by_address = (peer >= LOCAL_MIN) | np.isin(peer, [Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6])
    if by_address.any():
        words[_HI] = np.where(by_address, side("hi", own=False), 0)
        words[_LO] = np.where(by_address, side("lo", own=False), 0)
    messages = (protocol == ICMP4) | (protocol == ICMP6)
    port = np.where(messages, span["icmp_type"][rows], span["dport"][rows]).astype(np.uint64)
    words[_PEER] = peer.astype(np.uint64) << _32 | port << _16 | wide("ip_version") << _8 | protocol.astype(np.uint64)
    words[_REST] = wide("direction") << _16 | wide("verdict") << _8 | wide("type")
    return words


def _ends(store: FlowStore, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """The endpoint in the upper half, and its identity in the lower, for each number of the table of endpoints."""
    present = np.zeros(len(store.endpoints), np.bool_)
    present[numbers] = True
    found = np.zeros(len(present), np.uint64)
    for number in np.flatnonzero(present).tolist():  # now: a number may stand for another end later
        end = store.endpoints[number]
        found[number] = end.endpoint_id << 32 | end.identity
    return found[numbers]


def _count_kinds(folded: _Folded, sight: Sight) -> None:
    hi, lo, own, peer, rest = folded.words.tolist()
    counts = (folded.times.tolist(), folded.first.tolist(), folded.last.tolist())
    for high, low, end, other, small, times, first, last in zip(hi, lo, own, peer, rest, *counts, strict=True):
        endpoint, identity = end >> 32, other >> 32
        if not endpoint or not identity:
            continue
        address = ""
        if stands_for_addresses(identity):
            whole = high << 64 | low
            is_ipv4 = other >> 8 & 0xFF == flow_pb2.IPv4
            address = str(IPv4Address(whole >> 96) if is_ipv4 else IPv6Address(whole))
        kind = Kind(
            _DIRECTIONS[small >> 16],
            endpoint,
            end & 0xFFFFFFFF,
            identity,
            address,
            other & 0xFF,
            other >> 16 & 0xFFFF,
            _VERDICTS[small >> 8 & 0xFF],
        )
        sight.counts.add(small & 0xFF, kind, times, first, last)
