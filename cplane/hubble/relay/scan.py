"""Frames out of a peer's bytes, and what a merge must know of each: its time, and whether it holds a flow.

A response is never decoded. Its outer fields are walked until both are known, for a whole batch at a time: each round
looks at one field of every message. What is built in an unusual way is walked alone, byte by byte.
"""

from itertools import pairwise
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cplane.errors import Corrupt
from cplane.pb.observer import observer_pb2

MESSAGE_MAX: Final = 4 << 20  # bytes, which is what gRPC takes by default
NO_TIME: Final = -1  # of a message that does not say when
_HEADER: Final = Struct(">BL")
HEADER: Final = 5  # bytes before a message: a compression flag, and the length

_FIELDS: Final = observer_pb2.GetFlowsResponse.DESCRIPTOR.fields_by_name
_TIME: Final = _FIELDS["time"].number
_FLOW: Final = _FIELDS["flow"].number
_KINDS: Final = _FLOW, _FIELDS["node_status"].number, _FIELDS["lost_events"].number
_KIND_MAX: Final = max(_KINDS)
_VARINT, _FIXED64, _SIZED, _FIXED32 = 0, 1, 2, 5  # wire types
_NS: Final = 1_000_000_000
_SECONDS_MAX: Final = (1 << 63) // _NS - 1
# a time whose numbers have five bytes each, and the tag of a flow; of the numbers counts only which byte is the last
_BEGINNING: Final = np.frombuffer(
    bytes((_TIME << 3 & 0x7F | 0x82, _TIME >> 4, 12, 0x08, *4 * (0x80,), 0, 0x10, *4 * (0x80,), 0, _FLOW << 3 | 2)),
    np.uint8,
)
_FIXED_BITS: Final = np.array([*4 * (0xFF,), *5 * (0x80,), 0xFF, *5 * (0x80,), 0xFF], np.uint8)
_WEIGHTS: Final = np.array([1 << 7 * byte for byte in range(5)], np.int64)
_FEW: Final = 24  # messages that are walked faster one by one
_ROUNDS: Final = 4  # fields that are looked at in common: a flow, a node's name, a time, and one more
_PADDING: Final = bytes(16)  # so that looking ahead at the last message stays inside

_Bytes = npt.NDArray[np.uint8]
_Places = npt.NDArray[np.int64]


class Garbage(Corrupt):
    """What a peer sent is no series of messages."""

    code = "relay.garbage"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"its answer cannot be read: {self.reason}"


class Batch(NamedTuple):
    """Messages with their headers, in the order in which they came; `times` are UTC nanoseconds, or NO_TIME."""

    frames: list[bytes]
    times: npt.NDArray[np.int64]
    flows: npt.NDArray[np.bool_]
    size: int  # bytes


class Cutter:
    """Cuts what one peer sends; it holds less than one message."""

    def __init__(self) -> None:
        self._rest = b""
        self._garbage: Garbage | None = None

    def feed(self, data: bytes) -> Batch | None:
        """The messages that are whole now; None: not one. Raises Garbage, once all that came before was given."""
        self._check()
        data = self._rest + data if self._rest else data
        bounds = [0]
        at, size, read_header = 0, len(data), _HEADER.unpack_from
        while size - at >= HEADER:
            compressed, length = read_header(data, at)
            if compressed or length > MESSAGE_MAX:
                too_long = f"a message of {length} bytes; {MESSAGE_MAX} is the most"
                self._garbage = Garbage(
                    "it is compressed, and nothing of the kind was asked for" if compressed else too_long
                )
                break
            stop = at + HEADER + length
            if stop > size:
                break
            at = stop
            bounds.append(at)
        self._rest = data[at:]
        if not at:
            self._check()
            return None
        return Batch([data[a:b] for a, b in pairwise(bounds)], *scan(data, bounds), at)

    def finish(self) -> None:
        """The peer has ended the stream. Raises Garbage."""
        self._check()
        if self._rest:
            raise Garbage("it ends in the middle of a message")

    def _check(self) -> None:
        if self._garbage is not None:
            raise self._garbage


