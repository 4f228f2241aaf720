"""Flows to GetFlowsResponse messages, framed for gRPC, many at a time.

What flows of one kind share is encoded once and kept (a *tail*); what differs (times, uuid, position, ports)
has a fixed width and is written for a whole batch with numpy (a *head*). Widths are fixed by varints with
superfluous continuation bytes, which every decoder reads. The result parses to what `FlowBuilder` makes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cplane.hubble.fieldmask import Mask, canonical, keep
from cplane.hubble.flow import KEY, PORTS, TCP, UDP, FlowBuilder, gather, key_of
from cplane.hubble.ids import TEXT_BYTES
from cplane.hubble.origin import TYPE_URL
from cplane.hubble.ring import Loss, Span
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2

BATCH: Final = 512  # flows encoded and sent at a time
TAILS_MAX: Final = 1 << 12  # kinds of flows remembered; all are forgotten beyond that
_ENCODERS_MAX: Final = 8

Rows = npt.NDArray[np.intp]
_Matrix = npt.NDArray[np.uint8]

_FLOW = flow_pb2.Flow.DESCRIPTOR.fields_by_name
_RESPONSE = observer_pb2.GetFlowsResponse.DESCRIPTOR.fields_by_name
_L4 = flow_pb2.Layer4.DESCRIPTOR.fields_by_name
_HEAD_FIELDS: Final = ("time", "uuid", "l4", "extensions")
_FRAME: Final = 5  # bytes before a gRPC message: no compression, length
_LENGTH_WIDTH: Final = 3  # of a flow's length as a varint: up to 2 MiB
_PORTS_WIDTH: Final = 4 + 4 + 4  # l4 and its length, protocol and its length; two ports with their tags
_ORIGIN_WIDTH: Final = 8  # 56 bits
_NS: Final = np.uint64(1_000_000_000)


def varint(value: int) -> bytes:
    """The shortest encoding."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int, wire_type: int = 2) -> bytes:
    return varint(number << 3 | wire_type)


def _put_varints(matrix: _Matrix, gaps: Sequence[tuple[int, int]], values: Sequence[npt.NDArray[Any]]) -> None:
    """Write each of `values` into its gap, which is a column and a width (at most 8), all of that width.

    Together, as a step over a thousand numbers takes hardly longer than one over a few hundred.
    """
    numbers = np.array(values, np.uint64)
    spread = numbers & np.uint64(0x7F)
    for byte in range(1, max(width for _, width in gaps)):
        spread |= (numbers & np.uint64(0x7F << 7 * byte)) << np.uint64(byte)
    # all bytes but the last are continued
    spread |= np.array([[0x80808080808080 >> 8 * (8 - width)] for _, width in gaps], np.uint64)
    written = spread.view(np.uint8).reshape(*numbers.shape, 8)
    for (at, width), one in zip(gaps, written, strict=True):
        matrix[:, at : at + width] = one[:, :width]


_STAMP: Final = b"\x0c" + b"\x08" + bytes(5) + b"\x10" + bytes(5)  # google.protobuf.Timestamp of 12 bytes


