"""Flows to GetFlowsResponse messages, framed for gRPC, many at a time.

What flows of one kind share is encoded once and kept (a *tail*); what differs (times, uuid, position, ports, cookies of
sockets) has a fixed width and is written for a whole batch with numpy (a *head*). Requests lie encoded in the store and
are put in between. Widths are fixed by varints with
superfluous continuation bytes, which every decoder reads. The result parses to what `FlowBuilder` makes.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from cplane.hubble.detail import ACCESS
from cplane.hubble.fieldmask import Mask, canonical, keep
from cplane.hubble.flow import KEY, PORTS, TCP, UDP, FlowBuilder, gather, key_of
from cplane.hubble.ids import TEXT_BYTES
from cplane.hubble.origin import TYPE_URL
from cplane.hubble.protowire import sized, tag, varint
from cplane.hubble.ring import Loss, Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2
from datapath.notify.records import RecordType

BATCH: Final = 1024  # flows encoded and sent at a time
TAILS_MAX: Final = 1 << 12  # kinds of flows remembered; all are forgotten beyond that
_ENCODERS_MAX: Final = 8

Rows = npt.NDArray[np.intp]
Where = Rows | slice

_FLOW = flow_pb2.Flow.DESCRIPTOR.fields_by_name
_RESPONSE = observer_pb2.GetFlowsResponse.DESCRIPTOR.fields_by_name
_L4 = flow_pb2.Layer4.DESCRIPTOR.fields_by_name
_HEAD_FIELDS: Final = ("time", "uuid", "l4", "extensions", "socket_cookie")
_REQUEST_FIELDS: Final = ("l7", "trace_context", "Summary")  # what a payload has
_FRAME: Final = 5  # bytes before a gRPC message: no compression, length
_LENGTH_WIDTH: Final = 3  # of a flow's length as a varint: up to 2 MiB
_PORTS_WIDTH: Final = 4 + 4 + 4  # l4 and its length, protocol and its length; two ports with their tags
_ORIGIN_WIDTH: Final = 8  # 56 bits
_NS: Final = 1_000_000_000
_VARINT_MAX: Final = 10  # bytes of any number


_SOCKET_TAG: Final = tag(_FLOW["socket_cookie"].number, 0)
_SOCKET_WIDTH: Final = len(_SOCKET_TAG) + _VARINT_MAX


def _spread(numbers: npt.NDArray[np.uint64]) -> None:
    """Numbers of at most 56 bits become their varints of 8 bytes, in place, but for the bits that continue them.

    Halves move apart, then halves of these: 28 bits into 32, 14 into 16, 7 into 8.
    """
    numbers += (numbers & 0xFFFFFFF0000000) * np.uint64(15)
    numbers += (numbers & 0x0FFFC0000FFFC000) * np.uint64(3)
    numbers += numbers & 0x3F803F803F803F80


_STAMP: Final = b"\x0c" + b"\x08" + bytes(5) + b"\x10" + bytes(5)  # google.protobuf.Timestamp of 12 bytes
# What stands around spread numbers in 8 bytes, little-endian, with the bits that continue varints of a fixed width.
_SECONDS: Final = 0x10_00_80808080_08_0C  # the length, the seconds, and the tag of the nanoseconds
_NANOS: Final = 0x00_80808080_10_00_80  # the last two bytes of the seconds, the tag, and the nanoseconds
_PORTS: Final = 0x00_8080_10_00_8080_08  # the two ports, each after its tag
_LENGTH: Final = 0x00_8080 << 8 | tag(_RESPONSE["flow"].number)[0]  # in 4 bytes: the tag, and the flow's length
_ORIGIN: Final = 0x00_80808080808080


class Layout:
    """What a head consists of, for what a client wants, and where its gaps are.

    `head` has a field for each gap. Some overlap: a gap of 5 bytes is written with its surroundings as 8, because that
    is one step. `uuid` is the beginning that all uuids of the store have.
    """

    def __init__(self, wanted: frozenset[str], uuid: str) -> None:
        gaps = {"size": (">u4", 1)}
        parts = bytearray(_FRAME)
        parts += tag(_RESPONSE["time"].number)
        gaps |= _stamp_gaps("time", len(parts))
        parts += _STAMP
        gaps["flow"] = ("<u4", len(parts))
        parts += bytes(_LENGTH_WIDTH + 1)
        self.flow = len(parts)
        self.time, self.uuid, self.origin = (name in wanted for name in ("time", "uuid", "extensions"))
        if self.time:
            parts += tag(_FLOW["time"].number)
            gaps |= _stamp_gaps("flow_time", len(parts))
            parts += _STAMP
        if self.uuid:
            parts += tag(_FLOW["uuid"].number) + varint(TEXT_BYTES) + uuid.encode()
            gaps["uuid"] = ("u4", len(parts))
            parts += b"0000-"
            gaps["uuid_rest"] = ("(3,)u4", len(parts))
            parts += bytes(12)
        if self.origin:
            url = TYPE_URL.encode()
            value = tag(2) + varint(1 + _ORIGIN_WIDTH) + tag(1, 0)
            content = tag(1) + varint(len(url)) + url + value
            parts += tag(_FLOW["extensions"].number) + varint(len(content) + _ORIGIN_WIDTH) + content
            gaps["origin"] = ("<u8", len(parts))
            parts += bytes(_ORIGIN_WIDTH)
        self.without_ports = len(parts)  # they are the last, because not every flow has them
        self.wants_ports = "l4" in wanted
        self.wants_socket = "socket_cookie" in wanted
        gaps["layer"] = ("<u4", len(parts))
        gaps["ports"] = ("<u8", len(parts) + 4)
        parts += bytes(_PORTS_WIDTH)
        self.width = len(parts)
        kinds, places = zip(*gaps.values(), strict=True)
        self.head = np.dtype(
            {"names": [*gaps], "formats": list(kinds), "offsets": list(places), "itemsize": self.width}
        )
        self.bytes = np.frombuffer(bytes(parts), np.uint8)


def _stamp_gaps(name: str, at: int) -> dict[str, tuple[str, int]]:
    """Those of a `_STAMP` that begins at column `at`."""
    return {f"{name}_seconds": ("<u8", at), f"{name}_nanos": ("<u8", at + 5)}


class Encoder:
    """Encodes flows of one store for clients that want the same of them.

    `mask` None: all of a flow. `origin`: with the extension that carries the log position.
    """

    def __init__(self, store: FlowStore, mask: Mask | None = None, *, origin: bool = False) -> None:
        self._store, self._mask = store, mask
        self._builder = FlowBuilder(store)
        self._origin = origin if mask is None else "extensions" in mask
        self._node = tag(_RESPONSE["node_name"].number) + sized(store.node_name.encode())
        # a mask that wants a part of what varies breaks the fixed layout
        self._plain = mask is not None and any(mask.get(name) for name in _HEAD_FIELDS)
        wanted = set(_HEAD_FIELDS if mask is None else mask)
        if not self._origin:
            wanted.discard("extensions")
        self._layout = Layout(frozenset(wanted), store.ids.prefix)
        self._of_requests = None if mask is None else {name: mask[name] for name in _REQUEST_FIELDS if name in mask}
        self._generation = store.generation
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._tails: list[bytes] = []
        self._over_ports: list[int] = []
        self._tail_sizes = np.zeros(0, np.uint32)
        self._heads = np.zeros(0, np.uint32)

    def encode(self, span: Span, rows: Rows) -> bytes:
        """The rows (relative to the span, ascending) as framed messages, one after the other."""
        if self._plain:
            return b"".join(self._frame(self._response(span, row)) for row in rows.tolist())
        where = _where(rows)
        numbers = self._numbers_of(gather(span, where))
        heads = self._heads_of(span, where, (rows + span.start).astype(np.uint64), numbers)
        tails = self._tails
        out = [b""] * (2 * len(heads))
        out[::2] = heads
        out[1::2] = map(tails.__getitem__, numbers)
        return b"".join(out)

    def loss(self, loss: Loss) -> bytes:
        """The framed message that tells of lost flows."""
        response = observer_pb2.GetFlowsResponse(node_name=self._store.node_name)
        event = response.lost_events
        event.source, event.num_events_lost = loss.source, loss.count  # type: ignore[assignment]
        event.first.FromNanoseconds(loss.first_ns)
        event.last.FromNanoseconds(loss.last_ns)
        response.time.FromNanoseconds(loss.last_ns)
        return self._frame(response)

    def _numbers_of(self, keys: npt.NDArray[np.void]) -> list[int]:
        """The number of each key's tail; new kinds are encoded now."""
        if self._generation != self._store.generation or len(self._tails) > TAILS_MAX:
            self._forget()
            self._generation = self._store.generation
        texts: list[bytes] = keys.view(f"S{KEY.itemsize}").tolist()
        known = self._numbers
        try:
            return list(map(known.__getitem__, texts))
        except KeyError:
            for text in set(texts) - known.keys():
                known[text] = len(self._tails)
                self._add(text)
        self._tail_sizes = np.fromiter(map(len, self._tails), np.uint32, len(self._tails))
        self._heads = np.array(self._over_ports, np.uint32)
        return [known[text] for text in texts]

    def _add(self, text: bytes) -> None:
        key = key_of(text)
        flow = self._builder.shared(key)
        if self._mask is not None:
            keep(flow, self._mask)
        over = 0
        inner = b""
        if key.protocol in PORTS and key.ip_version and self._layout.wants_ports:
            name = {TCP: "TCP", UDP: "UDP"}.get(key.protocol, "SCTP")
            inner = getattr(flow.l4, name).SerializeToString()
            content = len(inner) + 8  # two ports of 4 bytes
            head = (*tag(_FLOW["l4"].number), content + 2, *tag(_L4[name].number), content)
            over = int.from_bytes(head, "little")
            flow.ClearField("l4")
        self._tails.append(inner + flow.SerializeToString() + self._node)
        self._over_ports.append(over)

    def _heads_of(self, span: Span, where: Where, positions: npt.NDArray[np.uint64], numbers: list[int]) -> list[bytes]:
        layout = self._layout
        index = np.array(numbers, np.intp)
        over = self._heads[index]
        ported = over != 0
        sizes = self._tail_sizes[index] + np.where(ported, layout.width, layout.without_ports)
        sockets, requests = self._sockets(span, where), self._requests(span, where)
        payloads = self._payloads(span, where, requests)
        sizes[sockets] += _SOCKET_WIDTH
        sizes[requests] += np.fromiter(map(len, payloads), np.uint32, len(payloads))
        matrix = np.empty((len(index), layout.width), np.uint8)
        matrix[:] = layout.bytes
        heads = matrix.view(layout.head).reshape(-1)
        heads["size"] = sizes - _FRAME
        spread = np.empty((5 if layout.origin else 4, len(index)), np.uint64)
        seconds, nanos, ports, length = spread[:4]
        times = span["time_ns"][where]
        np.floor_divide(times, _NS, out=seconds)
        np.subtract(times, seconds * _NS, out=nanos)
        ports[:] = span["dport"][where]
        ports <<= 28  # so that they come to stand 4 bytes apart
        ports |= span["sport"][where]
        length[:] = sizes - (layout.flow + len(self._node))
        if layout.origin:
            spread[4] = span["origin"][where]
        _spread(spread)
        heads["flow"] = length << 8 | _LENGTH
        heads["layer"] = over
        heads["ports"] = ports << 8 | _PORTS
        first, second = seconds << 16 | _SECONDS, nanos << 24 | seconds >> 24 | _NANOS
        for name in ("time", "flow_time")[: 1 + layout.time]:
            heads[f"{name}_seconds"] = first
            heads[f"{name}_nanos"] = second
        if layout.uuid:
            digits = self._store.ids.digits(positions)
            heads["uuid"], heads["uuid_rest"] = digits[:, 0], digits[:, 1:]
        if layout.origin:
            heads["origin"] = spread[4] | _ORIGIN
        found: list[bytes] = matrix.view(f"V{layout.width}").reshape(-1).tolist()
        at = layout.without_ports
        for row in np.flatnonzero(~ported).tolist():
            found[row] = found[row][:at]
        for rows, fields in ((sockets, self._cookies(span, where, sockets)), (requests, payloads)):
            for row, field in zip(rows.tolist(), fields, strict=True):
                found[row] = found[row][:at] + field + found[row][at:]
        return found

    def _sockets(self, span: Span, where: Where) -> Rows:
        """Which of the rows are of sockets, whose cookies stand before the ports."""
        if not self._layout.wants_socket:
            return np.zeros(0, np.intp)
        return np.flatnonzero(span["type"][where] == RecordType.SOCKET)

    def _cookies(self, span: Span, where: Where, sockets: Rows) -> list[bytes]:
        """The field of each, of the same width for all."""
        if not len(sockets):
            return []
        bases = [self._store.details[number].socket_base for number in span["detail"][where][sockets].tolist()]
        cookies = np.array(bases, np.uint64) | span["cookie"][where][sockets]
        field = np.empty((len(sockets), _SOCKET_WIDTH), np.uint8)
        field[:, : len(_SOCKET_TAG)] = np.frombuffer(_SOCKET_TAG, np.uint8)
        for byte, shift in enumerate(range(0, 64, 7), len(_SOCKET_TAG)):
            field[:, byte] = (cookies >> np.uint64(shift)).astype(np.uint8) | 0x80
        field[:, -1] &= 0x7F
        out: list[bytes] = field.view(f"V{_SOCKET_WIDTH}").reshape(-1).tolist()
        return out

    def _requests(self, span: Span, where: Where) -> Rows:
        """Which of the rows are of requests, of which something is wanted."""
        if self._of_requests is not None and not self._of_requests:
            return np.zeros(0, np.intp)
        return np.flatnonzero(span["type"][where] == ACCESS)

    def _payloads(self, span: Span, where: Where, requests: Rows) -> list[bytes]:
        """What is wanted of each, encoded."""
        if not len(requests):
            return []
        numbers = (span[name][where][requests].tolist() for name in ("detail", "cookie"))
        payloads = list(map(self._store.payload, *numbers))
        wanted = self._of_requests
        if wanted is None or (len(wanted) == len(_REQUEST_FIELDS) and not any(wanted.values())):
            return payloads
        kept = []
        for payload in payloads:
            flow = flow_pb2.Flow.FromString(payload)
            keep(flow, wanted)
            kept.append(flow.SerializeToString())
        return kept

    def _response(self, span: Span, row: int) -> observer_pb2.GetFlowsResponse:
        flow = self._builder.flow(span, row)
        response = observer_pb2.GetFlowsResponse(node_name=self._store.node_name)
        response.time.CopyFrom(flow.time)
        if self._mask is not None:
            keep(flow, self._mask)
        response.flow.CopyFrom(flow)
        return response

    @staticmethod
    def _frame(response: observer_pb2.GetFlowsResponse) -> bytes:
        data = response.SerializeToString()
        return b"\0" + len(data).to_bytes(4, "big") + data


def _where(rows: Rows) -> Where:
    """The rows, as a slice where they follow one another: that takes a view of a column and copies nothing."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def frames(data: bytes) -> Iterator[bytes]:
    """The messages in a series of frames."""
    at = 0
    while at < len(data):
        end = at + _FRAME + int.from_bytes(data[at + 1 : at + _FRAME], "big")
        yield data[at + _FRAME : end]
        at = end


class Encoders:
    """Encoders by what clients want, so that those who want the same share the tails. Bounded."""

    def __init__(self, store: FlowStore) -> None:
        self._store = store
        self._made: dict[str, Encoder] = {}

    def get(self, mask: Mask | None, *, origin: bool) -> Encoder:
        """The encoder for that wish; beyond 8 different ones the oldest is forgotten."""
        wish = f"{origin}" if mask is None else canonical(mask)
        if wish not in self._made:
            while len(self._made) >= _ENCODERS_MAX:
                del self._made[next(iter(self._made))]
            self._made[wish] = Encoder(self._store, mask, origin=origin)
        return self._made[wish]