def scan(data: bytes, bounds: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Times, and which are flows, of the frames between the bounds."""
    count = len(bounds) - 1
    if count <= _FEW:
        pairs = [scan_one(data, bounds[index] + HEADER, bounds[index + 1]) for index in range(count)]
        return np.array([time for time, _ in pairs], np.int64), np.array([flow for _, flow in pairs], np.bool_)
    edges = np.array(bounds, np.int64)
    starts, stops = edges[:-1] + HEADER, edges[1:]
    found = _usual(data, starts, stops)
    if found is not None:
        return found
    padded = np.frombuffer(data[: bounds[-1]] + _PADDING, np.uint8)
    places, flows, odd = _walk(padded, starts, stops)
    times = _stamps(padded, places, odd)
    for index in np.flatnonzero(odd).tolist():
        times[index], flows[index] = scan_one(data, bounds[index] + HEADER, bounds[index + 1])
    return times, flows


def _usual(data: bytes, starts: _Places, stops: _Places) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """Times and kinds when every message begins with a time of 12 bytes and goes on with a flow; else None.

    That is what our own agents send, in all but the messages of losses.
    """
    width = len(_BEGINNING)
    if (stops - starts < width).any():
        return None
    # a row for every byte, none of which is copied
    rows: _Bytes = np.ndarray((len(data) - width + 1, width), np.uint8, data, strides=(1, 1))
    window = rows[starts]
    if ((window & _FIXED_BITS) != _BEGINNING).any():
        return None
    low = (window & 0x7F).astype(np.int64)
    seconds = low[:, 4:9] @ _WEIGHTS
    nanos = low[:, 10:15] @ _WEIGHTS
    if (seconds > _SECONDS_MAX).any() or (nanos >= _NS).any():
        return None
    return seconds * _NS + nanos, np.ones(len(starts), np.bool_)


def _walk(
    data: _Bytes, starts: _Places, stops: _Places
) -> tuple[_Places, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where each message's time begins (after its tag), which are flows, and which must be walked alone."""
    count = len(starts)
    places = np.zeros(count, np.int64)
    kinds = np.zeros(count, np.int64)
    odd = np.zeros(count, np.bool_)
    left = np.arange(count)
    at = starts
    for _ in range(_ROUNDS):
        first, second, third = data[at], data[at + 1], data[at + 2]
        long = first > 0x7F
        field = np.where(long, (first & 0x7F).astype(np.int64) | second.astype(np.int64) << 7, first) >> 3
        strange = ((first & 7) != _SIZED) | (long & (second > 0x7F))
        after = at + 1 + long
        first, second, third = data[after], data[after + 1], data[after + 2]
        two, three = first > 0x7F, (first > 0x7F) & (second > 0x7F)
        strange |= three & (third > 0x7F)  # 2 MiB and more, or no length at all
        length = (first & 0x7F).astype(np.int64)
        length += np.where(two, (second & 0x7F).astype(np.int64) << 7, 0)
        length += np.where(three, third.astype(np.int64) << 14, 0)
        following = after + 1 + two + three + length
        strange |= following > stops[left]
        is_time = (field == _TIME) & (places[left] == 0)
        places[left[is_time]] = after[is_time]
        is_kind = (field <= _KIND_MAX) & (kinds[left] == 0)
        kinds[left[is_kind]] = field[is_kind]
        odd[left[strange]] = True
        on = ~strange & (following < stops[left]) & ((places[left] == 0) | (kinds[left] == 0))
        left, at = left[on], following[on]
        if not len(left):
            break
    odd[left] = True
    odd |= (places == 0) | (kinds == 0)
    return places, kinds == _FLOW, odd


def _stamps(data: _Bytes, places: _Places, odd: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The times at these places; `odd` becomes true for those that are not written as all of our days are."""
    window = data[places[:, None] + np.arange(13)].astype(np.int64)
    size, low = window[:, 0], window & 0x7F
    plain = (size <= 12) & (window[:, 1] == 0x08) & (window[:, 2:6] > 0x7F).all(axis=1) & (window[:, 6] <= 0x7F)
    seconds = low[:, 2] | low[:, 3] << 7 | low[:, 4] << 14 | low[:, 5] << 21 | low[:, 6] << 28
    plain &= seconds <= _SECONDS_MAX
    whole = plain & (size == 6)
    # the varint of the nanoseconds fills what is left, so only its last byte ends it
    width = size - 7
    column = np.arange(5)
    used = column < width[:, None]
    continued = (window[:, 8:13] > 0x7F) == (column < width[:, None] - 1)
    parted = plain & (width >= 1) & (window[:, 7] == 0x10) & (continued | ~used).all(axis=1)
    nanos = (np.where(used, low[:, 8:13], 0) << (7 * column)).sum(axis=1)
    parted &= nanos < _NS
    odd |= ~(whole | parted)
    times: npt.NDArray[np.int64] = np.where(plain, seconds, 0) * _NS + np.where(parted, nanos, 0)
    return times


def scan_one(data: bytes, at: int, stop: int) -> tuple[int, bool]:
    """Time and whether it is a flow, of one message, as far as it can be read; the first of several counts."""
    time, kind = NO_TIME, 0
    try:
        while at < stop and not (kind and time != NO_TIME):
            tag, at = _varint(data, at, stop)
            field, wire = tag >> 3, tag & 7
            length = {_VARINT: 0, _FIXED64: 8, _FIXED32: 4}.get(wire, 0)
            if wire == _VARINT:
                _, at = _varint(data, at, stop)
            elif wire == _SIZED:
                length, at = _varint(data, at, stop)
            elif not length:
                break
            if at + length > stop:
                break
            if wire == _SIZED and field == _TIME and time == NO_TIME:
                time = _stamp(data, at, at + length)
            elif wire == _SIZED and field in _KINDS and not kind:
                kind = field
            at += length
    except IndexError:
        pass  # a message that breaks off says what it says up to there
    return time, kind == _FLOW


def _stamp(data: bytes, at: int, stop: int) -> int:
    """Nanoseconds of an encoded google.protobuf.Timestamp; NO_TIME for what is none, or lies before 1970."""
    values = {1: 0, 2: 0}
    while at < stop:
        tag, at = _varint(data, at, stop)
        if tag & 7 != _VARINT:
            return NO_TIME
        values[tag >> 3], at = _varint(data, at, stop)
    seconds, nanos = values[1], values[2]
    return seconds * _NS + nanos if seconds <= _SECONDS_MAX and nanos < _NS else NO_TIME


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """A number and where it ends. Raises IndexError where it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return value, at
    raise IndexError