def _stamp_gaps(at: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Those of the seconds and the nanoseconds in a `_STAMP` that begins at column `at`."""
    return (at + 2, 5), (at + 8, 5)


class Layout:
    """What a head consists of, for what a client wants, and where its gaps are."""

    def __init__(self, wanted: frozenset[str]) -> None:
        parts = bytearray(_FRAME)
        parts += _tag(_RESPONSE["time"].number)
        self.time = len(parts)
        parts += _STAMP
        parts += _tag(_RESPONSE["flow"].number)
        self.flow_length = len(parts)
        parts += bytes(_LENGTH_WIDTH)
        self.flow = len(parts)
        self.flow_time = self.uuid = self.origin = 0
        if "time" in wanted:
            parts += _tag(_FLOW["time"].number)
            self.flow_time = len(parts)
            parts += _STAMP
        if "uuid" in wanted:
            parts += _tag(_FLOW["uuid"].number) + varint(TEXT_BYTES)
            self.uuid = len(parts)
            parts += bytes(TEXT_BYTES)
        if "extensions" in wanted:
            url = TYPE_URL.encode()
            value = _tag(2) + varint(1 + _ORIGIN_WIDTH) + _tag(1, 0)
            content = _tag(1) + varint(len(url)) + url + value
            parts += _tag(_FLOW["extensions"].number) + varint(len(content) + _ORIGIN_WIDTH) + content
            self.origin = len(parts)
            parts += bytes(_ORIGIN_WIDTH)
        self.ports = len(parts)  # the last, because not every flow has them
        self.wants_ports = "l4" in wanted
        parts += _tag(_FLOW["l4"].number) + bytes(_PORTS_WIDTH - 1)
        self.width = len(parts)
        self.bytes = np.frombuffer(bytes(parts), np.uint8)


class Encoder:
    """Encodes flows of one store for clients that want the same of them.

    `mask` None: all of a flow. `origin`: with the extension that carries the log position.
    """

    def __init__(self, store: FlowStore, mask: Mask | None = None, *, origin: bool = False) -> None:
        self._store, self._mask = store, mask
        self._builder = FlowBuilder(store)
        self._origin = origin if mask is None else "extensions" in mask
        self._node = _tag(_RESPONSE["node_name"].number) + _sized(store.node_name.encode())
        # a mask that wants a part of what varies breaks the fixed layout
        self._plain = mask is not None and any(mask.get(name) for name in _HEAD_FIELDS)
        wanted = set(_HEAD_FIELDS if mask is None else mask)
        if not self._origin:
            wanted.discard("extensions")
        self._layout = Layout(frozenset(wanted))
        self._generation = store.generation
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._tails: list[bytes] = []
        self._over_ports: list[bytes] = []
        self._tail_sizes = np.zeros(0, np.uint32)
        self._heads = np.zeros((0, 4), np.uint8)

    def encode(self, span: Span, rows: Rows) -> bytes:
        """The rows (relative to the span) as framed messages, one after the other."""
        if self._plain:
            return b"".join(self._frame(self._response(span, row)) for row in rows.tolist())
        numbers = self._numbers_of(gather(span, rows))
        heads = self._heads_of(span, rows, numbers)
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
        over = b"".join(self._over_ports)
        self._heads = np.frombuffer(over, np.uint8).reshape(-1, 4)
        return [known[text] for text in texts]

    def _add(self, text: bytes) -> None:
        key = key_of(text)
        flow = self._builder.shared(key)
        if self._mask is not None:
            keep(flow, self._mask)
        over = bytes(4)
        inner = b""
        if key.protocol in PORTS and key.ip_version and self._layout.wants_ports:
            name = {TCP: "TCP", UDP: "UDP"}.get(key.protocol, "SCTP")
            inner = getattr(flow.l4, name).SerializeToString()
            content = len(inner) + 8  # two ports of 4 bytes
            over = bytes((0, content + 2, _tag(_L4[name].number)[0], content))
            flow.ClearField("l4")
        self._tails.append(inner + flow.SerializeToString() + self._node)
        self._over_ports.append(over)

    def _heads_of(self, span: Span, rows: Rows, numbers: list[int]) -> list[bytes]:
        layout = self._layout
        index = np.array(numbers, np.intp)
        over = self._heads[index]
        ported = over[:, 1] != 0
        sizes = self._tail_sizes[index] + np.where(ported, layout.width, layout.ports)
        matrix = np.empty((len(index), layout.width), np.uint8)
        matrix[:] = layout.bytes
        matrix[:, 1:_FRAME] = (sizes - _FRAME).astype(">u4").view(np.uint8).reshape(-1, 4)
        at = layout.ports
        matrix[:, at + 1 : at + 4] = over[:, 1:]
        matrix[:, at + 4] = 0x08
        matrix[:, at + 8] = 0x10
        _put_varints(
            matrix,
            ((layout.flow_length, _LENGTH_WIDTH), *_stamp_gaps(layout.time), (at + 5, 3), (at + 9, 3)),
            (
                sizes - layout.flow - len(self._node),
                *np.divmod(span["time_ns"][rows], _NS),
                span["sport"][rows],
                span["dport"][rows],
            ),
        )
        if layout.flow_time:
            _copy(matrix, layout.time, layout.flow_time, len(_STAMP))
        if layout.uuid:
            positions = (rows + span.start).astype(np.uint64)
            matrix[:, layout.uuid : layout.uuid + TEXT_BYTES] = self._store.ids.texts(positions)
        if layout.origin:
            _put_varints(matrix, ((layout.origin, _ORIGIN_WIDTH),), (span["origin"][rows],))
        heads: list[bytes] = matrix.view(f"V{layout.width}").reshape(-1).tolist()
        for row in np.flatnonzero(~ported).tolist():
            heads[row] = heads[row][: layout.ports]
        return heads

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


def _copy(matrix: _Matrix, source: int, target: int, width: int) -> None:
    matrix[:, target : target + width] = matrix[:, source : source + width]


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


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
